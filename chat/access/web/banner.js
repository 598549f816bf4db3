// The banner: what the connection does when it is not ready, and when the next try is.

import { el } from './dom.js';
import { strings } from './strings.js';

/** A connection that is there again so soon is not talked about. */
const QUIET_MS = 800;
const texts = strings.banner;

/** See above. */
export class Banner {
  #chat;
  #since = Date.now();
  #timer = 0;
  #wasShown = false;

  constructor(chat) {
    this.#chat = chat;
    this.text = el('span', { class: 'banner-text' });
    // Counts down: nobody wants to hear that each second.
    this.count = el('span', { aria: { hidden: true } });
    this.now = el('button', {
      class: 'link',
      type: 'button',
      textContent: texts.now,
      on: { click: () => chat.connection.now() },
    });
    this.box = el('div', { class: 'banner-box', hidden: true }, this.text, this.count, this.now);
    this.element = el('div', { class: 'banner', role: 'status' }, this.box);
  }

  /** Draws what the connection says. */
  update() {
    clearTimeout(this.#timer);
    const { status } = this.#chat.connection;
    if (status.phase === 'ready' || status.phase === 'stopped') {
      this.#since = 0;
      this.#ready();
      return;
    }
    this.#since ||= Date.now();
    const isQuiet = Date.now() - this.#since < QUIET_MS;
    if (!isQuiet) this.#draw(status);
    this.#timer = setTimeout(() => this.update(), isQuiet ? QUIET_MS : 1_000);
  }

  #ready() {
    this.box.hidden = true;
    if (this.#wasShown) this.#say(texts.back);
    this.#wasShown = false;
  }

  #draw(status) {
    const isWaiting = status.phase === 'waiting';
    const seconds = Math.max(1, Math.ceil((status.retryAt - Date.now()) / 1000));
    this.#say(reasonText(status));
    this.count.textContent = isWaiting ? texts.next(seconds) : '';
    this.now.hidden = !isWaiting;
    this.box.hidden = false;
    this.#wasShown = true;
  }

  #say(text) {
    if (this.text.textContent !== text) this.text.textContent = text;
  }
}

function reasonText({ phase, reason, detail }) {
  if (!navigator.onLine) return texts.offline;
  if (phase === 'connecting') return texts.connecting;
  const known = { lost: texts.lost, unreachable: texts.unreachable, restarting: texts.restarting, limited: texts.limited };
  return known[reason] ?? texts.refused(detail);
}
