// Questions, one at a time, and short news of what was done.

import { button, byId, el } from './dom.js';

/** A toast that is no error goes after this many milliseconds. */
const TOAST = 10_000;

let turn = Promise.resolve();

/**
 * Asks until a button is pressed; resolves to its value, or '' after Cancel or Escape. The last choice has
 * the focus, unless it does harm: then Cancel has it.
 */
export function ask(title, body, choices, cancel = 'Cancel') {
  const asked = turn.then(() => open(title, body, choices, cancel));
  turn = asked.catch(() => {});
  return asked;
}

function open(title, body, choices, cancel) {
  const dialog = byId('ask');
  const form = dialog.querySelector('form');
  byId('ask-h').replaceChildren(title);
  byId('ask-body').replaceChildren(...body);
  const main = choices.at(-1);
  const close = (value) => () => dialog.close(value);
  const buttons = choices.map(({ value, label, harms }) => (value === main?.value && !harms
    ? el('button', { type: 'submit', class: 'main', autofocus: true }, label)
    : button(label, close(value), { class: harms ? 'harm' : null })));
  const back = button(cancel, close(''), { autofocus: !main || main.harms });
  byId('ask-choices').replaceChildren(back, ...buttons);
  form.onsubmit = (event) => {
    event.preventDefault();
    if (main && !main.harms) dialog.close(main.value);
  };
  dialog.returnValue = '';
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener('close', () => resolve(dialog.returnValue), { once: true });
  });
}

/** Asks for a token until there is one. */
export async function askToken(wasRefused) {
  for (;;) {
    const input = el('input', { type: 'password', autocomplete: 'off', required: true, autofocus: true });
    const body = [
      el('p', {}, wasRefused ? 'The server does not take this token.' : 'The server wants a token of its admin API.'),
      el('label', {}, 'Token', input),
      el('p', { class: 'muted' }, 'Kept in this tab until it is closed.'),
    ];
    const pressed = await ask('Who asks?', body, [{ value: 'go', label: 'Go on' }]);
    if (pressed === 'go' && input.value.trim() !== '') return input.value.trim();
  }
}

/** Asks for a reason, which goes with what is done; null after Cancel. */
export async function askWhy(title, body, label) {
  for (;;) {
    const input = el('input', { type: 'text', maxlength: '100', required: true, autofocus: true });
    const pressed = await ask(title, [...body, el('label', {}, 'Why', input)], [{ value: 'go', label }]);
    if (pressed !== 'go') return null;
    if (input.value.trim() !== '') return input.value.trim();
  }
}

/** Says what was done; `isError` stays until it is closed. */
export function toast(message, isError = false) {
  const close = () => item.remove();
  const item = el('div', { class: isError ? 'toast bad' : 'toast' }, el('p', {}, message), button('Close', close));
  byId('toasts').append(item);
  if (!isError) setTimeout(close, TOAST);
}

/** Does it with its button at rest, and says what came of it. */
export async function doing(pressed, action) {
  if (pressed) pressed.disabled = true;
  try {
    toast(await action());
  } catch (error) {
    toast(error.message, true);
  } finally {
    if (pressed) pressed.disabled = false;
  }
}
