// Syncs: one at a time, as long as there is more, and once more if something has changed meanwhile.

/** After a failure. */
const PAUSE_MS = 5_000;
/** Newest messages of each conversation. */
const MESSAGES = 20;

/** See above. */
export class Syncer {
  #ask;
  #snapshot;
  #take;
  #isRunning = false;
  #isWanted = false;

  /**
   * @param {(request: object) => Promise<object>} ask
   * @param {() => string} snapshot the one that is kept
   * @param {(delta: object) => void} take keeps what came
   */
  constructor(ask, snapshot, take) {
    this.#ask = ask;
    this.#snapshot = snapshot;
    this.#take = take;
  }

  /** A sync is under way. */
  get isRunning() {
    return this.#isRunning;
  }

  /** Something has changed, or may have. */
  async want() {
    this.#isWanted = true;
    if (this.#isRunning) return;
    this.#isRunning = true;
    try {
      while (this.#isWanted) {
        this.#isWanted = false;
        await this.#run();
      }
    } catch (error) {
      // Without a connection: the next one begins with a sync.
      if (error.code !== 'LOST') setTimeout(() => this.want(), PAUSE_MS);
    } finally {
      this.#isRunning = false;
    }
  }

  async #run() {
    let more = true;
    while (more) {
      const { delta } = await this.#ask({ sync: { snapshot: this.#snapshot(), messages: MESSAGES } });
      this.#take(delta ?? {});
      more = delta?.more === true;
    }
  }
}
