// Making and changing elements. Texts become text nodes, never markup.

import { icon } from './icons.js';
import { hueOf, initials } from './text.js';

/**
 * An element.
 * @param {string} tag
 * @param {object} [props] `class`, `role`, `aria` (names without the prefix), `data`, `on` (handlers); all others are properties of the element
 * @param {...(Node | string | null | undefined | false)} children what is no node and no text is left out
 */
export function el(tag, props = {}, ...children) {
  const { class: classes, role, aria = {}, data = {}, on = {}, ...rest } = props;
  const element = document.createElement(tag);
  if (classes) element.className = classes;
  if (role) element.setAttribute('role', role);
  for (const [name, value] of Object.entries(aria)) element.setAttribute(`aria-${name}`, String(value));
  Object.assign(element.dataset, data);
  for (const [name, handler] of Object.entries(on)) element.addEventListener(name, handler);
  Object.assign(element, rest);
  element.append(...present(children));
  return element;
}

/** What is something of children, in order. */
export function present(children) {
  return children.flat().filter((child) => child !== null && child !== undefined && child !== false);
}

/** A name or title: its direction stays its own. */
export function name(text, classes = '') {
  return el('bdi', { class: classes, textContent: text });
}

/** A button with a picture only, and a label for who does not see it. */
export function iconButton(picture, label, run, classes = '') {
  const props = { class: `icon-button ${classes}`, type: 'button', title: label, aria: { label }, on: { click: run } };
  return el('button', props, icon(picture));
}

/** A button with a text. */
export function button(text, run, classes = '') {
  return el('button', { class: `button ${classes}`, type: 'button', textContent: text, on: { click: run } });
}

/** The picture of a user or group: the first letters of the name, on a colour of the id. Who reads the name needs no picture. */
export function avatar(id, shown, classes = '') {
  return el('span', { class: `avatar hue-${hueOf(id)} ${classes}`, aria: { hidden: true }, textContent: initials(shown) });
}

/** A text for those who listen. */
export function hidden(text) {
  return el('span', { class: 'for-ears', textContent: text });
}

const rows = new WeakMap();

/**
 * Makes the children of `parent` those of `items`: what is there already stays, and keeps its focus.
 * @template T
 * @param {Element} parent
 * @param {T[]} items
 * @param {(item: T) => string} keyOf
 * @param {(item: T) => HTMLElement} make
 * @param {(element: HTMLElement, item: T) => void} update is called for all of them
 */
export function keyed(parent, items, keyOf, make, update) {
  const before = rows.get(parent) ?? new Map();
  const focused = parent.contains(document.activeElement) ? document.activeElement : null;
  const after = new Map();
  let next = parent.firstChild;
  for (const item of items) {
    const key = keyOf(item);
    const element = before.get(key) ?? make(item);
    after.set(key, element);
    update(element, item);
    if (element === next) next = next.nextSibling;
    else parent.insertBefore(element, next);
  }
  for (const [key, element] of before) {
    if (!after.has(key)) element.remove();
  }
  rows.set(parent, after);
  if (focused?.isConnected && document.activeElement !== focused) focused.focus({ preventScroll: true });
}

/** Calls `make` when what it depends on has changed, and puts what it gives into the element. */
export function refresh(element, signature, make) {
  const text = JSON.stringify(signature);
  if (element.kvSignature === text) return;
  element.kvSignature = text;
  const hadFocus = element.contains(document.activeElement) && document.activeElement !== element;
  const label = hadFocus ? document.activeElement.getAttribute('aria-label') : null;
  element.replaceChildren(...present(make()));
  if (!hadFocus) return;
  const again = [...element.querySelectorAll('button')].find((other) => other.getAttribute('aria-label') === label);
  (again ?? element).focus({ preventScroll: true });
}

/**
 * Lets arrow keys move through the items of a list, of which one is reached by the tab key.
 * @param {Element} list
 * @param {string} selector of the items
 */
export function arrows(list, selector) {
  const items = () => [...list.querySelectorAll(selector)].filter((item) => item.offsetParent !== null);
  list.addEventListener('focusin', (event) => {
    const item = event.target.closest(selector);
    if (!item) return;
    for (const other of items()) other.tabIndex = other === item ? 0 : -1;
  });
  list.addEventListener('keydown', (event) => {
    const all = items();
    const at = all.indexOf(event.target.closest(selector));
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: all.length - 1 }[event.key];
    if (at < 0 || to === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.target.matches('input:not([type=checkbox]), textarea, select')) return;
    event.preventDefault();
    all[Math.max(0, Math.min(all.length - 1, to))]?.focus();
  });
}

/** One item of a list can be reached by the tab key: after its items have changed. */
export function reachable(list, selector, preferLast = false) {
  const all = [...list.querySelectorAll(selector)].filter((item) => item.offsetParent !== null);
  if (all.length === 0 || all.some((item) => item.tabIndex === 0)) return;
  all.at(preferLast ? -1 : 0).tabIndex = 0;
}
