// The account of this browser: registering, logging in, and the tokens, which all tabs share.
//
// A refresh token is good once. So tabs refresh one after the other, each with the newest token of the store, and what came is stored before it is used.

import { ChatError } from './protocol.js';
import { withLock } from './shared.js';

/** Where the tokens are. */
export const KEY = 'kvchat.tokens';
/** Held by whoever changes the tokens. */
const LOCK = 'kvchat.tokens';
/** An access token that ends so soon is refreshed before it is shown. */
const MARGIN_MS = 30_000;
const TIMEOUT_MS = 20_000;

/** Thrown when this browser is not logged in (any more). */
export class LoggedOut extends Error {}

/** Who is logged in, in all tabs. */
export class Session {
  #store;
  #fetch;
  #now;

  /**
   * @param {object} store see shared.js
   * @param {{fetch?: typeof fetch, now?: () => number}} [seams]
   */
  constructor(store, { fetch = globalThis.fetch.bind(globalThis), now = Date.now } = {}) {
    this.#store = store;
    this.#fetch = fetch;
    this.#now = now;
  }

  /** The tokens, or null: nobody is logged in. */
  tokens() {
    try {
      const tokens = JSON.parse(this.#store.get(KEY));
      return tokens?.user && tokens.refreshToken ? tokens : null;
    } catch {
      return null;
    }
  }

  /** The id of who is logged in, or null. */
  user() {
    return this.tokens()?.user ?? null;
  }

  /**
   * A new account. With the name and password of an account that is there it is a login, so to try again is right.
   * @param {{name: string, displayName: string, password: string, device: string}} request
   */
  async register(request) {
    this.keep(await this.#post('/v1/register', request));
  }

  /** @param {{name: string, password: string, device: string}} request */
  async login(request) {
    this.keep(await this.#post('/v1/login', request));
  }

  /** Stores tokens. */
  keep(tokens) {
    this.#store.set(KEY, JSON.stringify(tokens));
  }

  /** Nobody is logged in from now on, in no tab. */
  forget() {
    this.#store.remove(KEY);
  }

  /**
   * Does something that gives new tokens, while no tab refreshes, and stores them.
   * @param {() => Promise<object>} work
   */
  async renew(work) {
    await withLock(LOCK, async () => this.keep(await work()));
  }

  /**
   * An access token to show to the server.
   * @param {string | null} refused one that the server did not take
   * @throws {LoggedOut}
   */
  async accessToken(refused) {
    return this.#good(refused) ?? withLock(LOCK, async () => this.#good(refused) ?? this.#refresh());
  }

  #good(refused) {
    const tokens = this.tokens();
    if (!tokens) throw new LoggedOut();
    const isGood = tokens.accessToken !== refused && Number(tokens.accessExpiresMs) > this.#now() + MARGIN_MS;
    return isGood ? tokens.accessToken : null;
  }

  async #refresh() {
    const { refreshToken } = this.tokens();
    let tokens;
    try {
      tokens = await this.#post('/v1/refresh', { refreshToken });
    } catch (error) {
      if (error.code !== 'UNAUTHENTICATED') throw error;
      const newest = this.tokens();
      if (newest && newest.refreshToken !== refreshToken) return newest.accessToken;
      this.forget();
      throw new LoggedOut();
    }
    // Logged out meanwhile: it stays so.
    if (!this.tokens()) throw new LoggedOut();
    this.keep(tokens);
    return tokens.accessToken;
  }

  async #post(path, body) {
    let response;
    let answer = null;
    try {
      response = await this.#fetch(path, {
        method: 'POST',
        headers: { 'Content-Type': 'application/json' },
        body: JSON.stringify(body),
        cache: 'no-store',
        credentials: 'same-origin',
        signal: AbortSignal.timeout(TIMEOUT_MS),
      });
      answer = await response.json().catch(() => null);
    } catch {
      throw new ChatError('LOST');
    }
    if (response.ok && answer?.refreshToken) return answer;
    throw answer?.code ? ChatError.of(answer) : new ChatError(response.status === 429 ? 'RATE_LIMITED' : 'UNAVAILABLE');
  }
}

/**
 * What the list of devices shows of this browser.
 * @param {string} agent what the browser says of itself
 * @param {{browser: string, device: (browser: string, system: string) => string}} texts
 */
export function deviceLabel(agent, texts) {
  const first = (known) => known.find(([pattern]) => pattern.test(agent))?.[1] ?? '';
  const browser = first([
    [/Firefox\//, 'Firefox'],
    [/Edg\//, 'Edge'],
    [/OPR\//, 'Opera'],
    [/Chrom(e|ium)\//, 'Chromium'],
    [/Safari\//, 'Safari'],
  ]);
  const system = first([
    [/Android/, 'Android'],
    [/iPhone|iPad/, 'iOS'],
    [/Windows/, 'Windows'],
    [/Mac OS X/, 'macOS'],
    [/CrOS/, 'ChromeOS'],
    [/Linux/, 'Linux'],
  ]);
  return texts.device(browser || texts.browser, system);
}
