'use strict';
// For the tests: does to locks what stdin asks for, through mlcache_lock.js, tokens by psql.
//
// In:  {"id": 1, "owner": "o", "do": "acquire", "name": "account:42", "args": [1000]}
// Out: {"id": 1, "value": ..., "token": ...}, or {"id": 1, "error": class of the error}
const { execFile } = require('node:child_process');
const { createInterface } = require('node:readline');
const { promisify } = require('node:util');
const { MlcacheLock } = require('./mlcache_lock.js');
const { connect } = require('./resp.js');

const [socket, namespace, ttl] = process.argv.slice(2);
const locks = new Map();
const say = (message) => process.stdout.write(JSON.stringify(message) + '\n');

async function draw() {
  const { stdout } = await promisify(execFile)('psql', ['-XqAtc', 'SELECT mlcache.lock_token()']);
  return stdout.trim();
}

async function answer({ id, owner, do: verb, name, args }) {
  const key = owner + ' ' + name;
  if (!locks.has(key)) {
    locks.set(key, new MlcacheLock(connect({ path: socket }, 60000), namespace, name, draw,
      { owner, ttl: Number(ttl) }));
  }
  const lock = locks.get(key);
  try {
    const value = await lock[verb](...args);
    say({ id, value: value === undefined ? null : value, token: lock.token });
  } catch (error) {
    say({ id, error: error.constructor.name });
  }
}

createInterface({ input: process.stdin })
  .on('line', (line) => answer(JSON.parse(line)))
  .on('close', () => process.exit(0));
