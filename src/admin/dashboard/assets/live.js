// The node as it is now and was of late: one status a second, and what follows from them.

import { events, get, path } from './api.js';

/** Ten minutes of seconds. */
const SAMPLES = 600;
/** How long the stream is left alone after it failed at once, in milliseconds; statuses are asked for meanwhile. */
const STREAM_PAUSE = 30_000;
/** Rates are means over this many seconds, so that the beat of batches does not hide them. */
const RATE_WINDOW = 5;
/** The time to drain follows from the last minute, and from no less than some seconds. */
const DRAIN_WINDOW = 60;
const DRAIN_LEAST = 5;

export const live = {
  status: null,
  /** When the last status came, and since when none does; milliseconds of the epoch. */
  at: 0,
  goneSince: null,
  /** 99th percentiles in seconds, {ack, sync, sink}, where they are known. */
  latency: null,
  /** {time, up, backlog, accepted, stored, acceptedRate, storedRate, latency}, oldest first; `time` in seconds. */
  samples: [],
};

const listeners = new Set();
export const onChange = (listener) => listeners.add(listener);
const changed = () => listeners.forEach((listener) => listener(live));
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Follows the node for as long as the page is open. */
export async function follow() {
  // One timer for all ages that the page shows.
  setInterval(changed, 1000);
  for (let streamFrom = 0; ;) {
    if (!document.hidden && Date.now() >= streamFrom) {
      const before = live.at;
      await stream().catch(() => {});
      streamFrom = live.at === before ? Date.now() + STREAM_PAUSE : 0;
    }
    // Whether the server is gone, or only its stream.
    const asked = Date.now();
    await get(path('status')).then(arrived, () => {
      if (live.goneSince === null) live.goneSince = live.at || asked;
      streamFrom = 0;
      changed();
    });
    // In the background a browser gives few connections: now and then is enough for the title.
    await sleep(document.hidden ? 5000 : 1000);
  }
}

async function stream() {
  const hidden = new AbortController();
  const check = () => document.hidden && hidden.abort();
  document.addEventListener('visibilitychange', check);
  try {
    await events(arrived, hidden.signal);
  } finally {
    document.removeEventListener('visibilitychange', check);
  }
}

function arrived(status) {
  if (live.status !== null && status.uptime_s < live.status.uptime_s) live.samples.length = 0;
  live.status = status;
  live.at = Date.now();
  live.goneSince = null;
  sample(status);
  changed();
}

function sample({ uptime_s: up, audit: { accepted, stored, backlog } }) {
  const { samples } = live;
  const last = samples.at(-1);
  if (last && up - last.up < 0.5) return;
  const base = samples.findLast((old) => up - old.up >= RATE_WINDOW) ?? samples[0];
  const per = (value, name) => (base ? Math.max(0, value - base[name]) / (up - base.up) : null);
  samples.push({
    time: live.at / 1000, up, backlog, accepted, stored,
    acceptedRate: per(accepted, 'accepted'), storedRate: per(stored, 'stored'), latency: live.latency,
  });
  if (samples.length > SAMPLES) samples.shift();
}

/** How the backlog changes of late, in reports a second; null while that is not known. */
export function trend() {
  const last = live.samples.at(-1);
  if (!last) return null;
  const base = live.samples.find((old) => last.up - old.up <= DRAIN_WINDOW);
  return last.up - base.up < DRAIN_LEAST ? null : (last.backlog - base.backlog) / (last.up - base.up);
}
