'use strict';
// For the tests: a cache of mlcache_local.js, told what to do by stdin; rows by psql.
//
// In:  {"id": 1, "get": "thing:42", "tags": []}; {"id": 2, "hold": true} stops readers that
//      have their answer, until {"id": 3, "hold": false}; {"id": 4}.
// Out: {"id": 1, "value": text or null}, or "error", and with it how all of it is.
const { spawn } = require('node:child_process');
const { createInterface } = require('node:readline');
const { MlcacheClient } = require('./mlcache_client.js');
const { MlcacheLocal } = require('./mlcache_local.js');
const { connect } = require('./resp.js');

const [socket, link, loader, namespace, options, takenOut] = process.argv.slice(2);

// One session, in which each statement has a snapshot of its own.
const psql = spawn('psql', ['-XqAt', '-F', '\t'], { stdio: ['pipe', 'pipe', 'inherit'] });
const rows = [];
createInterface({ input: psql.stdout }).on('line', (line) => rows.shift()(line));

async function load(key) {
  const row = new Promise((resolve) => rows.push(resolve));
  psql.stdin.write(loader.replace('%s', Number(key.split(':')[1])) + ';\n');
  const [payload, version] = (await row).split('\t');
  return { payload: payload === '' ? null : payload, version };
}

// Counts, and can be held when it has the answer.
class Client extends MlcacheClient {
  asked = 0;
  reads = 0;
  answered = 0;
  held = null;

  async read(key, tags) {
    this.asked++;
    // a connection for each read: they must be able to race
    const command = connect({ path: socket }, 30000);
    const own = new MlcacheClient(command, load, { namespace });
    const answer = await own.read(key, tags).finally(() => command.close());
    this.reads++;
    this.answered++;
    if (this.held) await this.held.promise;
    return answer;
  }

  hold(on) {
    if (!on) return this.held.release();
    this.answered = 0;
    this.held = {};
    this.held.promise = new Promise((resolve) => { this.held.release = resolve; });
  }
}

// What was served after each turn that took longer than it may, for the tests to see.
class Watched extends MlcacheLocal {
  turns = [];

  async turn() {
    const began = performance.now();
    await super.turn();
    const late = performance.now() > began + this.silence;
    this.turns.push(late && this.serves() ? [...this.lines.keys()] : []);
  }
}

// ---- each safeguard taken out ----

const without = {
  NoTicket: class extends Watched {
    stillGood(key, ticket) {
      if (ticket !== null) this.tickets.set(key, ticket);
      return ticket !== null;
    }
  },
  NoTicketByTag: class extends Watched {
    drop(keys) {
      super.drop(keys.filter((key) => String(this.tickets.get(key)) !== 'things'));
    }
  },
  NotEmptied: class extends Watched { empty() {} },
  TicketsKept: class extends Watched { empty() { this.lines.clear(); } },
  NeverSilent: class extends Watched { serves() { return this.servesUntil > 0; } },
  NothingMissed: class extends Watched { hasMissed() { return false; } },
  Deaf: class extends Watched { tell() {} },
  AnyAnswer: class extends Watched { extend() { super.extend(performance.now()); } },
};

const client = new Client(null, load, { namespace });
const cache = new (without[takenOut] || Watched)(client, () => connect({ path: link }, 120000),
  JSON.parse(options));

async function answer({ id, get, tags, hold }) {
  const message = { id };
  try {
    if (hold !== undefined) client.hold(hold);
    if (get) {
      const before = client.asked;
      const got = cache.get(get, tags);
      message.here = client.asked === before;
      const value = await got;
      message.value = value === null ? null : value.toString();
    }
  } catch (error) {
    message.error = error.message;
  }
  Object.assign(message, { serves: cache.serves(), last: cache.last, reads: client.reads,
    answered: client.answered, turns: cache.turns });
  process.stdout.write(JSON.stringify(message) + '\n');
}

createInterface({ input: process.stdin }).on('line', (line) => answer(JSON.parse(line)))
  .on('close', async () => {
    await cache.close();
    psql.stdin.end();
    process.exit(0);
  });
