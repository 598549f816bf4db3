// The upper part of the timeline: faults, what each node is in each shard, marks, and messages between nodes.

const FAULT_ROW = 16;
const GAP = 17;
const MAX_ARROWS = 800;

const layout = { faults: 0, nodes: [], clients: 0, lanes: 0, laneHeight: 14, height: 0 };
let arrows = [];

const reachesClients = run.messages.some(({ from, to }) => Math.max(from, to) >= run.nodes.length);
const marksOf = run.nodes.map((_, node) => run.marks.filter((mark) => mark.node === node));

/** Where everything is, from top to bottom. */
function layOut(lanes) {
  layout.faults = AXIS + 4;
  const faultRows = run.faults.reduce((most, fault) => Math.max(most, fault.row + 1), 0);
  let y = layout.faults + faultRows * FAULT_ROW + 8;
  layout.nodes = run.nodes.map((name, node) => {
    const rows = run.rows.filter((row) => row.node === node && (view.shard === '' || String(row.shard) === view.shard));
    const height = rows.length <= 6 ? 17 : rows.length <= 16 ? 12 : 6;
    const block = { name, node, top: y, height, rows, bottom: y + Math.max(rows.length * height, 10) };
    y = block.bottom + GAP;
    return block;
  });
  layout.clients = y;
  y += reachesClients ? 20 : 4;
  layout.lanes = y;
  layout.laneHeight = lanes.length <= 40 ? 15 : lanes.length <= 120 ? 9 : 5;
  layout.height = y + lanes.length * layout.laneHeight + 8;
}

const timelineX = (time) => place(timeline, time, view.from, view.to);

function drawTimeline() {
  const lanes = filterLanes();
  layOut(lanes);
  timeline.lanes = lanes;
  timeline.height = layout.height;
  prepare(timeline);
  const { context, width, height } = timeline;
  drawAxis(timeline, 0, height, view.from, view.to);
  clipped(context, [GUTTER, 0, width - GUTTER - RIGHT, height], () => {
    drawGlow();
    drawFaults();
    layout.nodes.forEach(drawNode);
    drawLanes(lanes);
    drawMessages();
    drawPointer();
  });
  drawNames(lanes);
}

/** The time of the witnesses, through everything. */
function drawGlow() {
  const { context, height } = timeline;
  context.fillStyle = colours.glow;
  for (const part of run.witness) {
    const x = timelineX(part.from);
    context.fillRect(x - 1, AXIS, Math.max(timelineX(part.to) - x, 1) + 2, height);
  }
}

/** The faults as bars, and pale over the nodes where they are. */
function drawFaults() {
  const { context } = timeline;
  for (const fault of run.faults) {
    if (fault.to < view.from || fault.from > view.to) continue;
    const x = timelineX(fault.from);
    const w = Math.max(timelineX(fault.to) - x, 2);
    const y = layout.faults + fault.row * FAULT_ROW;
    context.fillStyle = faultColour(fault.kind);
    for (const block of layout.nodes.filter((one) => run.isAt(fault, one.node))) {
      context.globalAlpha = fault.place.link ? 0.12 : 0.22;
      context.fillRect(x, block.top - 3, w, block.bottom - block.top + 6);
      context.globalAlpha = 1;
      context.fillRect(x, block.top - 3, w, 2);
    }
    context.fillRect(x, y, w, FAULT_ROW - 2);
    context.fillStyle = '#ffffff';
    const visible = Math.max(x, GUTTER) + 4;
    label(context, `${fault.kind}: ${run.placeText(fault)}`, visible, y + FAULT_ROW / 2 - 1, x + w - visible - 2);
  }
}

function drawNode(block) {
  block.rows.forEach((row, i) => drawRow(row, block.top + i * block.height, block.height));
  drawMarks(block);
}

/** What a node is in a shard over time. */
function drawRow(row, y, height) {
  const { context } = timeline;
  const first = Math.max(0, after(row.segments, view.from, (one) => one.from) - 1);
  let textEnd = 0;
  for (let i = first; i < row.segments.length && row.segments[i].from <= view.to; i += 1) {
    const { from, to, role, term } = row.segments[i];
    const x = timelineX(from);
    const w = Math.max(timelineX(to) - x, 1);
    if (role === 'down') {
      context.fillStyle = colours['down-line'];
      for (let dash = Math.max(x, GUTTER - 8); dash < Math.min(x + w, timeline.width); dash += 7) {
        context.fillRect(dash, y + height / 2 - 1, Math.min(3, x + w - dash), 1.5);
      }
    } else {
      context.fillStyle = colours[role];
      context.globalAlpha = 0.85;
      context.fillRect(x, y, w > 3 ? w - 1 : w, height - 2);
      context.globalAlpha = 1;
    }
    if (height < 12) continue;
    context.fillStyle = role === 'leader' ? colours['leader-fg'] : role === 'down' ? colours.muted : colours['role-fg'];
    const visible = Math.max(x, GUTTER) + 4;
    const text = role === 'down' ? 'down' : `${role} · term ${term}`;
    const room = x + w - visible - 3;
    if (role === 'down') drawBehindText(text, visible, y, room, height);
    label(context, text, visible, y + height / 2 - 0.5, room);
    textEnd = Math.max(textEnd, visible + context.measureText(text).width + 8);
  }
  if (height >= 12) drawIndexes(row, y, height, textEnd);
}

/** Takes the dashes away from behind a text that has room. */
function drawBehindText(text, x, y, room, height) {
  const { context } = timeline;
  const wide = context.measureText(text).width;
  if (wide > room) return;
  const { fillStyle } = context;
  context.fillStyle = colours.bg;
  context.fillRect(x - 2, y, wide + 4, height - 2);
  context.fillStyle = fillStyle;
}

/** Log indexes where they change, if there is room for them. */
function drawIndexes(row, y, height, textEnd) {
  const { context } = timeline;
  const first = after(row.states, view.from, (one) => one.time);
  const last = after(row.states, view.to, (one) => one.time);
  if (last - first > (timeline.width - GUTTER) / 64) return;
  for (let i = first; i < last; i += 1) {
    const state = row.states[i];
    if (state.role === 'down') continue;
    const x = timelineX(state.time);
    const next = i + 1 < last ? timelineX(row.states[i + 1].time) : timeline.width;
    context.fillStyle = state.role === 'leader' ? colours['leader-fg'] : colours['role-fg'];
    context.fillRect(x, y + 1, 1, height - 4);
    if (x > textEnd) label(context, `${state.commit}/${state.applied}`, x + 4, y + height / 2 - 0.5, next - x - 7);
  }
}

function drawMarks(block) {
  const { context } = timeline;
  const marks = marksOf[block.node];
  const y = block.bottom + 1;
  for (let i = Math.max(0, after(marks, view.from, (one) => one.time) - 1); i < marks.length; i += 1) {
    const x = timelineX(marks[i].time);
    if (x > timeline.width) break;
    context.fillStyle = colours.fg;
    context.beginPath();
    context.moveTo(x, y);
    context.lineTo(x - 4, y + 7);
    context.lineTo(x + 4, y + 7);
    context.fill();
    const next = i + 1 < marks.length ? timelineX(marks[i + 1].time) : timeline.width - RIGHT;
    label(context, marks[i].text, x + 7, y + 6, next - x - 13);
  }
}

/** The height at which a message leaves or reaches an end. */
function endY(end, other) {
  const block = layout.nodes[end];
  if (!block) return layout.clients + 8;
  return other > end ? block.bottom - 2 : block.top;
}

function messageIsWanted(message) {
  return view.message === '' || message.kind === view.message;
}

function drawMessages() {
  const { context } = timeline;
  arrows = [];
  if (view.message === '-' || run.messages.length === 0) return;
  drawCovered();
  const visible = [];
  const first = after(run.messages, view.from - run.slowest, (one) => one.sent);
  for (let i = first; i < run.messages.length && run.messages[i].sent <= view.to; i += 1) {
    const message = run.messages[i];
    if ((message.arrived ?? message.sent) >= view.from && messageIsWanted(message)) visible.push(message);
  }
  if (visible.length > MAX_ARROWS) {
    context.fillStyle = colours.muted;
    context.textAlign = 'right';
    context.fillText(`${visible.length.toLocaleString('en')} messages: zoom in to see them`, timeline.width - RIGHT - 4, layout.clients - 4);
    context.textAlign = 'left';
    return;
  }
  context.globalAlpha = visible.length > 250 ? 0.45 : 0.85;
  visible.forEach(drawArrow);
  context.globalAlpha = 1;
}

/** A line below the axis where the page has all messages, if it has not all of them everywhere. */
function drawCovered() {
  if (!run.covered) return;
  const { context } = timeline;
  context.fillStyle = colours.message;
  for (const span of run.covered) {
    const x = timelineX(span.from);
    context.fillRect(x, AXIS - 3, Math.max(timelineX(span.to) - x, 2), 2);
  }
  if (run.covered.some((span) => span.from <= view.to && span.to >= view.from)) return;
  context.textAlign = 'right';
  context.fillText('the messages of this span are not in the page', timeline.width - RIGHT - 4, layout.clients - 4);
  context.textAlign = 'left';
}

/** A line from sender to receiver; a lost message ends half way in a cross. */
function drawArrow(message) {
  const { context } = timeline;
  const [x1, y1] = [timelineX(message.sent), endY(message.from, message.to)];
  let [x2, y2] = [message.arrived === null ? x1 + 14 : timelineX(message.arrived), endY(message.to, message.from)];
  const lost = message.arrived === null;
  if (lost) y2 = y1 + Math.sign(y2 - y1) * Math.min(Math.abs(y2 - y1) / 2, 26);
  context.strokeStyle = lost ? colours.lost : message.fate ? colours.info : colours.message;
  context.fillStyle = context.strokeStyle;
  context.lineWidth = view.hovered?.thing === message || view.chosen?.thing === message ? 2.5 : 1;
  context.setLineDash(lost ? [4, 3] : []);
  context.beginPath();
  context.moveTo(x1, y1);
  context.lineTo(x2, y2);
  context.stroke();
  context.setLineDash([]);
  context.beginPath();
  if (lost) {
    context.moveTo(x2 - 3, y2 - 3); context.lineTo(x2 + 3, y2 + 3);
    context.moveTo(x2 + 3, y2 - 3); context.lineTo(x2 - 3, y2 + 3);
    context.stroke();
  } else {
    const angle = Math.atan2(y2 - y1, x2 - x1);
    context.moveTo(x2, y2);
    for (const turn of [2.75, -2.75]) context.lineTo(x2 + 6 * Math.cos(angle + turn), y2 + 6 * Math.sin(angle + turn));
    context.fill();
  }
  context.lineWidth = 1;
  arrows.push({ x1, y1, x2, y2, message });
}

/** The names at the left. */
function drawNames(lanes) {
  const { context } = timeline;
  context.fillStyle = colours.muted;
  if (run.faults.length > 0) context.fillText('faults', 4, layout.faults + FAULT_ROW / 2);
  for (const block of layout.nodes) {
    context.fillStyle = colours.fg;
    context.font = `bold ${FONT}`;
    label(context, block.name, 4, block.top + 7, GUTTER - 34);
    context.font = FONT;
    context.fillStyle = colours.muted;
    context.textAlign = 'right';
    if (block.height >= 12) {
      block.rows.forEach((row, i) => context.fillText(`s${row.shard}`, GUTTER - 5, block.top + (i + 0.5) * block.height - 1));
    }
    context.textAlign = 'left';
  }
  if (reachesClients) context.fillText('clients', 4, layout.clients + 8);
  drawLaneNames(lanes);
}

function drawPointer() {
  const { context, height } = timeline;
  if (view.brush) {
    context.fillStyle = colours.p50;
    context.globalAlpha = 0.18;
    const [a, b] = [timelineX(view.brush.from), timelineX(view.brush.to)];
    context.fillRect(Math.min(a, b), AXIS, Math.abs(b - a), height);
    context.globalAlpha = 1;
  }
  if (view.pointer === null) return;
  const x = Math.round(timelineX(view.pointer)) + 0.5;
  context.fillStyle = colours.muted;
  context.globalAlpha = 0.5;
  context.fillRect(x - 0.5, AXIS, 1, height);
  context.globalAlpha = 1;
}
