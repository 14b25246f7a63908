// Is it well, how far behind, and what did the sink say.

import { byId, el, keyed, text, tiles } from './dom.js';
import { bytes, count, plural, rate, span, time } from './format.js';
import { live, trend } from './live.js';

/** The oldest report waits longer than this many seconds: some multiple of what a tick is. */
const BEHIND = 60;
/** A backlog that is stored in less than so many seconds is no more than what waits for its batch or tick. */
const KEPT_UP = 30;
/** Events that the page remembers. */
const SEEN = 50;

const STATES = { up: 'Up', down: 'Down', blocked: 'Blocked' };

const seen = [];

/** What is not as it should be, worst first: {tone, title, more}. */
function faults({ ready, not_ready, sink, audit, journal }) {
  const isUp = sink.state === 'up';
  const damaged = `${plural(journal.damaged, 'entry', 'entries')} of the journal set aside as damaged`;
  const dead = `${plural(audit.dead, 'dead letter waits', 'dead letters wait')} for a decision`;
  const oldest = `The oldest report has waited for ${span(journal.oldest_age_s)}.`;
  const found = [];
  const fault = (tone, title, more) => found.push({ tone, title, more });
  if (!ready) fault('bad', 'Reports are not taken', not_ready);
  if (sink.state === 'blocked') fault('bad', 'The sink is blocked', 'It needs a person. Reports are kept meanwhile.');
  if (sink.state === 'down') fault('bad', 'The sink is down', 'Reports are kept meanwhile, and go on by themselves.');
  if (!audit.balanced) fault('bad', 'The books do not balance', 'A report is unaccounted for: keep the journal.');
  if (journal.damaged > 0) fault('bad', damaged, 'Check the disk.');
  if (isUp && sink.last_error) fault('warn', 'The sink fails over some ids', 'They are tried again; other ids go on.');
  if (isUp && journal.oldest_age_s > BEHIND) fault('warn', 'It is behind', oldest);
  if (audit.dead > 0) fault('warn', dead, 'The sink refuses them for what they are.');
  return found;
}

function verdict(status) {
  const found = faults(status);
  const title = found[0]?.title ?? 'All is well';
  byId('well').dataset.tone = found[0]?.tone ?? 'ok';
  text(byId('verdict'), title);
  const well = { title: 'Reports are taken, the sink stores them, and every one is accounted for.' };
  const points = found.length === 0 ? [well] : found;
  const say = ({ title: point, more }, n) => (n === 0 && found.length > 0 ? more ?? '' : more ? `${point}. ${more}` : point);
  keyed(byId('points'), points.map(say), (line) => line, () => el('li'), text);
  document.title = `${live.goneSince === null ? title : 'No answer'} · Forebay`;
}

function health({ ready, not_ready, sink, audit, connections }) {
  const since = `for ${span((Date.now() - new Date(sink.since)) / 1000)}`;
  const clients = plural(connections, 'connection', 'connections');
  const came = `${count(audit.recovered + audit.accepted)} came, ${count(audit.stored)} stored`;
  const discarded = audit.discarded > 0 ? `${count(audit.discarded)} discarded` : 'refused by the sink';
  tiles(byId('health'), [
    { name: 'Taking reports', value: ready ? 'Yes' : 'No', more: not_ready ?? clients, tone: ready ? 'ok' : 'bad' },
    { name: 'Sink', value: STATES[sink.state] ?? sink.state, more: since, tone: sink.state === 'up' ? 'ok' : 'bad' },
    { name: 'Books', value: audit.balanced ? 'Balanced' : 'Not balanced', more: came, tone: audit.balanced ? 'ok' : 'bad' },
    { name: 'Dead letters', value: count(audit.dead), more: discarded, tone: audit.dead > 0 ? 'warn' : 'ok' },
  ]);
}

function drain({ sink, journal, audit: { backlog } }) {
  if (backlog === 0) return ['Nothing waits', ''];
  const slope = trend();
  if (sink.state !== 'up') return ['Not draining', slope > 0 ? `growing by ${rate(slope)}/s` : 'until the sink is back'];
  if (slope === null) return ['Measuring', 'from the last minute'];
  const stored = live.samples.at(-1).storedRate;
  if (journal.oldest_age_s < BEHIND && backlog < stored * KEPT_UP) return ['Keeping up', `${span(backlog / stored)} of storing`];
  if (slope < -0.05) return [`About ${span(backlog / -slope)}`, `shrinking by ${rate(-slope)}/s`];
  return ['Not shrinking', slope > 0.05 ? `growing by ${rate(slope)}/s` : 'steady over the last minute'];
}

function behind(status) {
  const { journal, audit } = status;
  const [left, why] = drain(status);
  const last = live.samples.at(-1);
  const perSecond = (n) => (n === null || n === undefined ? '–' : `${rate(n)}/s`);
  const { stored, duplicates } = audit;
  const known = duplicates > 0 ? `${count(duplicates)} were there already` : `${count(stored)} since start`;
  tiles(byId('behind'), [
    { name: 'Backlog', value: count(audit.backlog), more: audit.backlog === 1 ? 'report' : 'reports' },
    { name: 'Oldest waits', value: journal.oldest_age_s === 0 ? '–' : span(journal.oldest_age_s), more: plural(journal.streams, 'id', 'ids') },
    { name: 'Time to drain', value: left, more: why },
    { name: 'Accepted', value: perSecond(last?.acceptedRate), more: `${count(audit.accepted)} since start` },
    { name: 'Stored', value: perSecond(last?.storedRate), more: known },
    { name: 'Journal', value: bytes(journal.bytes), more: `${bytes(journal.bytes_on_disk)} on disk` },
  ]);
}

function said({ sink }) {
  const now = byId('sink-now');
  now.dataset.tone = sink.state === 'up' ? (sink.last_error ? 'warn' : 'ok') : 'bad';
  const line = `${STATES[sink.state] ?? sink.state} since ${time(sink.since)}.`;
  const error = sink.last_error ?? (sink.state === 'up' ? 'No error stands.' : '');
  if (now.children.length === 0) now.append(el('p'), el('pre', { tabindex: '0' }));
  text(now.children[0], line);
  text(now.children[1], error);
}

/** Notes what changed, for someone who comes back to the page. */
export function note(tone, what) {
  seen.unshift({ at: Date.now(), tone, what, key: `${Date.now()} ${what}` });
  seen.length = Math.min(seen.length, SEEN);
}

let before = null;
function notice(status) {
  const { sink, audit, ready, not_ready, uptime_s } = status;
  if (before !== null) {
    if (uptime_s < before.uptime_s) note('warn', 'The node was started again');
    if (ready !== before.ready) note(ready ? 'ok' : 'bad', ready ? 'Reports are taken again' : `Reports are not taken: ${not_ready}`);
    if (sink.state !== before.sink.state) {
      if (sink.state === 'up') note('ok', 'The sink is up again');
      else note('bad', `The sink is ${sink.state}: ${sink.last_error}`);
    } else if (sink.last_error && sink.last_error !== before.sink.last_error) note('warn', sink.last_error);
    const died = audit.dead - before.audit.dead;
    if (died > 0) note('warn', died === 1 ? '1 report became a dead letter' : `${count(died)} reports became dead letters`);
  } else note('ok', 'This page was opened');
  before = status;
}

function history() {
  const make = ({ at, tone, what }) => el('li', { 'data-tone': tone },
    el('time', { datetime: new Date(at).toISOString() }, time(at)), el('span', {}, what));
  keyed(byId('seen'), seen, ({ key }) => key, make, () => {});
}

/** Shows a status. */
export function update(isNew) {
  const { status } = live;
  if (isNew) notice(status);
  verdict(status);
  health(status);
  behind(status);
  said(status);
  history();
}

/** The line on top while the server does not answer. */
export function gone() {
  const banner = byId('gone');
  banner.hidden = live.goneSince === null;
  if (banner.hidden) return;
  if (banner.children.length === 0) banner.append(el('strong'), el('span', { 'aria-live': 'off' }));
  text(banner.children[0], `The node has not answered since ${time(live.goneSince)}.`);
  const old = live.status === null ? '' : `What you see is ${span((Date.now() - live.at) / 1000)} old. `;
  text(banner.children[1], `${old}This page tries again by itself.`);
}
