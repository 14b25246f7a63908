// The page of one id: how it stands, what is queued, and what can be done.

import { act, get, path, rawData, request, withQuery } from './api.js';
import { ask, askWhy, doing } from './dialog.js';
import { button, byId, el, facts, text } from './dom.js';
import { ago, bytes, count, plural, span, time } from './format.js';
import { lastBatch, state } from './streams.js';
import { paged } from './table.js';

const PAGE = 20;
/** Characters of a report's data that are shown. */
const SHOWN = 500;

let shown = null;
let queued = null;

/** A report's number, and the node where that gave it. */
function number({ key }) {
  const [, source, seq] = key.split('~');
  return source === '0' ? seq : `${seq}, node ${source}`;
}

const shortened = (data) => (data.length > SHOWN ? `${data.slice(0, SHOWN)}… (${count(data.length)} characters)` : data);

function frame(id) {
  const flush = button('Flush now', () => doing(flush, () => flushNow(id)));
  const pause = button('Pause', () => pauseOrResume(id, pause));
  const aside = button('Set the first aside', () => setAside(id, aside));
  const [head, rows] = [el('p', { role: 'status' }), el('tbody')];
  const [note, pages] = [el('p', { class: 'note' }), el('div', { class: 'pages' })];
  const title = el('h1', { class: 'id', tabindex: '-1' }, id);
  byId('stream').replaceChildren(
    el('p', {}, el('a', { href: '#/ids' }, '← All ids')),
    el('section', { 'aria-label': 'The id' },
      el('div', { class: 'bar' }, title, el('div', { class: 'actions' }, flush, pause, aside)), head, el('div')),
    el('section', { 'aria-labelledby': 'queued-h' },
      el('h2', { id: 'queued-h' }, 'Queued reports'),
      el('p', { class: 'muted' }, 'Durable in the journal and not yet in the sink, oldest first.'),
      el('div', { class: 'sheet' },
        el('table', { 'aria-labelledby': 'queued-h' },
          el('thead', {}, el('tr', {}, ...[['Seq', ''], ['Accepted', ''], ['Code', 'number wide'], ['Peer', 'wide'], ['Data', '']]
            .map(([name, kind]) => el('th', { scope: 'col', class: kind || null }, name)))),
          rows),
        note),
      pages));
  queued = paged({
    rows, note, pages,
    load: async (after) => {
      const answer = await (await request(withQuery(path('streams', id, 'reports'), { after, limit: PAGE }))).text();
      const { reports, next } = JSON.parse(answer);
      const data = rawData(answer);
      return { items: reports.map((report, n) => ({ ...report, data: data[n] })), next };
    },
    keyOf: ({ position }) => String(position),
    make: (report) => el('tr', {},
      el('th', { scope: 'row', class: 'id' }, number(report)),
      el('td', {}, time(report.accepted_at)), el('td', { class: 'number wide' }, String(report.code)),
      el('td', { class: 'wide' }, report.peer ?? ''), el('td', { class: 'data' }, shortened(report.data))),
    update: () => {},
    empty: () => 'Nothing is queued.',
  });
  title.focus({ preventScroll: true });
  return { id, head, body: head.nextElementSibling, flush, pause, aside };
}

async function flushNow(id) {
  await act('POST', path('streams', id, 'flush'));
  refresh();
  return `${id} is flushed: what was queued goes to the sink now.`;
}

async function pauseOrResume(id, pressed) {
  const resuming = pressed.textContent === 'Resume';
  if (!resuming) {
    const what = 'Until it is resumed, also over a restart, its reports stay in the journal. They are acknowledged as before.';
    const body = [el('p', {}, what), el('p', { class: 'id' }, id)];
    if (!await ask('Pause this id?', body, [{ value: 'pause', label: 'Pause' }])) return;
  }
  await doing(pressed, async () => {
    await act('POST', path('streams', id, resuming ? 'resume' : 'pause'));
    return resuming ? `${id} goes on.` : `${id} is paused.`;
  });
  refresh();
}

async function setAside(id, pressed) {
  const what = 'The first report that waits becomes a dead letter, and those behind it go on. It can be retried later.';
  const why = await askWhy('Set the first report aside?', [el('p', {}, what), el('p', { class: 'id' }, id)], 'Set aside');
  if (why === null) return;
  await doing(pressed, async () => {
    const { key } = await act('POST', withQuery(path('streams', id, 'set-aside'), { reason: why }));
    return `${key} is a dead letter now.`;
  });
  refresh();
}

function fill({ head, body, flush, pause, aside }, stream) {
  const { last_batch: batch, last_error: error } = stream;
  if (head.textContent !== stream.state) head.replaceChildren(state(stream.state));
  text(pause, stream.paused ? 'Resume' : 'Pause');
  aside.disabled = stream.backlog === 0;
  flush.disabled = stream.paused || stream.backlog + stream.markers === 0;
  const list = facts([
    ['Backlog', plural(stream.backlog, 'report', 'reports')], ['Markers', count(stream.markers)], ['Size', bytes(stream.bytes)],
    ['Oldest waits', stream.backlog + stream.markers === 0 ? '–' : span(stream.oldest_age_s)], ['Last batch', lastBatch(batch)],
    ['Next attempt', stream.next_attempt_s === null ? null : `in ${span(stream.next_attempt_s)}`],
    ['Last error', error ? `${ago(error.at)}: ${error.message}` : null],
  ]);
  if (body.textContent !== list.textContent) body.replaceChildren(list);
}

/** Shows the page of an id; null leaves it. */
export function show(id) {
  shown = id === null ? null : frame(id);
  return id === null ? null : refresh();
}

export async function refresh() {
  const page = shown;
  if (page === null) return;
  try {
    const stream = await get(path('streams', page.id));
    if (page === shown) fill(page, stream);
  } catch (error) {
    if (page === shown) text(page.head, error.message);
  }
  if (page === shown) await queued.refresh();
}
