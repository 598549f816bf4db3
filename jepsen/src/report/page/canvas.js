// The two canvases, their colours and the scale of time that they share.

const GUTTER = 104;
const RIGHT = 14;
const AXIS = 22;
const FONT = '11px system-ui, sans-serif';
const FAULT_COLOURS = ['#d1495b', '#3d7ea6', '#8d6a9f', '#c98b2b', '#4f8a5b', '#a35638', '#5c6bc0', '#7a7a3a', '#b0578d', '#3a8f8f'];

const overview = { canvas: element('overview'), height: 150 };
const timeline = { canvas: element('timeline'), height: 0 };
for (const one of [overview, timeline]) one.context = one.canvas.getContext('2d');

let colours = {};

function readColours() {
  const style = getComputedStyle(document.documentElement);
  const names = ['bg', 'fg', 'muted', 'line', 'panel', 'lane', 'ok', 'fail', 'info', 'witness', 'glow', 'leader', 'leader-fg',
    'candidate', 'follower', 'learner', 'role-fg', 'down', 'down-line', 'p50', 'p99', 'max', 'message', 'lost'];
  colours = Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
  colours.o = colours.ok;
  colours.f = colours.fail;
  colours.i = colours.info;
}

function faultColour(kind) {
  return FAULT_COLOURS[run.kinds.indexOf(kind) % FAULT_COLOURS.length];
}

/** Makes a canvas as sharp as the screen and wipes it. */
function prepare(one) {
  const { canvas, context, height } = one;
  const ratio = window.devicePixelRatio || 1;
  one.width = canvas.clientWidth;
  const [w, h] = [Math.round(one.width * ratio), Math.round(height * ratio)];
  if (canvas.width !== w || canvas.height !== h) {
    canvas.style.height = `${height}px`;
    canvas.width = w;
    canvas.height = h;
  }
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.fillStyle = colours.bg;
  context.fillRect(0, 0, one.width, height);
  context.font = FONT;
  context.textBaseline = 'middle';
}

/** Where a time is on a canvas that shows the span `from` to `to`. */
function place(one, time, from, to) {
  return GUTTER + ((time - from) / (to - from)) * (one.width - GUTTER - RIGHT);
}

function timeAt(one, x, from, to) {
  return from + ((x - GUTTER) / (one.width - GUTTER - RIGHT)) * (to - from);
}

/** A round step of which about `parts` make up a span. */
function roundStep(span, parts) {
  const rough = span / parts;
  const power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 5, 10].map((n) => n * power).find((step) => step >= rough);
}

/** Draws only inside a rectangle. */
function clipped(context, [x, y, w, h], draw) {
  context.save();
  context.beginPath();
  context.rect(x, y, w, h);
  context.clip();
  draw();
  context.restore();
}

/** Text that is cut to a width, or left out if that is too small. */
function label(context, text, x, y, width) {
  if (width < 14) return;
  const needs = context.measureText(text).width;
  if (needs <= width) {
    context.fillText(text, x, y);
    return;
  }
  const letters = Math.floor((text.length * width) / needs) - 1;
  if (letters > 2) context.fillText(`${text.slice(0, letters)}…`, x, y);
}

/** The lines and times of the axis. */
function drawAxis(one, y, height, from, to) {
  const { context } = one;
  const step = roundStep(to - from, Math.max(2, (one.width - GUTTER) / 130));
  for (let time = Math.ceil(Math.max(from, 0) / step) * step; time <= Math.min(to, run.ended); time += step) {
    const x = Math.round(place(one, time, from, to)) + 0.5;
    context.fillStyle = colours.line;
    context.fillRect(x - 0.5, y, 1, height);
    context.fillStyle = colours.muted;
    timeText(one, time, step, x, y + 10);
  }
}

/** A time below or above its place, moved to the left where the canvas ends. */
function timeText(one, time, step, x, y) {
  const text = clock(time, step * 5);
  const half = one.context.measureText(text).width / 2;
  one.context.fillText(text, Math.min(x, one.width - half - 2) - half, y);
}
