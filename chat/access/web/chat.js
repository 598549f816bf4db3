// The heart of the client: keeps the state, and asks the server for what the state needs. No DOM.

import * as needs from './needs.js';
import { Outbox } from './outbox.js';
import { ChatError, Connection } from './protocol.js';
import { contactLists, floorOf, headOf, readOf, windowOf } from './select.js';
import { sleep } from './shared.js';
import { initial, logOf, reduce, TYPING_MS } from './state.js';
import { Syncer } from './sync.js';
import { counts, message as toMessage } from './wire.js';

/** Tries of a request that the user waits for. */
const TRIES = 5;
/** How long it waits for a connection. */
const PATIENCE_MS = 15_000;
/** Who limits for longer than this is shown to the user. */
const LONGEST_PAUSE_MS = 5_000;
/** What could not be asked for is tried again after this; what was refused, after the other. */
const PULL_AGAIN_MS = 5_000;
const REFUSED_AGAIN_MS = 60_000;
const PULLS_AT_A_TIME = 4;
/** At least so many messages of an opened conversation are shown. */
const FIRST_MESSAGES = 30;
const MORE_MESSAGES = 50;
const MAX_WATCHED = 200;
const MAX_PROFILES = 100;
/** The server is told that the user is writing no more often. */
const TYPING_EVERY_MS = 3_000;

/** One user on one connection. */
export class Chat {
  #listeners = new Set();
  #incoming = new Set();
  #changed;
  #isScheduled = false;
  #asking = new Set();
  #pulls = 0; // under way
  #watched = '';
  #seen = new Map(); // conversation -> up to where the user has seen it here
  #marked = new Map(); // conversation -> what the server was told of that
  #typedAt = 0;

  /**
   * @param {{user: string, url: string, store: object, token: (refused: string | null) => Promise<string>, changed: () => void}} given `changed` is called after
   * the user has changed something
   */
  constructor({ user, url, store, token, changed }) {
    this.#changed = changed;
    this.state = initial(user);
    this.open = null; // {conversation, from, isLoading, isPlaced}
    this.outbox = new Outbox(store, user, () => this.#schedule());
    this.connection = new Connection(url, token, {
      status: () => this.#schedule(),
      ready: () => this.#ready(),
      lost: () => this.#lost(),
      push: (push) => this.#pushed(push),
      changed: () => this.sync(),
      typing: (typing) => this.#typed(typing),
      presence: (presence) => this.#present(presence),
    });
    this.syncer = new Syncer(
      (request) => this.connection.request(request),
      () => this.state.snapshot,
      (delta) => this.dispatch({ type: 'delta', delta }),
    );
  }

  /** Calls `listener` soon after each change, until the function that is given back is called. */
  subscribe(listener) {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Calls `listener(conversation, message)` for each message of others that has just come. */
  onIncoming(listener) {
    this.#incoming.add(listener);
  }

  /** Takes an event into the state. */
  dispatch(event) {
    this.state = reduce(this.state, event);
    this.#schedule();
  }

  /** Asks for what has changed, now or after the sync that is under way. */
  sync() {
    this.syncer.want().finally(() => this.#schedule());
  }

  /**
   * Asks for something, more than once if that is right, and waits for a connection.
   * @param {object} request a `Request`
   * @returns {Promise<object>} what `Reply` holds; fails with a `ChatError`
   */
  async ask(request) {
    for (let attempt = 1; ; attempt += 1) {
      try {
        await this.#patience();
        return await this.connection.request(request);
      } catch (error) {
        const pause = error.retryAfterMs || 300 * 2 ** attempt;
        if (!error.mayRetry || attempt >= TRIES || pause > LONGEST_PAUSE_MS) throw error;
        await sleep(pause);
      }
    }
  }

  /** Asks for a change, and then at once for what came of it, here and in the other tabs. */
  async change(request) {
    const reply = await this.ask(request);
    this.sync();
    this.#changed();
    return reply;
  }

  async #patience() {
    const isReady = await Promise.race([this.connection.whenReady().then(() => true), sleep(PATIENCE_MS)]);
    if (!isReady) throw new ChatError('LOST');
  }

  /** Shows a conversation, or none. */
  show(conversation) {
    this.open = conversation ? { conversation, from: 1, isLoading: false, isPlaced: false } : null;
    this.#place();
    this.#schedule();
  }

  /** Older messages of the open conversation. */
  async older() {
    const { open } = this;
    if (!open?.isPlaced || open.isLoading) return;
    const next = needs.older(this.state, open.conversation, open.from, MORE_MESSAGES);
    if (!next.pull) {
      if (next.from !== open.from) this.#schedule();
      open.from = next.from;
      return;
    }
    open.isLoading = true;
    this.#schedule();
    try {
      await this.#pull(next.pull);
      open.from = needs.older(this.state, open.conversation, open.from, MORE_MESSAGES).from;
    } catch {
      await sleep(PULL_AGAIN_MS); // the view asks again when it is scrolled
    } finally {
      open.isLoading = false;
      this.#schedule();
    }
  }

  /** Shows the open conversation from this message on, if it is not too far away. */
  reach(seq) {
    const { open } = this;
    const isNear = open && seq >= floorOf(this.state, open.conversation) && open.from - seq <= needs.TOO_FAR / 2;
    if (isNear && seq < open.from) {
      open.from = seq;
      this.#schedule();
    }
    return Boolean(isNear);
  }

  /** The user has seen a conversation up to its end. */
  seen(conversation) {
    const seq = headOf(this.state, conversation);
    if (seq <= readOf(this.state, conversation)) return;
    this.#seen.set(conversation, seq);
    this.dispatch({ type: 'read', conversation, seq });
  }

  /** The user is writing. */
  typing(conversation) {
    const now = Date.now();
    if (now - this.#typedAt < TYPING_EVERY_MS) return;
    this.#typedAt = now;
    this.connection.typing(conversation);
  }

  /** Writes a message: `{conversation, body, replyTo?, forward?}`. */
  write(message) {
    this.outbox.add(message);
    this.deliver();
  }

  /** Sends what waits. */
  deliver() {
    this.outbox.run(
      (entry) => this.#send(entry),
      () => this.connection.status.phase === 'ready',
    );
    this.#schedule();
  }

  async #send(entry) {
    const { conversation, clientId, replyTo, body, forward } = entry;
    const { sent } = await this.connection.request(sending(entry));
    const [seq, atMs] = [Number(sent.seq), Number(sent.atMs)];
    if (sent.again) {
      // It may have been changed since.
      await this.#pull({ conversation, from: seq, to: seq }).catch(() => {});
      return;
    }
    const message = { ...toMessage({}), seq, sender: this.state.me, clientId, atMs, body, replyTo: forward ? 0 : replyTo };
    this.dispatch({ type: 'sent', conversation, message });
  }

  #ready() {
    this.#watched = '';
    this.sync();
    this.deliver();
  }

  #lost() {
    this.dispatch({ type: 'lost' });
  }

  #pushed({ conversation, message: json }) {
    if (!conversation || !json) return;
    const message = toMessage(json);
    const isNew = !logOf(this.state, conversation).messages.has(message.seq);
    this.dispatch({ type: 'push', conversation, message: json });
    if (message.sender === this.state.me) this.outbox.settle(message.clientId);
    else if (isNew && counts(message)) this.#incoming.forEach((listener) => listener(conversation, message));
  }

  #typed({ conversation, user }) {
    this.dispatch({ type: 'typing', conversation, user: String(user), nowMs: Date.now() });
    setTimeout(() => this.dispatch({ type: 'tick', nowMs: Date.now() }), TYPING_MS + 100);
  }

  #present({ online = [], offline = [] }) {
    this.dispatch({ type: 'presence', online: online.map(String), offline: offline.map(String) });
  }

  #schedule() {
    if (this.#isScheduled) return;
    this.#isScheduled = true;
    setTimeout(() => {
      this.#isScheduled = false;
      this.#place();
      if (this.connection.status.phase === 'ready' && this.state.isWhole) this.#fulfil();
      this.#listeners.forEach((listener) => listener());
    }, 0);
  }

  /** Once it is known what there is of the open conversation: where to begin; and again if far too much is missing. */
  #place() {
    const { open, state } = this;
    if (!open || !state.isWhole) return;
    const { messages, missing } = windowOf(state, open.conversation, open.from);
    const isFar = missing.reduce((sum, [from, to]) => sum + to - from + 1, 0) > needs.TOO_FAR;
    if (!open.isPlaced || isFar) {
      open.from = needs.startOf(state, open.conversation);
      open.isPlaced = true;
      this.#schedule();
    } else if (messages.length < FIRST_MESSAGES && missing.length === 0 && open.from > floorOf(state, open.conversation)) {
      this.older();
    }
  }

  /** Asks for what the state needs. */
  #fulfil() {
    const { state, open } = this;
    const shown = open?.isPlaced ? open : null;
    for (const pull of needs.pulls(state, shown)) this.#pullOnce(pull);
    for (const { conversation, seq } of needs.gotMarks(state)) this.#markGot(conversation, seq);
    for (const [conversation, seq] of this.#seen) this.#markRead(conversation, seq);
    this.#askUsers(needs.unknownUsers(state, shown));
    const group = needs.changedGroup(state, shown);
    if (group) this.#askGroup(group);
    this.#watch();
  }

  /** Once at a time; a failure is kept in mind for a while. */
  async #once(key, work) {
    if (this.#asking.has(key)) return;
    this.#asking.add(key);
    try {
      await work();
    } catch (error) {
      await sleep(error.mayRetry ? PULL_AGAIN_MS : REFUSED_AGAIN_MS);
    }
    this.#asking.delete(key);
    this.#schedule();
  }

  async #pullOnce(pull) {
    if (this.#pulls >= PULLS_AT_A_TIME) return;
    await this.#once(`pull ${pull.conversation} ${pull.from}`, async () => {
      this.#pulls += 1;
      await this.#pull(pull).finally(() => {
        this.#pulls -= 1;
      });
    });
  }

  async #pull({ conversation, from, to, backwards = false, limit = needs.PAGE }) {
    const asOf = headOf(this.state, conversation);
    const request = { conversation, fromSeq: String(from), toSeq: String(to), limit, backwards };
    const { page } = await this.connection.request({ pull: request });
    this.dispatch({ type: 'page', conversation, from, to, backwards, page: page ?? {}, asOf });
  }

  #markGot(conversation, seq) {
    this.#once(`got ${conversation}`, async () => {
      await this.connection.request({ markGot: { conversation, seq: String(seq) } });
      this.dispatch({ type: 'got', conversation, seq });
    });
  }

  #markRead(conversation, seq) {
    if (seq <= (this.#marked.get(conversation) ?? 0)) return;
    this.#once(`read ${conversation}`, async () => {
      await this.connection.request({ markRead: { conversation, seq: String(seq) } });
      this.#marked.set(conversation, seq);
    });
  }

  #askUsers(unknown) {
    if (unknown.length === 0) return;
    this.#once('users', async () => {
      const asked = unknown.slice(0, MAX_PROFILES);
      const { users } = await this.connection.request({ getUsers: { users: asked } });
      this.dispatch({ type: 'users', asked, users: users?.users ?? [] });
    });
  }

  #askGroup({ conversation, version }) {
    this.#once(`group ${conversation}`, async () => {
      try {
        const { group } = await this.connection.request({ getGroup: { conversation } });
        this.dispatch({ type: 'group', group });
      } catch (error) {
        if (error.code !== 'FORBIDDEN') throw error;
        this.dispatch({ type: 'groupDenied', conversation, version });
      }
    });
  }

  /** Watches whether contacts are there. */
  #watch() {
    const friends = contactLists(this.state)
      .friends.map((contact) => contact.user)
      .slice(0, MAX_WATCHED);
    const wanted = friends.toSorted().join(' ');
    if (wanted === this.#watched) return;
    this.#once('watch', async () => {
      this.#present(await this.connection.watch(friends));
      this.#watched = wanted;
    });
  }
}

/** The request that sends an entry of the outbox. */
function sending({ conversation, clientId, replyTo, body, forward }) {
  if (forward) return { forward: { from: forward.from, seq: String(forward.seq), to: conversation, clientId } };
  const send = { conversation, clientId, replyTo: String(replyTo) };
  if (body.kind === 'text') return { send: { ...send, text: body.text } };
  const { kind, hash, bytes, mime, name, durationMs, width, height } = body.media;
  return { send: { ...send, media: { kind, hash, bytes: String(bytes), mime, name, durationMs, width, height } } };
}
