// Latencies, from the histograms of /metrics.

import { request } from './api.js';
import { live } from './live.js';

/** How often they are read, in milliseconds, and over how many readings a percentile goes. */
const EVERY = 5000;
const READINGS = 3;
const PERCENTILE = 0.99;

const HISTOGRAMS = { ack: 'forebay_ack_seconds', sync: 'forebay_sync_seconds', sink: 'forebay_sink_transaction_seconds' };

/** Buckets of each histogram as [upper bound, cumulative count], per reading. */
const readings = [];

function parse(page) {
  const buckets = (name) => [...page.matchAll(new RegExp(`^${name}_bucket\\{le="([^"]+)"\\} (\\S+)`, 'gm'))]
    .map(([, le, n]) => [le === '+Inf' ? Infinity : Number(le), Number(n)]);
  return Object.fromEntries(Object.entries(HISTOGRAMS).map(([key, name]) => [key, buckets(name)]));
}

/** The percentile of what was observed between two readings, linear within a bucket, as Prometheus has it. */
function percentile(before, now) {
  const counts = now.map(([le, n], i) => [le, n - (before[i]?.[1] ?? 0)]);
  const total = counts.at(-1)?.[1] ?? 0;
  if (total <= 0) return null;
  const rank = PERCENTILE * total;
  const at = counts.findIndex(([, n]) => n >= rank);
  const [from, below] = counts[at - 1] ?? [0, 0];
  const [to, n] = counts[at];
  return to === Infinity ? from : from + (to - from) * ((rank - below) / (n - below));
}

async function read() {
  if (document.hidden || live.goneSince !== null) return;
  const now = parse(await (await request('metrics')).text());
  const before = readings[0];
  // A node that was started again counts from zero.
  if (before && now.ack.at(-1)?.[1] < before.ack.at(-1)?.[1]) readings.length = 0;
  else if (before) {
    const latencies = Object.keys(HISTOGRAMS).map((key) => [key, percentile(before[key], now[key])]);
    live.latency = Object.fromEntries(latencies);
  }
  readings.push(now);
  if (readings.length > READINGS) readings.shift();
}

/** Reads them from now on; not where the node has no metrics. */
export function start() {
  const next = () => setTimeout(() => read().then(next, (error) => error.status === 404 || next()), EVERY);
  read().then(next, (error) => error.status === 404 || next());
}
