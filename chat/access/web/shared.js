// What several tabs of one browser share: a store, and locks.

/**
 * The browser's store of texts, or one in memory if there is none.
 * @returns {{get(key: string): string | null, set(key: string, value: string): void, remove(key: string): void, keys(): string[]}}
 */
export function openStore() {
  const kept = browserStore();
  if (!kept) return memoryStore();
  return {
    get: (key) => kept.getItem(key),
    set: (key, value) => kept.setItem(key, value),
    remove: (key) => kept.removeItem(key),
    keys: () => Array.from({ length: kept.length }, (_, at) => kept.key(at)),
  };
}

function browserStore() {
  try {
    const { localStorage } = globalThis;
    localStorage.setItem('kvchat.probe', '1');
    localStorage.removeItem('kvchat.probe');
    return localStorage;
  } catch {
    return null; // switched off, or full
  }
}

/** A store that lasts as long as the page. */
export function memoryStore() {
  const all = new Map();
  return {
    get: (key) => all.get(key) ?? null,
    set: (key, value) => void all.set(key, value),
    remove: (key) => void all.delete(key),
    keys: () => [...all.keys()],
  };
}

const tails = new Map();

/**
 * Runs `work` while no other tab and nobody in this one holds the lock of this name.
 *
 * Locks of the browser are there for pages that came over TLS or from the same machine. Elsewhere the lock holds in this tab only: a refresh that two tabs try at once
 * with the same token gives both the same answer.
 * @template T
 * @param {string} name
 * @param {() => Promise<T>} work
 * @returns {Promise<T>}
 */
export function withLock(name, work) {
  const locks = globalThis.navigator?.locks;
  if (locks) return locks.request(name, work);
  const done = (tails.get(name) ?? Promise.resolve()).then(work);
  tails.set(
    name,
    done.catch(() => {}),
  );
  return done;
}

/** Resolves after so many milliseconds. */
export function sleep(ms) {
  return new Promise((resolve) => {
    setTimeout(resolve, ms);
  });
}
