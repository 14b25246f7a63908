// A table that is read page by page.

import { button, el, keyed, text } from './dom.js';
import { count } from './format.js';
import { live } from './live.js';

/**
 * Fills `rows`, `note` and `pages` with what `load(after)` gives: `{items, next, total}`, `total` where it is known.
 * `keyOf`, `make` and `update` are those of `keyed`; `empty()` says why there is nothing.
 */
export function paged({ rows, note, pages, load, keyOf, make, update, empty }) {
  // What `after` was for each page up to this one, and how many rows were before it.
  let trail = [{ after: null, before: 0 }];
  let next = null;
  let shown = 0;
  let asked = 0;

  const label = el('p', { class: 'muted' });
  const move = (change) => () => {
    change();
    refresh();
  };
  const back = button('Previous', move(() => trail.pop()));
  const on = button('Next', move(() => trail.push({ after: next, before: trail.at(-1).before + shown })));
  pages.replaceChildren(back, on, label);
  text(note, 'Loading');

  async function refresh() {
    const mine = ++asked;
    const { after, before } = trail.at(-1);
    let page;
    try {
      page = await load(after);
    } catch (error) {
      if (mine === asked && live.goneSince === null) {
        note.replaceChildren(`This cannot be read now: ${error.message} `, button('Try again', refresh));
      }
      return;
    }
    // Another question was asked meanwhile.
    if (mine !== asked) return;
    if (page.items.length === 0 && trail.length > 1) return restart();
    shown = page.items.length;
    next = page.next;
    keyed(rows, page.items, keyOf, make, update);
    text(note, shown === 0 ? empty() : '');
    const range = `${count(before + 1)} to ${count(before + shown)}`;
    const total = page.total ?? (next === null ? before + shown : null);
    text(label, shown === 0 ? '' : total === null ? range : `${range} of ${count(total)}`);
    pages.hidden = trail.length === 1 && next === null;
    back.disabled = trail.length === 1;
    on.disabled = next === null;
  }

  function restart() {
    trail = [{ after: null, before: 0 }];
    return refresh();
  }

  return { refresh, restart };
}
