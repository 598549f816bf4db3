// Media: uploading them, and fetching those of messages. The server has no endpoints for them yet, so views hide what needs them.

/** Bytes of the largest medium. */
export const MAX_BYTES = 16 * 1024 * 1024;

/** Media can be sent and shown. */
export const isAvailable = false;

/**
 * Uploads a file, and gives the fields of `Media` that the server says: its hash, size and type.
 * @param {Blob} file
 * @param {string} conversation
 * @param {(share: number) => void} onProgress is called with 0 to 1
 * @returns {Promise<{hash: string, bytes: number, mime: string}>}
 */
export async function upload(file, conversation, onProgress) {
  void [file, conversation, onProgress];
  throw new Error('not available yet');
}

/**
 * An address of the medium of a message, for this page only. Whoever gets it revokes it when it is not shown any more.
 * @param {string} conversation
 * @param {number} seq
 * @returns {Promise<string>}
 */
export async function url(conversation, seq) {
  void [conversation, seq];
  throw new Error('not available yet');
}
