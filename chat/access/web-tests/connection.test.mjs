// Modules of the web client that send: the connection, the tokens, the outbox, syncs. The network is a fake.

import assert from 'node:assert/strict';
import { afterEach, beforeEach, describe, it, mock } from 'node:test';

import { Outbox } from '../web/outbox.js';
import { ChatError, Connection, waitBefore } from '../web/protocol.js';
import { deviceLabel, KEY, LoggedOut, Session } from '../web/session.js';
import { memoryStore } from '../web/shared.js';
import { Syncer } from '../web/sync.js';

/** Lets everything run that waits for nothing but its turn. */
const settle = async () => {
  for (let turn = 0; turn < 20; turn += 1) await new Promise((resolve) => setImmediate(resolve));
};
const sockets = [];

class FakeSocket {
  sent = [];
  isClosed = false;

  constructor(url, protocols) {
    Object.assign(this, { url, protocols });
    sockets.push(this);
  }

  send(text) {
    this.sent.push(JSON.parse(text));
  }

  close() {
    this.isClosed = true;
  }

  hears(frame) {
    this.onmessage({ data: JSON.stringify(frame) });
  }

  greets() {
    this.onopen();
    this.hears({ id: this.sent[0].id, ready: { session: 'S', heartbeatMs: 30_000, maxRequests: 2 } });
  }
}

describe('waiting', () => {
  it('grows from 1 to 60 seconds, and is random', () => {
    assert.equal(waitBefore(0, 0), 1_000);
    assert.equal(waitBefore(99, 1), 60_000);
    for (let attempt = 0; attempt < 20; attempt += 1) {
      const [least, most] = [waitBefore(attempt, 0), waitBefore(attempt, 1)];
      assert.ok(least >= 1_000 && most <= 60_000 && most > least);
      assert.ok(waitBefore(attempt + 1, 0) >= least);
    }
  });
});

describe('connection', () => {
  let connection;
  let told;

  beforeEach(() => {
    mock.timers.enable({ apis: ['setTimeout', 'Date'] });
    globalThis.WebSocket = FakeSocket;
    sockets.length = 0;
    told = [];
    const on = Object.fromEntries(['ready', 'lost', 'push', 'changed'].map((name) => [name, () => told.push(name)]));
    connection = new Connection('ws://x/v1/ws', async (refused) => (refused ? `after ${refused}` : 'T'), on);
    connection.start();
  });

  afterEach(() => {
    connection.stop();
    mock.timers.reset();
  });

  it('greets, asks, and is answered in any order', async () => {
    await settle();
    assert.deepEqual(sockets[0].protocols, ['kvchat.v1+json']);
    sockets[0].greets();
    assert.deepEqual(sockets[0].sent[0].hello, { version: 1, accessToken: 'T' });
    const answers = [1, 2, 3].map((n) => connection.request({ findUser: { name: `n${n}` } }));
    assert.equal(sockets[0].sent.length, 3, 'no more than two at a time');
    const [, first, second] = sockets[0].sent;
    sockets[0].hears({ id: second.id, reply: { done: {} } });
    sockets[0].hears({ id: first.id, error: { code: 'NOT_FOUND', message: 'no' } });
    await assert.rejects(answers[0], { code: 'NOT_FOUND', message: 'no' });
    assert.deepEqual(await answers[1], { done: {} });
    assert.equal(sockets[0].sent[3].request.findUser.name, 'n3');
    sockets[0].hears({ id: sockets[0].sent[3].id, reply: { users: {} } });
    assert.deepEqual(await answers[2], { users: {} });
    sockets[0].hears({ push: { conversation: 'd-1-2' } });
    assert.deepEqual(told, ['ready', 'push']);
  });

  it('comes back with its session, and what was not answered is lost', async () => {
    await settle();
    sockets[0].greets();
    const answer = connection.request({ listDevices: {} });
    sockets[0].onclose({});
    await assert.rejects(answer, { code: 'LOST' });
    assert.deepEqual(told, ['ready', 'lost']);
    assert.equal(connection.status.phase, 'waiting');
    assert.equal(connection.status.reason, 'lost');
    mock.timers.tick(2_000);
    await settle();
    assert.equal(sockets.length, 2);
    sockets[1].onopen();
    assert.equal(sockets[1].sent[0].hello.session, 'S');
    await assert.rejects(connection.request({ listDevices: {} }), { code: 'LOST' });
  });

  it('refreshes a refused token at once, and waits when that is refused too', async () => {
    await settle();
    sockets[0].onopen();
    sockets[0].hears({ error: { code: 'UNAUTHENTICATED' } });
    mock.timers.tick(0);
    await settle();
    sockets[1].onopen();
    assert.equal(sockets[1].sent[0].hello.accessToken, 'after T');
    sockets[1].hears({ error: { code: 'UNAUTHENTICATED' } });
    mock.timers.tick(900);
    await settle();
    assert.equal(sockets.length, 2);
  });

  it('goes away when it is told to, and comes back when it was told to', async () => {
    await settle();
    sockets[0].greets();
    sockets[0].hears({ goAway: { reason: 'the server restarts', reconnectAfterMs: 4_000 } });
    assert.ok(sockets[0].isClosed);
    assert.equal(connection.status.reason, 'restarting');
    mock.timers.tick(3_999);
    await settle();
    assert.equal(sockets.length, 1);
    mock.timers.tick(1);
    await settle();
    assert.equal(sockets.length, 2);
  });

  it('pings, and takes a server that does not answer for gone', async () => {
    await settle();
    sockets[0].greets();
    mock.timers.tick(30_000);
    assert.deepEqual(sockets[0].sent.at(-1).ping, {});
    sockets[0].hears({ id: sockets[0].sent.at(-1).id, pong: {} });
    mock.timers.tick(30_000);
    assert.equal(connection.status.phase, 'ready');
    mock.timers.tick(10_000);
    assert.equal(connection.status.phase, 'waiting');
  });

  it('tries at once when the network is back, and what an old socket says is nothing', async () => {
    await settle();
    sockets[0].onclose({});
    assert.equal(connection.status.reason, 'unreachable');
    connection.now();
    await settle();
    assert.equal(sockets.length, 2);
    sockets[0].onclose({});
    assert.equal(connection.status.phase, 'connecting');
  });

  it('ends for good when nobody is logged in', async () => {
    const other = new Connection('ws://x', () => Promise.reject(new LoggedOut()), {});
    other.start();
    await settle();
    assert.equal(other.status.phase, 'stopped');
  });
});

describe('session', () => {
  const tokens = (n) => ({ user: '1', device: 1, accessToken: `A${n}`, accessExpiresMs: '900000', refreshToken: `R${n}` });
  const answers = (status, body) => ({ ok: status === 200, status, json: async () => body });

  it('refreshes once for all who ask, with the newest token', async () => {
    const store = memoryStore();
    const shown = [];
    const fetch = async (path, { body }) => {
      shown.push(JSON.parse(body).refreshToken);
      return answers(200, tokens(2));
    };
    const tabs = [new Session(store, { fetch, now: () => 0 }), new Session(store, { fetch, now: () => 0 })];
    tabs[0].keep(tokens(1));
    assert.equal(await tabs[0].accessToken(null), 'A1');
    assert.deepEqual(await Promise.all(tabs.map((tab) => tab.accessToken('A1'))), ['A2', 'A2']);
    assert.deepEqual(shown, ['R1']);
  });

  it('logs out when the token is refused, and not when another tab has a newer one', async () => {
    const store = memoryStore();
    const refused = answers(401, { code: 'UNAUTHENTICATED', message: 'log in' });
    const session = new Session(store, { fetch: async () => refused, now: () => 0 });
    session.keep(tokens(1));
    await assert.rejects(session.accessToken('A1'), LoggedOut);
    assert.equal(store.get(KEY), null);
    const late = async () => {
      session.keep(tokens(3));
      return refused;
    };
    const other = new Session(store, { fetch: late, now: () => 0 });
    session.keep(tokens(1));
    assert.equal(await other.accessToken('A1'), 'A3');
  });

  it('keeps the tokens when the server is away', async () => {
    const store = memoryStore();
    const session = new Session(store, { fetch: async () => Promise.reject(new TypeError('network')), now: () => 1e9 });
    session.keep(tokens(1));
    await assert.rejects(session.accessToken(null), { code: 'LOST' });
    assert.equal(session.user(), '1');
    store.set(KEY, '{');
    assert.equal(session.user(), null);
  });

  it('names the device', () => {
    const texts = { browser: 'Browser', device: (browser, system) => [browser, system].filter(Boolean).join(' on ') };
    assert.equal(
      deviceLabel('Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0', texts),
      'Firefox on Linux',
    );
    assert.equal(deviceLabel('', texts), 'Browser');
  });
});

describe('outbox', () => {
  let store;
  let now;
  const make = () =>
    new Outbox(
      store,
      '1',
      () => {},
      () => now,
    );
  const write = (outbox, text, conversation = 'd-1-2') =>
    outbox.add({ conversation, body: { kind: 'text', text, origin: null } });
  const texts = (outbox) => outbox.entries().map((entry) => entry.body.text);

  beforeEach(() => {
    store = memoryStore();
    now = 1_000;
    mock.timers.enable({ apis: ['setTimeout'] });
  });

  afterEach(() => mock.timers.reset());

  it('sends one after the other in each conversation, with the same id for each try', async () => {
    const outbox = make();
    for (const text of ['a', 'b', 'c']) write(outbox, text);
    write(outbox, 'x', 'g-1');
    const sent = [];
    let failures = 2;
    const send = async (entry) => {
      sent.push([entry.body.text, entry.clientId]);
      if (entry.body.text === 'a' && failures-- > 0) throw new ChatError('UNKNOWN_OUTCOME');
    };
    outbox.run(send, () => true);
    for (let step = 0; step < 4; step += 1) {
      await settle();
      mock.timers.tick(2_000);
    }
    assert.deepEqual(
      sent.map(([text]) => text),
      ['a', 'x', 'a', 'a', 'b', 'c'],
    );
    assert.equal(new Set(sent.filter(([text]) => text === 'a').map(([, id]) => id)).size, 1);
    assert.deepEqual(texts(outbox), []);
  });

  it('keeps what failed until it is tried again or discarded, and goes on with the rest', async () => {
    const outbox = make();
    write(outbox, 'a');
    write(outbox, 'b');
    let isFriend = false;
    const send = async (entry) => {
      if (entry.body.text === 'a' && !isFriend) throw new ChatError('NOT_CONTACTS', 'no');
    };
    outbox.run(send, () => true);
    await settle();
    const [failed] = make().entries();
    assert.deepEqual([texts(outbox), failed.failed.code], [['a'], 'NOT_CONTACTS']);
    isFriend = true;
    outbox.run(send, () => true);
    await settle();
    assert.deepEqual(texts(outbox), ['a'], 'not by itself');
    outbox.retry(failed.key);
    outbox.run(send, () => true);
    await settle();
    assert.deepEqual(texts(outbox), []);
  });

  it('waits without a connection, and does not send again what may have been sent long ago', async () => {
    const outbox = make();
    write(outbox, 'a');
    let isReady = true;
    const send = async () => {
      isReady = false;
      throw new ChatError('LOST');
    };
    outbox.run(send, () => isReady);
    await settle();
    mock.timers.tick(1_000);
    await settle();
    assert.deepEqual(texts(outbox), ['a']);
    now += 48 * 3600 * 1000;
    make().run(
      async () => assert.fail('sent'),
      () => true,
    );
    await settle();
    assert.equal(outbox.entries()[0].failed.code, 'PERHAPS');
  });

  it('is not that of another user, and settles what has become a message', () => {
    const outbox = make();
    write(outbox, 'a');
    assert.deepEqual(new Outbox(store, '11', () => {}).entries(), []);
    outbox.settle(outbox.entries()[0].clientId);
    assert.deepEqual(store.keys(), []);
  });
});

describe('sync', () => {
  it('is one at a time, goes on as long as there is more, and once more if something changed', async () => {
    const asked = [];
    let snapshot = '';
    let running = 0;
    const replies = [{ snapshot: 'A', more: true }, { snapshot: 'B' }, { snapshot: 'C' }];
    const ask = async ({ sync }) => {
      assert.equal((running += 1), 1);
      asked.push(sync.snapshot);
      await settle();
      running -= 1;
      return { delta: replies.shift() };
    };
    const syncer = new Syncer(
      ask,
      () => snapshot,
      (delta) => {
        snapshot = delta.snapshot;
      },
    );
    const done = syncer.want();
    syncer.want();
    syncer.want();
    await done;
    assert.deepEqual(asked, ['', 'A', 'B']);
    assert.equal(snapshot, 'C');
    assert.equal(syncer.isRunning, false);
  });

  it('ends when the connection breaks, and begins again where it was', async () => {
    let isLost = true;
    const ask = async () => {
      if (isLost) throw new ChatError('LOST');
      return { delta: { snapshot: 'A' } };
    };
    let taken = 0;
    const syncer = new Syncer(
      ask,
      () => '',
      () => {
        taken += 1;
      },
    );
    await syncer.want();
    isLost = false;
    await syncer.want();
    assert.equal(taken, 1);
  });
});
