'use strict';
// The consumer of the usual build: takes entries of the Redis stream by 500, makes each batch rows of MariaDB in one
// statement and one commit, then acknowledges and deletes the entries. A batch that was read and not acknowledged is
// read again at the next start; the primary key makes its rows the same rows.
//   node consumer.js REDIS_PORT DATABASE_URL CONSUMERS      prints `ready`

const Redis = require('ioredis');
const mysql = require('mysql2/promise');

const [port, url, consumers] = process.argv.slice(2);
const [STREAM, GROUP, BATCH] = ['reports', 'rows', 500];
const INSERT = 'INSERT INTO reports (id,source,seq,time,code,peer,data,accepted_at) VALUES ';

const connect = () => new Redis({ host: '127.0.0.1', port: Number(port) });

function row([entry, [, peer, , text]]) {
  const { id, seq, time, code, data } = JSON.parse(text);
  const accepted = new Date(Number(entry.split('-')[0])).toISOString().slice(0, 23).replace('T', ' ');
  const values = [id, 0, seq, Number(time), code, peer, JSON.stringify(data), accepted];
  return `(${values.map((value) => mysql.escape(value)).join(',')})`;
}

async function consume(name) {
  const redis = connect();
  const database = await mysql.createConnection(url);
  // First what this consumer had read and not acknowledged, then what is new.
  let from = '0';
  for (;;) {
    const reply = await redis.xreadgroup(
      'GROUP', GROUP, name, 'COUNT', BATCH, 'BLOCK', 1000, 'STREAMS', STREAM, from,
    );
    const entries = reply === null ? [] : reply[0][1];
    if (entries.length === 0) {
      from = '>';
      continue;
    }
    await database.query(`${INSERT}${entries.map(row).join(',')} ON DUPLICATE KEY UPDATE id=id`);
    const ids = entries.map(([id]) => id);
    const settled = redis.multi().xack(STREAM, GROUP, ...ids).xdel(STREAM, ...ids).exec();
    // What comes next is asked for in the same breath, unless it is this batch's like again.
    if (from === '0') await settled;
  }
}

async function main() {
  const redis = connect();
  try {
    await redis.xgroup('CREATE', STREAM, GROUP, '0', 'MKSTREAM');
  } catch (error) {
    if (!error.message.includes('BUSYGROUP')) throw error;
  }
  redis.disconnect();
  const names = Array.from({ length: Number(consumers) }, (_, n) => `consumer-${n}`);
  const running = names.map(consume);
  console.log('ready');
  await Promise.all(running);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
