// The run, from the columns that the page carries (see columns.rs). Times are nanoseconds since it began.

const element = (id) => document.getElementById(id);
const raw = JSON.parse(element('data').textContent);

/** Times from the differences between them. */
function absolute(differences) {
  const times = new Float64Array(differences.length);
  let time = 0;
  differences.forEach((difference, i) => { times[i] = time += difference; });
  return times;
}

/** The first place whose value is greater than `value`; the values are in order. */
function after(values, value, get = (one) => one) {
  let low = 0;
  let high = values.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (get(values[middle]) <= value) low = middle + 1; else high = middle;
  }
  return low;
}

const run = {
  ended: Math.max(raw.ended, 1),
  nodes: raw.nodes,
  clients: raw.clients,
  faults: raw.faults.map((fault) => ({ ...fault, to: fault.to ?? raw.ended })),
  marks: [...raw.marks].sort((a, b) => a.time - b.time),
  strings: raw.strings,
  moments: raw.moments,
  rates: raw.rates,
  kinds: [...new Set(raw.faults.map((fault) => fault.kind))],
};

run.endName = (end) => run.nodes[end] ?? run.clients[end - run.nodes.length] ?? '?';

run.placeText = ({ place }) => {
  if (place === 'all') return 'everywhere';
  if (place.nodes) return place.nodes.map(run.endName).join(', ');
  return `${run.endName(place.link.from)} to ${run.endName(place.link.to)}`;
};

/** The fault is (also) at this node. */
run.isAt = ({ place }, node) => place === 'all'
  || (place.nodes ? place.nodes.includes(node) : place.link.from === node || place.link.to === node);

// A row for each node and shard: segments of one role and term, and the places of log indexes in them.
run.rows = (() => {
  const { node, shard, role, term, commit, applied } = raw.states;
  const times = absolute(raw.states.time);
  const rows = new Map();
  times.forEach((time, i) => {
    const name = `${node[i]}/${shard[i]}`;
    if (!rows.has(name)) rows.set(name, { node: node[i], shard: shard[i], segments: [], states: [] });
    const row = rows.get(name);
    const last = row.segments.at(-1);
    row.states.push({ time, role: role[i], term: term[i], commit: commit[i], applied: applied[i] });
    if (last && last.role === role[i] && (last.term === term[i] || role[i] === 'down')) return;
    if (last) last.to = time;
    row.segments.push({ from: time, to: run.ended, role: role[i], term: term[i] });
  });
  return [...rows.values()].sort((a, b) => a.node - b.node || a.shard - b.shard);
})();
run.shards = [...new Set(run.rows.map((row) => row.shard))].sort((a, b) => a - b);

// Operations, by invocation.
run.calls = (() => {
  const of = raw.operations;
  const invoked = absolute(of.invoked);
  const witnesses = new Set(raw.witness[0]);
  return of.id.map((id, i) => ({
    id,
    process: of.process[i],
    call: run.strings[of.call[i]],
    key: run.strings[of.key[i]],
    outcome: of.outcome[i],
    invoked: invoked[i],
    ended: of.took[i] < 0 ? null : invoked[i] + of.took[i],
    revision: of.revision[i],
    result: run.strings[of.result[i]],
    witness: witnesses.has(id),
  }));
})();

// What watches and consumers saw, by time.
run.seen = (() => {
  const times = absolute(raw.seen.time);
  const witnesses = new Set(raw.witness[1]);
  return raw.seen.event.map((event, i) => ({
    event,
    process: raw.seen.process[i],
    time: times[i],
    text: run.strings[raw.seen.text[i]],
    witness: witnesses.has(event),
  }));
})();

run.lanes = (() => {
  const lanes = raw.lanes.map((processes) => ({ processes, calls: [], seen: [] }));
  const of = new Map();
  lanes.forEach((lane) => lane.processes.forEach((process) => of.set(process, lane)));
  run.calls.forEach((call) => of.get(call.process)?.calls.push(call));
  run.seen.forEach((seen) => of.get(seen.process)?.seen.push(seen));
  return lanes;
})();

// Messages, by the time of their sending.
run.messages = (() => {
  const of = raw.messages;
  const sent = absolute(of.sent);
  return of.took.map((took, i) => ({
    sent: sent[i],
    arrived: took < 0 ? null : sent[i] + took,
    from: of.from[i],
    to: of.to[i],
    kind: run.strings[of.kind[i]],
    bytes: of.bytes[i],
    fate: run.strings[of.fate[i]],
  }));
})();
run.slowest = run.messages.reduce((most, one) => Math.max(most, (one.arrived ?? one.sent) - one.sent), 0);
run.messageKinds = [...new Set(run.messages.map((message) => message.kind))].sort();

// The spans in which all messages are in the page; null = in the whole run.
run.covered = raw.messages_reach === null ? null : raw.moments.map((moment) => ({
  from: moment - raw.messages_reach,
  to: moment + raw.messages_reach,
})).reduce((spans, span) => {
  const last = spans.at(-1);
  if (last && span.from <= last.to) last.to = Math.max(last.to, span.to); else spans.push(span);
  return spans;
}, []);

// The parts of the witnesses, by time.
run.witness = [
  ...run.calls.filter((call) => call.witness).map((call) => ({ from: call.invoked, to: call.ended ?? call.invoked, thing: call })),
  ...run.seen.filter((seen) => seen.witness).map((seen) => ({ from: seen.time, to: seen.time, thing: seen })),
].sort((a, b) => a.from - b.from);

/** A duration in the unit that suits it. */
function duration(ns, digits = 3) {
  const [unit, name] = ns >= 1e9 ? [1e9, 's'] : ns >= 1e6 ? [1e6, 'ms'] : ns >= 1e3 ? [1e3, 'µs'] : [1, 'ns'];
  return `${Number((ns / unit).toPrecision(digits))} ${name}`;
}

/** A time in seconds, with as many digits as differ over `span`. */
function clock(ns, span) {
  const digits = Math.min(9, Math.max(1, Math.ceil(11 - Math.log10(Math.max(span, 1)))));
  return `${(ns / 1e9).toFixed(digits)} s`;
}
