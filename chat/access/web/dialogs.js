// Dialogs, menus, forms and short notices. Focus goes in when they open, and back to where it was when they close.

import { el, iconButton, present } from './dom.js';
import { icon } from './icons.js';
import { errorText, strings } from './strings.js';

let count = 0;

/**
 * Opens a dialog.
 * @param {string} title
 * @param {(close: () => void) => (Node | string)[]} content gives what is in it
 * @param {{closed?: () => void, classes?: string}} [options]
 * @returns {HTMLDialogElement}
 */
export function openDialog(title, content, { closed, classes = '' } = {}) {
  count += 1;
  const before = document.activeElement;
  const heading = el('h2', { id: `dialog-${count}`, textContent: title, tabIndex: -1 });
  const dialog = el('dialog', { class: `dialog ${classes}`, aria: { labelledby: heading.id } });
  const close = () => dialog.close();
  const head = el('header', { class: 'dialog-head' }, heading, iconButton('close', strings.dialog.close, close));
  dialog.append(head, el('div', { class: 'dialog-body' }, ...present(content(close))));
  closeOutside(dialog);
  dialog.addEventListener('close', () => {
    dialog.remove();
    // The browser has put the focus back, unless what had it is gone; or it is somewhere new already.
    if (document.activeElement === document.body && before?.isConnected) before.focus();
    closed?.();
  });
  document.body.append(dialog);
  dialog.showModal();
  (dialog.querySelector('[data-first]') ?? heading).focus();
  return dialog;
}

/** A click beside a dialog closes it; not one that began in it. */
function closeOutside(dialog) {
  let began = null;
  dialog.addEventListener('pointerdown', (event) => {
    began = event.target;
  });
  dialog.addEventListener('click', (event) => {
    if (event.target === dialog && began === dialog) dialog.close();
  });
}

/** Asks yes or no; closing is no. */
export function ask(text, yes = strings.dialog.yes, isDangerous = true) {
  return new Promise((resolve) => {
    let answer = false;
    const content = (close) => {
      const run = () => {
        answer = true;
        close();
      };
      const accept = el('button', {
        class: `button ${isDangerous ? 'danger' : 'primary'}`,
        type: 'button',
        textContent: yes,
        on: { click: run },
      });
      const cancel = el('button', {
        class: 'button',
        type: 'button',
        textContent: strings.dialog.cancel,
        data: { first: '' },
        on: { click: close },
      });
      return [el('p', { textContent: text, dir: 'auto' }), el('div', { class: 'buttons' }, cancel, accept)];
    };
    openDialog(strings.app, content, { closed: () => resolve(answer), classes: 'small' });
  });
}

/**
 * A field of a form with its label.
 * @param {string} label
 * @param {object} props of the input; `multiline` makes it one of several lines, `hint` says more about it
 */
export function field(label, { multiline = false, hint = '', first = false, ...props }) {
  count += 1;
  const id = `field-${count}`;
  const input = el(multiline ? 'textarea' : 'input', { id, class: 'input', dir: 'auto', ...props });
  if (first) input.dataset.first = '';
  const explained = hint && el('p', { id: `${id}-hint`, class: 'hint', textContent: hint });
  if (explained) input.setAttribute('aria-describedby', explained.id);
  const box = el('div', { class: 'field' }, el('label', { htmlFor: id, textContent: label }), input, explained);
  return { box, input };
}

/**
 * A form that does something when it is sent, is busy meanwhile, and says what went wrong.
 * @param {{label: string, classes?: string, run: () => Promise<string | void>, explain?: (error: object) => string | null}} options `run` may give a text that says
 * that it was done
 * @param {...Node} fields
 */
export function form({ label, classes = 'primary', run, explain = () => null }, ...fields) {
  const said = el('p', { class: 'said', role: 'status' });
  const wrong = el('p', { class: 'wrong', role: 'alert', hidden: true });
  const submit = el('button', { class: `button ${classes}`, type: 'submit', textContent: label });
  const submitted = async (event) => {
    event.preventDefault();
    if (submit.disabled) return;
    submit.disabled = true;
    wrong.hidden = true;
    said.textContent = '';
    try {
      said.textContent = (await run()) ?? '';
    } catch (error) {
      wrong.textContent = explain(error) ?? errorText(error);
      wrong.hidden = false;
    } finally {
      submit.disabled = false;
    }
  };
  return el(
    'form',
    { class: 'form', noValidate: true, on: { submit: submitted } },
    ...fields,
    wrong,
    el('div', { class: 'buttons' }, said, submit),
  );
}

/**
 * Opens a menu at a button.
 * @param {HTMLElement} anchor
 * @param {({label: string, run: () => void, danger?: boolean} | false)[]} items
 */
export function openMenu(anchor, items) {
  const menu = el('div', {
    class: 'menu',
    role: 'menu',
    aria: { label: anchor.getAttribute('aria-label') ?? '' },
    popover: 'auto',
  });
  const item = ({ label, run, danger }) => {
    const chosen = () => {
      menu.hidePopover();
      run();
    };
    return el('button', {
      class: danger ? 'danger' : '',
      role: 'menuitem',
      type: 'button',
      tabIndex: -1,
      textContent: label,
      on: { click: chosen },
    });
  };
  menu.append(...items.filter(Boolean).map(item));
  menu.addEventListener('keydown', (event) => moveIn(menu, event));
  menu.addEventListener('toggle', (event) => {
    if (event.newState === 'open') return;
    if (menu.contains(document.activeElement) || document.activeElement === document.body) anchor.focus();
    menu.remove();
    anchor.setAttribute('aria-expanded', 'false');
  });
  // What is outside of an open dialog cannot be reached.
  (anchor.closest('dialog') ?? document.body).append(menu);
  menu.showPopover();
  anchor.setAttribute('aria-expanded', 'true');
  place(menu, anchor.getBoundingClientRect());
  menu.firstElementChild?.focus();
}

function moveIn(menu, event) {
  const all = [...menu.children];
  const at = all.indexOf(document.activeElement);
  const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: -1 }[event.key];
  if (event.key === 'Tab') menu.hidePopover();
  if (to === undefined) return;
  event.preventDefault();
  event.stopPropagation();
  all.at(to % all.length)?.focus();
}

/** Below the anchor, or above it if there is no room; never outside of the window. */
function place(menu, anchor) {
  const gap = 4;
  const { offsetWidth: width, offsetHeight: height } = menu;
  const isBelow = anchor.bottom + gap + height <= innerHeight;
  const top = isBelow ? anchor.bottom + gap : Math.max(gap, anchor.top - gap - height);
  const left = Math.min(Math.max(gap, anchor.right - width), innerWidth - width - gap);
  menu.style.top = `${top}px`;
  menu.style.left = `${left}px`;
}

const ears = el('div', { class: 'for-ears', aria: { live: 'polite' } });
const notice = el('div', { class: 'notice', popover: 'manual', aria: { hidden: true } });
let noticeTimer = 0;
document.body.append(ears, notice);

/** Tells something to who listens. */
export function announce(text) {
  ears.replaceChildren(el('p', { textContent: text }));
}

/** Says something for a moment. */
export function say(text, isWrong = false) {
  clearTimeout(noticeTimer);
  notice.replaceChildren(icon(isWrong ? 'alert' : 'check'), el('span', { textContent: text, dir: 'auto' }));
  notice.hidePopover();
  notice.showPopover(); // above a dialog that was opened since
  noticeTimer = setTimeout(() => notice.hidePopover(), isWrong ? 8_000 : 3_000);
  announce(text);
}

/** Does something, and says so if it fails. */
export async function attempt(work) {
  try {
    await work();
    return true;
  } catch (error) {
    say(errorText(error), true);
    return false;
  }
}

/** A box with a label that is on or off. */
export function checkbox(label, isOn, changed, classes = '') {
  const box = el('input', { type: 'checkbox', checked: isOn, on: { change: () => changed(box.checked, box) } });
  return el('label', { class: `check ${classes}` }, box, el('span', { textContent: label }));
}
