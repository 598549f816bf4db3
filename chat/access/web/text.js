// Texts and times as people read them: pure functions.

import { strings } from './strings.js';

const LINK = /https?:\/\/[^\s<>"\u2028\u2029]+/gi;
/** What ends a sentence, and not an address. */
const AFTER = /[.,;:!?'"\u00bb\u201d\u2019)\]}]+$/;

/**
 * A text in parts, of which some have an address: `{text, href?}`. Only http and https are addresses, and the parts joined are the text.
 * @param {string} text
 */
export function linked(text) {
  const parts = [];
  let at = 0;
  for (const match of text.matchAll(LINK)) {
    const found = trimmed(match[0]);
    const href = address(found);
    if (!href) continue;
    if (match.index > at) parts.push({ text: text.slice(at, match.index) });
    parts.push({ text: found, href });
    at = match.index + found.length;
  }
  if (at < text.length) parts.push({ text: text.slice(at) });
  return parts;
}

/** An address without the sentence around it. A bracket that it opens is its own. */
function trimmed(found) {
  const cut = found.replace(AFTER, '');
  const rest = found.slice(cut.length);
  const isOpen = cut.split('(').length > cut.split(')').length;
  return isOpen && rest.startsWith(')') ? `${cut})` : cut;
}

function address(text) {
  if (!URL.canParse(text)) return null;
  const url = new URL(text);
  return url.protocol === 'http:' || url.protocol === 'https:' ? url.href : null;
}

/** The day of a time, to compare: local midnight. */
export function dayOf(ms) {
  return new Date(ms).setHours(0, 0, 0, 0);
}

/** Whole days from one time to another, by the calendar. */
function daysBetween(ms, nowMs) {
  return Math.round((dayOf(nowMs) - dayOf(ms)) / 86_400_000);
}

const format = (options) => new Intl.DateTimeFormat(strings.locale, options);
const TIME = format({ hour: '2-digit', minute: '2-digit' });
const WEEKDAY = format({ weekday: 'long' });
const SHORT_WEEKDAY = format({ weekday: 'short' });
const DAY = format({ day: 'numeric', month: 'long', year: 'numeric' });
const SHORT_DAY = format({ day: 'numeric', month: 'short' });
const SHORT_DATE = format({ day: 'numeric', month: 'short', year: '2-digit' });
const WHOLE = format({ dateStyle: 'medium', timeStyle: 'short' });

/** The time of day. */
export function timeText(ms) {
  return TIME.format(ms);
}

/** A day, between messages. */
export function dayText(ms, nowMs) {
  const days = daysBetween(ms, nowMs);
  if (days === 0) return strings.today;
  if (days === 1) return strings.yesterday;
  return days > 1 && days < 7 ? WEEKDAY.format(ms) : DAY.format(ms);
}

/** A time in few letters, for lists. */
export function shortText(ms, nowMs) {
  const days = daysBetween(ms, nowMs);
  if (days <= 0) return TIME.format(ms);
  if (days === 1) return strings.yesterday;
  if (days < 7) return SHORT_WEEKDAY.format(ms);
  return days < 300 ? SHORT_DAY.format(ms) : SHORT_DATE.format(ms);
}

/** Day and time. */
export function wholeText(ms) {
  return WHOLE.format(ms);
}

/** A size of a file. */
export function bytesText(bytes) {
  if (bytes < 1024) return `${bytes} B`;
  const isSmall = bytes < 1024 * 1024;
  const value = isSmall ? bytes / 1024 : bytes / (1024 * 1024);
  return `${value.toLocaleString(strings.locale, { maximumFractionDigits: 1 })} ${isSmall ? 'KiB' : 'MiB'}`;
}

/** A length of a recording: minutes and seconds. */
export function durationText(ms) {
  const seconds = Math.round(ms / 1000);
  return `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, '0')}`;
}

/** The first letters of a name, for an avatar. */
export function initials(name) {
  const words = name.split(/[\s._-]+/u).filter((word) => /[\p{L}\p{N}]/u.test(word));
  const letters = words.map((word) => [...word].find((letter) => /[\p{L}\p{N}]/u.test(letter)));
  const shown = letters.length > 1 ? [letters[0], letters.at(-1)] : letters;
  return shown.join('').toLocaleUpperCase(strings.locale) || '?';
}

/** Colours of avatars. */
export const HUES = 12;

/** A colour for an id: neighbours get different ones. */
export function hueOf(id) {
  let hash = 2166136261;
  for (const letter of id) hash = Math.imul(hash ^ letter.codePointAt(0), 16777619);
  return ((hash ^ (hash >>> 15)) >>> 0) % HUES;
}
