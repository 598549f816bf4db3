// The connection to the server: one WebSocket at a time, requests and their answers, and coming back after it broke.

/** Of the protocol. */
const VERSION = 1;
const SUBPROTOCOL = 'kvchat.v1+json';
/** From the first byte to `ready`. */
const GREETING_MS = 15_000;
/** In which a server that is there answers a ping. */
const PONG_MS = 10_000;
/** In which a server that is there answers a request. */
const ANSWER_MS = 60_000;
/** A connection that stood for so long was a good one: after it the first wait is short. */
const GOOD_MS = 10_000;
const FIRST_WAIT_MS = 2_000;
const LONGEST_WAIT_MS = 60_000;

/** What a server answers that does not do what was asked for, by the protocol's codes; `LOST`: there was no answer. */
export class ChatError extends Error {
  /**
   * @param {string} code
   * @param {string} [message] for people
   * @param {number} [retryAfterMs]
   */
  constructor(code, message = '', retryAfterMs = 0) {
    super(message || code);
    this.code = code;
    this.message = message;
    this.retryAfterMs = retryAfterMs;
  }

  /** @param {object} json an `Error` */
  static of(json) {
    return new ChatError(json.code ?? 'CODE_UNSPECIFIED', json.message ?? '', json.retryAfterMs ?? 0);
  }

  /** The same again, with the same ids, is right. */
  get mayRetry() {
    return ['RATE_LIMITED', 'UNAVAILABLE', 'UNKNOWN_OUTCOME', 'LOST'].includes(this.code);
  }

  /** It may have been done. */
  get mayBeDone() {
    return this.code === 'UNKNOWN_OUTCOME' || this.code === 'LOST';
  }
}

/**
 * Milliseconds before the next try: random, growing, from 1 to 60 seconds.
 * @param {number} attempt tries before it
 * @param {number} random from 0 to 1
 */
export function waitBefore(attempt, random) {
  const most = Math.min(LONGEST_WAIT_MS, FIRST_WAIT_MS * 2 ** Math.min(attempt, 10));
  return Math.round(most / 2 + (random * most) / 2);
}

/**
 * A connection that comes back. What it hears it tells by `on`: status, ready, lost, push, changed, typing, presence.
 *
 * The status is `{phase, reason, detail, retryAt}`. Phases: stopped, connecting, ready, waiting. Reasons: '' (the first try), lost, unreachable, restarting, limited,
 * refused (the detail is what the server says).
 */
export class Connection {
  #url;
  #token;
  #on;
  #socket = null;
  #isWanted = false;
  #status = { phase: 'stopped', reason: '', detail: '', retryAt: 0 };
  #session = '';
  #refused = null;
  #shown = null;
  #attempt = 0;
  #readyAt = null;
  #refusals = 0; // of tokens, since there was a good connection
  #afterMs = null; // when to come back, if the server said so
  #reason = '';
  #detail = '';
  #timers = {};
  #limits = { heartbeatMs: 30_000, maxRequests: 64 };
  #nextId = 1;
  #pending = new Map();
  #queue = [];
  #awaiting = [];

  /**
   * @param {string} url of the WebSocket
   * @param {(refused: string | null) => Promise<string>} token gives an access token; an error with no `code` ends the connection for good
   * @param {object} on functions by name
   */
  constructor(url, token, on) {
    this.#url = url;
    this.#token = token;
    this.#on = on;
  }

  get status() {
    return this.#status;
  }

  /** Connects, and stays connected from now on. */
  start() {
    if (this.#isWanted) return;
    this.#isWanted = true;
    this.#connect();
  }

  /** Ends it. */
  stop() {
    this.#isWanted = false;
    this.#drop();
    this.#say('stopped');
  }

  /** Tries at once if it waits; if it stands, makes sure that it still does. */
  now() {
    if (this.#status.phase === 'waiting') this.#connect();
    else if (this.#status.phase === 'ready') this.#ping(PONG_MS / 2);
  }

  /** Resolves when it is ready. */
  whenReady() {
    if (this.#status.phase === 'ready') return Promise.resolve();
    return new Promise((resolve) => {
      this.#awaiting.push(resolve);
    });
  }

  /**
   * Asks for something. The answer is what `Reply` holds: `{done: {}}`, `{delta: {...}}`, ...
   * @param {object} request a `Request`
   * @returns {Promise<object>} fails with a `ChatError`
   */
  request(request) {
    return this.#ask({ request }).then((frame) => frame.reply ?? {});
  }

  /**
   * Replaces whose presence is watched, and gives who is there.
   * @param {string[]} users
   */
  watch(users) {
    return this.#ask({ watchPresence: { users } }).then((frame) => frame.presence ?? {});
  }

  /** Says that the user is writing. */
  typing(conversation) {
    if (this.#status.phase === 'ready') this.#send({ id: this.#newId(), typing: { conversation } });
  }

  #say(phase, retryAt = 0) {
    this.#status = { phase, reason: this.#reason, detail: this.#detail, retryAt };
    this.#on.status?.(this.#status);
  }

  async #connect() {
    this.#drop();
    this.#say('connecting');
    const turn = {};
    this.#socket = turn; // until there is a socket: whoever comes later makes this try void
    try {
      this.#shown = await this.#token(this.#refused);
    } catch (error) {
      if (this.#socket !== turn) return;
      this.#afterMs = error.retryAfterMs || null;
      if (error.code) this.#later('unreachable');
      else this.stop();
      return;
    }
    if (this.#socket !== turn) return;
    const socket = new WebSocket(this.#url, [SUBPROTOCOL]);
    this.#socket = socket;
    this.#after('greeting', GREETING_MS, () => this.#later('unreachable'));
    const mine = (handler) => (event) => this.#socket === socket && handler(event);
    socket.onopen = mine(() => this.#greet());
    socket.onmessage = mine((event) => this.#heard(event.data));
    socket.onclose = mine(() => this.#later(this.#readyAt === null ? 'unreachable' : 'lost'));
  }

  #greet() {
    const hello = { version: VERSION, accessToken: this.#shown };
    if (this.#session) hello.session = this.#session;
    this.#send({ id: this.#newId(), hello });
  }

  #send(frame) {
    this.#socket.send(JSON.stringify(frame));
  }

  #newId() {
    const id = this.#nextId;
    this.#nextId = id >= 0xffff_fffe ? 1 : id + 1;
    return this.#pending.has(id) ? this.#newId() : id;
  }

  #heard(data) {
    let frame;
    try {
      frame = JSON.parse(data);
    } catch {
      this.#later('lost');
      return;
    }
    if (frame.ready) this.#ready(frame.ready);
    else if (frame.error && !this.#pending.has(frame.id)) this.#ended(ChatError.of(frame.error));
    else if (frame.goAway) this.#goAway(frame.goAway);
    else if (frame.id) this.#answered(frame);
    else if (frame.push) this.#on.push?.(frame.push);
    else if (frame.changed) this.#on.changed?.(frame.changed);
    else if (frame.typing) this.#on.typing?.(frame.typing);
    else if (frame.presence) this.#on.presence?.(frame.presence);
  }

  #ready(ready) {
    clearTimeout(this.#timers.greeting);
    this.#refused = null;
    this.#reason = '';
    this.#detail = '';
    this.#readyAt = Date.now();
    this.#session = ready.session ?? '';
    this.#limits = {
      heartbeatMs: ready.heartbeatMs || this.#limits.heartbeatMs,
      maxRequests: ready.maxRequests || this.#limits.maxRequests,
    };
    this.#beat();
    this.#say('ready');
    this.#awaiting.splice(0).forEach((resolve) => resolve());
    this.#on.ready?.(ready);
  }

  /** The connection ends after it. */
  #goAway({ reconnectAfterMs }) {
    this.#afterMs = reconnectAfterMs ?? 0;
    this.#later('restarting');
  }

  /** The server says why it ends the connection. */
  #ended(error) {
    if (error.retryAfterMs > 0) this.#afterMs = error.retryAfterMs;
    if (error.code === 'UNAUTHENTICATED') {
      // At once with a new token; but if that is refused, too, there is no hurry.
      if (this.#refusals === 0) this.#afterMs = 0;
      this.#refusals += 1;
      this.#refused = this.#shown;
      this.#later('lost');
    } else {
      this.#session = '';
      this.#later(error.code === 'RATE_LIMITED' ? 'limited' : 'refused', error.message);
    }
  }

  #answered(frame) {
    const asked = this.#pending.get(frame.id);
    if (!asked) return;
    this.#pending.delete(frame.id);
    clearTimeout(asked.timer);
    if (!frame.error) {
      asked.resolve(frame);
      this.#next();
      return;
    }
    const error = ChatError.of(frame.error);
    asked.reject(error);
    if (error.code === 'UNAUTHENTICATED') this.#ended(error);
    else this.#next();
  }

  #ask(body) {
    if (this.#status.phase !== 'ready') return Promise.reject(new ChatError('LOST'));
    return new Promise((resolve, reject) => {
      this.#queue.push({ body, resolve, reject });
      this.#next();
    });
  }

  #next() {
    while (this.#queue.length > 0 && this.#pending.size < this.#limits.maxRequests) {
      const asked = this.#queue.shift();
      const id = this.#newId();
      asked.timer = setTimeout(() => this.#later('lost'), ANSWER_MS);
      this.#pending.set(id, asked);
      this.#send({ id, ...asked.body });
    }
  }

  #beat() {
    this.#after('beat', this.#limits.heartbeatMs, () => {
      this.#ping(PONG_MS);
      this.#beat();
    });
  }

  #ping(withinMs) {
    this.#after('pong', withinMs, () => this.#later('lost'));
    const isAnswered = () => clearTimeout(this.#timers.pong);
    const id = this.#newId();
    this.#pending.set(id, { resolve: isAnswered, reject: isAnswered, timer: undefined });
    this.#send({ id, ping: {} });
  }

  #after(name, ms, work) {
    clearTimeout(this.#timers[name]);
    this.#timers[name] = setTimeout(work, ms);
  }

  /** The connection is over: all that waits for an answer has none. */
  #drop() {
    for (const timer of Object.values(this.#timers)) clearTimeout(timer);
    const socket = this.#socket;
    const wasReady = this.#readyAt !== null;
    this.#socket = null;
    this.#readyAt = null;
    if (socket instanceof WebSocket) socket.close();
    const asked = [...this.#pending.values(), ...this.#queue.splice(0)];
    this.#pending.clear();
    for (const { reject, timer } of asked) {
      clearTimeout(timer);
      reject(new ChatError('LOST'));
    }
    if (wasReady) this.#on.lost?.();
  }

  /** Comes back later. */
  #later(reason, detail = '') {
    const wasGood = this.#readyAt !== null && Date.now() - this.#readyAt > GOOD_MS;
    if (wasGood) {
      this.#attempt = 0;
      this.#refusals = 0;
    }
    const wait = this.#afterMs ?? waitBefore(this.#attempt, Math.random());
    this.#afterMs = null;
    this.#attempt += 1;
    this.#reason = reason;
    this.#detail = detail;
    this.#drop();
    this.#say('waiting', Date.now() + wait);
    if (this.#isWanted) this.#after('retry', wait, () => this.#connect());
  }
}
