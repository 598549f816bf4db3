// The open conversation: its head, the list of messages, the composer.

import { Composer } from './composer.js';
import { announce } from './dialogs.js';
import { arrows, avatar, el, iconButton, keyed, name, reachable, refresh } from './dom.js';
import { icon } from './icons.js';
import { releaseMedia } from './media-view.js';
import { rowsOf } from './rows.js';
import { floorOf, headOf, lineOf, nameOf, readOf, titleOf, typersOf, unreadOf } from './select.js';
import { isolate, strings } from './strings.js';
import { makeRow, openActions, rowClasses, rowContent } from './view-message.js';
import { isGroup, peer } from './wire.js';

/** So near to the end is at the end. */
const END_PX = 48;
/** So near to the beginning older messages are asked for. */
const START_PX = 400;

/** The right side. */
export class ChatPane {
  #chat;
  #app;
  #conversation = null;
  #readAt = 0;
  #isAtEnd = true;
  #isPlaced = false;
  #isBegun = false;
  #quoted = 0;

  /**
   * @param {import('./chat.js').Chat} chat
   * @param {{close: () => void, details: (conversation: string) => void, forward: (conversation: string, row: object) => void}} app
   */
  constructor(chat, app) {
    this.#chat = chat;
    this.#app = app;
    this.composer = new Composer(chat);
    this.head = el('header', { class: 'pane-head' });
    this.list = el('ol', { class: 'messages', role: 'list', aria: { label: strings.chat.messages } });
    this.first = el('p', { class: 'pane-note', hidden: true, textContent: strings.chat.first });
    this.loading = el('p', { class: 'pane-note', hidden: true, textContent: strings.chat.loading });
    this.scroller = el('div', { class: 'scroller', on: { scroll: () => this.#scrolled() } }, this.loading, this.list, this.first);
    this.toEnd = el('button', { class: 'to-end', type: 'button', hidden: true, on: { click: () => this.#end(true) } });
    const middle = el('div', { class: 'pane-middle' }, this.scroller, this.toEnd);
    this.opened = el('div', { class: 'pane-open', hidden: true }, this.head, middle, this.composer.element);
    this.empty = el(
      'div',
      { class: 'pane-empty' },
      el('h1', { textContent: strings.chat.empty }),
      el('p', { textContent: strings.chat.emptyLead }),
    );
    this.element = el('main', { class: 'pane', aria: { label: strings.chat.label } }, this.empty, this.opened);
    this.#listen();
  }

  #listen() {
    arrows(this.list, '.row-message');
    this.list.addEventListener('keydown', (event) => {
      const item = event.target;
      if (event.key !== 'Enter' || !item.matches('.row-message')) return;
      const more = item.querySelector('.row-more');
      if (more && item.kvRow) openActions(more, item.kvRow, this.#deps());
    });
    this.opened.addEventListener('keydown', (event) => {
      const isElsewhere = event.defaultPrevented || document.querySelector('dialog[open], [popover]:popover-open:not(.notice)');
      if (event.key === 'Escape' && !event.isComposing && !isElsewhere) this.#app.close();
    });
    document.addEventListener('visibilitychange', () => this.#look());
    // The end stays in sight when the window, the composer or a picture changes its size.
    const sizes = new ResizeObserver(() => this.#isPlaced && this.#isAtEnd && this.#end(false));
    sizes.observe(this.scroller);
    sizes.observe(this.list);
    this.#chat.onIncoming((conversation, message) => this.#announce(conversation, message));
  }

  #deps() {
    const conversation = this.#conversation;
    return {
      chat: this.#chat,
      conversation,
      toQuoted: (seq) => this.#toQuoted(seq),
      toComposer: (begin) => this.composer.begin(begin),
      toForward: (row) => this.#app.forward(conversation, row),
    };
  }

  /** Shows a conversation, or none. */
  show(conversation) {
    this.#conversation = conversation;
    this.#isAtEnd = true;
    this.#isPlaced = false;
    this.#isBegun = false;
    this.#quoted = 0;
    releaseMedia(this.list);
    keyed(
      this.list,
      [],
      (row) => row.key,
      makeRow,
      () => {},
    );
    this.empty.hidden = conversation !== null;
    this.opened.hidden = conversation === null;
    this.#chat.show(conversation);
    if (!conversation) return;
    this.composer.open(conversation);
    this.update();
  }

  /** The focus goes where writing begins; where that would bring a keyboard up, to the first button. */
  focus() {
    const hasKeyboard = matchMedia('(hover: hover)').matches && !this.composer.line.hidden;
    (hasKeyboard ? this.composer.input : this.head.querySelector('button')).focus();
  }

  /** Draws what the state says. */
  update() {
    const { open, state } = this.#chat;
    if (!open || open.conversation !== this.#conversation) return;
    this.#drawHead();
    this.composer.update();
    if (!open.isPlaced) {
      this.loading.hidden = false;
      this.first.hidden = true;
      return;
    }
    const isNew = !this.#isPlaced;
    this.#isPlaced = true;
    const isMarked = this.list.querySelector('.row-unread') !== null;
    if (isNew) this.#readAt = readOf(state, this.#conversation);
    else if (this.#isSeen() && !isMarked) this.#readAt = headOf(state, this.#conversation); // what comes is seen at once
    this.#drawRows();
    if (!this.#isBegun && !this.list.querySelector('.row-gap')) this.#begin();
    this.#look();
    this.#fill();
  }

  #drawHead() {
    const { state } = this.#chat;
    const conversation = this.#conversation;
    const title = titleOf(state, conversation);
    const other = peer(conversation, state.me);
    const below = this.#below(state, other);
    refresh(this.head, { conversation, title, below }, () => [
      iconButton('back', strings.chat.back, () => this.#app.close(), 'only-narrow'),
      avatar(other ?? conversation, title),
      el('div', { class: 'pane-title' }, el('h1', {}, name(title)), el('p', { class: 'faint', textContent: below })),
      iconButton('info', strings.chat.details, () => this.#app.details(conversation)),
    ]);
  }

  /** What is said under the title. */
  #below(state, other) {
    const writers = typersOf(state, this.#conversation);
    if (writers.length > 0) return other ? strings.chat.typing : strings.chat.typingOf(writers);
    if (other) return state.online.has(other) ? strings.chat.online : '';
    const view = state.conversations.get(this.#conversation);
    return view?.members ? strings.chat.members(view.members) : '';
  }

  #drawRows() {
    const { open, outbox, state } = this.#chat;
    const isStart = open.from <= floorOf(state, open.conversation);
    const rows = rowsOf(state, open, outbox.entries(), this.#readAt, isStart, Date.now());
    const anchor = this.#isAtEnd ? null : this.#anchor();
    const deps = this.#deps();
    keyed(
      this.list,
      rows,
      (row) => row.key,
      makeRow,
      (element, row) => {
        element.className = rowClasses(row);
        element.kvRow = row;
        refresh(element, row, () => {
          releaseMedia(element);
          return rowContent(row, deps);
        });
      },
    );
    reachable(this.list, '.row-message', true);
    this.loading.hidden = !open.isLoading;
    this.first.hidden = rows.length > 0 || open.isLoading;
    if (this.#isAtEnd) this.#end(false);
    else if (anchor?.element.isConnected) this.scroller.scrollTop += anchor.element.getBoundingClientRect().top - anchor.top;
    if (this.#quoted && this.#find(this.#quoted)) this.#toQuoted(this.#quoted);
    this.#drawToEnd();
  }

  /** The first row that is seen, and where: it stays there when rows come above it. */
  #anchor() {
    const top = this.scroller.getBoundingClientRect().top;
    const element = [...this.list.children].find((row) => row.kvRow.seq && row.getBoundingClientRect().bottom > top);
    return element ? { element, top: element.getBoundingClientRect().top } : null;
  }

  /** Where a conversation that was just opened is seen: at the first unread message, or at the end. */
  #begin() {
    this.#isBegun = true;
    const unread = this.list.querySelector('.row-unread');
    this.#end(false);
    if (!unread) return;
    const box = this.scroller.getBoundingClientRect();
    if (unread.getBoundingClientRect().top >= box.top) return;
    unread.scrollIntoView({ block: 'start' });
    this.#isAtEnd = this.#isNearEnd();
  }

  #isNearEnd() {
    const { scrollHeight, scrollTop, clientHeight } = this.scroller;
    return scrollHeight - scrollTop - clientHeight < END_PX;
  }

  #end(isSmooth) {
    const isCalm = matchMedia('(prefers-reduced-motion: reduce)').matches;
    this.#isAtEnd = true;
    this.scroller.scrollTo({ top: this.scroller.scrollHeight, behavior: isSmooth && !isCalm ? 'smooth' : 'instant' });
  }

  #scrolled() {
    if (!this.#isPlaced) return;
    this.#isAtEnd = this.#isNearEnd();
    this.#drawToEnd();
    this.#look();
    this.#fill();
  }

  #drawToEnd() {
    this.toEnd.hidden = this.#isAtEnd;
    if (this.#isAtEnd) return;
    const count = unreadOf(this.#chat.state, this.#conversation);
    refresh(this.toEnd, { count }, () => [icon('down'), count > 0 && el('span', { textContent: strings.chat.newBelow(count) })]);
    this.toEnd.setAttribute(
      'aria-label',
      count > 0 ? `${strings.chat.toEnd}, ${strings.chat.newBelow(count)}` : strings.chat.toEnd,
    );
  }

  /** Older messages, when the beginning is near. */
  #fill() {
    const { open, state } = this.#chat;
    if (!open?.isPlaced || open.isLoading || open.from <= floorOf(state, open.conversation)) return;
    if (this.scroller.scrollTop < START_PX) this.#chat.older();
  }

  /** Whoever sees the end of a conversation has read it. */
  #look() {
    if (this.#isSeen() && headOf(this.#chat.state, this.#conversation) > 0) this.#chat.seen(this.#conversation);
  }

  #isSeen() {
    return this.#conversation !== null && this.#isBegun && this.#isAtEnd && document.visibilityState === 'visible';
  }

  #find(seq) {
    return [...this.list.children].find((row) => row.kvRow?.seq === seq);
  }

  /** Goes to a message, perhaps once it is here. */
  #toQuoted(seq) {
    const row = this.#find(seq);
    if (!row) {
      this.#quoted = this.#chat.reach(seq) ? seq : 0;
      return;
    }
    this.#quoted = 0;
    this.#isAtEnd = false;
    row.scrollIntoView({ block: 'center' });
    row.focus({ preventScroll: true });
    row.classList.add('pointed');
    setTimeout(() => row.classList.remove('pointed'), 1_500);
  }

  #announce(conversation, message) {
    const { state } = this.#chat;
    const sender = isolate(nameOf(state, message.sender));
    const line = lineOf(state, message);
    const isOpen = conversation === this.#conversation || !isGroup(conversation);
    if (state.conversations.get(conversation)?.muted && conversation !== this.#conversation) return;
    announce(
      isOpen ? strings.chat.incoming(sender, line) : strings.chat.incomingIn(sender, isolate(titleOf(state, conversation)), line),
    );
  }
}
