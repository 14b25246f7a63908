'use strict';
// The gateway of the usual build: a report that comes over a WebSocket is an entry of a Redis stream, synced, before it
// is acknowledged. Commands of one turn of the event loop go to Redis together, and acks of one turn go out together.
//   node gateway.js REDIS_PORT      prints the port that it listens on

const Redis = require('ioredis');
const { WebSocketServer } = require('ws');

const redis = new Redis({ host: '127.0.0.1', port: Number(process.argv[2]), enableAutoPipelining: true });
const ID = /^[A-Za-z0-9._:-]{1,64}$/;

function refusal(report) {
  if (report.op !== 'report') return 'unknown_op';
  if (typeof report.id !== 'string' || !ID.test(report.id)) return 'bad_field';
  if (!Number.isSafeInteger(report.seq)) return 'bad_field';
  return null;
}

const server = new WebSocketServer({
  host: '127.0.0.1',
  port: 0,
  path: '/ws',
  maxPayload: 64 * 1024,
  perMessageDeflate: false,
  clientTracking: false,
});

server.on('listening', () => console.log(server.address().port));

server.on('connection', (client, request) => {
  const { socket } = request;
  const peer = socket.remoteAddress;
  let corked = false;

  const uncork = () => {
    corked = false;
    socket.uncork();
  };

  const reply = (text) => {
    if (!corked) {
      corked = true;
      socket.cork();
      setImmediate(uncork);
    }
    client.send(text);
  };

  client.on('message', (data) => {
    const text = data.toString();
    let report;
    try {
      report = JSON.parse(text);
    } catch {
      reply('{"op":"error","code":400,"error":"bad_json"}');
      return;
    }
    const error = refusal(report);
    if (error !== null) {
      reply(`{"op":"error","code":400,"error":"${error}"}`);
      return;
    }
    redis.xadd('reports', '*', 'peer', peer, 'report', text, (failure) => {
      reply(
        failure
          ? '{"op":"error","code":503,"error":"unavailable"}'
          : `{"op":"ack","id":"${report.id}","source":0,"seq":${report.seq},"code":200}`,
      );
    });
  });
  client.on('error', () => client.terminate());
});
