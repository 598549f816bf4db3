// The messages of one conversation that are here, and which numbers are known. Pure: each function gives a new log.
//
// Numbers of a conversation have no gaps, but messages do: those whose retention is over are not there any more. So the log keeps *ranges*: numbers of which
// the server has said everything. What is in no range is missing, and to be pulled.
//
// A message here may be older than its newest form. Each has `asOf`: a number that the conversation had when the server read this form. A revision with a greater number
// makes it stale.

/** A log without messages. */
export const EMPTY = Object.freeze({ messages: new Map(), ranges: [], revisions: new Map(), top: 0 });

/**
 * Ranges with one more, in ascending order; those that touch become one.
 * @param {number[][]} ranges
 * @param {number} from
 * @param {number} to
 */
export function withRange(ranges, from, to) {
  if (from > to) return ranges;
  const apart = ranges.filter(([a, b]) => b < from - 1 || a > to + 1);
  const touching = ranges.filter(([a, b]) => b >= from - 1 && a <= to + 1);
  const low = Math.min(from, ...touching.map(([a]) => a));
  const high = Math.max(to, ...touching.map(([, b]) => b));
  return [...apart, [low, high]].sort(([a], [b]) => a - b);
}

/**
 * What of `from..to` is in no range.
 * @param {number[][]} ranges
 * @param {number} from
 * @param {number} to
 */
export function gaps(ranges, from, to) {
  const missing = [];
  let next = from;
  for (const [a, b] of ranges) {
    if (b < next) continue;
    if (a > to) break;
    if (a > next) missing.push([next, a - 1]);
    next = b + 1;
  }
  if (next <= to) missing.push([next, to]);
  return missing;
}

/**
 * The range that a number is in, or null.
 * @param {number[][]} ranges
 * @param {number} seq
 */
export function rangeOf(ranges, seq) {
  return ranges.find(([a, b]) => a <= seq && seq <= b) ?? null;
}

/** Forms of one message, in their order: edited, edited again, recalled. */
function form(message) {
  return message.body === null ? Infinity : message.edits;
}

/**
 * Takes messages that the server has read together.
 * @param {object} log
 * @param {object[]} found
 * @param {number[] | null} cover numbers `[from, to]` of which these are all that is left
 * @param {number} asOf the conversation had this number when they were read
 */
export function take(log, found, cover, asOf) {
  const messages = new Map(log.messages);
  const revisions = new Map(log.revisions);
  let { ranges, top } = log;
  if (cover) {
    const left = new Set(found.map((message) => message.seq));
    for (const seq of messages.keys()) {
      const isOver = cover[0] <= seq && seq <= Math.min(cover[1], asOf) && !left.has(seq);
      if (isOver) messages.delete(seq);
    }
    ranges = withRange(ranges, cover[0], cover[1]);
  }
  for (const message of found) {
    const known = messages.get(message.seq);
    const newest = known && form(known) > form(message) ? known : message;
    messages.set(message.seq, { ...newest, asOf: Math.max(known?.asOf ?? 0, asOf) });
    ranges = withRange(ranges, message.seq, message.seq);
    top = Math.max(top, message.seq);
    if (message.body?.kind === 'revision') {
      const { ofSeq } = message.body;
      revisions.set(ofSeq, Math.max(revisions.get(ofSeq) ?? 0, message.seq));
    }
  }
  return { messages, ranges, revisions, top };
}

/**
 * Takes a message that was pushed: one that is new, or a newer form.
 * @param {object} log
 * @param {object} message
 */
export function push(log, message) {
  return take(log, [message], null, message.seq);
}

/**
 * Numbers of messages that have changed since they were read.
 * @param {object} log
 */
export function stale(log) {
  const found = [];
  for (const [ofSeq, revision] of log.revisions) {
    const message = log.messages.get(ofSeq);
    if (message && message.body !== null && message.asOf < revision) found.push(ofSeq);
  }
  return found;
}

/**
 * Messages of `from..` in ascending order.
 * @param {object} log
 * @param {number} from
 */
export function since(log, from) {
  return [...log.messages.values()].filter((message) => message.seq >= from).sort((a, b) => a.seq - b.seq);
}

/**
 * The newest message that passes a test, or null.
 * @param {object} log
 * @param {(message: object) => boolean} test
 */
export function newest(log, test) {
  let found = null;
  for (const message of log.messages.values()) {
    if ((!found || message.seq > found.seq) && test(message)) found = message;
  }
  return found;
}
