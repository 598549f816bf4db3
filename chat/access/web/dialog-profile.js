// The dialog about the user's own account: profile, devices, password, logging out, deletion.

import * as actions from './actions.js';
import { ask, attempt, field, form, openDialog } from './dialogs.js';
import { button, el, keyed, name, refresh } from './dom.js';
import { isolate, strings } from './strings.js';
import { wholeText } from './text.js';
import { device as toDevice } from './wire.js';

const texts = strings.profile;

/**
 * @param {import('./chat.js').Chat} chat
 * @param {{session: import('./session.js').Session, logout: () => void, deleted: () => void}} app
 */
export function openProfile(chat, app) {
  openDialog(texts.title, (close) => [
    profileForm(chat),
    section(texts.devices, devices(chat)),
    section(texts.password, passwordForm(chat, app)),
    el(
      'div',
      { class: 'stack' },
      button(texts.logout, () => logout(chat, app, close)),
    ),
    section(texts.deletion, deletionForm(chat, app)),
  ]);
}

/** A part that is folded away. */
function section(title, content) {
  return el('details', { class: 'section' }, el('summary', { textContent: title }), content);
}

function profileForm(chat) {
  const { account } = chat.state;
  const user = el('p', { class: 'faint', textContent: account ? `${texts.userName}: ${account.name}` : '' });
  const shown = field(texts.displayName, { value: account?.displayName ?? '', maxLength: 64, autocomplete: 'nickname' });
  const about = field(texts.about, { multiline: true, value: account?.about ?? '', maxLength: 400, rows: 3 });
  const run = async () => {
    await actions.setProfile(chat, { displayName: shown.input.value.trim(), about: about.input.value.trim() });
    return texts.saved;
  };
  return form({ label: texts.save, run }, user, shown.box, about.box);
}

function devices(chat) {
  const list = el('ul', { class: 'plain people' });
  const load = () =>
    attempt(async () => {
      const found = (await actions.listDevices(chat))
        .map(toDevice)
        .sort((a, b) => b.isThis - a.isThis || b.lastSeenMs - a.lastSeenMs);
      const make = () => el('li', { class: 'person' });
      keyed(
        list,
        found,
        (one) => String(one.device),
        make,
        (element, one) => refresh(element, one, () => deviceView(chat, one, load)),
      );
    });
  load();
  return list;
}

function deviceView(chat, one, load) {
  const remove = async () => {
    if (!(await ask(texts.removeDeviceAsk(isolate(one.label)), texts.removeDevice))) return;
    if (await attempt(() => actions.removeDevice(chat, one.device))) load();
  };
  const more = button(texts.removeDevice, remove, 'small danger');
  more.setAttribute('aria-label', texts.removeDeviceOf(isolate(one.label)));
  const under = one.isThis ? texts.thisDevice : texts.lastSeen(wholeText(one.lastSeenMs));
  return [
    el('div', { class: 'person-text' }, name(one.label), el('span', { class: 'hint', textContent: under })),
    !one.isThis && more,
  ];
}

/** A field for a password. Which one it is tells the browser what to fill in or to keep. */
function secret(label, autocomplete) {
  return field(label, { type: 'password', autocomplete, maxLength: 256, dir: 'ltr' });
}

/** The user's name, hidden, so that a keeper of passwords knows whose they are. */
function whose(chat) {
  return el('input', {
    type: 'text',
    autocomplete: 'username',
    value: chat.state.account?.name ?? '',
    hidden: true,
    readOnly: true,
  });
}

function passwordForm(chat, { session }) {
  const old = secret(texts.oldPassword, 'current-password');
  const fresh = secret(texts.newPassword, 'new-password');
  const again = secret(texts.newPasswordAgain, 'new-password');
  const run = async () => {
    if (fresh.input.value !== again.input.value) throw new Error(strings.login.different);
    await actions.changePassword(chat, session, old.input.value, fresh.input.value);
    for (const { input } of [old, fresh, again]) input.value = '';
    return texts.passwordDone;
  };
  const lead = el('p', { class: 'hint', textContent: texts.passwordLead });
  return form(
    { label: texts.passwordButton, run, explain: actions.passwordError },
    lead,
    whose(chat),
    old.box,
    fresh.box,
    again.box,
  );
}

async function logout(chat, app, close) {
  const waiting = chat.outbox.entries().length;
  if (waiting > 0 && !(await ask(texts.logoutAsk(waiting), texts.logout))) return;
  close();
  app.logout();
}

function deletionForm(chat, app) {
  const password = secret(strings.login.password, 'current-password');
  const run = async () => {
    await actions.deleteAccount(chat, password.input.value);
    app.deleted();
  };
  const explain = (error) => (error.code === 'WRONG_PASSWORD' ? strings.errors.wrongOldPassword : null);
  const lead = el('p', { class: 'hint', textContent: texts.deletionLead });
  return form({ label: texts.deletionButton, run, explain, classes: 'danger' }, lead, whose(chat), password.box);
}
