// Where messages are written: text, an answer to another message, a change of one, a file, a recording.

import * as actions from './actions.js';
import { attempt, say } from './dialogs.js';
import { el, iconButton, name } from './dom.js';
import * as media from './media.js';
import { canRecord, record } from './recorder.js';
import { closedOf, lineOf } from './select.js';
import { isolate, strings } from './strings.js';
import { bytesText } from './text.js';

/** Bytes of the longest text. */
const MAX_TEXT = 16 * 1024;
const MAX_HEIGHT = 180;

/** One for all conversations: each has its draft. */
export class Composer {
  #chat;
  #conversation = '';
  #drafts = new Map(); // conversation -> {text, replyTo, edit}
  #mode = { replyTo: null, edit: null };
  #isBusy = false;

  constructor(chat) {
    this.#chat = chat;
    this.input = el('textarea', {
      class: 'composer-input',
      rows: 1,
      dir: 'auto',
      placeholder: strings.composer.placeholder,
      aria: { label: strings.composer.label },
      on: { input: () => this.#typed(), keydown: (event) => this.#key(event) },
    });
    this.bar = el('div', { class: 'composer-bar', hidden: true });
    this.closed = el('p', { class: 'composer-closed', role: 'status', hidden: true });
    this.button = iconButton('send', strings.composer.send, () => this.#send(), 'primary');
    this.tools = el('div', { class: 'composer-tools' }, ...this.#mediaButtons());
    this.line = el('div', { class: 'composer-line' }, this.tools, this.input, this.button);
    this.element = el('footer', { class: 'composer' }, this.bar, this.line, this.closed);
  }

  /** Writes in this conversation from now on; what was begun in another one waits there. */
  open(conversation) {
    if (this.#conversation) {
      this.#drafts.set(this.#conversation, { text: this.input.value, ...this.#mode });
    }
    this.#conversation = conversation;
    const { text = '', replyTo = null, edit = null } = this.#drafts.get(conversation) ?? {};
    this.#mode = { replyTo, edit };
    this.input.value = text;
    this.#grow();
    this.#drawBar();
  }

  /** Draws what the state says: whether anything can be sent here. */
  update() {
    if (!this.#conversation) return;
    const why = closedOf(this.#chat.state, this.#conversation, Date.now());
    const isClosed = why !== null && this.#chat.state.isWhole;
    this.line.hidden = isClosed;
    this.closed.hidden = !isClosed;
    if (this.closed.textContent !== (isClosed ? why : '')) this.closed.textContent = isClosed ? why : '';
  }

  /** Answers a message, or changes it. */
  begin({ replyTo = null, edit = null }) {
    this.#mode = { replyTo, edit };
    if (edit) this.input.value = edit.body.text;
    this.#drawBar();
    this.#grow();
    this.input.focus();
  }

  /** Gives up an answer or a change; false: there was none. */
  cancel() {
    const { replyTo, edit } = this.#mode;
    if (!replyTo && !edit) return false;
    if (edit) this.input.value = '';
    this.#mode = { replyTo: null, edit: null };
    this.#drawBar();
    this.#grow();
    return true;
  }

  #drawBar() {
    const { replyTo, edit } = this.#mode;
    const row = replyTo ?? edit;
    this.bar.hidden = row === null;
    const label = edit ? strings.composer.save : strings.composer.send;
    this.button.title = label;
    this.button.setAttribute('aria-label', label);
    if (!row) {
      this.bar.replaceChildren();
      return;
    }
    const title = edit ? strings.composer.editing : strings.composer.replying(isolate(row.isOwn ? strings.you : row.name));
    this.bar.replaceChildren(
      el(
        'div',
        { class: 'quote' },
        name(title, 'quote-name'),
        el('span', { class: 'quote-line', dir: 'auto', textContent: lineOf(this.#chat.state, row) }),
      ),
      iconButton('close', strings.composer.cancel, () => {
        this.cancel();
        this.input.focus();
      }),
    );
  }

  #key(event) {
    if (event.key === 'Enter' && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      this.#send();
    } else if (event.key === 'Escape' && !event.isComposing && this.cancel()) {
      event.preventDefault();
      event.stopPropagation();
    }
  }

  #typed() {
    this.#grow();
    if (this.input.value.trim() && !this.#mode.edit) this.#chat.typing(this.#conversation);
  }

  #grow() {
    this.input.style.height = 'auto';
    const border = this.input.offsetHeight - this.input.clientHeight;
    this.input.style.height = `${Math.min(this.input.scrollHeight + border, MAX_HEIGHT)}px`;
  }

  async #send() {
    const text = this.input.value.trim();
    if (!text || this.#isBusy) return;
    const over = new TextEncoder().encode(text).length - MAX_TEXT;
    if (over > 0) {
      say(strings.composer.tooLong(over), true);
      return;
    }
    const { replyTo, edit } = this.#mode;
    const conversation = this.#conversation;
    if (edit) {
      await this.#change(conversation, edit.seq, text);
      return;
    }
    // It fails when the store of the browser is full.
    if (await attempt(async () => actions.sendText(this.#chat, conversation, text, replyTo?.seq ?? 0))) this.#clear();
  }

  async #change(conversation, seq, text) {
    this.#isBusy = true;
    const isDone = await attempt(() => actions.edit(this.#chat, conversation, seq, text));
    this.#isBusy = false;
    const isStill = this.#conversation === conversation && this.#mode.edit?.seq === seq;
    if (isDone && isStill) this.#clear();
    if (isDone && !isStill) this.#drafts.delete(conversation);
  }

  #clear() {
    this.input.value = '';
    this.#mode = { replyTo: null, edit: null };
    this.#drawBar();
    this.#grow();
  }

  #mediaButtons() {
    if (!media.isAvailable) return [];
    const picker = el('input', { type: 'file', hidden: true, on: { change: () => this.#picked(picker) } });
    const attach = iconButton('attach', strings.media.attach, () => picker.click());
    const speak = canRecord() ? iconButton('microphone', strings.media.record, () => this.#record()) : null;
    return [picker, attach, speak].filter(Boolean);
  }

  async #picked(picker) {
    const [file] = picker.files;
    picker.value = '';
    if (!file) return;
    const isImage = file.type.startsWith('image/');
    const size = isImage ? await createImageBitmap(file).catch(() => null) : null;
    const fields = {
      kind: isImage && size ? 'IMAGE' : 'FILE',
      name: file.name,
      width: size?.width ?? 0,
      height: size?.height ?? 0,
      durationMs: 0,
    };
    size?.close();
    await this.#upload(file, fields);
  }

  async #record() {
    const conversation = this.#conversation;
    this.line.hidden = true;
    try {
      const made = await record(this.element);
      const fields = { kind: 'VOICE', name: '', width: 0, height: 0, durationMs: made?.durationMs ?? 0 };
      if (made) await this.#upload(made.file, fields, conversation);
    } catch {
      say(strings.media.noMicrophone, true);
    } finally {
      this.line.hidden = false;
      this.update();
      this.input.focus();
    }
  }

  async #upload(file, fields, conversation = this.#conversation) {
    if (file.size === 0 || file.size > media.MAX_BYTES) {
      say(file.size === 0 ? strings.media.empty : strings.media.tooLarge(bytesText(media.MAX_BYTES)), true);
      return;
    }
    const shown = fields.name || strings.media[fields.kind];
    const progress = el('progress', { max: 1, value: 0, aria: { label: strings.media.uploading(shown, 0) } });
    this.element.append(progress);
    const replyTo = this.#mode.replyTo?.seq ?? 0;
    const onProgress = (share) => {
      progress.value = share;
      progress.setAttribute('aria-label', strings.media.uploading(shown, Math.round(100 * share)));
    };
    const isDone = await attempt(async () => {
      const uploaded = await media.upload(file, conversation, onProgress);
      actions.sendMedia(this.#chat, conversation, { ...fields, ...uploaded }, replyTo);
    });
    progress.remove();
    if (isDone) this.cancel();
  }
}
