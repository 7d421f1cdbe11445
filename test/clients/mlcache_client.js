'use strict';
// Reading a cache that mlcache keeps coherent, from Node.
//
//     const cache = new MlcacheClient(command, load, { ttl: 300000 });
//     await cache.get('product:42');      // Buffer, or null where there is no such row
//     await cache.get('front:shoes', ['search', 'shoes']);     // a key of no rule, with tags
//
// command(...args) sends one command to Redis and resolves to its reply, bulk
// strings as Buffers.  With ioredis it is (...args) => redis.callBuffer(...args);
// resp.js makes one out of node:net, for where no package can be installed.
// load(key) reads the row and resolves to { payload, version }: payload is a string
// or Buffer, or null where there is no row; version is what mlcache.fill_version()
// said in the same statement as the row, or after it in the same transaction.
const { randomBytes } = require('node:crypto');
const { setTimeout: sleep } = require('node:timers/promises');

class MlcacheClient {
  // Times in ms.  ttl 0: until it changes.  lease: longer than load takes.
  // patience: how long to wait for somebody else's load.  namespace: needed for tags,
  // and where several databases share the Redis.
  constructor(command, load, { ttl = 0, negativeTtl = 60000, lease = 5000, patience = 1000,
    namespace } = {}) {
    Object.assign(this, { command, load, ttl, negativeTtl, lease, patience });
    this.namespace = namespace ? [namespace] : [];
  }

  async get(key, tags = []) {
    return (await this.read(key, tags))[0];
  }

  // The value, and whether Redis has it: what it refused may be old by now.
  async read(key, tags = []) {
    const token = randomBytes(9).toString('base64url'); // a new one for every read
    const [kind, ...answer] = await this.ask(key, tags, token);
    if (kind === 'hit') return [answer[0], true];
    if (kind === 'absent') return [null, true];

    const { payload, version } = await this.load(key); // after the answer, never before
    const filled = kind === 'lease' && await this.fill(key, token, payload, answer[0], version);
    return [payload === null ? null : Buffer.from(payload), filled];
  }

  index(tag) {
    return `mlc:tag:${this.namespace[0]}:t:` + tag.replace(/[{}%]/g, (char) =>
      '%' + char.charCodeAt(0).toString(16).toUpperCase());
  }

  question(key, tags, token) {
    if (tags.length === 0) return ['mlc_get', 1, key, token, this.lease, ...this.namespace];
    return ['mlc_get_tagged', 1 + tags.length, key, ...tags.map((tag) => this.index(tag)),
      token, this.lease, ...this.namespace, this.ttl];
  }

  // mlc_get; waits while somebody else loads, but not for ever.
  async ask(key, tags, token) {
    const giveUp = Date.now() + this.patience;
    for (let pause = 1; ; pause = Math.min(pause * 2, 50)) {
      let answer;
      try {
        answer = await this.command('FCALL', ...this.question(key, tags, token));
      } catch (error) {
        if (error.message.startsWith('MLC')) throw error; // the call is wrong
        return ['unreachable']; // a read never fails because a cache is down
      }
      answer[0] = answer[0].toString();
      if (answer[0] !== 'busy' || Date.now() >= giveUp) return answer;
      await sleep(Math.min(pause, answer[1]));
    }
  }

  // Was it taken?  "refused" means that a change came in between.
  async fill(key, token, payload, applied, version) {
    const absent = payload === null;
    const answer = await this.command('FCALL', 'mlc_fill', 1, key, token, absent ? '' : payload,
      absent ? this.negativeTtl : this.ttl, applied, version, absent ? 1 : 0,
      ...this.namespace).catch(() => 'refused');
    return answer.toString() === 'ok';
  }
}

module.exports = { MlcacheClient };
