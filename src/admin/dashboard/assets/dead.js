// Dead letters: look, try again, discard.

import { act, get, hasToken, path, rawData, request, withQuery } from './api.js';
import { ask, doing } from './dialog.js';
import { button, byId, el, facts, text } from './dom.js';
import { bytes, count, plural, time } from './format.js';
import { paged } from './table.js';

const PAGE = 20;

/** Why a report is here, in a word. */
const kinds = {
  refused: 'refused', key_taken: 'key taken', no_table: 'no table', set_aside: 'set aside', damaged: 'damaged',
};

/** The one id whose letters are shown; null for all. */
let of = null;
let table = null;

/** What became of a retry, as a sentence. */
function became({ stored, duplicates, refused, last_refusal }) {
  const parts = [];
  if (stored > 0) parts.push(`${plural(stored, 'report is a row', 'reports are rows')} in the sink now`);
  if (duplicates > 0) parts.push(`${plural(duplicates, 'was', 'were')} there already`);
  if (refused > 0) parts.push(`${plural(refused, 'was', 'were')} refused again: ${last_refusal?.reason ?? ''}`);
  return parts.length === 0 ? 'There was nothing to retry.' : `${parts.join('; ')}.`;
}

async function retry(key, pressed) {
  const what = 'The report is given to the sink again. Where the cause is gone it becomes a row, else it stays here.';
  const body = [el('p', {}, what), el('p', { class: 'id' }, key)];
  if (await ask('Retry this dead letter?', body, [{ value: 'retry', label: 'Retry' }])) {
    await doing(pressed, async () => became(await act('POST', path('dead-letters', key, 'retry'))));
    refresh();
  }
}

async function discard(key, pressed) {
  const what = 'The report is removed for good. It will never be in the sink. There is no way back.';
  const body = [el('p', {}, what), el('p', { class: 'id' }, key)];
  if (await ask('Discard this dead letter?', body, [{ value: 'discard', label: 'Discard for good', harms: true }])) {
    await doing(pressed, async () => {
      await act('DELETE', path('dead-letters', key));
      return `${key} is discarded.`;
    });
    refresh();
  }
}

async function retryAll(pressed) {
  const which = of === null ? 'All dead letters are' : `All dead letters of ${of} are`;
  const body = [el('p', {}, `${which} given to the sink again. Those whose cause is gone become rows; the rest stay.`)];
  if (await ask('Retry all?', body, [{ value: 'retry', label: 'Retry all' }])) {
    await doing(pressed, async () => became(await act('POST', withQuery(path('dead-letters', 'retry'), { id: of }))));
    refresh();
  }
}

/** What the sink has under the key. */
function holder({ time: at, code, accepted_at: accepted, data_bytes: size, data: has }) {
  return [
    el('p', {}, 'The sink has under this key:'),
    facts([['Accepted', accepted], ['Time', at === null ? null : `${at} s`], ['Code', code], ['Data', bytes(size)]]),
    el('pre', { tabindex: '0', 'aria-label': 'Data in the sink' }, has ?? 'no data'),
  ];
}

/** The data as it was sent; that of the holder is a text, and comes behind it. */
const data = (letter, answer) => (letter.data === undefined ? null : rawData(answer)[0]);

async function show(key) {
  let answer;
  try {
    answer = await (await request(path('dead-letters', key))).text();
  } catch (error) {
    doing(null, () => { throw error; });
    return;
  }
  const letter = JSON.parse(answer);
  const body = [
    facts([
      ['Kind', kinds[letter.kind] ?? letter.kind], ['Reason', letter.reason], ['Id', letter.id], ['Source', letter.source], ['Seq', letter.seq], ['Code', letter.code],
      ['Time', letter.time === null ? null : `${letter.time} s`], ['Accepted', time(letter.accepted_at)],
      ['Dead since', time(letter.dead_at)], ['Peer', letter.peer], ['Data', bytes(letter.data_bytes)],
    ]),
    el('pre', { tabindex: '0', 'aria-label': 'Data' }, data(letter, answer) ?? 'no data'),
    ...(letter.holder ? holder(letter.holder) : []),
  ];
  const choices = [{ value: 'discard', label: 'Discard', harms: true }, { value: 'retry', label: 'Retry' }];
  const pressed = await ask(key, body, choices, 'Close');
  if (pressed === 'retry') await retry(key);
  if (pressed === 'discard') await discard(key);
}

/** An export by fetch where a token is needed, which a link cannot send. */
async function download(event) {
  if (!hasToken()) return;
  event.preventDefault();
  await doing(null, async () => {
    const blob = await (await request(byId('export').getAttribute('href'))).blob();
    const link = el('a', { href: URL.createObjectURL(blob), download: 'dead-letters.ndjson' });
    link.click();
    URL.revokeObjectURL(link.href);
    return 'The dead letters are saved.';
  });
}

function make({ key }) {
  const act = (label, action) => (
    button(label, (event) => action(key, event.currentTarget), { 'aria-label': `${label} ${key}` }));
  return el('tr', {},
    el('th', { scope: 'row', class: 'id' }, el('button', { type: 'button', class: 'plain', onclick: () => show(key) }, key)),
    el('td', { class: 'wide' }), el('td', { class: 'error' }), el('td', { class: 'wide' }), el('td', { class: 'number wide' }),
    el('td', { class: 'actions' }, act('Retry', retry), act('Discard', discard)));
}

function update(row, letter) {
  text(row.children[1], kinds[letter.kind] ?? letter.kind);
  text(row.children[2], letter.reason);
  text(row.children[3], time(letter.dead_at));
  text(row.children[4], bytes(letter.data_bytes));
}

export function start() {
  table = paged({
    rows: byId('dead-rows'), note: byId('dead-note'), pages: byId('dead-pages'),
    load: async (after) => {
      const { dead_letters: items, next } = await get(withQuery(path('dead-letters'), { id: of, kind: byId('dead-kind').value, after, limit: PAGE }));
      byId('retry-all').disabled = items.length === 0;
      return { items, next };
    },
    keyOf: ({ key }) => key,
    make,
    update,
    empty: () => {
      if (byId('dead-kind').value !== '') return 'None of this kind.';
      return of === null ? 'None: the sink took every report so far.' : 'None of this id.';
    },
  });
  byId('dead-kind').addEventListener('change', () => table.restart());
  byId('retry-all').addEventListener('click', (event) => retryAll(event.currentTarget));
  byId('export').addEventListener('click', download);
}

/** Shows those of one id, or all. */
export function showOf(id) {
  of = id;
  text(byId('dead-h'), id === null ? 'Dead letters' : 'Dead letters of this id');
  byId('export').setAttribute('href', withQuery(path('dead-letters', 'export'), { id }));
  return table.restart();
}

export const refresh = () => table.refresh();

/** The number of all of them, beside the link to them. */
export function badge(dead) {
  byId('dead-badge').hidden = dead === 0;
  text(byId('dead-badge'), count(dead));
}
