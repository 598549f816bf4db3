// The page of a user who is logged in: puts the views together, and says which conversation is open. That is in the address, so that the browser's back
// button leads from a conversation to the list.

import * as actions from './actions.js';
import { Banner } from './banner.js';
import { openContact, openFind } from './dialog-contact.js';
import { openCreate, openGroup, openJoin } from './dialog-group.js';
import { openKept } from './dialog-kept.js';
import { pickConversation } from './dialog-pick.js';
import { openProfile } from './dialog-profile.js';
import { say } from './dialogs.js';
import { el } from './dom.js';
import { unreadInAll } from './select.js';
import { sleep } from './shared.js';
import { strings } from './strings.js';
import { ChatPane } from './view-chat.js';
import { Sidebar } from './view-sidebar.js';
import { isGroup, peer } from './wire.js';

/** Logging out does not wait longer for the server. */
const LOGOUT_MS = 3_000;
/** Times in lists are drawn anew so often. */
const REDRAW_MS = 60_000;

/** The page. See above. */
export class App {
  #chat;
  #session;
  #left;
  #open = null;

  /**
   * @param {import('./chat.js').Chat} chat
   * @param {import('./session.js').Session} session
   * @param {(note: string) => void} left is called when the user is logged out
   */
  constructor(chat, session, left) {
    this.#chat = chat;
    this.#session = session;
    this.#left = left;
    this.banner = new Banner(chat);
    this.sidebar = new Sidebar(chat, {
      open: (conversation) => this.open(conversation),
      profile: () => openProfile(chat, { session, logout: () => this.#logout(), deleted: () => this.#leave('deleted') }),
      contact: (user) => this.#contact(user),
      addContact: () => openFind(chat, this),
      createGroup: () => openCreate(chat, this),
      joinGroup: () => openJoin(chat, this, null),
      kept: () => openKept(chat),
    });
    this.pane = new ChatPane(chat, {
      close: () => this.close(),
      details: (conversation) => this.#details(conversation),
      forward: (conversation, row) => this.#forward(conversation, row),
    });
    this.element = el(
      'div',
      { class: 'app' },
      this.banner.element,
      el('div', { class: 'panes' }, this.sidebar.element, this.pane.element),
    );
  }

  /** Begins. */
  start(root) {
    root.replaceChildren(this.element);
    this.#chat.subscribe(() => this.#update());
    addEventListener('popstate', () => this.#route());
    setInterval(() => this.#update(), REDRAW_MS);
    this.#update();
    this.#route();
  }

  #update() {
    this.banner.update();
    this.sidebar.update();
    this.pane.update();
    const unread = unreadInAll(this.#chat.state);
    document.title = unread > 0 ? `(${unread}) ${strings.app}` : strings.app;
  }

  /** Shows what the address says. */
  #route() {
    const found = /^#c=([dg]-[0-9-]+)$/.exec(location.hash);
    const conversation = found && this.#isOwn(found[1]) ? found[1] : null;
    if (conversation === this.#open) return;
    this.#open = conversation;
    this.element.classList.toggle('has-open', conversation !== null);
    this.sidebar.show(conversation);
    this.pane.show(conversation);
    if (!conversation) this.sidebar.focus();
  }

  #isOwn(conversation) {
    const { me } = this.#chat.state;
    return isGroup(conversation) || conversation.split('-').slice(1).includes(me);
  }

  /** Opens a conversation. */
  open(conversation) {
    const address = `#c=${conversation}`;
    // From one conversation to another the list is still one step back.
    if (this.#open) history.replaceState(history.state, '', address);
    else history.pushState({ isFromList: true }, '', address);
    this.#route();
    this.pane.focus();
  }

  /** Goes back to the list. */
  close() {
    if (history.state?.isFromList) {
      history.back();
    } else {
      history.replaceState(null, '', location.pathname);
      this.#route();
    }
  }

  /** Shows what is between another user and this one. */
  contact(user) {
    this.#contact(user);
  }

  /** Joins the group of an invitation link that was opened. */
  join(token) {
    openJoin(this.#chat, this, token);
  }

  #contact(user) {
    openContact(this.#chat, this, user);
  }

  #details(conversation) {
    const other = peer(conversation, this.#chat.state.me);
    if (other) this.#contact(other);
    else openGroup(this.#chat, this, conversation);
  }

  #forward(conversation, row) {
    pickConversation(this.#chat, strings.message.forwardTo, (to) => {
      actions.forward(this.#chat, conversation, row, to);
      say(strings.message.forwarded);
    });
  }

  async #logout() {
    const { device } = this.#session.tokens() ?? {};
    const removed = device ? this.#chat.connection.request({ removeDevice: { device } }).catch(() => {}) : null;
    await Promise.race([removed, sleep(LOGOUT_MS)]);
    this.#leave('left');
  }

  #leave(note) {
    this.#chat.outbox.clear();
    this.#session.forget();
    this.#left(note);
  }
}
