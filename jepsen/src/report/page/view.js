// What is looked at: a span of time, filters, the thing under the pointer and the one that was clicked.

const MIN_SPAN = 1000;

const view = {
  from: 0,
  to: run.ended,
  key: '',
  processes: null,
  shard: '',
  message: '',
  pointer: null,
  hovered: null,
  chosen: null,
  brush: null,
  step: -1,
};

/** Looks at a span, as much of it as there is. */
function look(from, to) {
  const margin = run.ended * 0.01;
  const span = Math.min(Math.max(to - from, MIN_SPAN), run.ended + 2 * margin);
  const middle = (from + to) / 2;
  view.from = Math.min(Math.max(middle - span / 2, -margin), run.ended + margin - span);
  view.to = view.from + span;
  redraw();
}

/** Comes closer by a factor; the time `at` stays where it is. */
function zoom(factor, at = (view.from + view.to) / 2) {
  const span = Math.max((view.to - view.from) / factor, MIN_SPAN);
  const share = (at - view.from) / (view.to - view.from);
  look(at - share * span, at + (1 - share) * span);
}

function move(share) {
  const by = share * (view.to - view.from);
  look(view.from + by, view.to + by);
}

function lookAtAll() {
  look(-run.ended * 0.01, run.ended * 1.01);
}

/** Looks at a span with some room around it, as a share of it. */
function lookAround(from, to, share = 0.25) {
  const room = Math.max((to - from) * share, run.ended * 1e-5, 50_000);
  look(from - room, to + room);
}

function lookAtWitness() {
  if (run.witness.length > 0) {
    view.step = -1;
    lookAround(run.witness[0].from, Math.max(...run.witness.map((part) => part.to)));
  } else {
    lookAround(run.moments[0] - run.ended * 0.01, run.moments.at(-1) + run.ended * 0.01);
  }
}

/** Looks at the next part of the witness, or the one before. */
function stepWitness(by) {
  const parts = run.witness.length;
  if (parts === 0) return;
  view.step = view.step < 0 && by < 0 ? parts - 1 : (view.step + by + parts) % parts;
  const part = run.witness[view.step];
  choose(part.thing);
  lookAround(part.from, part.to, 1.5);
}

/** The call is of what the filters ask for. */
function isWanted(call) {
  if (view.processes && !view.processes.has(String(call.process))) return false;
  return view.key === '' || call.key === view.key || call.call.includes(view.key);
}

/** The lanes with what the filters leave of them. */
function filterLanes() {
  if (!view.processes && view.key === '') return run.lanes;
  const seenIsWanted = (seen) => (!view.processes || view.processes.has(String(seen.process)))
    && (view.key === '' || seen.text.includes(view.key));
  return run.lanes.map((lane) => ({
    processes: lane.processes,
    calls: lane.calls.filter(isWanted),
    seen: lane.seen.filter(seenIsWanted),
  })).filter((lane) => lane.calls.length + lane.seen.length > 0);
}

let pending = false;

/** Draws everything once, before the next frame. */
function redraw() {
  if (pending) return;
  pending = true;
  requestAnimationFrame(() => {
    pending = false;
    drawOverview();
    drawTimeline();
    element('span').textContent = `${clock(view.from, view.to - view.from)} + ${duration(view.to - view.from)}`;
  });
}
