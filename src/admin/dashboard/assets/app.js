// The page: which part is shown, and when it is read again.

import { onTokenNeeded } from './api.js';
import * as charts from './charts.js';
import * as dead from './dead.js';
import { askToken } from './dialog.js';
import { byId, text } from './dom.js';
import { span } from './format.js';
import * as latency from './latency.js';
import { follow, live, onChange } from './live.js';
import * as overview from './overview.js';
import * as stream from './stream.js';
import * as streams from './streams.js';

/** Lists are read again this often, in milliseconds. */
const LISTS = 3000;

/** The id whose page is shown. */
let shown;

function route() {
  const [, part, rest] = /^#\/([a-z]*)\/?(.*)$/.exec(location.hash) ?? [null, '', ''];
  let id = null;
  try {
    if (part === 'id' && rest !== '') id = decodeURIComponent(rest);
  } catch {
    // No id: its escapes are broken.
  }
  if (id !== shown) {
    shown = id;
    byId('overview').hidden = id !== null;
    byId('stream').hidden = id === null;
    stream.show(id);
    dead.showOf(id);
    scrollTo(0, 0);
  }
  if (['ids', 'sink', 'dead'].includes(part)) {
    byId(part).scrollIntoView();
    byId(part).focus({ preventScroll: true });
  }
}

function refreshLists() {
  if (document.hidden || live.goneSince !== null) return;
  if (shown === null) streams.refresh();
  else stream.refresh();
}

let drawn = 0;
let dead_before = null;
function update({ status, at, goneSince }) {
  const isGone = goneSince !== null;
  document.body.classList.toggle('gone', isGone);
  overview.gone();
  byId('link').dataset.tone = isGone ? 'bad' : status === null ? '' : 'ok';
  text(byId('link'), isGone ? 'No answer' : status === null ? 'Connecting' : 'Live');
  if (status === null) return;
  document.body.classList.remove('loading');
  text(byId('node'), `node ${status.node_id} · ${status.version} · up ${span(status.uptime_s)}`);
  const isNew = at !== drawn;
  drawn = at;
  overview.update(isNew);
  dead.badge(status.audit.dead);
  if (!isNew) return;
  charts.update();
  const { dead: dead_now, discarded } = status.audit;
  if (dead_before !== null && dead_before !== dead_now + discarded) dead.refresh();
  dead_before = dead_now + discarded;
}

let wasGone = false;
function watchForReturn({ goneSince }) {
  const isGone = goneSince !== null;
  if (isGone && !wasGone) overview.note('bad', 'The node does not answer');
  if (!isGone && wasGone) {
    overview.note('ok', 'The node answers again');
    refreshLists();
    dead.refresh();
  }
  wasGone = isGone;
}

const THEMES = ['auto', 'light', 'dark'];
function theme() {
  const root = document.documentElement.dataset;
  const label = () => text(byId('theme'), `Theme: ${root.theme}`);
  byId('theme').addEventListener('click', () => {
    root.theme = THEMES[(THEMES.indexOf(root.theme) + 1) % THEMES.length];
    localStorage.setItem('forebay-theme', root.theme);
    label();
    charts.recolour();
  });
  label();
}

onTokenNeeded(askToken);
theme();
byId('skip').addEventListener('click', () => byId('main').focus());
streams.start();
dead.start();
charts.start();
addEventListener('hashchange', route);
route();
refreshLists();
setInterval(refreshLists, LISTS);
onChange(watchForReturn);
onChange(update);
latency.start();
follow();
