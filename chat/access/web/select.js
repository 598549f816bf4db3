// What views show of the state: pure functions.

import * as log from './log.js';
import { logOf } from './state.js';
import { strings, isolate } from './strings.js';
import { counts, isGroup, peer } from './wire.js';

/** What there is of a user: the contact, or the profile; null if it is not here yet. */
export function userOf(state, user) {
  if (user === state.me) return state.account;
  return state.contacts.get(user) ?? state.profiles.get(user) ?? null;
}

/** What a user is called here. */
export function nameOf(state, user) {
  const found = userOf(state, user);
  if (!found) return strings.someUser(user);
  if (found.alias) return found.alias;
  return found.deleted ? strings.deletedUser : found.displayName || found.name;
}

/** The name, or "You". */
export function personOf(state, user) {
  return user === state.me ? strings.you : isolate(nameOf(state, user));
}

/** Title of a conversation. */
export function titleOf(state, conversation) {
  const other = peer(conversation, state.me);
  if (other) return nameOf(state, other);
  const view = state.conversations.get(conversation);
  return view?.title || state.groups.get(conversation)?.title || strings.group;
}

/** The number of the newest message that is here or was told of. */
export function headOf(state, conversation) {
  return Math.max(state.conversations.get(conversation)?.headSeq ?? 0, logOf(state, conversation).top);
}

/** The first number that is the user's. */
export function floorOf(state, conversation) {
  return Math.max(1, state.conversations.get(conversation)?.fromSeq ?? 1);
}

/** Up to where the user has read. */
export function readOf(state, conversation) {
  return Math.max(state.conversations.get(conversation)?.readSeq ?? 0, state.read.get(conversation) ?? 0);
}

/** How many messages are unread: what the view says, and what has come since. */
export function unreadOf(state, conversation) {
  const view = state.conversations.get(conversation);
  const messages = logOf(state, conversation);
  const read = readOf(state, conversation);
  const upto = view?.headSeq ?? 0;
  const count = (from) => {
    const unread = (message) => message.sender !== state.me && counts(message);
    return log.since(messages, from).filter(unread).length;
  };
  const isKnownHere = read > (view?.readSeq ?? 0) && log.gaps(messages.ranges, read + 1, upto).length === 0;
  if (isKnownHere) return count(Math.max(read + 1, floorOf(state, conversation)));
  return (view?.unread ?? 0) + count(Math.max(upto, read) + 1);
}

/** One line for the newest message of a conversation. */
export function previewOf(state, conversation) {
  const floor = floorOf(state, conversation);
  const isShown = (message) => message.seq >= floor && message.body?.kind !== 'revision';
  const message = log.newest(logOf(state, conversation), isShown);
  if (!message) return '';
  const line = lineOf(state, message);
  const isSaid = counts(message) && (isGroup(conversation) || message.sender === state.me);
  return isSaid ? strings.said(personOf(state, message.sender), line) : line;
}

/** A message in one line, without its sender. */
export function lineOf(state, message) {
  const { body } = message;
  if (body === null) return strings.recalled(personOf(state, message.recalledBy), message.recalledBy === state.me);
  if (body.kind === 'text') return body.text.replaceAll(/\s+/g, ' ');
  if (body.kind === 'media') return strings.media[body.media.kind] ?? strings.media.FILE;
  if (body.kind === 'system') return noteOf(state, body);
  return strings.unknownMessage;
}

/** What happened in a group. */
export function noteOf(state, body) {
  const note = strings.notes[body.what];
  if (!note) return strings.unknownMessage;
  const subjects = body.subjects.map((user) => personOf(state, user));
  const isSelf = body.subjects.length === 1 && body.subjects[0] === body.actor;
  const others = body.subjects.filter((user) => user !== body.actor).map((user) => personOf(state, user));
  return note({ actor: personOf(state, body.actor), subjects, others, isSelf, text: isolate(body.text), raw: body.text });
}

/** Conversations as the list shows them: pinned first, then those of the newest messages. What is hidden up to its end is left out. */
export function conversationList(state) {
  const rows = [...state.conversations.values()].map((view) => {
    const id = view.conversation;
    const messages = logOf(state, id);
    const newest = messages.messages.get(headOf(state, id));
    return { ...view, id, atMs: Math.max(view.headMs, newest?.atMs ?? 0) };
  });
  const isShown = (row) => row.pinned || row.fromSeq <= headOf(state, row.id);
  return rows.filter(isShown).sort((a, b) => b.pinned - a.pinned || b.atMs - a.atMs || (a.id < b.id ? -1 : 1));
}

/** All unread messages of conversations that are not muted. */
export function unreadInAll(state) {
  const loud = [...state.conversations.values()].filter((view) => !view.muted);
  return loud.reduce((sum, view) => sum + unreadOf(state, view.conversation), 0);
}

/** Contacts by what they are, each in the order of their names. */
export function contactLists(state) {
  const all = [...state.contacts.values()].map((contact) => ({ ...contact, shown: nameOf(state, contact.user) }));
  all.sort((a, b) => a.shown.localeCompare(b.shown) || (a.user < b.user ? -1 : 1));
  const of = (relation) => all.filter((contact) => contact.relation === relation && !contact.blocked);
  return {
    asked: of('ASKED'),
    requested: of('REQUESTED'),
    friends: of('FRIENDS'),
    blocked: all.filter((contact) => contact.blocked),
  };
}

/** Messages that are shown of a conversation, from a number on; with the gaps between them. */
export function windowOf(state, conversation, from) {
  const messages = logOf(state, conversation);
  const start = Math.max(from, floorOf(state, conversation));
  const shown = log.since(messages, start).filter((message) => message.body?.kind !== 'revision');
  return { messages: shown, missing: log.gaps(messages.ranges, start, headOf(state, conversation)) };
}

/** What became of the user's messages in a conversation of two: up to where the other one has read, and has got. */
export function peerMarks(state, conversation) {
  const view = state.conversations.get(conversation);
  const other = peer(conversation, state.me);
  const isTheirs = (message) => message.sender === other && counts(message);
  // Whoever sends has read up to there.
  const written = log.newest(logOf(state, conversation), isTheirs)?.seq ?? 0;
  const read = Math.max(view?.peerReadSeq ?? 0, written);
  return { read, got: Math.max(view?.peerGotSeq ?? 0, read) };
}

/** Why nothing can be sent here, or null. */
export function closedOf(state, conversation, nowMs) {
  const other = peer(conversation, state.me);
  if (other) {
    const contact = state.contacts.get(other);
    if (contact?.blocked) return strings.closed.blocked;
    return contact?.relation === 'FRIENDS' ? null : strings.closed.strangers;
  }
  if (state.conversations.get(conversation)?.left) return strings.closed.left;
  const group = state.groups.get(conversation);
  if (group?.disbanded) return strings.closed.disbanded;
  const mine = group?.members.find((member) => member.user === state.me);
  if (mine?.role !== 'ROLE_MEMBER') return null;
  if (group.muted) return strings.closed.allMuted;
  return mine.mutedUntilMs > nowMs ? strings.closed.muted : null;
}

/** The user's role in a group, or ''. */
export function roleOf(state, conversation) {
  const group = state.groups.get(conversation);
  return group?.members.find((member) => member.user === state.me)?.role ?? '';
}

/** Who is writing in a conversation. */
export function typersOf(state, conversation) {
  return [...(state.typing.get(conversation)?.keys() ?? [])].map((user) => isolate(nameOf(state, user)));
}
