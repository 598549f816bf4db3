// The dialog with messages that the user keeps: copies, which outlive the conversation.

import * as actions from './actions.js';
import { attempt, openDialog } from './dialogs.js';
import { button, el } from './dom.js';
import { lineOf, personOf, titleOf } from './select.js';
import { isolate, strings } from './strings.js';
import { wholeText } from './text.js';
import { linkedView } from './view-message.js';
import { message as toMessage } from './wire.js';

const texts = strings.kept;

/** @param {import('./chat.js').Chat} chat */
export function openKept(chat) {
  openDialog(texts.title, () => {
    const list = el('ul', { class: 'plain kept' });
    const none = el('p', { class: 'hint', textContent: texts.none, hidden: true });
    let next = '';
    const load = () =>
      attempt(async () => {
        const page = await actions.listKept(chat, next);
        next = page.next;
        for (const one of page.kept) list.append(keptView(chat, one, () => (none.hidden = list.children.length > 0)));
        none.hidden = list.children.length > 0;
        more.hidden = next === '';
      });
    const more = button(texts.more, load);
    more.hidden = true;
    load();
    return [list, none, more];
  });
}

function keptView(chat, { conversation, message: json }, dropped) {
  const message = toMessage(json ?? {});
  const { state } = chat;
  const from = texts.from(personOf(state, message.sender), isolate(titleOf(state, conversation)), wholeText(message.atMs));
  const isText = message.body?.kind === 'text';
  const said = isText ? linkedView(message.body.text) : [lineOf(state, message)];
  const drop = async () => {
    if (!(await attempt(() => actions.keep(chat, conversation, message.seq, false)))) return;
    item.remove();
    dropped();
  };
  const item = el(
    'li',
    { class: 'kept-item' },
    el('p', { class: 'hint', textContent: from }),
    el('p', { class: 'text', dir: 'auto' }, ...said),
    button(texts.drop, drop, 'small'),
  );
  return item;
}
