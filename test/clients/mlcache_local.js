'use strict';
// A cache inside the application, kept coherent by the stream mlc:events (Redis 7).
//
//     const cache = new MlcacheLocal(new MlcacheClient(command, load, { namespace: 'db5' }), open);
//     await cache.get('product:42');      // from this process, then Redis, then the row
//
// open() makes a connection for this cache alone, the link, and returns its command as
// MlcacheClient takes it, with command.close().  resp.js has one; with ioredis it is
//
//     () => {
//       const redis = new Redis({ ...where, retryStrategy: null, commandTimeout: 5000 });
//       return Object.assign((...args) => redis.callBuffer(...args), { close: () => redis.disconnect() });
//     }
//
// The rules are those of mlcache_local.py, and README.md tells them for any language.
// Between two awaits nothing else runs in Node, so there is no lock.
const { performance } = require('node:perf_hooks');
const { setTimeout: sleep } = require('node:timers/promises');

const STREAM = 'mlc:events';
const PAGE = 1000; // events read at a time

class MlcacheLocal {
  // size in keys, times in ms.  ttl: how long a copy may live here; a key whose entry in
  // Redis has a shorter one may be read for that much longer.  silence: how long the link
  // may say nothing; less than its own timeout.
  constructor(client, open, { size = 10000, ttl = 60000, silence = 1000 } = {}) {
    Object.assign(this, { client, open, size, ttl, silence });
    this.lines = new Map(); // key -> { value, tags, deadline }
    this.tickets = new Map(); // key -> tags, of reads under way
    this.servesUntil = 0;
    this.stopped = false;
    this.followed = this.follow();
  }

  // tags: those of a key that has any, always the same.
  async get(key, tags = []) {
    let ticket = null;
    if (this.serves()) {
      const line = this.lines.get(key);
      if (line && performance.now() < line.deadline) return line.value;
      ticket = [...tags];
      this.tickets.set(key, ticket); // before Redis is asked
    }
    let value;
    let cached = false;
    try {
      [value, cached] = await this.client.read(key, tags);
    } finally {
      if (this.stillGood(key, ticket)) {
        this.tickets.delete(key);
        if (cached) this.keep(key, value, tags);
      }
    }
    return value;
  }

  // Is what is here good?  Otherwise every read goes to Redis.
  serves() {
    return performance.now() < this.servesUntil;
  }

  async close() {
    this.stopped = true;
    if (this.link) this.link.close();
    await this.followed;
  }

  keep(key, value, tags) {
    this.lines.set(key, { value, tags, deadline: performance.now() + this.ttl });
    if (this.lines.size > this.size) this.lines.delete(this.lines.keys().next().value);
  }

  // Has nothing been told of the key since?  (Nor has another read begun.)
  stillGood(key, ticket) {
    return ticket !== null && this.tickets.get(key) === ticket;
  }

  // ---- the link ----

  async follow() {
    while (!this.stopped) {
      try {
        this.link = this.open();
        await this.begin();
        while (!this.stopped) await this.turn();
      } catch {
        // it dropped, or events may have gone that were never read: all of it anew
      }
      this.servesUntil = 0;
      if (this.link) this.link.close();
      if (!this.stopped) await sleep(100);
    }
  }

  // Everything that is filled from now on is told of when it changes.
  async begin() {
    this.empty();
    const now = performance.now();
    const { history, last, added } = await this.look();
    if (history === null) throw new Error('flushed, and the relay has not come yet');
    Object.assign(this, { history, last, told: added });
    this.extend(now);
  }

  async turn() {
    const before = this.told;
    const asked = performance.now(); // an answer may be long on its way
    const pages = await this.link('XREAD', 'COUNT', PAGE, 'BLOCK', Math.floor(this.silence / 4),
      'STREAMS', STREAM, this.last);
    const events = pages ? pages[0][1] : [];
    for (const [id, fields] of events) {
      this.tell(toObject(fields));
      this.last = id.toString();
    }
    this.told += events.length;
    const { history, trimmed } = await this.look();
    if (this.hasMissed(before, history, trimmed)) throw new Error('events were missed');
    if (events.length < PAGE) this.extend(asked); // else there is more to be read first
  }

  extend(asked) {
    this.servesUntil = asked + this.silence;
  }

  // The history of this Redis, the last event, how many there were before and with it, and
  // how many of them are gone.
  async look() {
    const nonce = await this.link('HGET', 'mlc:state:' + this.client.namespace[0], 'nonce');
    const history = nonce && nonce.toString();
    try {
      const stream = toObject(await this.link('XINFO', 'STREAM', STREAM));
      const added = stream['entries-added'];
      return { history, last: stream['last-generated-id'].toString(), added,
        trimmed: added - stream.length };
    } catch (error) {
      if (!error.message.startsWith('ERR')) throw error;
      return { history, last: '0-0', added: 0, trimmed: 0 }; // there has been no event yet
    }
  }

  // A Redis that has lost its memory, or another one, begins a new history.
  hasMissed(before, history, trimmed) {
    return history !== this.history || trimmed > before;
  }

  tell({ key, tag }) {
    if (key) {
      this.drop([key.toString()]);
    } else if (tag) {
      const has = ([, tags]) => tags.includes(tag.toString());
      this.drop([...this.lines].filter(([k, line]) => has([k, line.tags])).map(([k]) => k));
      this.drop([...this.tickets].filter(has).map(([k]) => k));
    } else {
      this.empty(); // a pattern, or all keys of a rule
    }
  }

  drop(keys) {
    for (const key of keys) {
      this.lines.delete(key);
      this.tickets.delete(key);
    }
  }

  empty() {
    this.lines.clear();
    this.tickets.clear();
  }
}

// Names and values, one after the other.
function toObject(list) {
  const object = {};
  for (let i = 0; i < list.length; i += 2) object[list[i].toString()] = list[i + 1];
  return object;
}

module.exports = { MlcacheLocal };
