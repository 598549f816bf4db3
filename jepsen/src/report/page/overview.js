// The strip: rate and latency over the whole run, faults behind them, and the span that is looked at.

const RATE = { top: 8, height: 58 };
const LATENCY = { top: 76, height: 52 };

const overviewX = (time) => place(overview, time, 0, run.ended);

function drawOverview() {
  prepare(overview);
  const { context } = overview;
  const [left, right] = [overviewX(0), overviewX(run.ended)];
  for (const fault of run.faults) {
    context.globalAlpha = 0.16;
    context.fillStyle = faultColour(fault.kind);
    const x = overviewX(fault.from);
    context.fillRect(x, 4, Math.max(overviewX(fault.to) - x, 1.5), 126);
  }
  context.globalAlpha = 1;
  drawRates(left, right);
  drawLatencies(left, right);
  drawOverviewTimes();
  const [from, to] = [Math.max(overviewX(view.from), left), Math.min(overviewX(view.to), right)];
  context.fillStyle = colours.bg;
  context.globalAlpha = 0.4;
  context.fillRect(left, 0, from - left, 132);
  context.fillRect(to, 0, right - to, 132);
  context.globalAlpha = 1;
  context.strokeStyle = colours.fg;
  context.strokeRect(Math.round(from) + 0.5, 1.5, Math.max(Math.round(to - from), 2), 130);
  for (const part of run.witness) {
    context.fillStyle = colours.witness;
    context.fillRect(overviewX(part.from) - 0.75, 2, Math.max(overviewX(part.to) - overviewX(part.from), 1.5), 5);
    context.fillRect(overviewX(part.from) - 0.5, 2, 1, 128);
  }
}

/** Text beside a chart. */
function gutterText(context, lines, top) {
  context.textAlign = 'right';
  lines.forEach(([text, colour], i) => {
    context.fillStyle = colour;
    context.fillText(text, GUTTER - 8, top + 6 + i * 13);
  });
  context.textAlign = 'left';
}

function drawRates(left, right) {
  const { context } = overview;
  const { bucket, buckets } = run.rates;
  const most = Math.max(1, ...buckets.map((one) => one.ok + one.fail + one.info));
  const bottom = RATE.top + RATE.height;
  const scale = RATE.height / most;
  buckets.forEach((one, i) => {
    const x = overviewX(i * bucket);
    const w = Math.max(Math.min(overviewX((i + 1) * bucket), right) - x - 0.3, 0.7);
    let y = bottom;
    for (const name of ['ok', 'fail', 'info']) {
      const h = one[name] * scale;
      context.fillStyle = colours[name];
      context.fillRect(x, y - h, w, h);
      y -= h;
    }
  });
  context.fillStyle = colours.line;
  context.fillRect(left, bottom, right - left, 1);
  const rate = bucket > 0 ? (most * 1e9) / bucket : 0;
  gutterText(context, [['operations', colours.muted], [`≤ ${Math.round(rate).toLocaleString('en')}/s`, colours.fg]], RATE.top);
}

/** Lines of the percentiles, on a logarithmic scale. */
function drawLatencies(left, right) {
  const { context } = overview;
  const { bucket, buckets } = run.rates;
  const busy = buckets.filter((one) => one.max > 0);
  const bottom = LATENCY.top + LATENCY.height;
  context.fillStyle = colours.line;
  context.fillRect(left, bottom, right - left, 1);
  if (busy.length === 0) return;
  const least = Math.max(1, Math.min(...busy.map((one) => one.p50)));
  const most = Math.max(...busy.map((one) => one.max), least * 10);
  const y = (ns) => bottom - 2 - (Math.log(Math.max(ns, least) / least) / Math.log(most / least)) * (LATENCY.height - 4);
  context.lineWidth = 1.2;
  for (const name of ['max', 'p99', 'p50']) {
    context.strokeStyle = colours[name];
    context.beginPath();
    let drawing = false;
    buckets.forEach((one, i) => {
      if (one.max === 0) { drawing = false; return; }
      const x = overviewX((i + 0.5) * bucket);
      // A bucket between two empty ones is still seen.
      if (drawing) context.lineTo(x, y(one[name])); else { context.moveTo(x - 1, y(one[name])); context.lineTo(x, y(one[name])); }
      drawing = true;
    });
    context.stroke();
  }
  context.lineWidth = 1;
  const lines = [[`max ${duration(most, 2)}`, colours.max], ['p99', colours.p99], ['p50', colours.p50], [`≥ ${duration(least, 2)}`, colours.muted]];
  gutterText(context, lines, LATENCY.top);
}

function drawOverviewTimes() {
  const { context } = overview;
  const step = roundStep(run.ended, Math.max(2, (overview.width - GUTTER) / 130));
  context.fillStyle = colours.muted;
  for (let time = 0; time <= run.ended; time += step) {
    context.fillRect(overviewX(time), 129, 1, 4);
    timeText(overview, time, step, overviewX(time), 141);
  }
}

/** What is at a place of the strip, in words. */
function overviewText(time) {
  if (time < 0 || time > run.ended) return null;
  const lines = [clock(time, run.ended / 100)];
  const one = run.rates.buckets[Math.floor(time / run.rates.bucket)];
  if (one) {
    lines.push(`${one.ok} ok, ${one.fail} failed, ${one.info} unknown in ${duration(run.rates.bucket)}`);
    if (one.max > 0) lines.push(`p50 ${duration(one.p50)}, p99 ${duration(one.p99)}, max ${duration(one.max)}`);
  }
  const faults = run.faults.filter((fault) => fault.from <= time && time <= fault.to);
  lines.push(...faults.map((fault) => `${fault.kind}: ${fault.text} (${run.placeText(fault)})`));
  return lines.join('\n');
}
