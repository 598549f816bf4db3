// Choosing among people or conversations.

import { openDialog } from './dialogs.js';
import { arrows, avatar, el, keyed, name } from './dom.js';
import { closedOf, contactLists, conversationList, titleOf } from './select.js';
import { strings } from './strings.js';
import { direct, peer } from './wire.js';

function filterBox(changed) {
  return el('input', {
    class: 'input',
    type: 'search',
    placeholder: strings.sidebar.search,
    aria: { label: strings.sidebar.search },
    data: { first: '' },
    on: { input: (event) => changed(event.target.value.trim().toLocaleLowerCase()) },
  });
}

/**
 * Chooses a conversation in which the user may write: those that are there, then contacts without one.
 * @param {import('./chat.js').Chat} chat
 * @param {string} title
 * @param {(conversation: string) => void} chosen
 */
export function pickConversation(chat, title, chosen) {
  const { state } = chat;
  const there = conversationList(state).map((row) => row.id);
  const others = contactLists(state).friends.map((contact) => direct(state.me, contact.user));
  const all = [...new Set([...there, ...others])].filter((id) => closedOf(state, id, Date.now()) === null);
  openDialog(title, (close) => {
    const list = el('ul', { class: 'plain picks', aria: { label: title } });
    const draw = (wanted) => {
      const shown = all.filter((id) => titleOf(state, id).toLocaleLowerCase().includes(wanted));
      const make = (id) => {
        const run = () => {
          close();
          chosen(id);
        };
        const shownTitle = titleOf(state, id);
        return el(
          'li',
          {},
          el(
            'button',
            { class: 'entry', type: 'button', on: { click: run } },
            avatar(peer(id, state.me) ?? id, shownTitle, 'small'),
            name(shownTitle, 'entry-title'),
          ),
        );
      };
      keyed(
        list,
        shown,
        (id) => id,
        make,
        () => {},
      );
    };
    draw('');
    arrows(list, '.entry');
    return [filterBox(draw), list];
  });
}

/**
 * A list of contacts of which some are chosen.
 * @param {import('./chat.js').Chat} chat
 * @param {(user: string) => boolean} isOffered
 * @returns {{element: HTMLElement, chosen: Set<string>}}
 */
export function peoplePicker(chat, isOffered) {
  const chosen = new Set();
  const people = contactLists(chat.state).friends.filter((contact) => isOffered(contact.user));
  if (people.length === 0) return { element: el('p', { class: 'hint', textContent: strings.groupDialog.noContacts }), chosen };
  const list = el('ul', { class: 'plain picks', aria: { label: strings.groupDialog.choose } });
  const make = ({ user, shown }) => {
    const changed = (event) => (event.target.checked ? chosen.add(user) : chosen.delete(user));
    const box = el('input', { type: 'checkbox', on: { change: changed } });
    return el('li', {}, el('label', { class: 'check pick' }, box, avatar(user, shown, 'small'), name(shown)));
  };
  const draw = (wanted) => {
    const shown = people.filter((contact) => contact.shown.toLocaleLowerCase().includes(wanted) || chosen.has(contact.user));
    keyed(
      list,
      shown,
      (contact) => contact.user,
      make,
      () => {},
    );
  };
  draw('');
  arrows(list, 'input');
  const filter = filterBox(draw);
  delete filter.dataset.first;
  return { element: el('fieldset', {}, el('legend', { textContent: strings.groupDialog.choose }), filter, list), chosen };
}
