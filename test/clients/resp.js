'use strict';
// As much of the Redis protocol as a reader needs, on node:net.
const net = require('node:net');

// One reply at the start of buf: [value, bytes taken], or null if it is not complete.
function parse(buf, at = 0) {
  const end = buf.indexOf('\r\n', at);
  if (end < 0) return null;
  const line = buf.toString('latin1', at + 1, end);
  let next = end + 2;
  switch (buf[at]) {
    case 0x2b: return [line, next]; // +
    case 0x2d: return [new Error(line), next]; // -
    case 0x3a: return [Number(line), next]; // :
    case 0x24: { // $
      if (line === '-1') return [null, next];
      const after = next + Number(line) + 2;
      return buf.length < after ? null : [buf.subarray(next, after - 2), after];
    }
    case 0x2a: { // *
      if (line === '-1') return [null, next];
      const values = [];
      for (let i = 0; i < Number(line); i++) {
        const item = parse(buf, next);
        if (item === null) return null;
        values.push(item[0]);
        next = item[1];
      }
      return [values, next];
    }
    default: throw new Error('not the Redis protocol');
  }
}

// address: { path } or { host, port }.  command.close() ends the connection.
function connect(address, timeout = 1000) {
  const socket = net.connect(address);
  const waiting = [];
  let received = Buffer.alloc(0);
  let gone = null;
  const fail = (error) => {
    gone = gone || error;
    socket.destroy();
    for (const { reject } of waiting.splice(0)) reject(gone);
  };
  socket.setTimeout(timeout, () => waiting.length && fail(new Error('Redis did not answer in time')));
  socket.on('error', fail);
  socket.on('close', () => fail(new Error('connection closed')));
  socket.on('data', (chunk) => {
    received = Buffer.concat([received, chunk]);
    try {
      for (let reply; (reply = parse(received)) !== null; received = received.subarray(reply[1])) {
        const { resolve, reject } = waiting.shift();
        if (reply[0] instanceof Error) reject(reply[0]); else resolve(reply[0]);
      }
    } catch (error) {
      fail(error);
    }
  });
  const command = (...args) => new Promise((resolve, reject) => {
    if (gone) return reject(gone);
    waiting.push({ resolve, reject });
    const parts = [Buffer.from(`*${args.length}\r\n`)];
    for (const arg of args) {
      const bytes = Buffer.isBuffer(arg) ? arg : Buffer.from(String(arg));
      parts.push(Buffer.from(`$${bytes.length}\r\n`), bytes, Buffer.from('\r\n'));
    }
    socket.write(Buffer.concat(parts));
  });
  command.close = () => socket.destroy();
  return command;
}

module.exports = { connect };
