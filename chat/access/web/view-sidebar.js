// The left side: who is logged in, conversations, contacts.

import * as actions from './actions.js';
import { attempt, openMenu } from './dialogs.js';
import { arrows, avatar, el, hidden, iconButton, keyed, name, reachable, refresh } from './dom.js';
import { icon } from './icons.js';
import { contactLists, conversationList, nameOf, previewOf, titleOf, typersOf, unreadInAll, unreadOf } from './select.js';
import { isolate, strings } from './strings.js';
import { shortText } from './text.js';
import { isGroup, peer } from './wire.js';

/** A badge shows no more than this. */
const MOST = 99;
const texts = strings.sidebar;

const badgeText = (count) => (count > MOST ? `${MOST}+` : String(count));

/** See above. */
export class Sidebar {
  #chat;
  #app;
  #tab = 'chats';
  #open = null;

  /**
   * @param {import('./chat.js').Chat} chat
   * @param {object} app what can be opened: `open`, `profile`, `contact`, `addContact`, `createGroup`, `joinGroup`, `kept`
   */
  constructor(chat, app) {
    this.#chat = chat;
    this.#app = app;
    this.me = el('button', { class: 'me', type: 'button', title: texts.profile, on: { click: () => app.profile() } });
    this.add = iconButton('plus', texts.add, () => this.#menu());
    this.add.setAttribute('aria-haspopup', 'menu');
    this.filter = el('input', {
      class: 'input',
      type: 'search',
      placeholder: texts.search,
      aria: { label: texts.search },
      on: { input: () => this.update(), keydown: (event) => this.#searchKey(event) },
    });
    this.tabs = { chats: this.#makeTab('chats', texts.chats), contacts: this.#makeTab('contacts', texts.contacts) };
    const tabs = el('div', { class: 'tabs', role: 'tablist' }, this.tabs.chats, this.tabs.contacts);
    arrowsAcross(tabs);
    this.panel = el('div', { class: 'side-list', id: 'side-panel', role: 'tabpanel' });
    this.chats = el('ul', { class: 'plain', aria: { label: texts.chats } });
    this.contacts = el('div', {});
    this.note = el('p', { class: 'side-note' });
    this.panel.append(this.chats, this.contacts, this.note);
    arrows(this.panel, '.entry');
    const head = el('header', { class: 'side-head' }, this.me, this.add);
    this.element = el(
      'nav',
      { class: 'side', aria: { label: texts.label } },
      head,
      el('div', { class: 'side-search' }, icon('search'), this.filter),
      tabs,
      this.panel,
    );
  }

  #makeTab(which, label) {
    return el('button', {
      class: 'tab',
      id: `tab-${which}`,
      type: 'button',
      role: 'tab',
      aria: { controls: 'side-panel' },
      data: { label },
      on: {
        click: () => {
          this.#tab = which;
          this.update();
        },
      },
    });
  }

  #menu() {
    openMenu(this.add, [
      { label: texts.addContact, run: () => this.#app.addContact() },
      { label: texts.createGroup, run: () => this.#app.createGroup() },
      { label: texts.joinGroup, run: () => this.#app.joinGroup() },
      { label: texts.kept, run: () => this.#app.kept() },
    ]);
  }

  #searchKey(event) {
    if (event.key === 'Escape' && this.filter.value) {
      event.preventDefault();
      this.filter.value = '';
      this.update();
    } else if (event.key === 'ArrowDown') {
      event.preventDefault();
      this.panel.querySelector('.entry')?.focus();
    }
  }

  /** Marks the open conversation. */
  show(conversation) {
    this.#open = conversation;
    this.update();
  }

  /** The focus goes to the open conversation's entry, or to the first one. */
  focus() {
    (this.panel.querySelector('[aria-current]') ?? this.panel.querySelector('.entry') ?? this.filter).focus();
  }

  /** Draws what the state says. */
  update() {
    const { state } = this.#chat;
    this.#drawMe(state);
    const lists = contactLists(state);
    this.#drawTab('chats', unreadInAll(state), texts.unread);
    this.#drawTab('contacts', lists.asked.length, texts.requests);
    this.panel.setAttribute('aria-labelledby', `tab-${this.#tab}`);
    const isChats = this.#tab === 'chats';
    this.chats.hidden = !isChats;
    this.contacts.hidden = isChats;
    const count = isChats ? this.#drawChats(state) : this.#drawContacts(state, lists);
    this.#drawNote(count, isChats);
    reachable(this.panel, '.entry');
  }

  #drawMe(state) {
    const shown = state.account ? nameOf(state, state.me) : '';
    const under = state.account ? strings.contact.userName(state.account.name) : '';
    refresh(this.me, { shown, under }, () => [
      avatar(state.me, shown),
      el('span', { class: 'me-names' }, name(shown, 'me-name'), el('span', { class: 'faint', textContent: under })),
      hidden(texts.profile),
    ]);
  }

  #drawTab(which, count, say) {
    const tab = this.tabs[which];
    const isOpen = this.#tab === which;
    tab.setAttribute('aria-selected', String(isOpen));
    tab.tabIndex = isOpen ? 0 : -1;
    refresh(tab, { count }, () => [tab.dataset.label, count > 0 && badge(count, say(count))]);
  }

  #drawNote(count, isChats) {
    const isFiltered = this.filter.value.trim() !== '';
    const nothing = isChats ? texts.noChats : texts.noContacts;
    const none = this.#chat.state.isWhole ? nothing : texts.loading;
    this.note.hidden = count > 0;
    this.note.textContent = isFiltered ? texts.nothingFound : none;
  }

  #matches(...fields) {
    const wanted = this.filter.value.trim().toLocaleLowerCase();
    return wanted === '' || fields.some((text) => text.toLocaleLowerCase().includes(wanted));
  }

  #drawChats(state) {
    const shown = conversationList(state)
      .map((row) => ({ ...row, title: titleOf(state, row.id) }))
      .filter((row) => this.#matches(row.title));
    keyed(
      this.chats,
      shown,
      (row) => row.id,
      (row) =>
        el('li', {}, el('button', { class: 'entry', type: 'button', tabIndex: -1, on: { click: () => this.#app.open(row.id) } })),
      (element, row) => this.#drawChat(state, element.firstElementChild, row),
    );
    return shown.length;
  }

  #drawChat(state, entry, row) {
    const other = peer(row.id, state.me);
    const isOnline = other !== null && state.online.has(other);
    const typers = typersOf(state, row.id);
    const line = typingLine(row.id, typers) || previewOf(state, row.id);
    const unread = unreadOf(state, row.id);
    if (this.#open === row.id) entry.setAttribute('aria-current', 'true');
    else entry.removeAttribute('aria-current');
    const time = row.atMs ? shortText(row.atMs, Date.now()) : '';
    const { id, title, muted, pinned, left } = row;
    refresh(entry, { title, isOnline, typers, line, unread, time, muted, pinned, left }, () => [
      el('span', { class: isOnline ? 'portrait online' : 'portrait' }, avatar(other ?? id, title)),
      el(
        'span',
        { class: 'entry-text' },
        el(
          'span',
          { class: 'entry-line' },
          name(title, 'entry-title'),
          isOnline && hidden(`, ${texts.online}`),
          el('span', { class: 'entry-time faint', textContent: time }),
        ),
        el(
          'span',
          { class: 'entry-line' },
          el('span', {
            class: typers.length > 0 ? 'entry-preview typing' : 'entry-preview faint',
            dir: 'auto',
            textContent: line,
          }),
          pinned && mark('pin', texts.pinned),
          muted && mark('muted', texts.muted),
          unread > 0 && badge(unread, texts.unread(unread), muted ? 'quiet' : ''),
        ),
      ),
    ]);
  }

  #drawContacts(state, lists) {
    const sections = [
      ['asked', texts.asked],
      ['requested', texts.requested],
      ['friends', texts.friends],
      ['blocked', texts.blocked],
    ];
    const shown = sections.map(([which, title]) => ({
      which,
      title,
      people: lists[which].filter((contact) => this.#matches(contact.shown, contact.name, contact.displayName)),
    }));
    const filled = shown.filter((section) => section.people.length > 0);
    keyed(
      this.contacts,
      filled,
      (section) => section.which,
      makeSection,
      (element, { which, people }) => {
        keyed(
          element.lastElementChild,
          people,
          (contact) => contact.user,
          () => el('li', { class: 'contact' }),
          (item, contact) => this.#drawContact(state, item, contact, which),
        );
      },
    );
    return filled.length;
  }

  #drawContact(state, item, contact, which) {
    const { user, shown, name: userName, greeting } = contact;
    const isOnline = state.online.has(user);
    const isOpen = which === 'friends' && this.#open === actions.conversationWith(this.#chat, user);
    const under = which === 'asked' && greeting ? greeting : strings.contact.userName(userName);
    refresh(item, { which, shown, under, isOnline, isOpen }, () => {
      const run =
        which === 'friends' ? () => this.#app.open(actions.conversationWith(this.#chat, user)) : () => this.#app.contact(user);
      const entry = el(
        'button',
        { class: 'entry', type: 'button', tabIndex: -1, on: { click: run }, ...(isOpen ? { ariaCurrent: 'true' } : {}) },
        el('span', { class: isOnline ? 'portrait online' : 'portrait' }, avatar(user, shown)),
        el(
          'span',
          { class: 'entry-text' },
          el('span', { class: 'entry-line' }, name(shown, 'entry-title'), isOnline && hidden(`, ${texts.online}`)),
          el('span', { class: 'faint entry-preview', dir: 'auto', textContent: under }),
        ),
      );
      const buttons = this.#contactButtons(contact, which);
      return [entry, buttons.length > 0 && el('div', { class: 'contact-buttons' }, ...buttons)];
    });
  }

  #contactButtons({ user, shown }, which) {
    const chat = this.#chat;
    const label = isolate(shown);
    const done = () => document.activeElement === document.body && this.focus(); // the button may be gone
    const make = (text, says, run, classes = '') =>
      el('button', {
        class: `button small ${classes}`,
        type: 'button',
        textContent: text,
        aria: { label: says },
        on: { click: () => attempt(run).then(() => setTimeout(done, 500)) },
      });
    if (which === 'asked') {
      return [
        make(texts.accept, texts.acceptOf(label), () => actions.want(chat, user), 'primary'),
        make(texts.refuse, texts.refuseOf(label), () => actions.decline(chat, user)),
      ];
    }
    if (which === 'requested') return [make(texts.takeBack, texts.takeBackOf(label), () => actions.decline(chat, user))];
    if (which === 'blocked') return [make(texts.unblock, texts.unblockOf(label), () => actions.block(chat, user, false))];
    return [];
  }
}

function typingLine(conversation, typers) {
  if (typers.length === 0) return '';
  return isGroup(conversation) ? strings.chat.typingOf(typers) : strings.chat.typing;
}

function makeSection({ which, title }) {
  const heading = el('h2', { id: `contacts-${which}`, class: 'side-heading', textContent: title });
  return el('section', {}, heading, el('ul', { class: 'plain', aria: { labelledby: heading.id } }));
}

function badge(count, label, classes = '') {
  return el(
    'span',
    { class: `badge ${classes}` },
    el('span', { aria: { hidden: true }, textContent: badgeText(count) }),
    hidden(label),
  );
}

function mark(picture, label) {
  return el('span', { class: 'mark', title: label }, icon(picture), hidden(label));
}

/** Left and right move between tabs. */
function arrowsAcross(tabs) {
  tabs.addEventListener('keydown', (event) => {
    if (event.key !== 'ArrowLeft' && event.key !== 'ArrowRight') return;
    const other = [...tabs.children].find((tab) => tab !== event.target);
    event.preventDefault();
    other.click();
    other.focus();
  });
}
