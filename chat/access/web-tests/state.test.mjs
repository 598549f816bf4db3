// The pure modules of the web client. Run with `node --test chat/access/web-tests/` (node 20.19 or newer; nothing to install).

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import * as log from '../web/log.js';
import * as needs from '../web/needs.js';
import { rowsOf } from '../web/rows.js';
import * as select from '../web/select.js';
import { initial, logOf, reduce } from '../web/state.js';
import { errorText, isolate } from '../web/strings.js';
import { dayText, hueOf, HUES, initials, linked } from '../web/text.js';
import * as wire from '../web/wire.js';

const ME = '2';
const TALK = 'd-1-2';
const GROUP = 'g-7';

const said = (seq, sender = '1', more = {}) => ({
  seq: String(seq),
  sender,
  clientId: `c${seq}`,
  atMs: String(1_000_000 + seq),
  text: { text: `message ${seq}` },
  ...more,
});
const revision = (seq, ofSeq, recalled = false) => ({ seq: String(seq), revision: { ofSeq: String(ofSeq), recalled } });
const view = (headSeq, more = {}) => ({
  conversation: TALK,
  headSeq: String(headSeq),
  headMs: String(1_000_000 + headSeq),
  fromSeq: '1',
  ...more,
});
const friend = { profile: { user: '1', name: 'alice', displayName: 'Alice' }, relation: 'FRIENDS' };
const after = (...events) => events.reduce(reduce, initial(ME));
const delta = (json) => ({ type: 'delta', delta: json });
const push = (message, conversation = TALK) => ({ type: 'push', conversation, message });
const pageOf = (messages, from, to, more = {}) => ({
  type: 'page',
  conversation: TALK,
  from,
  to,
  page: { messages },
  asOf: to,
  ...more,
});
const seqs = (state) => log.since(logOf(state, TALK), 1).map((message) => message.seq);

describe('wire', () => {
  it('fills in what proto3 leaves out', () => {
    const message = wire.message({ seq: '5', system: { what: 'JOINED', actor: '1', subjects: ['2'] } });
    assert.equal(message.sender, wire.NOBODY);
    assert.deepEqual(message.body, { kind: 'system', what: 'JOINED', actor: '1', subjects: ['2'], text: '' });
    assert.equal(wire.message({ seq: '1', recalledBy: '1' }).body, null);
    assert.equal(wire.message({ seq: '1', poll: {} }).body.kind, 'unknown');
    assert.equal(wire.contact({ profile: { user: '1' } }).relation, 'STRANGERS');
  });

  it('names conversations of ids beyond 2^53', () => {
    const [low, high] = ['281474976710657', '18446744073709551615'];
    assert.equal(wire.direct(high, low), `d-${low}-${high}`);
    assert.equal(wire.direct('9', '10'), 'd-9-10');
    assert.equal(wire.peer('d-9-10', '10'), '9');
    assert.equal(wire.peer(GROUP, ME), null);
  });

  it('puts tokens into addresses and back', () => {
    for (const length of [0, 1, 2, 3, 40]) {
      const base64 = wire.toBase64(new Uint8Array(length).fill(251));
      if (length > 0) assert.equal(wire.fromUrlForm(wire.toUrlForm(base64)), base64);
    }
    assert.equal(wire.fromUrlForm('a"b'), null);
    assert.equal(atob(wire.newClientId()).length, 16);
  });
});

describe('log', () => {
  it('keeps ranges apart that do not touch', () => {
    let ranges = [];
    for (const [from, to] of [
      [5, 6],
      [9, 9],
      [1, 2],
      [3, 4],
      [8, 8],
    ])
      ranges = log.withRange(ranges, from, to);
    assert.deepEqual(ranges, [
      [1, 6],
      [8, 9],
    ]);
    assert.deepEqual(log.gaps(ranges, 1, 12), [
      [7, 7],
      [10, 12],
    ]);
    assert.deepEqual(log.gaps(ranges, 2, 6), []);
    assert.deepEqual(log.gaps([], 3, 2), []);
  });

  it('takes the newest form of a message whatever comes last', () => {
    const old = wire.message(said(1));
    const edited = wire.message(said(1, '1', { edits: 1, text: { text: 'better' } }));
    const recalled = wire.message({ seq: '1', sender: '1', recalledBy: '1' });
    let messages = log.push(log.push(log.EMPTY, edited), old);
    assert.equal(messages.messages.get(1).body.text, 'better');
    messages = log.push(log.push(messages, recalled), edited);
    assert.equal(messages.messages.get(1).body, null);
  });

  it('is stale until what it has was read after the revision', () => {
    let messages = log.push(log.push(log.EMPTY, wire.message(said(1))), wire.message(revision(2, 1)));
    assert.deepEqual(log.stale(messages), [1]);
    // A page that was read before the revision and comes after it is no help.
    messages = log.take(messages, [wire.message(said(1))], [1, 1], 1);
    assert.deepEqual(log.stale(messages), [1]);
    messages = log.take(messages, [wire.message(said(1, '1', { edits: 1 }))], [1, 1], 2);
    assert.deepEqual(log.stale(messages), []);
  });

  it('drops what is past its retention, and nothing that came later than the page', () => {
    let messages = log.EMPTY;
    for (const seq of [1, 2, 3]) messages = log.push(messages, wire.message(said(seq)));
    messages = log.take(messages, [wire.message(said(2))], [1, 3], 2);
    assert.deepEqual([...messages.messages.keys()].sort(), [2, 3]);
  });
});

describe('state', () => {
  it('takes a sync in parts', () => {
    const state = after(
      delta({
        snapshot: 'A',
        more: true,
        reset: true,
        account: { user: ME, name: 'bob' },
        devices: [{ device: 1, this: true }],
        contacts: [friend],
      }),
      delta({ snapshot: 'B', conversations: [view(2, { unread: '2', messages: [said(1), said(2)] })] }),
    );
    assert.equal(state.snapshot, 'B');
    assert.equal(state.isWhole, true);
    assert.equal(state.devices[0].isThis, true);
    assert.equal(select.titleOf(state, TALK), 'Alice');
    assert.equal(select.unreadOf(state, TALK), 2);
    assert.equal(select.previewOf(state, TALK), 'message 2');
  });

  it('shows the old until what a reset brings is whole', () => {
    const first = after(delta({ snapshot: 'A', contacts: [friend], conversations: [view(1, { messages: [said(1)] })] }));
    const half = reduce(first, delta({ snapshot: 'B', reset: true, more: true, account: { user: ME, name: 'bob' } }));
    assert.equal(half.contacts.size, 1);
    assert.equal(half.snapshot, 'B');
    const whole = reduce(half, delta({ snapshot: 'C', conversations: [view(1)] }));
    assert.equal(whole.contacts.size, 0);
    assert.equal(whole.account.name, 'bob');
    assert.deepEqual(seqs(whole), [1], 'messages outlive a reset');
  });

  it('takes strangers off the list unless they are blocked', () => {
    const stranger = (blocked) => ({ profile: { user: '1', name: 'alice' }, blocked });
    const state = after(delta({ contacts: [friend] }));
    assert.equal(reduce(state, delta({ contacts: [stranger(true)] })).contacts.size, 1);
    assert.equal(reduce(state, delta({ contacts: [stranger(false)] })).contacts.size, 0);
  });

  it('does not change the state that it is given', () => {
    const state = after(delta({ conversations: [view(1, { messages: [said(1)] })] }));
    const before = structuredClone(state);
    reduce(state, push(said(2)));
    reduce(state, delta({ reset: true, contacts: [friend] }));
    assert.deepEqual(structuredClone(state), before);
  });

  it('counts what comes between syncs, and what was read here', () => {
    let state = after(
      delta({ conversations: [view(2, { unread: '1', readSeq: '1', messages: [said(1), said(2)] })] }),
      push(said(3)),
      push(said(4, ME)),
    );
    assert.equal(select.unreadOf(state, TALK), 0, 'who sends has read up to there');
    state = reduce(state, push(said(5)));
    assert.equal(select.unreadOf(state, TALK), 1);
    state = reduce(state, { type: 'read', conversation: TALK, seq: 5 });
    // A view that was on its way when that was read.
    state = reduce(state, delta({ conversations: [view(5, { unread: '4', readSeq: '1' })] }));
    assert.equal(select.unreadOf(state, TALK), 0);
  });

  it('forgets who writes after a while, and when their message comes', () => {
    const typing = { type: 'typing', conversation: TALK, user: '1', nowMs: 0 };
    const state = after(delta({ contacts: [friend] }), typing);
    assert.deepEqual(select.typersOf(state, TALK), [isolate('Alice')]);
    assert.deepEqual(select.typersOf(reduce(state, { type: 'tick', nowMs: 60_000 }), TALK), []);
    assert.deepEqual(select.typersOf(reduce(state, push(said(1))), TALK), []);
  });

  it('says how far the other one is', () => {
    const state = after(
      delta({
        conversations: [
          view(4, { peerReadSeq: '1', peerGotSeq: '3', messages: [said(1, ME), said(2, ME), said(3, ME), said(4, ME)] }),
        ],
      }),
    );
    assert.deepEqual(select.peerMarks(state, TALK), { read: 1, got: 3 });
    assert.deepEqual(select.peerMarks(reduce(state, push(said(5))), TALK), { read: 5, got: 5 }, 'who sends has read up to there');
  });

  it('sorts pinned conversations first and leaves out what is hidden', () => {
    const other = (conversation, headMs, more = {}) => ({
      conversation,
      headSeq: '1',
      headMs: String(headMs),
      fromSeq: '1',
      ...more,
    });
    const state = after(
      delta({
        conversations: [
          other('g-1', 10),
          other('g-2', 30),
          other('g-3', 5, { pinned: true }),
          other('g-4', 40, { fromSeq: '2' }),
        ],
      }),
      push({ ...said(2), atMs: '50' }, 'g-1'),
    );
    assert.deepEqual(
      select.conversationList(state).map((row) => row.id),
      ['g-3', 'g-1', 'g-2'],
    );
  });
});

describe('needs', () => {
  const open = (from) => ({ conversation: TALK, from });

  it('pulls gaps of what is shown and of conversations of two', () => {
    const state = after(delta({ conversations: [view(9, { readSeq: '2', messages: [said(8), said(9)] })] }));
    assert.deepEqual(needs.pulls(state, null), [{ conversation: TALK, from: 3, to: 7 }]);
    const whole = reduce(state, pageOf([said(3), said(6)], 3, 7));
    assert.deepEqual(needs.pulls(whole, null), []);
    assert.deepEqual(needs.pulls(reduce(whole, push(said(12))), open(8)), [{ conversation: TALK, from: 10, to: 11 }]);
  });

  it('tells what has arrived only when all of it has', () => {
    const state = after(delta({ conversations: [view(9, { readSeq: '2', messages: [said(8), said(9)] })] }));
    assert.deepEqual(needs.gotMarks(state), []);
    const whole = reduce(state, pageOf([said(3), said(6)], 3, 7));
    assert.deepEqual(needs.gotMarks(whole), [{ conversation: TALK, seq: 9 }]);
    assert.deepEqual(needs.gotMarks(reduce(whole, { type: 'got', conversation: TALK, seq: 9 })), []);
    const own = after(delta({ conversations: [view(1, { messages: [said(1, ME)] })] }));
    assert.deepEqual(needs.gotMarks(own), [], 'own messages are no news');
  });

  it('begins with what is unread, and goes back through what is over', () => {
    let state = after(delta({ conversations: [view(90, { readSeq: '60', messages: [said(89), said(90)] })] }));
    assert.equal(needs.startOf(state, TALK), 55);
    const first = needs.older(state, TALK, 89, 50);
    assert.deepEqual(first.pull, { conversation: TALK, from: 1, to: 88, backwards: true, limit: 50 });
    state = reduce(
      state,
      pageOf([said(80), said(70)], 1, 88, { backwards: true, page: { messages: [said(80), said(70)], more: true } }),
    );
    assert.deepEqual(needs.older(state, TALK, 89, 1), { from: 80, pull: null });
    assert.deepEqual(needs.older(state, TALK, 80, 50), { from: 70, pull: null });
    assert.equal(needs.older(state, TALK, 70, 50).pull.to, 69);
    state = reduce(state, pageOf([], 1, 69, { backwards: true }));
    assert.deepEqual(needs.older(state, TALK, 70, 50), { from: 1, pull: null });
    assert.deepEqual(needs.older(state, TALK, 1, 50), { from: 1, pull: null });
  });

  it('asks for names and members once', () => {
    const group = view(3, {
      conversation: GROUP,
      version: '4',
      messages: [said(2, '8'), { seq: '3', system: { what: 'LEFT', actor: '9', subjects: ['9'] } }],
    });
    let state = after(delta({ conversations: [group] }));
    const shown = { conversation: GROUP, from: 1 };
    assert.deepEqual(needs.unknownUsers(state, shown).sort(), ['8', '9']);
    state = reduce(state, { type: 'users', asked: ['8', '9'], users: [{ user: '8', name: 'carol' }] });
    assert.deepEqual(needs.unknownUsers(state, shown), []);
    assert.equal(select.nameOf(state, '8'), 'carol');
    assert.deepEqual(needs.changedGroup(state, shown), { conversation: GROUP, version: 4 });
    state = reduce(state, { type: 'groupDenied', conversation: GROUP, version: 4 });
    assert.equal(needs.changedGroup(state, shown), null);
  });

  it('gets everything whatever is lost and in whatever order it comes', () => {
    for (let seed = 1; seed <= 300; seed += 1) checkRun(seed);
  });
});

/** A server with one conversation, and a client that loses pushes and gets answers late. */
function checkRun(seed) {
  let x = seed;
  const random = (below) => {
    x = (Math.imul(x, 1103515245) + 12345) >>> 0;
    return (x >>> 8) % below;
  };
  const server = [];
  let state = after(delta({ contacts: [friend], conversations: [] }));
  const waiting = [];
  const pull = ({ from, to }) => {
    const asOf = select.headOf(state, TALK);
    const messages = server.filter((message) => message && message.seq >= from && message.seq <= to).slice(0, 5);
    const all = server.filter((message) => message && message.seq >= from && message.seq <= to).length;
    return pageOf(messages, from, to, { page: { messages, more: all > messages.length }, asOf });
  };
  const store = (message) => {
    server[Number(message.seq)] = message;
    if (random(3) > 0) waiting.push(push(message));
  };
  for (let step = 0; step < 60; step += 1) {
    const next = server.length || 1;
    const [what, of] = [random(10), 1 + random(next)];
    if (what < 4) store(said(next));
    else if (what < 6 && server[of]?.text) {
      store({ ...server[of], edits: (server[of].edits ?? 0) + 1, text: { text: `edit ${step}` } });
      store(revision(next, of));
    } else if (what === 6 && server[of]?.text) {
      store({ seq: String(of), sender: '1', recalledBy: '1' });
      store(revision(next, of, true));
    } else if (what === 7) {
      for (const need of needs.pulls(state, { conversation: TALK, from: 1 })) waiting.push(pull(need));
    } else if (waiting.length > 0) {
      state = reduce(state, waiting.splice(random(waiting.length), 1)[0]);
    }
  }
  while (waiting.length > 0) state = reduce(state, waiting.shift());
  const head = server.length - 1;
  state = reduce(state, delta({ conversations: [view(head, { messages: server.filter(Boolean).slice(-3) })] }));
  for (let round = 0; round < 200; round += 1) {
    const wanted = needs.pulls(state, { conversation: TALK, from: 1 });
    if (wanted.length === 0) break;
    state = reduce(state, pull(wanted[0]));
  }
  const strip = ({ asOf, ...message }) => message;
  assert.deepEqual(log.since(logOf(state, TALK), 1).map(strip), server.filter(Boolean).map(wire.message), `seed ${seed}`);
}

describe('rows', () => {
  it('shows an entry of the outbox until it is a message, in the same row', () => {
    const entry = {
      key: 'k',
      conversation: TALK,
      clientId: 'c2',
      atMs: 5,
      replyTo: 1,
      body: { kind: 'text', text: 'hi', origin: null },
      failed: null,
    };
    const state = after(delta({ contacts: [friend], conversations: [view(1, { messages: [said(1)] })] }));
    const open = { conversation: TALK, from: 1 };
    const [day, first, own] = rowsOf(state, open, [entry], 0, false, 0);
    assert.deepEqual([day.kind, first.key, own.key, own.status], ['day', 'seq-1', 'own-c2', 'sending']);
    assert.equal(own.quote.line, 'message 1');
    const taken = reduce(state, push(said(2, ME)));
    const rows = rowsOf(taken, open, [entry], 0, false, 0);
    assert.deepEqual(rows.map((row) => [row.key, row.status]).slice(1), [
      ['seq-1', ''],
      ['own-c2', 'sent'],
    ]);
    const keys = rowsOf(
      taken,
      open,
      [entry, { ...entry, clientId: 'c9', failed: { code: 'BLOCKED', message: '' } }],
      0,
      true,
      0,
    ).map((row) => row.key);
    assert.equal(new Set(keys).size, keys.length);
    assert.deepEqual([keys[0], keys.at(-1)], ['start', 'own-c9']);
  });

  it('says where the unread begin, and what is missing', () => {
    const state = after(
      delta({ conversations: [view(3, { messages: [said(1), said(2), said(3)] })] }),
      push(said(6)),
      push(revision(7, 1)),
    );
    const kinds = rowsOf(state, { conversation: TALK, from: 1 }, [], 2, false, 0).map((row) => row.kind);
    assert.deepEqual(kinds, ['day', 'message', 'message', 'unread', 'message', 'gap', 'message']);
  });
});

describe('text', () => {
  it('makes links of http and https only, and loses no letter', () => {
    const links = (text) =>
      linked(text)
        .filter((part) => part.href)
        .map((part) => part.text);
    assert.deepEqual(links('see https://a.example/x(1), or (http://b.example).'), ['https://a.example/x(1)', 'http://b.example']);
    assert.deepEqual(links('javascript:alert(1) data:text/html,x ftp://c.example www.d.example'), []);
    assert.deepEqual(links('https://'), []);
    for (const text of ['', 'a', 'https://a.example', 'x https://a.example. y <https://b.example>']) {
      assert.equal(
        linked(text)
          .map((part) => part.text)
          .join(''),
        text,
      );
    }
  });

  it('says days as people do', () => {
    const now = new Date(2025, 5, 15, 0, 5).getTime();
    assert.equal(dayText(now - 60_000, now), 'Today');
    assert.equal(dayText(now - 10 * 60_000, now), 'Yesterday');
    assert.match(dayText(now - 400 * 86_400_000, now), /2024/);
  });

  it('gives each id a colour, and each name letters', () => {
    const hues = new Set();
    for (let id = 1; id < 200; id += 1) hues.add(hueOf(String(id)));
    assert.deepEqual(
      [...hues].sort((a, b) => a - b),
      Array.from({ length: HUES }, (_, at) => at),
    );
    assert.deepEqual(['Ada Lovelace', 'bob', '', '👍'].map(initials), ['AL', 'B', '?', '?']);
  });

  it('does not let a name turn the text around it', () => {
    assert.equal(isolate('a\u202eb\u2069'), '\u2068ab\u2069');
    assert.equal(errorText({ code: 'INVALID', message: 'a title must not be empty' }), 'a title must not be empty');
    assert.match(errorText({ code: 'RATE_LIMITED', retryAfterMs: 1_500 }), /2 seconds/);
  });
});
