// Charts by uPlot, in the colours of the page.

import { byId, el } from './dom.js';
import { compact, latency, rate, time } from './format.js';
import { live } from './live.js';

const HEIGHT = 170;
/** The time axis shows at least this many seconds. */
const LEAST_SPAN = 60;

/** The charts: where, what, and how a value of theirs is written. */
const charts = [
  {
    at: 'chart-rates',
    series: [
      { label: 'accepted', colour: '--accent', value: (s) => s.acceptedRate },
      { label: 'stored', colour: '--second', value: (s) => s.storedRate },
    ],
    write: rate,
  },
  { at: 'chart-backlog', series: [{ label: 'backlog', colour: '--accent', value: (s) => s.backlog }], write: compact },
  {
    at: 'chart-latency',
    series: [
      { label: 'ack', colour: '--accent', value: (s) => s.latency?.ack ?? null },
      { label: 'sync', colour: '--second', value: (s) => s.latency?.sync ?? null },
      { label: 'sink', colour: '--third', value: (s) => s.latency?.sink ?? null },
    ],
    write: latency,
    axis: latency,
    least: 0.001,
  },
];

/** The colour that a custom property stands for now, as the canvas wants it. */
function colour(name) {
  const probe = byId('link');
  probe.style.outlineColor = `var(${name})`;
  return getComputedStyle(probe).outlineColor;
}

const said = (value, write) => (value === null || value === undefined ? '–' : write(value));

function plot(chart) {
  const parent = byId(chart.at);
  chart.plot?.destroy();
  const [muted, line] = [colour('--muted'), colour('--line')];
  const font = '12px system-ui, sans-serif';
  const axis = { stroke: muted, font, grid: { stroke: line, width: 1 }, ticks: { show: false } };
  const series = chart.series.map(({ label, colour: name }) => ({
    label, stroke: colour(name), fill: null, width: 2, points: { show: false },
    // What the cursor is at, or the latest.
    value: (u, v, n, at) => said(at === null ? u.data[n].at(-1) : v, chart.write),
  }));
  chart.plot = new window.uPlot({
    width: parent.clientWidth || 300,
    height: HEIGHT,
    series: [{ label: 'at', value: (u, v, n, at) => said(at === null ? u.data[0].at(-1) : v, (t) => time(t * 1000)) }, ...series],
    scales: {
      x: { range: (_, from, to) => [Math.min(from ?? 0, to - LEAST_SPAN), to] },
      y: { range: (_, __, to) => [0, Math.max(chart.least ?? 1, (to ?? 0) * 1.1)] },
    },
    axes: [
      { ...axis, space: 75, size: 30, values: (_, ticks) => ticks.map((t) => time(t * 1000)) },
      { ...axis, space: 28, size: 56, values: (_, ticks) => ticks.map(chart.axis ?? compact) },
    ],
    cursor: { y: false, drag: { x: false, y: false } },
    legend: { markers: { width: 0, fill: (u, n) => u.series[n].stroke() } },
  }, data(chart), parent);
}

const data = ({ series }) => [
  live.samples.map((sample) => sample.time),
  ...series.map(({ value }) => live.samples.map(value)),
];

/** Draws what is new. */
export function update() {
  for (const chart of charts) {
    if (chart.at === 'chart-latency') {
      if (live.latency === null) continue;
      byId(chart.at).parentElement.hidden = false;
    }
    if (!chart.plot) plot(chart);
    chart.plot.setData(data(chart));
    const last = live.samples.at(-1);
    if (last) {
      const now = chart.series.map(({ label, value }) => `${label} ${said(value(last), chart.write)}`);
      byId(chart.at).setAttribute('aria-label', `Chart, now: ${now.join(', ')}`);
    }
  }
}

/** Draws again in the colours of the theme. */
export const recolour = () => charts.filter((chart) => chart.plot).forEach(plot);

export function start() {
  for (const { at } of charts) byId(at).setAttribute('role', 'img');
  const resized = new ResizeObserver((entries) => {
    for (const { target } of entries) {
      const chart = charts.find(({ at }) => at === target.id);
      if (target.clientWidth > 0) chart.plot?.setSize({ width: target.clientWidth, height: HEIGHT });
    }
  });
  charts.forEach(({ at }) => resized.observe(byId(at)));
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', recolour);
}
