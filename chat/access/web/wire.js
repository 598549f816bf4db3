// Between the JSON of the protocol and plain values.
//
// In JSON a field with its default is not there, and 64-bit numbers are strings. Here every field is there; ids of users are strings, '0' is nobody;
// sequence numbers and times are numbers.

/** Nobody: the system, or a field that is not set. */
export const NOBODY = '0';

const number = (value) => Number(value ?? 0);
const text = (value) => value ?? '';
const user = (value) => String(value ?? NOBODY);

/**
 * A user's profile.
 * @param {object} json a `Profile`
 */
export function profile(json) {
  return {
    user: user(json.user),
    name: text(json.name),
    displayName: text(json.displayName),
    about: text(json.about),
    deleted: json.deleted === true,
  };
}

/**
 * What another user is to this one.
 * @param {object} json a `Contact`
 */
export function contact(json) {
  return {
    ...profile(json.profile ?? {}),
    relation: json.relation ?? 'STRANGERS',
    blocked: json.blocked === true,
    greeting: text(json.greeting),
    alias: text(json.alias),
  };
}

/**
 * A device of the user.
 * @param {object} json a `DeviceInfo`
 */
export function device(json) {
  return {
    device: number(json.device),
    label: text(json.label),
    createdMs: number(json.createdMs),
    lastSeenMs: number(json.lastSeenMs),
    isThis: json.this === true,
  };
}

/**
 * A conversation as the user sees it, without its messages.
 * @param {object} json a `View`
 */
export function view(json) {
  return {
    conversation: text(json.conversation),
    title: text(json.title),
    version: number(json.version),
    members: number(json.members),
    headSeq: number(json.headSeq),
    headMs: number(json.headMs),
    readSeq: number(json.readSeq),
    unread: number(json.unread),
    fromSeq: number(json.fromSeq),
    left: json.left === true,
    muted: json.muted === true,
    pinned: json.pinned === true,
    peerReadSeq: number(json.peerReadSeq),
    peerGotSeq: number(json.peerGotSeq),
  };
}

/**
 * A group with its members.
 * @param {object} json a `Group`
 */
export function group(json) {
  return {
    conversation: text(json.conversation),
    title: text(json.title),
    version: number(json.version),
    muted: json.muted === true,
    disbanded: json.disbanded === true,
    members: (json.members ?? []).map((member) => ({
      user: user(member.user),
      role: member.role ?? 'ROLE_UNSPECIFIED',
      mutedUntilMs: number(member.mutedUntilMs),
    })),
  };
}

/**
 * A message. Its body is null (it was recalled), or has a `kind`: text, media, system, revision, or unknown to this client.
 * @param {object} json a `Message`
 */
export function message(json) {
  return {
    seq: number(json.seq),
    sender: user(json.sender),
    device: number(json.device),
    clientId: text(json.clientId),
    atMs: number(json.atMs),
    replyTo: number(json.replyTo),
    edits: number(json.edits),
    editedMs: number(json.editedMs),
    recalledBy: user(json.recalledBy),
    body: body(json),
  };
}

function body(json) {
  if (json.text) {
    return { kind: 'text', text: text(json.text.text), origin: origin(json.text.forwardedFrom) };
  }
  if (json.media) {
    return { kind: 'media', media: media(json.media), origin: origin(json.media.forwardedFrom) };
  }
  if (json.system) {
    const { what, actor, subjects, text: said } = json.system;
    return { kind: 'system', what: text(what), actor: user(actor), subjects: (subjects ?? []).map(user), text: text(said) };
  }
  if (json.revision) {
    return { kind: 'revision', ofSeq: number(json.revision.ofSeq), recalled: json.revision.recalled === true };
  }
  return user(json.recalledBy) === NOBODY ? { kind: 'unknown' } : null;
}

function origin(json) {
  return json ? { sender: user(json.sender), atMs: number(json.atMs) } : null;
}

function media(json) {
  return {
    kind: json.kind ?? 'FILE',
    hash: text(json.hash),
    bytes: number(json.bytes),
    mime: text(json.mime),
    name: text(json.name),
    durationMs: number(json.durationMs),
    width: number(json.width),
    height: number(json.height),
  };
}

/**
 * Something that people say: it counts as unread, and can be answered, forwarded and kept.
 * @param {object} message
 */
export function counts(message) {
  return message.body?.kind === 'text' || message.body?.kind === 'media';
}

/**
 * The conversation of two users.
 * @param {string} one
 * @param {string} other
 */
export function direct(one, other) {
  return BigInt(one) < BigInt(other) ? `d-${one}-${other}` : `d-${other}-${one}`;
}

/**
 * The other one of a conversation of two; null of a group.
 * @param {string} conversation
 * @param {string} me
 */
export function peer(conversation, me) {
  const [kind, low, high] = conversation.split('-');
  if (kind !== 'd') return null;
  return low === me ? high : low;
}

/** @param {string} conversation */
export function isGroup(conversation) {
  return conversation.startsWith('g-');
}

/** @param {Uint8Array} bytes */
export function toBase64(bytes) {
  return btoa(String.fromCharCode(...bytes));
}

/** A client id: 16 random bytes, as base64. */
export function newClientId() {
  return toBase64(crypto.getRandomValues(new Uint8Array(16)));
}

/**
 * Base64 in the form that needs no escaping in addresses.
 * @param {string} base64
 */
export function toUrlForm(base64) {
  return base64.replaceAll('+', '-').replaceAll('/', '_').replace(/=+$/, '');
}

/**
 * The usual base64 of what `toUrlForm` made; null if it is none.
 * @param {string} url
 */
export function fromUrlForm(url) {
  if (!/^[A-Za-z0-9_-]+$/.test(url)) return null;
  const base64 = url.replaceAll('-', '+').replaceAll('_', '/');
  return base64 + '='.repeat((4 - (base64.length % 4)) % 4);
}
