// Pointer, wheel, keys, filters and buttons; what things are in words.

const span = () => view.to - view.from;

const OUTCOMES = { o: 'ok', f: 'failed', i: 'unknown' };

const describe = {
  call: (call) => [
    `#${call.id} ${call.call}`,
    `${OUTCOMES[call.outcome]}: ${call.result}`,
    `process ${call.process}, began ${clock(call.invoked, 1)}`,
    call.ended === null ? 'never ended' : `ended ${clock(call.ended, 1)}, took ${duration(call.ended - call.invoked)}`,
    ...(call.witness ? ['part of a witness'] : []),
  ],
  seen: (seen) => [`event ${seen.event}: process ${seen.process} saw`, seen.text, clock(seen.time, 1), ...(seen.witness ? ['part of a witness'] : [])],
  message: (message) => [
    `${message.kind}, ${message.bytes.toLocaleString('en')} bytes`,
    `${run.endName(message.from)} to ${run.endName(message.to)}`,
    `sent ${clock(message.sent, 1)}`,
    message.arrived === null ? 'lost' : `arrived ${clock(message.arrived, 1)}, took ${duration(message.arrived - message.sent)}`,
    ...(message.fate ? [message.fate] : []),
  ],
  fault: (fault) => [`${fault.kind}: ${fault.text}`, run.placeText(fault), `${clock(fault.from, 1e6)} to ${clock(fault.to, 1e6)}, ${duration(fault.to - fault.from)}`],
  mark: (mark) => [mark.text, run.endName(mark.node), clock(mark.time, 1)],
  state: ({ row, state }) => [
    `${run.endName(row.node)}, shard ${row.shard}: ${state.role}`,
    `term ${state.term}, commit ${state.commit}, applied ${state.applied}`,
    `so since ${clock(state.time, 1)}`,
  ],
};

function kindOf(thing) {
  if ('invoked' in thing) return 'call';
  if ('event' in thing) return 'seen';
  if ('sent' in thing) return 'message';
  if ('place' in thing) return 'fault';
  return 'row' in thing ? 'state' : 'mark';
}

const textOf = (thing) => describe[kindOf(thing)](thing).join('\n');

/** Keeps a thing's details on the page. */
function choose(thing) {
  view.chosen = thing && { thing };
  element('detail').hidden = !thing;
  element('detail').textContent = thing ? textOf(thing) : '';
  redraw();
}

function fromLine({ x1, y1, x2, y2 }, x, y) {
  const [dx, dy] = [x2 - x1, y2 - y1];
  const share = Math.min(1, Math.max(0, ((x - x1) * dx + (y - y1) * dy) / (dx * dx + dy * dy || 1)));
  return Math.hypot(x - x1 - share * dx, y - y1 - share * dy);
}

/** The thing at a place of the timeline, or null. */
function hit(x, y) {
  if (x < GUTTER || x > timeline.width - RIGHT) return null;
  const time = timeAt(timeline, x, view.from, view.to);
  if (y >= layout.lanes) {
    const lane = timeline.lanes[Math.floor((y - layout.lanes) / layout.laneHeight)];
    return lane ? hitLane(lane, x) : null;
  }
  const row = Math.floor((y - layout.faults) / FAULT_ROW);
  const slack = span() / 400;
  const fault = run.faults.find((one) => one.row === row && one.from - slack <= time && time <= one.to + slack);
  if (fault) return fault;
  const near = arrows.map((arrow) => [fromLine(arrow, x, y), arrow.message]).filter(([distance]) => distance < 5);
  if (near.length > 0) return near.reduce((best, one) => (one[0] < best[0] ? one : best))[1];
  return hitNode(x, y, time);
}

function hitNode(x, y, time) {
  for (const block of layout.nodes) {
    if (y >= block.bottom && y < block.bottom + GAP - 3) {
      const near = marksOf[block.node].filter((mark) => x - timelineX(mark.time) > -6 && x - timelineX(mark.time) < 60);
      return near.at(-1) ?? null;
    }
    const row = block.rows[Math.floor((y - block.top) / block.height)];
    if (y >= block.top && y < block.bottom && row) {
      const state = row.states[after(row.states, time, (one) => one.time) - 1];
      return state ? { row, state } : null;
    }
  }
  return null;
}

function showTip(text, event) {
  const tip = element('tip');
  tip.hidden = !text;
  if (!text) return;
  tip.textContent = text;
  const { offsetWidth: w, offsetHeight: h } = tip;
  tip.style.left = `${Math.max(4, Math.min(event.clientX + 14, window.innerWidth - w - 8))}px`;
  tip.style.top = `${event.clientY + 18 + h > window.innerHeight ? event.clientY - h - 10 : event.clientY + 18}px`;
}

function onTimeline() {
  const { canvas } = timeline;
  let drag = null;
  canvas.addEventListener('pointerdown', (event) => {
    drag = { x: event.offsetX, from: view.from, to: view.to, moved: false, brush: event.shiftKey };
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener('pointermove', (event) => {
    const time = timeAt(timeline, event.offsetX, view.from, view.to);
    if (!drag) {
      const thing = hit(event.offsetX, event.offsetY);
      view.hovered = thing && { thing };
      view.pointer = time;
      showTip(thing ? textOf(thing) : clock(time, span() / 100), event);
      redraw();
      return;
    }
    showTip(null);
    drag.moved ||= Math.abs(event.offsetX - drag.x) > 3;
    if (drag.brush) {
      view.brush = { from: timeAt(timeline, drag.x, view.from, view.to), to: time };
      redraw();
    } else if (drag.moved) {
      const by = ((drag.x - event.offsetX) / (timeline.width - GUTTER - RIGHT)) * (drag.to - drag.from);
      look(drag.from + by, drag.to + by);
    }
  });
  canvas.addEventListener('pointerup', (event) => {
    if (drag && !drag.moved) choose(hit(event.offsetX, event.offsetY));
    if (drag?.moved && view.brush) look(Math.min(view.brush.from, view.brush.to), Math.max(view.brush.from, view.brush.to));
    [drag, view.brush] = [null, null];
  });
  canvas.addEventListener('pointercancel', () => { [drag, view.brush] = [null, null]; });
  canvas.addEventListener('pointerleave', () => { [view.hovered, view.pointer] = [null, null]; showTip(null); redraw(); });
  canvas.addEventListener('dblclick', (event) => zoom(4, timeAt(timeline, event.offsetX, view.from, view.to)));
  canvas.addEventListener('wheel', (event) => {
    if (event.ctrlKey || event.metaKey) {
      zoom(Math.exp(-event.deltaY * 0.004), timeAt(timeline, event.offsetX, view.from, view.to));
    } else if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) {
      move((event.deltaX || event.deltaY) / timeline.width);
    } else {
      return;
    }
    event.preventDefault();
  }, { passive: false });
}

function onOverview() {
  const { canvas } = overview;
  const time = (event) => Math.min(run.ended, Math.max(0, timeAt(overview, event.offsetX, 0, run.ended)));
  let drag = null;
  canvas.addEventListener('pointerdown', (event) => {
    const x = event.offsetX;
    const [left, right] = [overviewX(view.from), overviewX(view.to)];
    drag = { at: time(event), from: view.from, to: view.to, x };
    if (Math.abs(x - left) < 6) drag.at = view.to;
    else if (Math.abs(x - right) < 6) drag.at = view.from;
    else drag.move = x > left && x < right && span() < run.ended * 0.9;
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener('pointermove', (event) => {
    if (!drag) { showTip(overviewText(timeAt(overview, event.offsetX, 0, run.ended)), event); return; }
    showTip(null);
    if (Math.abs(event.offsetX - drag.x) < 3) return;
    const now = time(event);
    if (drag.move) look(drag.from + now - drag.at, drag.to + now - drag.at);
    else look(Math.min(drag.at, now), Math.max(drag.at, now));
  });
  canvas.addEventListener('pointerup', () => { drag = null; });
  canvas.addEventListener('pointercancel', () => { drag = null; });
  canvas.addEventListener('pointerleave', () => showTip(null));
  canvas.addEventListener('dblclick', lookAtAll);
}

function onKeys() {
  const actions = {
    '+': () => zoom(1.6), '=': () => zoom(1.6), w: () => zoom(1.6),
    '-': () => zoom(1 / 1.6), s: () => zoom(1 / 1.6),
    ArrowLeft: () => move(-0.2), a: () => move(-0.2),
    ArrowRight: () => move(0.2), d: () => move(0.2),
    0: lookAtAll, j: lookAtWitness, n: () => stepWitness(1), p: () => stepWitness(-1),
    Escape: () => choose(null),
  };
  document.addEventListener('keydown', (event) => {
    const typing = ['INPUT', 'SELECT'].includes(event.target.tagName);
    if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
    const action = actions[event.key] ?? actions[event.key.toLowerCase()];
    if (!action) return;
    action();
    event.preventDefault();
  });
}

function option(parent, value, text = value) {
  const one = document.createElement('option');
  [one.value, one.textContent] = [value, text];
  parent.append(one);
}

function onControls() {
  const click = (id, action) => element(id)?.addEventListener('click', action);
  click('zoom-in', () => zoom(2));
  click('zoom-out', () => zoom(0.5));
  click('zoom-all', lookAtAll);
  click('zoom-witness', lookAtWitness);
  click('copy', () => {
    getSelection().selectAllChildren(element('replay'));
    document.execCommand('copy');
    element('copy').textContent = 'copied';
  });
  [...new Set(run.calls.map((call) => call.key))].sort().slice(0, 2000).forEach((key) => option(element('keys'), key));
  run.shards.forEach((shard) => option(element('filter-shard'), String(shard)));
  run.messageKinds.forEach((kind) => option(element('filter-message'), kind));
  const filter = (id, set) => element(id).addEventListener('input', (event) => { set(event.target.value.trim()); redraw(); });
  filter('filter-key', (text) => { view.key = text; });
  filter('filter-shard', (text) => { view.shard = text; });
  filter('filter-message', (text) => { view.message = text; });
  filter('filter-process', (text) => { view.processes = text === '' ? null : new Set(text.split(/[\s,]+/)); });
  for (const button of document.querySelectorAll('[data-call], [data-event]')) {
    const { call, event } = button.dataset;
    button.addEventListener('click', () => {
      const part = run.witness.find(({ thing }) => (call ? thing.id === Number(call) : thing.event === Number(event)));
      if (!part) return;
      view.step = run.witness.indexOf(part);
      choose(part.thing);
      lookAround(part.from, part.to, 1.5);
      element('picture').scrollIntoView({ behavior: 'smooth' });
    });
  }
}

function fillLegend() {
  element('legend').replaceChildren();
  const add = (colour, text) => {
    const [entry, swatch] = [document.createElement('span'), document.createElement('i')];
    swatch.style.background = colour;
    entry.append(swatch, text);
    element('legend').append(entry);
  };
  ['leader', 'candidate', 'follower', 'learner'].forEach((role) => add(colours[role], role));
  add('repeating-linear-gradient(90deg, currentColor 0 3px, transparent 3px 7px)', 'down');
  add(colours.ok, 'ok');
  add(colours.fail, 'failed: not carried out');
  add(colours.info, 'unknown: perhaps, also later');
  add(colours.witness, 'witness');
  if (run.seen.length > 0) add(colours.p50, 'seen by a watch or consumer');
  if (run.messages.length > 0) add(colours.lost, 'message lost');
  run.kinds.forEach((kind) => add(faultColour(kind), kind));
}

function start() {
  readColours();
  fillLegend();
  onTimeline();
  onOverview();
  onKeys();
  onControls();
  window.addEventListener('resize', redraw);
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => { readColours(); fillLegend(); redraw(); });
  if (run.witness.length > 0) lookAtWitness(); else lookAtAll();
}

start();
