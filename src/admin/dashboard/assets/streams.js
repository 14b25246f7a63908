// Ids with a backlog: sorted, searched, page by page.

import { get, path, withQuery } from './api.js';
import { byId, el, text } from './dom.js';
import { ago, bytes, count, plural, span } from './format.js';
import { paged } from './table.js';

const PAGE = 20;
/** What a header sorts by, and how. */
const DIRECTION = { id: 'ascending', backlog: 'descending', oldest: 'descending' };

let sort = 'backlog';
let prefix = '';
let table = null;

/** The name of a state, with its colour. */
export const state = (name) => el('span', { class: 'state', 'data-state': name }, name);

export const linkTo = (id) => `#/id/${encodeURIComponent(id)}`;

export const lastBatch = (batch) => {
  if (!batch) return '–';
  const parts = [plural(batch.stored, 'row', 'rows')];
  if (batch.duplicates > 0) parts.push(`${count(batch.duplicates)} known`);
  if (batch.dead > 0) parts.push(`${count(batch.dead)} dead`);
  return `${ago(batch.at)}: ${parts.join(', ')}`;
};

function make({ id }) {
  const cell = (kind) => el('td', { class: kind });
  return el('tr', {}, el('th', { scope: 'row', class: 'id' }, el('a', { href: linkTo(id) }, id)),
    cell(), cell('number'), cell('number'), cell('number wide'), cell('wide'),
    el('td', { class: 'wide error' }, el('div', { class: 'clamp' })));
}

function update(row, stream) {
  const cells = row.children;
  if (cells[1].textContent !== stream.state) cells[1].replaceChildren(state(stream.state));
  text(cells[2], count(stream.backlog));
  text(cells[3], stream.backlog + stream.markers === 0 ? '–' : span(stream.oldest_age_s));
  text(cells[4], bytes(stream.bytes));
  text(cells[5], lastBatch(stream.last_batch));
  text(cells[6].firstChild, stream.last_error?.message ?? '');
}

function headers() {
  for (const head of document.querySelectorAll('#ids th[data-sort]')) {
    if (head.dataset.sort === sort) head.setAttribute('aria-sort', DIRECTION[sort]);
    else head.removeAttribute('aria-sort');
  }
}

export function start() {
  table = paged({
    rows: byId('ids-rows'), note: byId('ids-note'), pages: byId('ids-pages'),
    load: async (after) => {
      const { streams, next, total } = await get(withQuery(path('streams'), { sort, prefix, after, limit: PAGE }));
      return { items: streams, next, total };
    },
    keyOf: ({ id }) => id,
    make,
    update,
    empty: () => (prefix === ''
      ? 'Nothing waits: all that was acknowledged is in the sink or in the dead letters.'
      : `No id with a backlog starts with “${prefix}”.`),
  });
  for (const head of document.querySelectorAll('#ids th[data-sort]')) {
    head.firstElementChild.addEventListener('click', () => {
      sort = head.dataset.sort;
      headers();
      table.restart();
    });
  }
  headers();
  const input = byId('prefix');
  let pause = 0;
  input.addEventListener('input', () => {
    clearTimeout(pause);
    pause = setTimeout(async () => {
      prefix = input.value.trim();
      await table.restart();
      text(byId('ids-found'), `${byId('ids-rows').children.length === 0 ? 'No id' : 'Ids'} found`);
    }, 200);
  });
}

export const refresh = () => table.refresh();
