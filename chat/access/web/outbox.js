// Messages that the user has written and the server has not taken yet. They are kept in the store of the browser, so they survive a reload, and all tabs see them.
//
// Each has its client id from the beginning, and is sent with it however often that takes. Messages of one conversation go one after the other, and
// whoever sends them holds a lock, so that two tabs do not mix them up.

import { sleep, withLock } from './shared.js';
import { newClientId } from './wire.js';

const PREFIX = 'kvchat.outbox.';
/** After a failure that passes by itself; twice as long after each more. */
const AGAIN_MS = 1_000;
const LONGEST_MS = 30_000;
/** The server forgets client ids with the messages, and the shortest retention is a day: what may have been sent before that is not tried again by itself. */
const FORGOTTEN_MS = 23 * 3600 * 1000;

/**
 * An entry is `{key, conversation, clientId, atMs, replyTo, body, forward, isTried, failed}`: with a `body` like that of a message, or for a message to be
 * forwarded its place `forward` as well. `failed` is the code and text of an error that stays.
 */
export class Outbox {
  #store;
  #prefix;
  #now;
  #changed;
  #count = 0;
  #running = new Set();

  /**
   * @param {object} store see shared.js
   * @param {string} user whose it is
   * @param {() => void} changed is called after each change
   * @param {() => number} [now]
   */
  constructor(store, user, changed, now = Date.now) {
    this.#store = store;
    this.#prefix = `${PREFIX}${user}.`;
    this.#changed = changed;
    this.#now = now;
  }

  /** Whether a key of the store is one of an outbox. */
  static owns(key) {
    return key.startsWith(PREFIX);
  }

  /**
   * Keeps a message until it is sent.
   * @param {{conversation: string, body: object, replyTo?: number, forward?: {from: string, seq: number}}} message
   */
  add({ conversation, body, replyTo = 0, forward = null }) {
    const atMs = this.#now();
    this.#count += 1;
    const order = `${String(atMs).padStart(15, '0')}.${String(this.#count).padStart(6, '0')}`;
    const clientId = newClientId();
    const key = `${this.#prefix}${order}.${clientId}`;
    this.#put({ key, conversation, clientId, atMs, replyTo, body, forward, isTried: false, failed: null });
  }

  /** All that waits or has failed, in the order in which it was written. */
  entries() {
    const keys = this.#store
      .keys()
      .filter((key) => key.startsWith(this.#prefix))
      .sort();
    return keys.map((key) => this.#entry(key)).filter((entry) => entry !== null);
  }

  /** Tries an entry that failed again. */
  retry(key) {
    const entry = this.#entry(key);
    if (entry) this.#put({ ...entry, failed: null, isTried: false });
  }

  /** Forgets an entry. */
  discard(key) {
    this.#store.remove(key);
    this.#changed();
  }

  /** Forgets entries that have become messages. */
  settle(clientId) {
    if (this.#store.keys().some((key) => key.startsWith(this.#prefix) && key.endsWith(clientId))) {
      this.entries()
        .filter((entry) => entry.clientId === clientId)
        .forEach((entry) => this.discard(entry.key));
    }
  }

  /** Forgets everything. */
  clear() {
    this.entries().forEach((entry) => this.#store.remove(entry.key));
  }

  /**
   * Sends what waits. `send` resolves when the server has taken an entry, and fails with a `ChatError`.
   * @param {(entry: object) => Promise<void>} send
   * @param {() => boolean} isReady there is a connection
   */
  run(send, isReady) {
    if (!isReady()) return;
    const waiting = this.entries().filter((entry) => !entry.failed);
    for (const conversation of new Set(waiting.map((entry) => entry.conversation))) {
      if (this.#running.has(conversation)) continue;
      this.#running.add(conversation);
      const work = withLock(this.#prefix + conversation, () => this.#work(conversation, send, isReady));
      const isDone = work.then(
        () => true,
        () => false,
      );
      isDone.then((isGood) => {
        this.#running.delete(conversation);
        if (isGood) this.run(send, isReady); // what came at the last moment
      });
    }
  }

  /** Sends what waits in one conversation, until there is nothing left or no connection. */
  async #work(conversation, send, isReady) {
    const first = () => this.entries().find((entry) => entry.conversation === conversation && !entry.failed);
    let pause = AGAIN_MS;
    for (let entry = first(); entry && isReady(); entry = first()) {
      if (entry.isTried && this.#now() - entry.atMs > FORGOTTEN_MS) {
        this.#fail(entry, { code: 'PERHAPS', message: '' });
        continue;
      }
      try {
        if (!entry.isTried) this.#put({ ...entry, isTried: true });
        await send(entry);
        this.discard(entry.key);
        pause = AGAIN_MS;
      } catch (error) {
        if (!error.mayRetry) {
          this.#fail(entry, { code: error.code ?? '', message: error.message });
        } else {
          await sleep(error.retryAfterMs || pause);
          pause = Math.min(2 * pause, LONGEST_MS);
        }
      }
    }
  }

  #fail(entry, failed) {
    // Discarded by the user meanwhile: it stays so.
    if (this.#entry(entry.key)) this.#put({ ...entry, failed });
  }

  #entry(key) {
    try {
      return JSON.parse(this.#store.get(key));
    } catch {
      return null;
    }
  }

  #put(entry) {
    this.#store.set(entry.key, JSON.stringify(entry));
    this.#changed();
  }
}
