'use strict';
// Readers outside, through the client in Node of test/clients, for a history: see
// readers.py.
//
//     node readers.js CONNINFO SOCKET NAMESPACE TABLE KEYS SESSIONS FIRST FILE
const { spawn } = require('node:child_process');
const { writeFileSync } = require('node:fs');
const { createInterface } = require('node:readline');
const { setTimeout: sleep } = require('node:timers/promises');
const { MlcacheClient } = require('../clients/mlcache_client.js');
const { connect } = require('../clients/resp.js');

const [conninfo, socket, namespace, table, keys, sessions, first, file] = process.argv.slice(2);
const records = [];
let hits = 0;
let stopped = false;

// A session of psql: a query in, a line out.
function connectPostgres() {
  const psql = spawn('psql', ['-XqAt', '-F', '\t', '-d', conninfo], { stdio: ['pipe', 'pipe', 'inherit'] });
  const lines = createInterface({ input: psql.stdout })[Symbol.asyncIterator]();
  return {
    async query(text) {
      psql.stdin.write(`${text};\n`);
      return (await lines.next()).value;
    },
    close: () => psql.stdin.end(),
  };
}

async function read(session) {
  const postgres = connectPostgres();
  const command = connect({ path: socket });
  let loaded = false;
  const load = async (key) => {
    loaded = true;
    const line = await postgres.query(`SELECT (SELECT row_to_json(t)::text FROM ${table} t `
      + `WHERE id = ${key.split(':')[1]}), mlcache.fill_version()`);
    const [payload, version] = line.split('\t');
    return { payload: payload === '' ? null : payload, version };
  };
  const client = new MlcacheClient(command, load, { namespace });
  while (!stopped) {
    const key = 1 + Math.floor(Math.random() * keys);
    loaded = false;
    const start = process.hrtime.bigint();
    const payload = await client.get(`${table}:${key}`);
    const end = process.hrtime.bigint();
    const { ver, op } = payload === null ? { ver: '-', op: '-' } : JSON.parse(payload.toString());
    records.push(`r ${session} ${key} ${start} ${end} ${ver} ${op} ${loaded ? 'row' : 'L2'} -\n`);
    hits += loaded ? 0 : 1;
    if (hits === 101 && !loaded) console.log('enough');
    await sleep(Math.random() * 4);
  }
  command.close();
  postgres.close();
}

process.stdin.resume().on('end', () => { stopped = true; });
Promise.all(Array.from({ length: Number(sessions) }, (_, i) => read(Number(first) + i)))
  .then(() => writeFileSync(file, records.join('')));
