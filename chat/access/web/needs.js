// What is missing of what the state should have: pure functions, which say what is to be asked for next.

import * as log from './log.js';
import { floorOf, headOf, readOf } from './select.js';
import { logOf } from './state.js';
import { counts, isGroup, peer } from './wire.js';

/** Messages of one page. */
export const PAGE = 200;
/** So much of what was read is shown before what was not. */
const CONTEXT = 5;
/** With more missing than this the open conversation is shown from its newest messages again. */
export const TOO_FAR = 1_000;

/**
 * Numbers that are to be pulled, each `{conversation, from, to}`: gaps in what is shown, gaps in conversations of two (whose other side is told what has
 * arrived), messages that have changed, and messages that are answered by those shown.
 * @param {object} state
 * @param {{conversation: string, from: number} | null} open the conversation that is shown, and from which number on
 */
export function pulls(state, open) {
  const found = [];
  const add = (conversation, [from, to]) => found.push({ conversation, from, to });
  for (const [conversation, messages] of state.logs) {
    for (const seq of log.stale(messages)) add(conversation, [seq, seq]);
  }
  for (const conversation of state.conversations.keys()) {
    if (isGroup(conversation)) continue;
    for (const gap of gapsAfter(state, conversation, arrivedOf(state, conversation) + 1)) add(conversation, gap);
  }
  if (open) {
    for (const gap of gapsAfter(state, open.conversation, open.from)) add(open.conversation, gap);
    for (const seq of answered(state, open)) add(open.conversation, [seq, seq]);
  }
  return unique(found);
}

function gapsAfter(state, conversation, from) {
  const start = Math.max(from, floorOf(state, conversation));
  return log.gaps(logOf(state, conversation).ranges, start, headOf(state, conversation));
}

/** Numbers before the window that messages in it answer. */
function answered(state, { conversation, from }) {
  const messages = logOf(state, conversation);
  const floor = floorOf(state, conversation);
  const asked = log.since(messages, from).map((message) => message.replyTo);
  return asked.filter((seq) => seq >= floor && seq < from && log.rangeOf(messages.ranges, seq) === null);
}

function unique(found) {
  const keyed = new Map(found.map((pull) => [`${pull.conversation} ${pull.from}`, pull]));
  return [...keyed.values()];
}

/** Up to where a conversation of two was here before, on any device: it was read, or the server was told so. */
function arrivedOf(state, conversation) {
  return Math.max(readOf(state, conversation), state.got.get(conversation) ?? 0);
}

/**
 * Conversations of two of which all has arrived, and the server has not been told: `{conversation, seq}`.
 * @param {object} state
 */
export function gotMarks(state) {
  const found = [];
  for (const conversation of state.conversations.keys()) {
    if (isGroup(conversation)) continue;
    const arrived = arrivedOf(state, conversation);
    const seq = headOf(state, conversation);
    const other = peer(conversation, state.me);
    const isNew = (message) => message.seq > arrived && message.sender === other && counts(message);
    const hasAll = gapsAfter(state, conversation, arrived + 1).length === 0;
    if (seq > arrived && hasAll && log.newest(logOf(state, conversation), isNew)) found.push({ conversation, seq });
  }
  return found;
}

/**
 * Users whose names are needed and not here.
 * @param {object} state
 * @param {{conversation: string, from: number} | null} open
 */
export function unknownUsers(state, open) {
  const needed = new Set();
  const ofMessages = (messages) => {
    for (const message of messages) {
      [message.sender, message.recalledBy, message.body?.actor, message.body?.origin?.sender, ...(message.body?.subjects ?? [])]
        .filter((user) => user && user !== '0')
        .forEach((user) => needed.add(user));
    }
  };
  for (const conversation of state.conversations.keys()) {
    const other = peer(conversation, state.me);
    if (other) needed.add(other);
    const newest = log.newest(logOf(state, conversation), (message) => message.body?.kind !== 'revision');
    if (newest) ofMessages([newest]);
  }
  if (open) {
    ofMessages(log.since(logOf(state, open.conversation), open.from));
    for (const member of state.groups.get(open.conversation)?.members ?? []) needed.add(member.user);
    const other = peer(open.conversation, state.me);
    if (other) needed.add(other);
  }
  return [...needed].filter((user) => user !== state.me && !state.contacts.has(user) && !state.profiles.has(user));
}

/**
 * The group to be asked for its members: the open one, if it has changed.
 * @param {object} state
 * @param {{conversation: string} | null} open
 */
export function changedGroup(state, open) {
  if (!open || !isGroup(open.conversation)) return null;
  const view = state.conversations.get(open.conversation);
  const group = state.groups.get(open.conversation);
  if (!view || view.left || (group && group.version >= view.version)) return null;
  return { conversation: open.conversation, version: view.version };
}

/**
 * Where to begin to show a conversation: with the range that its newest message is in, but not too much of it; and with what is unread, if that is not too much.
 * @param {object} state
 * @param {string} conversation
 */
export function startOf(state, conversation) {
  const head = headOf(state, conversation);
  const range = log.rangeOf(logOf(state, conversation).ranges, head);
  const start = Math.max(range ? range[0] : head, head - PAGE);
  const read = readOf(state, conversation);
  const isNear = read > 0 && head - read <= PAGE;
  return Math.max(floorOf(state, conversation), isNear ? Math.min(start, read - CONTEXT) : start);
}

/**
 * Where to show a conversation from, so that older messages are seen, and what is to be pulled for that (null: they are here).
 * @param {object} state
 * @param {string} conversation
 * @param {number} from where it is shown from now
 * @param {number} count how many messages more
 */
export function older(state, conversation, from, count) {
  const floor = floorOf(state, conversation);
  if (from <= floor) return { from, pull: null };
  const { messages, ranges } = logOf(state, conversation);
  const here = log.rangeOf(ranges, from - 1);
  if (here) {
    const start = Math.max(floor, here[0]);
    const known = [...messages.keys()].filter((seq) => seq >= start && seq < from).sort((a, b) => b - a);
    return { from: known[count - 1] ?? start, pull: null };
  }
  const before = ranges.filter(([, to]) => to < from - 1).at(-1);
  const start = Math.max(floor, before ? before[1] + 1 : floor);
  return { from, pull: { conversation, from: start, to: from - 1, backwards: true, limit: count } };
}
