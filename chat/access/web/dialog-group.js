// Dialogs about groups: making one, its details and members, inviting, joining.

import * as actions from './actions.js';
import { optionButtons } from './dialog-contact.js';
import { peoplePicker } from './dialog-pick.js';
import { ask, attempt, checkbox, field, form, openDialog, openMenu } from './dialogs.js';
import { avatar, button, el, iconButton, keyed, name, refresh } from './dom.js';
import { nameOf, roleOf, titleOf } from './select.js';
import { isolate, strings } from './strings.js';
import { wholeText } from './text.js';
import { fromUrlForm, toUrlForm } from './wire.js';

const texts = strings.groupDialog;
/** An invitation is good for so long. */
const INVITATION_S = 7 * 24 * 3600;
const MUTE_MS = 3600 * 1000;
/** Roles in ascending order. */
const RANKS = { ROLE_MEMBER: 1, ROLE_ADMIN: 2, ROLE_OWNER: 3 };

/** Makes a group. */
export function openCreate(chat, app) {
  openDialog(texts.create, (close) => {
    const { box, input } = field(texts.title, { first: true, maxLength: 100 });
    const { element, chosen } = peoplePicker(chat, () => true);
    const clientId = actions.newGroupId();
    const run = async () => {
      const conversation = await actions.createGroup(chat, clientId, input.value.trim(), [...chosen]);
      close();
      app.open(conversation);
    };
    return [form({ label: texts.createButton, run }, box, element)];
  });
}

/** The link with which others may join. */
function linkOf(token) {
  return `${location.origin}${location.pathname}#join=${toUrlForm(token)}`;
}

/**
 * The token of an invitation link, or null.
 * @param {string} text a link, or its part after `#`
 */
export function tokenOf(text) {
  const match = /#join=([^&#\s]+)/.exec(text);
  return match ? fromUrlForm(match[1]) : null;
}

/**
 * Joins a group.
 * @param {string | null} token of a link that was opened; null: the user is asked for one
 */
export function openJoin(chat, app, token) {
  openDialog(texts.join, (close) => {
    const { box, input } = field(texts.link, { first: true, type: 'url', autocomplete: 'off', dir: 'ltr' });
    const run = async () => {
      const shown = token ?? tokenOf(input.value);
      if (!shown) throw new Error(texts.badLink);
      const conversation = await actions.join(chat, shown);
      close();
      app.open(conversation);
    };
    const explain = (error) => (error.code === 'FORBIDDEN' ? error.message : null);
    return [
      token && el('p', { textContent: texts.joinLead }),
      form({ label: texts.joinButton, run, explain }, ...(token ? [] : [box])),
    ];
  });
}

/** A group's details and members. */
export function openGroup(chat, app, conversation) {
  let stop = () => {};
  openDialog(
    titleOf(chat.state, conversation),
    (close) => {
      const parts = new Details(chat, app, conversation, close);
      parts.update();
      stop = chat.subscribe(() => parts.update());
      return parts.elements;
    },
    { closed: () => stop() },
  );
}

class Details {
  #chat;
  #conversation;
  #close;
  #app;

  constructor(chat, app, conversation, close) {
    this.#chat = chat;
    this.#app = app;
    this.#conversation = conversation;
    this.#close = close;
    const { box, input } = field(texts.title, { value: titleOf(chat.state, conversation), maxLength: 100 });
    const run = async () => {
      await this.#change({ rename: input.value.trim() });
      return strings.profile.saved;
    };
    this.rename = form({ label: texts.rename, run, classes: '' }, box);
    this.muteAll = checkbox(texts.muteAll, false, (isOn) => attempt(() => this.#change({ muteAll: isOn })));
    this.heading = el('h3', { textContent: texts.members });
    this.loading = el('p', { class: 'hint', textContent: texts.loading });
    this.members = el('ul', { class: 'plain people' });
    this.own = el('div', { class: 'stack' });
    this.options = el('div', { class: 'stack' });
    this.elements = [this.rename, this.own, this.muteAll, this.heading, this.loading, this.members, this.options];
  }

  #change(change) {
    return actions.changeGroup(this.#chat, this.#conversation, change);
  }

  update() {
    const { state } = this.#chat;
    const group = state.groups.get(this.#conversation);
    const view = state.conversations.get(this.#conversation);
    const role = roleOf(state, this.#conversation);
    const isMember = Boolean(role) && !view?.left && !group?.disbanded;
    const isAdmin = isMember && RANKS[role] > 1;
    this.rename.hidden = !isAdmin;
    this.muteAll.hidden = !isAdmin;
    this.muteAll.querySelector('input').checked = group?.muted ?? false;
    this.loading.hidden = Boolean(group) || Boolean(view?.left);
    this.heading.textContent = group ? `${texts.members} (${group.members.length})` : texts.members;
    refresh(this.own, { isMember }, () =>
      isMember ? [button(texts.add, () => this.#add()), button(texts.invite, () => this.#invite())] : [],
    );
    const { muted, pinned } = view ?? {};
    refresh(this.options, { muted, pinned, isMember, isOwner: role === 'ROLE_OWNER' }, () => [
      ...optionButtons(this.#chat, this.#conversation),
      isMember && button(texts.leave, () => this.#leave(role), 'danger'),
      isMember && role === 'ROLE_OWNER' && button(texts.disband, () => this.#disband(), 'danger'),
    ]);
    this.#drawMembers(state, group, role, isMember);
  }

  #drawMembers(state, group, role, isMember) {
    const members = (group?.members ?? []).map((member) => ({ ...member, shown: nameOf(state, member.user) }));
    members.sort((a, b) => RANKS[b.role] - RANKS[a.role] || a.shown.localeCompare(b.shown));
    keyed(
      this.members,
      members,
      (member) => member.user,
      () => el('li', { class: 'person' }),
      (element, member) => refresh(element, { member, role, isMember }, () => this.#memberView(member, role, isMember)),
    );
  }

  #memberView(member, role, isMember) {
    const isMe = member.user === this.#chat.state.me;
    const isMuted = member.mutedUntilMs > Date.now();
    const facts = [
      member.role !== 'ROLE_MEMBER' && texts.role[member.role],
      isMuted && texts.mutedUntil(wholeText(member.mutedUntilMs)),
    ];
    const label = texts.actionsOf(isolate(member.shown));
    const more = iconButton('more', label, () => openMenu(more, this.#memberMenu(member, role, isMuted)));
    more.setAttribute('aria-haspopup', 'menu');
    return [
      avatar(member.user, member.shown, 'small'),
      el(
        'div',
        { class: 'person-text' },
        name(isMe ? `${member.shown} (${strings.you})` : member.shown),
        el('span', { class: 'hint', textContent: facts.filter(Boolean).join(', ') }),
      ),
      isMember && !isMe && more,
    ];
  }

  #memberMenu({ user, role: theirs, shown }, mine, isMuted) {
    const isAbove = RANKS[mine] > 1 && RANKS[mine] > RANKS[theirs];
    const isOwner = mine === 'ROLE_OWNER';
    const run = (change) => () => attempt(() => this.#change(change));
    const asked = (question, yes, change) => async () => {
      if (await ask(question, yes)) await run(change)();
    };
    const setRole = (role) => ({ setRole: { user, role } });
    const label = isolate(shown);
    return [
      { label: strings.contact.title, run: () => this.#app.contact(user) },
      isOwner && theirs === 'ROLE_MEMBER' && { label: texts.makeAdmin, run: run(setRole('ROLE_ADMIN')) },
      isOwner && theirs === 'ROLE_ADMIN' && { label: texts.makeMember, run: run(setRole('ROLE_MEMBER')) },
      isOwner && { label: texts.makeOwner, run: asked(texts.makeOwnerAsk(label), texts.makeOwner, setRole('ROLE_OWNER')) },
      isAbove && !isMuted && { label: texts.mute, run: () => run({ mute: { user, untilMs: String(Date.now() + MUTE_MS) } })() },
      isAbove && isMuted && { label: texts.unmute, run: run({ mute: { user, untilMs: '0' } }) },
      isAbove && { label: texts.remove, danger: true, run: asked(texts.removeAsk(label), texts.remove, { remove: user }) },
    ];
  }

  #add() {
    const members = new Set(this.#chat.state.groups.get(this.#conversation)?.members.map((member) => member.user));
    openDialog(texts.add, (close) => {
      const { element, chosen } = peoplePicker(this.#chat, (user) => !members.has(user));
      const run = async () => {
        if (chosen.size > 0) await this.#change({ add: { users: [...chosen] } });
        close();
      };
      return [form({ label: texts.addButton, run }, element)];
    });
  }

  #invite() {
    attempt(async () => {
      const { token, expiresMs } = await actions.invite(this.#chat, this.#conversation, INVITATION_S);
      const link = linkOf(token);
      openDialog(texts.invite, () => {
        const { box, input } = field(texts.link, { value: link, readOnly: true, first: true, dir: 'ltr' });
        input.addEventListener('focus', () => input.select());
        const run = async () => {
          await navigator.clipboard.writeText(link);
          return texts.copied;
        };
        return [el('p', { textContent: texts.inviteLead(wholeText(expiresMs)) }), form({ label: texts.copyLink, run }, box)];
      });
    });
  }

  async #leave(role) {
    if (!(await ask(role === 'ROLE_OWNER' ? texts.leaveOwnerAsk : texts.leaveAsk, texts.leave))) return;
    if (await attempt(() => this.#change({ leave: true }))) this.#close();
  }

  async #disband() {
    if (!(await ask(texts.disbandAsk, texts.disband))) return;
    if (await attempt(() => this.#change({ disband: true }))) this.#close();
  }
}
