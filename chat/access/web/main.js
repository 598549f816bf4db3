// Where the client begins: shows the first page or the user's, and keeps the tabs of this browser in step.

import { App } from './app.js';
import { Chat } from './chat.js';
import { tokenOf } from './dialog-group.js';
import { Outbox } from './outbox.js';
import { KEY, LoggedOut, Session } from './session.js';
import { openStore } from './shared.js';
import { strings } from './strings.js';
import { showLogin } from './view-login.js';

/** Why the page was loaded anew, for the next one. */
const NOTE = 'kvchat.note';

const root = document.getElementById('app');
const store = openStore();
const session = new Session(store);
let isLeaving = false;
const note = takeNote();

/** Logged out: nothing of the account stays in this page. */
function leave(note) {
  if (isLeaving) return;
  isLeaving = true;
  try {
    sessionStorage.setItem(NOTE, note);
  } catch {
    // Without it the first page says nothing.
  }
  location.replace(location.pathname);
}

function takeNote() {
  try {
    const note = sessionStorage.getItem(NOTE);
    sessionStorage.removeItem(NOTE);
    return { left: strings.login.left, deleted: strings.login.deleted, loggedOut: strings.login.loggedOut }[note] ?? '';
  } catch {
    return '';
  }
}

/** An invitation is taken out of the address: it is for this user, and not for the history. */
function takeInvitation() {
  const token = tokenOf(location.hash);
  if (token) history.replaceState(null, '', location.pathname);
  return token;
}

let invitation = takeInvitation();

function begin() {
  const user = session.user();
  if (user) run(user);
  else showLogin(root, session, { note: invitation ? strings.login.joinFirst : note, done: begin });
}

async function token(refused) {
  try {
    return await session.accessToken(refused);
  } catch (error) {
    if (error instanceof LoggedOut) leave('loggedOut');
    throw error;
  }
}

function run(user) {
  const scheme = location.protocol === 'https:' ? 'wss:' : 'ws:';
  const tabs = new BroadcastChannel('kvchat');
  const changed = () => tabs.postMessage(user);
  const chat = new Chat({ user, url: `${scheme}//${location.host}/v1/ws`, store, token, changed });
  tabs.onmessage = () => chat.sync();
  const app = new App(chat, session, leave);
  app.start(root);
  listen(chat, app, user);
  chat.connection.start();
  join(app);
}

function join(app) {
  if (invitation) app.join(invitation);
  invitation = null;
}

function listen(chat, app, user) {
  const connection = chat.connection;
  addEventListener('online', () => connection.now());
  addEventListener('offline', () => connection.status.phase === 'ready' && connection.now());
  addEventListener('pageshow', () => connection.now());
  document.addEventListener('visibilitychange', () => document.visibilityState === 'visible' && connection.now());
  addEventListener('hashchange', () => {
    invitation ??= takeInvitation();
    join(app);
  });
  addEventListener('storage', ({ key }) => {
    // null: all was taken away.
    if ((key === KEY || key === null) && session.user() !== user) leave('left');
    else if (key !== null && Outbox.owns(key)) chat.deliver();
  });
}

// Another tab has logged in while this one shows the first page.
addEventListener('storage', ({ key }) => {
  if (key === KEY && session.user() && !root.querySelector('.app')) begin();
});

begin();
