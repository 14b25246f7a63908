// The admin API: requests with the token where one is needed, and the stream of events.

const TOKEN = 'forebay-token';
/** Past this many milliseconds without an answer or an event, the server counts as gone. */
const PATIENCE = 5000;

let askForToken = null;

/** An answer that is no success; `message` is the problem's detail. */
export class Problem extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

/** What to call, once for all who wait, when the server wants a token, or refused one; it resolves to one. */
export const onTokenNeeded = (ask) => {
  let asking = null;
  askForToken = (wasRefused) => (asking ??= ask(wasRefused).finally(() => { asking = null; }));
};

export const hasToken = () => sessionStorage.getItem(TOKEN) !== null;

export const path = (...parts) => `api/v1/${parts.map(encodeURIComponent).join('/')}`;

/** A path with those of the parameters that have a value. */
export function withQuery(address, parameters) {
  const set = Object.entries(parameters).filter(([, value]) => value !== null && value !== undefined && value !== '');
  return set.length === 0 ? address : `${address}?${new URLSearchParams(set)}`;
}

/**
 * The whole answer, a success; asks for a token and tries again where the server wants one. `options` is asked for
 * those of each attempt, so that no clock runs while a person looks for the token.
 */
export async function request(address, options = () => ({})) {
  for (;;) {
    const token = sessionStorage.getItem(TOKEN);
    const headers = token === null ? {} : { Authorization: `Bearer ${token}` };
    const answer = await fetch(address, { cache: 'no-store', headers, ...options() })
      .catch(() => { throw new Problem(0, 'the node does not answer'); });
    if (answer.ok) return answer;
    if (answer.status !== 401) {
      const problem = await answer.json().catch(() => ({}));
      throw new Problem(answer.status, problem.detail ?? `the server answers ${answer.status}`);
    }
    // Another request may have got a token meanwhile.
    if (sessionStorage.getItem(TOKEN) === token) sessionStorage.setItem(TOKEN, await askForToken(token !== null));
  }
}

/** The JSON of an answer that is due soon. */
export async function get(address) {
  const answer = await request(address, () => ({ signal: AbortSignal.timeout(PATIENCE) }));
  return answer.json();
}

/** An action; it takes as long as it takes. */
export async function act(method, address) {
  const answer = await request(address, () => ({ method }));
  return answer.json().catch(() => ({}));
}

/**
 * Calls `onStatus` for each `status` event until the stream ends, stalls or `signal` aborts it. By fetch, for an
 * EventSource cannot send a token.
 */
export async function events(onStatus, signal) {
  let stalled;
  let watchdog;
  const watch = () => {
    clearTimeout(watchdog);
    watchdog = setTimeout(() => stalled.abort(), PATIENCE);
  };
  const attempt = () => {
    stalled = new AbortController();
    watch();
    return { signal: AbortSignal.any([signal, stalled.signal]) };
  };
  try {
    const answer = await request('api/v1/events', attempt);
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let pending = '';
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      watch();
      const blocks = (pending + value).split(/\r?\n\r?\n/);
      pending = blocks.pop();
      for (const block of blocks) {
        const lines = block.split(/\r?\n/);
        if (!lines.includes('event: status')) continue;
        const data = lines.filter((line) => line.startsWith('data:')).map((line) => line.slice(5));
        onStatus(JSON.parse(data.join('\n')));
      }
    }
  } finally {
    clearTimeout(watchdog);
  }
}

/** Where the JSON value that begins at `at` ends. */
function endOfValue(json, at) {
  let depth = 0;
  for (let quoted = false; at < json.length; at += 1) {
    const c = json[at];
    if (quoted && c === '\\') at += 1;
    else if (c === '"') quoted = !quoted;
    else if (!quoted && (c === '{' || c === '[')) depth += 1;
    else if (!quoted && depth === 0 && (c === ',' || c === '}' || c === ']')) return at;
    else if (!quoted && (c === '}' || c === ']')) depth -= 1;
  }
  return at;
}

/** Each `data` of an answer as it was sent: parsing would change what no number of JavaScript can hold. */
export function rawData(json) {
  const mark = ',"data":';
  const found = [];
  for (let at = json.indexOf(mark); at >= 0; at = json.indexOf(mark, at)) {
    const start = at + mark.length;
    at = endOfValue(json, start);
    found.push(json.slice(start, at));
  }
  return found;
}
