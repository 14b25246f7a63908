// Numbers for people.

const whole = new Intl.NumberFormat('en', { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat('en', { notation: 'compact', maximumFractionDigits: 1 });

export const count = (n) => whole.format(n);
export const compact = (n) => short.format(n);
export const rate = (n) => (n >= 10 || n === 0 ? whole.format(n) : n.toFixed(1));
export const plural = (n, one, many) => `${count(n)} ${n === 1 ? one : many}`;

export function bytes(n) {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let unit = 0;
  while (n >= 1024 && unit < units.length - 1) {
    n /= 1024;
    unit += 1;
  }
  return `${unit === 0 || n >= 100 ? n.toFixed(0) : n.toFixed(1)} ${units[unit]}`;
}

/** A span of seconds, in its two largest units. */
export function span(seconds) {
  if (seconds > 0 && seconds < 1) return '< 1 s';
  const s = Math.max(0, Math.round(seconds));
  const [d, h, min] = [Math.floor(s / 86400), Math.floor(s / 3600) % 24, Math.floor(s / 60) % 60];
  if (d > 0) return `${d} d ${h} h`;
  if (h > 0) return `${h} h ${min} min`;
  if (min > 0) return `${min} min ${s % 60} s`;
  return `${s} s`;
}

/** A time of day of this browser, with the day where it is not today. */
export function time(at) {
  const date = new Date(at);
  const clock = date.toLocaleTimeString('en-GB');
  return date.toDateString() === new Date().toDateString() ? clock : `${date.toLocaleDateString('en-CA')} ${clock}`;
}

export const ago = (at) => `${span((Date.now() - new Date(at)) / 1000)} ago`;

/** A latency in seconds. */
export function latency(seconds) {
  if (seconds >= 1) return `${seconds.toFixed(1)} s`;
  const ms = seconds * 1000;
  return ms >= 10 || ms === 0 ? `${ms.toFixed(0)} ms` : `${ms.toFixed(1)} ms`;
}
