// Elements. Whatever a client or the server said goes in as text, never as markup.

export const byId = (id) => document.getElementById(id);

/** An element with attributes (`onclick` and the like: listeners) and children (nodes or text). */
export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? '' : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

export const button = (label, onclick, attributes = {}) => el('button', { type: 'button', onclick, ...attributes }, label);

/** Sets text where it differs: an unchanged live region stays silent, and a selection stays. */
export function text(node, value) {
  const wanted = String(value);
  if (node.textContent !== wanted) node.textContent = wanted;
}

/**
 * Makes the children of `parent` those of `items`, in order. A child whose key stays is updated in place, so that it
 * keeps the focus.
 */
export function keyed(parent, items, keyOf, make, update) {
  const old = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  let at = parent.firstElementChild;
  for (const item of items) {
    const key = keyOf(item);
    let child = old.get(key);
    if (child) old.delete(key);
    else {
      child = make(item);
      child.dataset.key = key;
    }
    update(child, item);
    if (child === at) at = at.nextElementSibling;
    else parent.insertBefore(child, at);
  }
  for (const child of old.values()) child.remove();
}

/** A list of named figures; `tone` is `ok`, `warn` or `bad`. */
export function tiles(parent, figures) {
  const make = ({ name }) => el('div', { class: 'tile' },
    el('h3', {}, name), el('p', { class: 'figure' }), el('p', { class: 'muted' }));
  keyed(parent, figures, ({ name }) => name, make, (tile, { value, more, tone }) => {
    tile.dataset.tone = tone ?? '';
    text(tile.children[1], value);
    text(tile.children[2], more ?? '');
  });
}

/** Names and values. */
export function facts(pairs) {
  const list = el('dl', { class: 'facts' });
  for (const [name, value] of pairs) {
    if (value !== null && value !== undefined) list.append(el('dt', {}, name), el('dd', {}, value));
  }
  return list;
}
