// One row of the list of messages, and what can be done with a message.

import * as actions from './actions.js';
import { ask, attempt, openDialog, openMenu, say } from './dialogs.js';
import { avatar, el, hidden, iconButton, name } from './dom.js';
import { icon } from './icons.js';
import { mediumView } from './media-view.js';
import { nameOf, roleOf } from './select.js';
import { errorText, strings } from './strings.js';
import { linked, timeText, wholeText } from './text.js';
import { isGroup } from './wire.js';

/** Messages can be changed for so long. */
const CHANGE_MS = 24 * 3600 * 1000;
const STATUS_ICONS = { sending: 'clock', sent: 'check', delivered: 'checks', read: 'checks', failed: 'alert' };

/** An empty row: what is in it comes with `rowContent`. */
export function makeRow(row) {
  const isFocusable = row.kind === 'message';
  return el('li', { class: `row row-${row.kind}`, data: { key: row.key }, ...(isFocusable ? { tabIndex: -1 } : {}) });
}

/**
 * What is in a row.
 * @param {object} row see rows.js
 * @param {object} deps `{chat, conversation, toQuoted, toComposer, toForward}`
 */
export function rowContent(row, deps) {
  const text = {
    start: () => strings.chat.start,
    day: () => row.text,
    unread: () => strings.chat.unread,
    gap: () => strings.chat.gap,
    note: () => row.text,
  }[row.kind];
  return text ? [el('span', { class: 'pill', textContent: text(), dir: 'auto' })] : messageContent(row, deps);
}

/** Classes of a row, which change with what it shows. */
export function rowClasses(row) {
  if (row.kind !== 'message') return `row row-${row.kind}`;
  const classes = ['row', 'row-message', row.isOwn ? 'own' : 'other'];
  if (row.isFirst) classes.push('first');
  if (row.status === 'failed') classes.push('failed');
  if (row.body === null) classes.push('recalled');
  return classes.join(' ');
}

function messageContent(row, deps) {
  const { body } = row;
  const said =
    body === null || body.kind === 'unknown'
      ? el('p', { class: 'text faint', textContent: row.line, dir: 'auto' })
      : bodyView(row, deps);
  const bubble = el(
    'div',
    { class: 'bubble' },
    row.isNamed ? name(row.name, 'sender') : hidden(row.isOwn ? `${strings.you}: ` : `${row.name}: `),
    row.origin && el('p', { class: 'origin', textContent: strings.message.origin(row.origin), dir: 'auto' }),
    row.quote && quoteView(row.quote, deps),
    said,
    metaView(row),
  );
  const picture =
    row.isGroup && !row.isOwn
      ? row.isFirst
        ? avatar(row.sender, row.name, 'small')
        : el('span', { class: 'avatar small none' })
      : null;
  const more =
    row.seq > 0 &&
    body !== null &&
    iconButton('more', strings.message.actions, (event) => openActions(event.currentTarget, row, deps), 'row-more');
  if (more) more.setAttribute('aria-haspopup', 'menu');
  return [picture, el('div', { class: 'bubble-box' }, bubble, row.status === 'failed' && failedView(row, deps)), more];
}

function bodyView(row, { conversation }) {
  if (row.body.kind === 'media') return mediumView(row.body.media, conversation, row.seq);
  return el('p', { class: 'text', dir: 'auto' }, ...linkedView(row.body.text));
}

/** A text with its addresses as links. */
export function linkedView(text) {
  return linked(text).map((part) =>
    part.href
      ? el('a', { href: part.href, target: '_blank', rel: 'noopener noreferrer nofollow', dir: 'ltr', textContent: part.text })
      : part.text,
  );
}

function quoteView(quote, { toQuoted }) {
  const content = [
    quote.name && name(quote.name, 'quote-name'),
    el('span', { class: 'quote-line', textContent: quote.line, dir: 'auto' }),
  ];
  if (quote.seq === 0) return el('div', { class: 'quote' }, ...content);
  return el(
    'button',
    { class: 'quote', type: 'button', title: strings.message.toQuoted, on: { click: () => toQuoted(quote.seq) } },
    ...content,
  );
}

function metaView(row) {
  const status = row.status && strings.message[row.status];
  return el(
    'div',
    { class: 'meta' },
    row.editedMs > 0 &&
      el('span', { textContent: strings.message.edited, title: strings.message.editedAt(wholeText(row.editedMs)) }),
    el('time', { dateTime: new Date(row.atMs).toISOString(), textContent: timeText(row.atMs), title: wholeText(row.atMs) }),
    status && el('span', { class: `status status-${row.status}`, title: status }, icon(STATUS_ICONS[row.status]), hidden(status)),
  );
}

function failedView(row, { chat }) {
  const { code, message } = row.failed;
  const why = code === 'PERHAPS' ? strings.message.perhaps : errorText({ code, message });
  const retry = () => {
    chat.outbox.retry(row.entry);
    chat.deliver();
  };
  const again = el('button', { class: 'link', type: 'button', textContent: strings.message.again, on: { click: retry } });
  const discard = el('button', {
    class: 'link',
    type: 'button',
    textContent: strings.message.discard,
    on: { click: () => chat.outbox.discard(row.entry) },
  });
  return el(
    'div',
    { class: 'why' },
    el('span', { textContent: `${strings.message.failed}. ${why}` }),
    code !== 'REUSED' && again,
    discard,
  );
}

/** The menu of a message. */
export function openActions(anchor, row, deps) {
  const { chat, conversation, toComposer, toForward } = deps;
  if (row.seq === 0 || row.body === null || row.body.kind === 'unknown') return;
  const isText = row.body.kind === 'text';
  const isNew = Date.now() - row.atMs < CHANGE_MS;
  const isAdmin = isGroup(conversation) && ['ROLE_OWNER', 'ROLE_ADMIN'].includes(roleOf(chat.state, conversation));
  const texts = strings.message;
  openMenu(anchor, [
    { label: texts.reply, run: () => toComposer({ replyTo: row }) },
    isText && { label: texts.copy, run: () => copy(row.body.text) },
    { label: texts.forward, run: () => toForward(row) },
    {
      label: texts.keep,
      run: () => attempt(() => actions.keep(chat, conversation, row.seq, true)).then((isDone) => isDone && say(texts.keepDone)),
    },
    row.isOwn && isGroup(conversation) && { label: texts.readers, run: () => showReaders(chat, conversation, row.seq) },
    row.isOwn && isText && isNew && !row.body.origin && { label: texts.edit, run: () => toComposer({ edit: row }) },
    ((row.isOwn && isNew) || isAdmin) && { label: texts.recall, danger: true, run: () => recall(chat, conversation, row.seq) },
  ]);
}

async function recall(chat, conversation, seq) {
  if (await ask(strings.message.recallAsk, strings.message.recall)) {
    await attempt(() => actions.recall(chat, conversation, seq));
  }
}

function copy(text) {
  attempt(async () => {
    await navigator.clipboard.writeText(text);
    say(strings.message.copied);
  });
}

async function showReaders(chat, conversation, seq) {
  await attempt(async () => {
    const found = await actions.receipts(chat, conversation);
    const readers = found.filter((receipt) => receipt.seq >= seq && receipt.user !== chat.state.me);
    const rows = readers.map(({ user }) => {
      const shown = nameOf(chat.state, user);
      return el('li', { class: 'person' }, avatar(user, shown, 'small'), name(shown));
    });
    openDialog(
      strings.message.readersTitle,
      () => [rows.length > 0 ? el('ul', { class: 'plain' }, ...rows) : el('p', { textContent: strings.message.noReaders })],
      { classes: 'small' },
    );
  });
}
