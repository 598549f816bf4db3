// The lower part of the timeline: what clients asked for and saw.

function drawLanes(lanes) {
  lanes.forEach((lane, i) => drawLane(lane, layout.lanes + i * layout.laneHeight, layout.laneHeight, i));
}

/** The calls of a lane from the first that is visible on; those in a lane do not overlap. */
function firstVisible(calls) {
  return Math.max(0, after(calls, view.from, (call) => call.invoked) - 1);
}

function drawLane(lane, y, height, i) {
  const { context, width } = timeline;
  if (i % 2 === 0) {
    context.fillStyle = colours.lane;
    context.globalAlpha = 0.6;
    context.fillRect(GUTTER, y, width, height);
    context.globalAlpha = 1;
  }
  drawOk(lane.calls, y, height);
  drawOthers(lane.calls, y, height);
  drawSeen(lane.seen, y, height);
}

/** What was carried out. Calls too short to be told apart are drawn as one. */
function drawOk(calls, y, height) {
  const { context } = timeline;
  context.fillStyle = colours.o;
  let [from, to] = [0, -1];
  const flush = () => {
    if (to >= from) context.fillRect(from, y + 1, Math.max(to - from, 0.8), height - 2);
  };
  const texts = [];
  for (let i = firstVisible(calls); i < calls.length && calls[i].invoked <= view.to; i += 1) {
    const call = calls[i];
    if (call.outcome !== 'o') continue;
    const [x1, x2] = [timelineX(call.invoked), timelineX(call.ended)];
    if (x1 - to < 0.6 && x2 - x1 < 2) {
      to = Math.max(to, x2);
      continue;
    }
    flush();
    [from, to] = [x1, x2 - x1 > 3 ? x2 - 0.5 : x2];
    if (x2 - x1 > 24) texts.push(call);
  }
  flush();
  texts.forEach((call) => drawCallText(call, y, height));
}

/** What was not carried out, or may have been; never left out, however short. */
function drawOthers(calls, y, height) {
  const { context } = timeline;
  const lastEnd = { f: -1, i: -1 };
  const witnesses = [];
  for (let i = firstVisible(calls); i < calls.length && calls[i].invoked <= view.to; i += 1) {
    const call = calls[i];
    if (call.witness || call === view.chosen?.thing || call === view.hovered?.thing) witnesses.push(call);
    if (call.outcome === 'o') continue;
    const x1 = timelineX(call.invoked);
    const x2 = Math.max(timelineX(call.ended ?? run.ended), x1 + 2);
    if (x2 < lastEnd[call.outcome] + 0.5) continue;
    lastEnd[call.outcome] = x2;
    context.fillStyle = colours[call.outcome];
    context.fillRect(x1, y + 1, x2 - x1, height - 2);
    if (call.outcome === 'i' && call.ended !== null) {
      // It may take effect later.
      context.globalAlpha = 0.45;
      context.fillRect(x2, y + height / 2 - 1.5, 16, 3);
      context.globalAlpha = 1;
    }
    if (x2 - x1 > 24) drawCallText(call, y, height);
  }
  witnesses.forEach((call) => outline(call, y, height));
}

function drawCallText(call, y, height) {
  if (height < 12) return;
  const { context } = timeline;
  const visible = Math.max(timelineX(call.invoked), GUTTER) + 3;
  context.fillStyle = '#ffffff';
  const room = Math.min(timelineX(call.ended ?? run.ended), timeline.width - RIGHT) - visible - 3;
  label(context, `${call.call} → ${call.result}`, visible, y + height / 2 + 0.5, room);
}

function outline(call, y, height) {
  const { context } = timeline;
  const x = timelineX(call.invoked);
  const w = Math.max(timelineX(call.ended ?? run.ended) - x, 2);
  context.strokeStyle = call.witness ? colours.witness : colours.fg;
  context.lineWidth = 2;
  context.strokeRect(x - 1, y, w + 2, height - 1);
  context.lineWidth = 1;
  if (!call.witness || height < 9) return;
  const text = `#${call.id}`;
  const wide = context.measureText(text).width + 6;
  context.fillStyle = colours.witness;
  context.fillRect(x + w + 1, y, wide, height - 1);
  context.fillStyle = colours.bg;
  context.fillText(text, x + w + 4, y + height / 2);
}

/** What watches and consumers saw, as ticks. */
function drawSeen(seen, y, height) {
  const { context } = timeline;
  let last = -10;
  for (let i = after(seen, view.from, (one) => one.time - 1); i < seen.length && seen[i].time <= view.to; i += 1) {
    const x = timelineX(seen[i].time);
    const marked = seen[i].witness || seen[i] === view.chosen?.thing || seen[i] === view.hovered?.thing;
    if (x - last < 1.5 && !marked) continue;
    last = x;
    context.fillStyle = seen[i].witness ? colours.witness : colours.p50;
    const room = marked ? 0 : height / 5;
    context.fillRect(x - (marked ? 1.5 : 0.75), y + room, marked ? 3 : 1.5, height - 2 * room);
  }
}

function drawLaneNames(lanes) {
  const { context } = timeline;
  const every = Math.ceil(12 / layout.laneHeight);
  context.fillStyle = colours.muted;
  context.textAlign = 'right';
  lanes.forEach((lane, i) => {
    if (i % every !== 0) return;
    const process = lane.calls[firstVisible(lane.calls)]?.process ?? lane.processes[0];
    context.fillText(`process ${process}`, GUTTER - 5, layout.lanes + (i + 0.5) * layout.laneHeight);
  });
  context.textAlign = 'left';
}

/** The thing in a lane at a place, or null. */
function hitLane(lane, x) {
  const nearest = lane.seen[Math.max(0, after(lane.seen, timeAt(timeline, x, view.from, view.to), (one) => one.time) - 1)];
  const next = lane.seen[after(lane.seen, timeAt(timeline, x, view.from, view.to), (one) => one.time)];
  for (const seen of [nearest, next]) {
    if (seen && Math.abs(timelineX(seen.time) - x) < 3) return seen;
  }
  const { calls } = lane;
  const at = after(calls, timeAt(timeline, x + 2, view.from, view.to), (call) => call.invoked);
  // The last few, so that a short call that was not carried out is preferred to its neighbours.
  const near = calls.slice(Math.max(0, at - 6), at).filter((call) => timelineX(call.ended ?? run.ended) >= x - 2);
  return near.find((call) => call.witness) ?? near.find((call) => call.outcome !== 'o') ?? near.at(-1) ?? null;
}
