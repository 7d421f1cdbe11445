'use strict';
// For the tests: reads what stdin asks for, through mlcache_client.js, rows by psql.
//
// In:  {"id": 1, "get": "product:42", "tags": []}, with "hold": true to stop in the loader, after
//      the row has been read, until {"go": 1} names the request.
// Out: {"id": 1, "loaded": true} in the loader, then {"id": 1, "value": text or null}.
const { execFile } = require('node:child_process');
const { createInterface } = require('node:readline');
const { promisify } = require('node:util');
const { MlcacheClient } = require('./mlcache_client.js');
const { connect } = require('./resp.js');

const [socket, loaders, options] = process.argv.slice(2);
const held = new Map();
const say = (message) => process.stdout.write(JSON.stringify(message) + '\n');

async function row(key) {
  const [table, number] = key.split(':');
  const { stdout } = await promisify(execFile)('psql', ['-XqAt', '-F', '\t', '-c',
    JSON.parse(loaders)[table].replace('%s', Number(number))]);
  const [payload, version] = stdout.replace(/\n$/, '').split('\t');
  return { payload: payload === '' ? null : payload, version };
}

// A connection for each request: they must be able to race.
async function answer({ id, get, tags, hold }) {
  const command = connect({ path: socket }, 60000);
  const load = async (key) => {
    const found = await row(key);
    const go = hold && new Promise((resolve) => held.set(id, resolve));
    say({ id, loaded: true });
    await go;
    return found;
  };
  try {
    const value = await new MlcacheClient(command, load, JSON.parse(options)).get(get, tags);
    say({ id, value: value === null ? null : value.toString() });
  } catch (error) {
    say({ id, error: error.message });
  } finally {
    command.close();
  }
}

createInterface({ input: process.stdin }).on('line', (line) => {
  const request = JSON.parse(line);
  if (request.go) held.get(request.go)(); else answer(request);
}).on('close', () => process.exit(0));
