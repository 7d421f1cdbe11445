'use strict';
// Locks shared with PostgreSQL's sessions, from Node.
//
//     const lock = new MlcacheLock(command, namespace, 'account:42', draw);
//     if (await lock.acquire(5000)) {
//       ... SELECT mlcache.fence_check('account:42', lock.token) in each transaction ...
//       await lock.release();
//     }
//
// command as in mlcache_client.js; namespace is what SELECT mlcache.lock_namespace()
// says; draw() resolves to what SELECT mlcache.lock_token() says.  Redis decides who
// holds the lock, PostgreSQL whose writes are good: a token is drawn once the lock is
// held and kept only if it still is held then, so tokens come in the order of the holders.
const { randomBytes } = require('node:crypto');
const { setTimeout: sleep } = require('node:timers/promises');

class LockLost extends Error {} // somebody else may have held the lock since: begin anew
class Deadlock extends Error {} // waiting would have closed a cycle, which the message tells

class MlcacheLock {
  // ttl in ms: renew() well before it is over.  owner: one for each flow that locks,
  // so that deadlocks are found between them.
  constructor(command, namespace, name, draw, { ttl = 30000, shared = false, owner } = {}) {
    Object.assign(this, { command, namespace, name, draw, ttl, token: null });
    this.mode = shared ? 'S' : 'X';
    this.owner = owner || randomBytes(9).toString('base64url');
  }

  // Waits up to wait ms.  true: held, and token is good.
  async acquire(wait = 0) {
    const giveUp = Date.now() + wait;
    for (let pause = 1; ; pause = Math.min(pause * 2, 20)) {
      const left = Math.max(0, giveUp - Date.now());
      // known as waiting for so long, unless it asks again
      const [kind, detail] = await this.call('mlc_lock', this.mode, this.ttl,
        left && Math.min(left, 2000) + 2000);
      if (String(kind) === 'deadlock') throw new Deadlock(String(detail));
      if (String(kind) === 'ok') {
        this.token = await this.draw();
        if (await this.call('mlc_renew', this.ttl)) return true;
        continue; // lost before the token was drawn: not used
      }
      if (left === 0) {
        await this.command('FCALL', 'mlc_lock_nowait', 0, this.namespace, this.owner);
        return false;
      }
      await sleep(Math.min(pause, left) * (0.5 + Math.random() / 2));
    }
  }

  async renew(ttl = this.ttl) {
    if (!await this.call('mlc_renew', ttl)) throw new LockLost(this.name);
  }

  async release() {
    this.token = null;
    if (!await this.call('mlc_unlock')) throw new LockLost(this.name);
  }

  call(name, ...args) {
    return this.command('FCALL', name, 0, this.namespace, this.name, this.owner, ...args);
  }
}

module.exports = { MlcacheLock, LockLost, Deadlock };
