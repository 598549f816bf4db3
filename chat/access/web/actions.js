// What a user does, as requests: one function each. All of them fail with a `ChatError`.

import { strings } from './strings.js';
import { direct, newClientId } from './wire.js';

/** Sends a text, perhaps in answer to another message. */
export function sendText(chat, conversation, text, replyTo = 0) {
  chat.write({ conversation, body: { kind: 'text', text, origin: null }, replyTo });
}

/** Sends a medium that is uploaded. */
export function sendMedia(chat, conversation, media, replyTo = 0) {
  chat.write({ conversation, body: { kind: 'media', media, origin: null }, replyTo });
}

/** Sends another message's body as the user's own. */
export function forward(chat, from, message, to) {
  const origin = message.body.origin ?? { sender: message.sender, atMs: message.atMs };
  chat.write({ conversation: to, body: { ...message.body, origin }, forward: { from, seq: message.seq } });
}

/** Takes a message back, for everybody. */
export function recall(chat, conversation, seq) {
  return chat.change({ recall: { conversation, seq: String(seq) } });
}

/** Replaces the text of a message. */
export function edit(chat, conversation, seq, text) {
  return chat.change({ edit: { conversation, seq: String(seq), text } });
}

/** Keeps a message, or gives it up. */
export function keep(chat, conversation, seq, isKept) {
  return chat.ask({ keep: { conversation, seq: String(seq), drop: !isKept } });
}

/** A page of kept messages, and where the next one begins ('' = that is all). */
export async function listKept(chat, after) {
  const { kept } = await chat.ask({ listKept: { after, limit: 50 } });
  return { kept: kept?.kept ?? [], next: kept?.next ?? '' };
}

/** Who has read how far: `[{user, seq}]`. */
export async function receipts(chat, conversation) {
  const { receipts: found } = await chat.ask({ getReceipts: { conversation } });
  return (found?.receipts ?? []).map(({ user, readSeq }) => ({ user: String(user), seq: Number(readSeq ?? 0) }));
}

/** Mutes, pins, or hides what is there up to a message: `{muted?, pinned?, hideSeq?}`. */
export function setOptions(chat, conversation, { hideSeq = 0, ...options }) {
  return chat.change({ setOptions: { conversation, ...options, hideSeq: String(hideSeq) } });
}

/** The user with this name, or null. */
export async function findUser(chat, name) {
  const { users } = await chat.ask({ findUser: { name } });
  return users?.users?.[0] ?? null;
}

/** Asks somebody to be a contact, or accepts. */
export function want(chat, user, greeting = '') {
  return chat.change({ want: { user, greeting } });
}

/** Refuses, takes a request back, or removes a contact. */
export function decline(chat, user) {
  return chat.change({ decline: { user } });
}

/** Blocks a user, or ends that. */
export function block(chat, user, isBlocked) {
  return chat.change({ block: { user, end: !isBlocked } });
}

/** What only this user calls another one; '' = nothing. */
export function setAlias(chat, user, alias) {
  return chat.change({ setAlias: { user, alias } });
}

/** The conversation with a user. */
export function conversationWith(chat, user) {
  return direct(chat.state.me, user);
}

/**
 * Creates a group and gives its conversation.
 * @param {string} clientId the same for each try
 */
export async function createGroup(chat, clientId, title, members) {
  const { group } = await chat.change({ createGroup: { clientId, title, members } });
  chat.dispatch({ type: 'group', group });
  return group.conversation;
}

/**
 * Changes a group.
 * @param {object} change what `ChangeGroup` holds: `{rename: 'x'}`, `{add: {users: []}}`, ...
 */
export async function changeGroup(chat, conversation, change) {
  const { group } = await chat.change({ changeGroup: { conversation, ...change } });
  if (group) chat.dispatch({ type: 'group', group });
}

/** A token with which others may join, and until when. */
export async function invite(chat, conversation, seconds) {
  const { invitation } = await chat.ask({ invite: { conversation, seconds } });
  return { token: invitation.token, expiresMs: Number(invitation.expiresMs) };
}

/** Joins a group and gives its conversation. */
export async function join(chat, token) {
  const { group } = await chat.change({ join: { token } });
  chat.dispatch({ type: 'group', group });
  return group.conversation;
}

/** Changes the profile: `{displayName?, about?}`. */
export function setProfile(chat, profile) {
  return chat.change({ setProfile: profile });
}

/** The devices now, with when they were seen last: that is not told by syncs. */
export async function listDevices(chat) {
  const { devices } = await chat.ask({ listDevices: {} });
  return devices?.devices ?? [];
}

/** Logs a device out. */
export function removeDevice(chat, device) {
  return chat.change({ removeDevice: { device } });
}

/**
 * Changes the password. It is asked for once only: the second time the old password would be wrong. No tab refreshes meanwhile, because the old tokens end with it.
 */
export async function changePassword(chat, session, old, fresh) {
  await session.renew(async () => {
    const { tokens } = await chat.connection.request({ changePassword: { old, new: fresh } });
    return tokens;
  });
}

/** What to tell the user of a change of the password that failed. */
export function passwordError(error) {
  if (error.code === 'WRONG_PASSWORD') return strings.errors.wrongOldPassword;
  return error.mayBeDone ? strings.profile.passwordUnknown : null;
}

/** Deletes the account, for ever. */
export function deleteAccount(chat, password) {
  return chat.ask({ deleteAccount: { password } });
}

/** A new id for `createGroup`. */
export const newGroupId = newClientId;
