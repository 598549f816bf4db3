// The first page: logging in, or making an account.

import { field, form } from './dialogs.js';
import { el } from './dom.js';
import { icon } from './icons.js';
import { deviceLabel } from './session.js';
import { strings } from './strings.js';

const texts = strings.login;

/**
 * Shows the page.
 * @param {HTMLElement} root
 * @param {import('./session.js').Session} session
 * @param {{note: string, done: () => void}} options `note` says why the user is here
 */
export function showLogin(root, session, { note, done }) {
  const device = deviceLabel(navigator.userAgent, texts);
  const draw = (isNew) => {
    const content = isNew ? registerForm(session, device, done) : loginForm(session, device, done);
    const other = el('button', {
      class: 'link',
      type: 'button',
      textContent: isNew ? texts.toLogin : texts.toRegister,
      on: { click: () => draw(!isNew) },
    });
    const card = el(
      'main',
      { class: 'card' },
      el('div', { class: 'logo' }, icon('send')),
      el('h1', { textContent: isNew ? texts.registerTitle : texts.title }),
      el('p', { class: 'faint', textContent: isNew ? texts.registerLead : texts.lead }),
      note && el('p', { class: 'note', role: 'status', textContent: note }),
      content,
      other,
    );
    root.replaceChildren(el('div', { class: 'login' }, card));
    root.querySelector('[data-first]').focus();
  };
  draw(false);
}

function nameField(hint) {
  return field(texts.name, {
    hint,
    first: true,
    autocomplete: 'username',
    autocapitalize: 'none',
    spellcheck: false,
    maxLength: 32,
    required: true,
    dir: 'ltr',
  });
}

function passwordField(label, autocomplete, hint = '') {
  return field(label, { hint, type: 'password', autocomplete, maxLength: 256, required: true, dir: 'ltr' });
}

function loginForm(session, device, done) {
  const user = nameField('');
  const password = passwordField(texts.password, 'current-password');
  const run = async () => {
    await session.login({ name: user.input.value.trim(), password: password.input.value, device });
    done();
  };
  return form({ label: texts.login, run }, user.box, password.box);
}

function registerForm(session, device, done) {
  const user = nameField(texts.nameHint);
  const shown = field(texts.displayName, { autocomplete: 'nickname', maxLength: 64 });
  const password = passwordField(texts.password, 'new-password', texts.passwordHint);
  const again = passwordField(texts.again, 'new-password');
  const run = async () => {
    if (password.input.value !== again.input.value) throw new Error(texts.different);
    await session.register({
      name: user.input.value.trim(),
      displayName: shown.input.value.trim(),
      password: password.input.value,
      device,
    });
    done();
  };
  return form({ label: texts.register, run }, user.box, shown.box, password.box, again.box);
}
