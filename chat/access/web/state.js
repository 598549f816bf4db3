// What the client knows, as a pure function of what has happened: `reduce(state, event)` gives the next state and changes nothing else.
//
// Views of conversations, contacts and the account come by syncs only and are replaced as they come. Messages come by syncs, pushes, pulls and sending, into
// logs (log.js), which outlive a reset. What the user has just done (read up to a message) is kept beside the views, because a view that was on its way does not know it yet.

import * as log from './log.js';
import * as wire from './wire.js';

/** A writer is shown as writing for so long, in milliseconds. */
export const TYPING_MS = 6_000;

/** What a reset forgets. */
const FORGOTTEN = Object.freeze({ account: null, devices: [], contacts: new Map(), conversations: new Map() });

/**
 * The state of a user who has just logged in.
 * @param {string} me the user's id
 */
export function initial(me) {
  return {
    me,
    ...FORGOTTEN,
    staged: null, // what comes after a reset, until it is whole
    isWhole: false, // the first sync has ended
    snapshot: '',
    logs: new Map(),
    groups: new Map(),
    profiles: new Map(), // of users who are no contacts
    online: new Set(),
    typing: new Map(), // conversation -> user -> until when
    read: new Map(), // conversation -> up to where the user has read here
    got: new Map(), // conversation -> up to where the server was told that all has arrived
  };
}

/**
 * The next state.
 * @param {object} state
 * @param {{type: string}} event
 */
export function reduce(state, event) {
  const handler = HANDLERS[event.type];
  if (!handler) throw new Error(`there is no event ${event.type}`);
  return handler(state, event);
}

/**
 * The log of a conversation.
 * @param {object} state
 * @param {string} conversation
 */
export function logOf(state, conversation) {
  return state.logs.get(conversation) ?? log.EMPTY;
}

const HANDLERS = {
  /** A delta of a sync. */
  delta(state, { delta }) {
    const known = delta.reset ? FORGOTTEN : (state.staged ?? state);
    const mine = withDelta(known, delta);
    const logs = new Map(state.logs);
    for (const json of delta.conversations ?? []) {
      logs.set(json.conversation, withView(logs.get(json.conversation) ?? log.EMPTY, json));
    }
    const next = { ...state, logs, snapshot: delta.snapshot ?? '', isWhole: state.isWhole || !delta.more };
    const isStaged = state.isWhole && delta.more === true && (delta.reset === true || state.staged !== null);
    return isStaged ? { ...next, staged: mine } : { ...next, ...mine, staged: null };
  },

  /** A message that has just been stored. */
  push(state, { conversation, message: json }) {
    const message = wire.message(json);
    const next = withLog(state, conversation, log.push(logOf(state, conversation), message));
    return withTyping(withOwn(next, conversation, message), conversation, message.sender, 0);
  },

  /** The answer to a pull: `from`, `to` and `backwards` are what was asked for. */
  page(state, { conversation, from, to, backwards, page, asOf }) {
    const messages = (page.messages ?? []).map(wire.message);
    const cover = covered(from, to, backwards === true, messages, page.more === true);
    return withLog(state, conversation, log.take(logOf(state, conversation), messages, cover, asOf));
  },

  /** A message of this device that the server has taken. */
  sent(state, { conversation, message }) {
    const next = withLog(state, conversation, log.push(logOf(state, conversation), message));
    return withOwn(next, conversation, message);
  },

  /** The user has read up to a message, here. */
  read(state, { conversation, seq }) {
    return withMark(state, 'read', conversation, seq);
  },

  /** The server was told that all messages up to this one are here. */
  got(state, { conversation, seq }) {
    return withMark(state, 'got', conversation, seq);
  },

  group(state, { group }) {
    return { ...state, groups: new Map(state.groups).set(group.conversation, wire.group(group)) };
  },

  /** A group that does not tell this user its members (any more). */
  groupDenied(state, { conversation, version }) {
    const denied = { ...wire.group({ conversation }), version, isDenied: true };
    return { ...state, groups: new Map(state.groups).set(conversation, denied) };
  },

  /** Profiles that were asked for. Who is not among the answers is gone. */
  users(state, { asked, users }) {
    const profiles = new Map(state.profiles);
    for (const user of asked) profiles.set(user, { ...wire.profile({ user }), deleted: true });
    for (const json of users) profiles.set(wire.profile(json).user, wire.profile(json));
    return { ...state, profiles };
  },

  presence(state, { online, offline }) {
    const now = new Set(state.online);
    for (const user of online) now.add(user);
    for (const user of offline) now.delete(user);
    return { ...state, online: now };
  },

  typing(state, { conversation, user, nowMs }) {
    return withTyping(state, conversation, user, nowMs + TYPING_MS);
  },

  /** Time passes: who was writing is not any more. */
  tick(state, { nowMs }) {
    const typing = new Map();
    for (const [conversation, users] of state.typing) {
      const still = [...users].filter(([, until]) => until > nowMs);
      if (still.length > 0) typing.set(conversation, new Map(still));
    }
    return { ...state, typing };
  },

  /** The connection is gone: nothing is known of who is there. */
  lost(state) {
    return { ...state, online: new Set(), typing: new Map() };
  },
};

/** In the order that the protocol asks for. */
function withDelta(known, delta) {
  let { account, devices } = known;
  if (delta.account) {
    account = wire.profile(delta.account);
    devices = (delta.devices ?? []).map(wire.device);
  }
  const contacts = new Map(known.contacts);
  for (const json of delta.contacts ?? []) {
    const contact = wire.contact(json);
    const isOff = contact.relation === 'STRANGERS' && !contact.blocked;
    if (isOff) contacts.delete(contact.user);
    else contacts.set(contact.user, contact);
  }
  const conversations = new Map(known.conversations);
  for (const json of delta.conversations ?? []) conversations.set(json.conversation, wire.view(json));
  return { account, devices, contacts, conversations };
}

/** The messages of a view are the newest: of the numbers from the first of them on there are no others. */
function withView(known, json) {
  const messages = (json.messages ?? []).map(wire.message);
  const { headSeq } = wire.view(json);
  if (messages.length === 0) return known;
  const cover = [messages[0].seq, Math.max(headSeq, messages.at(-1).seq)];
  return log.take(known, messages, cover, headSeq);
}

/** Of which numbers a page has said everything. */
function covered(from, to, backwards, messages, more) {
  const last = messages.at(-1);
  if (!more || !last) return more ? null : [from, to];
  return backwards ? [last.seq, to] : [from, last.seq];
}

function withLog(state, conversation, changed) {
  return { ...state, logs: new Map(state.logs).set(conversation, changed) };
}

/** Whoever sends has read up to there. */
function withOwn(state, conversation, message) {
  const isOwn = message.sender === state.me && wire.counts(message);
  return isOwn ? withMark(state, 'read', conversation, message.seq) : state;
}

/** Marks only go forward. */
function withMark(state, which, conversation, seq) {
  if (seq <= (state[which].get(conversation) ?? 0)) return state;
  return { ...state, [which]: new Map(state[which]).set(conversation, seq) };
}

function withTyping(state, conversation, user, until) {
  const users = new Map(state.typing.get(conversation));
  if (until > 0) users.set(user, until);
  else if (!users.delete(user)) return state;
  return { ...state, typing: new Map(state.typing).set(conversation, users) };
}
