// Dialogs about other users: finding one, and what is between them and the user.

import * as actions from './actions.js';
import { ask, attempt, field, form, openDialog, say } from './dialogs.js';
import { avatar, button, el, name } from './dom.js';
import { nameOf, userOf } from './select.js';
import { isolate, strings } from './strings.js';
import { profile as toProfile } from './wire.js';

const texts = strings.contact;

/** Name and picture of a user. */
function person(user, shown, { name: userName, about, deleted }) {
  const under = deleted ? '' : texts.userName(userName);
  return el(
    'div',
    { class: 'person large' },
    avatar(user, shown, 'large'),
    el(
      'div',
      {},
      name(shown, 'person-name'),
      el('p', { class: 'faint', textContent: under }),
      about && el('p', { class: 'about', dir: 'auto', textContent: about }),
    ),
  );
}

/** Finds a user by name, and asks them to be a contact. */
export function openFind(chat, app) {
  const found = el('div', { class: 'found', aria: { live: 'polite' } });
  openDialog(strings.sidebar.addContact, (close) => {
    const { box, input } = field(texts.find, {
      first: true,
      autocapitalize: 'none',
      autocomplete: 'off',
      spellcheck: false,
      maxLength: 33,
      dir: 'ltr',
    });
    const run = async () => {
      const wanted = input.value.trim().replace(/^@/, '');
      found.replaceChildren();
      if (!wanted) return;
      const json = await actions.findUser(chat, wanted);
      if (!json) found.replaceChildren(el('p', { textContent: texts.noUser(isolate(wanted)) }));
      else found.replaceChildren(...foundView(chat, app, toProfile(json), close));
    };
    return [form({ label: texts.findButton, run }, box), found];
  });
}

function foundView(chat, app, found, close) {
  const { user } = found;
  const contact = chat.state.contacts.get(user);
  const shown = found.displayName || found.name;
  const head = person(user, shown, found);
  const note = (text) => [head, el('p', { textContent: text })];
  if (user === chat.state.me) return note(texts.yourself);
  if (contact?.blocked) return note(texts.isBlocked);
  if (contact?.relation === 'FRIENDS') {
    const write = () => {
      close();
      app.open(actions.conversationWith(chat, user));
    };
    return [...note(texts.already), el('div', { class: 'buttons' }, button(texts.write, write, 'primary'))];
  }
  if (contact?.relation === 'REQUESTED') return note(texts.waiting);
  if (contact?.relation === 'ASKED') {
    const accept = () => attempt(() => actions.want(chat, user)).then((isDone) => isDone && close());
    return [...note(texts.hasAsked), el('div', { class: 'buttons' }, button(strings.sidebar.accept, accept, 'primary'))];
  }
  const { box, input } = field(texts.greeting, { maxLength: 200 });
  const run = async () => {
    await actions.want(chat, user, input.value.trim());
    close();
    say(texts.requested);
  };
  return [head, form({ label: texts.request, run }, box)];
}

/** What is between another user and this one. */
export function openContact(chat, app, user) {
  const shown = () => nameOf(chat.state, user);
  let stop = () => {};
  openDialog(
    texts.title,
    (close) => {
      const head = el('div', {});
      const aliasBox = aliasForm(chat, user);
      const buttons = el('div', { class: 'stack' });
      const write = () => {
        close();
        app.open(actions.conversationWith(chat, user));
      };
      const draw = () => {
        const known = userOf(chat.state, user) ?? { name: '', about: '', deleted: false };
        const contact = chat.state.contacts.get(user);
        head.replaceChildren(person(user, shown(), known));
        aliasBox.hidden = !contact;
        const isFriend = contact?.relation === 'FRIENDS';
        const made = [
          isFriend && !contact.blocked && button(texts.write, write, 'primary'),
          ...answerButtons(chat, user, contact),
          ...optionButtons(chat, actions.conversationWith(chat, user)),
          !contact &&
            button(texts.request, () => attempt(() => actions.want(chat, user)).then((isDone) => isDone && say(texts.requested))),
          contact?.blocked
            ? button(texts.unblock, () => attempt(() => actions.block(chat, user, false)))
            : button(texts.block, () => block(chat, user, shown()), 'danger'),
          isFriend && button(texts.remove, () => remove(chat, user, shown()), 'danger'),
        ].filter(Boolean);
        const signature = made.map((one) => one.textContent).join();
        if (buttons.dataset.signature === signature) return;
        const hadFocus = buttons.contains(document.activeElement);
        buttons.dataset.signature = signature;
        buttons.replaceChildren(...made);
        if (hadFocus) buttons.querySelector('button')?.focus();
      };
      draw();
      stop = chat.subscribe(draw);
      return [head, aliasBox, buttons];
    },
    { closed: () => stop() },
  );
}

/** For a request that waits. */
function answerButtons(chat, user, contact) {
  const decline = () => attempt(() => actions.decline(chat, user));
  if (contact?.relation === 'REQUESTED') return [button(strings.sidebar.takeBack, decline)];
  if (contact?.relation !== 'ASKED') return [];
  return [
    button(strings.sidebar.accept, () => attempt(() => actions.want(chat, user)), 'primary'),
    button(strings.sidebar.refuse, decline),
  ];
}

function aliasForm(chat, user) {
  const { box, input } = field(texts.alias, { value: chat.state.contacts.get(user)?.alias ?? '', maxLength: 64 });
  const run = async () => {
    await actions.setAlias(chat, user, input.value.trim());
    return strings.profile.saved;
  };
  return form({ label: texts.saveAlias, run, classes: '' }, box);
}

async function block(chat, user, shown) {
  if (await ask(texts.blockAsk(isolate(shown)), texts.block)) await attempt(() => actions.block(chat, user, true));
}

async function remove(chat, user, shown) {
  if (await ask(texts.removeAsk(isolate(shown)), texts.remove)) await attempt(() => actions.decline(chat, user));
}

/** Buttons that mute, pin and clear a conversation; none if there is no such conversation yet. */
export function optionButtons(chat, conversation) {
  const view = chat.state.conversations.get(conversation);
  if (!view) return [];
  const options = strings.options;
  const set = (changed) => () => attempt(() => actions.setOptions(chat, conversation, changed));
  const clear = async () => {
    const isSure = await ask(options.clearAsk, options.clear);
    if (isSure) await set({ hideSeq: chat.state.conversations.get(conversation)?.headSeq ?? 0 })();
  };
  return [
    button(view.muted ? options.unmute : options.mute, set({ muted: !view.muted })),
    button(view.pinned ? options.unpin : options.pin, set({ pinned: !view.pinned })),
    button(options.clear, clear),
  ];
}
