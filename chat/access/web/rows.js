// What the list of messages shows, row by row: a pure function of the state. Views only draw it.

import { lineOf, nameOf, noteOf, peerMarks, windowOf } from './select.js';
import { logOf } from './state.js';
import { strings } from './strings.js';
import { dayOf, dayText } from './text.js';
import { counts, isGroup } from './wire.js';

/** Messages of one sender that follow each other so soon are shown together. */
const TOGETHER_MS = 5 * 60 * 1000;

/**
 * Rows, the oldest first. Each has a `key` and a `kind`: start, day, unread, gap, note, message.
 * @param {object} state
 * @param {{conversation: string, from: number}} open
 * @param {object[]} entries of the outbox
 * @param {number} readAt up to where the user had read when they opened it
 * @param {boolean} isStart there is nothing older
 * @param {number} nowMs
 */
export function rowsOf(state, open, entries, readAt, isStart, nowMs) {
  const { conversation, from } = open;
  const { messages, missing } = windowOf(state, conversation, from);
  const rows = isStart && (messages.length > 0 || missing.length > 0) ? [{ key: 'start', kind: 'start' }] : [];
  const marks = isGroup(conversation) ? null : peerMarks(state, conversation);
  const frame = { rows, before: null, day: -Infinity, isUnreadShown: false, gaps: [...missing], nowMs };
  for (const message of messages) {
    addGaps(frame, message.seq);
    addDay(frame, message.atMs);
    const isUnread = readAt > 0 && message.seq > readAt && message.sender !== state.me && counts(message);
    if (isUnread && !frame.isUnreadShown) {
      frame.rows.push({ key: 'unread', kind: 'unread' });
      frame.isUnreadShown = true;
      frame.before = null;
    }
    addMessage(frame, state, conversation, message, marks);
  }
  addGaps(frame, Infinity);
  const taken = new Set(messages.filter((message) => message.sender === state.me).map((message) => message.clientId));
  const waiting = entries.filter((entry) => entry.conversation === conversation && !taken.has(entry.clientId));
  for (const entry of waiting) {
    addDay(frame, entry.atMs);
    addEntry(frame, state, entry);
  }
  return frame.rows;
}

function addGaps(frame, upto) {
  while (frame.gaps.length > 0 && frame.gaps[0][0] < upto) {
    const [from] = frame.gaps.shift();
    frame.rows.push({ key: `gap-${from}`, kind: 'gap' });
    frame.before = null;
  }
}

function addDay(frame, atMs) {
  const day = dayOf(atMs);
  if (day <= frame.day) return; // what waits may be older than what is here
  frame.day = day;
  frame.rows.push({ key: `day-${day}`, kind: 'day', text: dayText(atMs, frame.nowMs) });
  frame.before = null;
}

function addMessage(frame, state, conversation, message, marks) {
  if (message.body?.kind === 'system') {
    frame.rows.push({ key: `seq-${message.seq}`, kind: 'note', text: noteOf(state, message.body), atMs: message.atMs });
    frame.before = null;
    return;
  }
  const isOwn = message.sender === state.me;
  add(frame, state, conversation, {
    // A message keeps its row when it is taken: the client id is that of its entry.
    key: isOwn && message.clientId ? `own-${message.clientId}` : `seq-${message.seq}`,
    seq: message.seq,
    sender: message.sender,
    isOwn,
    atMs: message.atMs,
    editedMs: message.edits > 0 ? message.editedMs : 0,
    body: message.body,
    line: message.body === null || message.body.kind === 'unknown' ? lineOf(state, message) : '',
    replyTo: message.replyTo,
    status: isOwn && counts(message) ? statusOf(message.seq, marks) : '',
    entry: null,
    failed: null,
  });
}

function addEntry(frame, state, entry) {
  add(frame, state, entry.conversation, {
    key: `own-${entry.clientId}`,
    seq: 0,
    sender: state.me,
    isOwn: true,
    atMs: entry.atMs,
    editedMs: 0,
    body: entry.body,
    line: '',
    replyTo: entry.replyTo,
    status: entry.failed ? 'failed' : 'sending',
    entry: entry.key,
    failed: entry.failed,
  });
}

function add(frame, state, conversation, row) {
  const { before } = frame;
  const isNear = before && before.sender === row.sender && row.atMs - before.atMs < TOGETHER_MS;
  const { origin } = row.body ?? {};
  const isNamed = isGroup(conversation) && !row.isOwn && !isNear;
  frame.rows.push({
    ...row,
    kind: 'message',
    isFirst: !isNear,
    isGroup: isGroup(conversation),
    name: nameOf(state, row.sender),
    isNamed,
    origin: origin ? nameOf(state, origin.sender) : '',
    quote: row.replyTo ? quoteOf(state, conversation, row.replyTo) : null,
  });
  frame.before = row;
}

function statusOf(seq, marks) {
  if (!marks) return 'sent';
  if (seq <= marks.read) return 'read';
  return seq <= marks.got ? 'delivered' : 'sent';
}

function quoteOf(state, conversation, seq) {
  const message = logOf(state, conversation).messages.get(seq);
  if (!message) return { seq: 0, name: '', line: strings.message.gone };
  return { seq, name: message.sender === state.me ? strings.you : nameOf(state, message.sender), line: lineOf(state, message) };
}
