// Numbers, instants and durations as people read them. Pure.

const whole = new Intl.NumberFormat("en");
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const instant = new Intl.DateTimeFormat("en", { dateStyle: "medium", timeStyle: "medium" });
const NONE = "–";

export const number = (value) => (value === null || value === undefined ? NONE : whole.format(value));

/** 1,234 stays; 1,234,567 becomes 1.2M. */
export const short = (value) => (value === null || value === undefined ? NONE : value < 100_000 ? whole.format(value) : compact.format(value));

/** A rate: as many digits as say something. */
export function rate(value) {
  if (value === null || value === undefined) return NONE;
  return value >= 100 ? whole.format(Math.round(value)) : value.toFixed(value >= 10 ? 1 : 2).replace(/\.?0+$/, "");
}

export function percent(part, total) {
  if (!total) return "0 %";
  const value = (100 * part) / total;
  // Never "100 %" before the last one, nor "0 %" after the first.
  const told = part < total ? Math.min(99.9, Math.floor(value * 10) / 10) : 100;
  return `${told >= 10 || Number.isInteger(told) ? Math.floor(told) : told.toFixed(1)} %`;
}

export function bytes(value) {
  if (value === null || value === undefined) return NONE;
  const units = ["bytes", "KB", "MB", "GB", "TB"];
  let unit = 0;
  let rest = value;
  while (rest >= 1000 && unit < units.length - 1) [rest, unit] = [rest / 1000, unit + 1];
  return `${unit === 0 || rest >= 100 ? Math.round(rest) : rest.toFixed(1)} ${units[unit]}`;
}

/** Seconds as two units at most: 0.42 s, 12 s, 3 min 20 s, 5 h 12 min, 2 d 4 h. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined || Number.isNaN(seconds)) return NONE;
  if (seconds < 0.0005) return "0 s";
  if (seconds < 1) return seconds < 0.1 ? `${Math.max(1, Math.round(seconds * 1000))} ms` : `${seconds.toFixed(2)} s`;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  const rounded = Math.round(seconds);
  if (rounded < 60) return `${rounded} s`;
  const units = [["d", 86_400], ["h", 3600], ["min", 60], ["s", 1]];
  const first = units.findIndex(([, size]) => rounded >= size);
  const [name, size] = units[first];
  const [smaller, smallerSize] = units[first + 1];
  const rest = Math.floor((rounded % size) / smallerSize);
  return `${Math.floor(rounded / size)} ${name}` + (rest ? ` ${rest} ${smaller}` : "");
}

/** Seconds since the epoch, of an ISO 8601 instant or of Unix seconds; null of nothing. */
export function seconds(at) {
  if (at === null || at === undefined) return null;
  return typeof at === "number" ? at : Date.parse(at) / 1000;
}

export const now = () => Date.now() / 1000;

export const exact = (at) => (at === null || at === undefined ? NONE : instant.format(seconds(at) * 1000));

/** How long ago, roughly: one unit is enough. */
export function ago(at) {
  if (at === null || at === undefined) return NONE;
  const past = Math.max(0, now() - seconds(at));
  if (past < 5) return "just now";
  for (const [name, size] of [["d", 86_400], ["h", 3600], ["min", 60], ["s", 1]]) {
    if (past >= size) return `${Math.floor(past / size)} ${name} ago`;
  }
  return "just now";
}

/** Both ends of the time that is left. `p50`: as likely sooner as later; `p90`: sooner nine times in ten. */
export function eta(left) {
  if (!left) return NONE;
  const [likely, late] = [duration(coarse(left.p50)), duration(coarse(left.p90))];
  return likely === late ? `about ${likely}` : `${likely} to ${late}`;
}

/** Seconds without digits that an estimate does not have. */
function coarse(value) {
  const step = value > 7200 ? 600 : value > 600 ? 60 : value > 60 ? 10 : 1;
  return Math.max(1, Math.round(value / step) * step);
}

/** An id with its middle left out: its beginning is its time, its end is what tells it from its neighbours. */
export const shortId = (id) => (id.length > 20 ? `${id.slice(0, id.indexOf("_") + 5)}…${id.slice(-6)}` : id);

export const plural = (count, one, many = `${one}s`) => `${number(count)} ${count === 1 ? one : many}`;

/** The beginning of a text on one line. */
export const oneLine = (text, length = 160) => {
  const flat = text.replace(/\s+/g, " ").trim();
  return flat.length > length ? `${flat.slice(0, length)}…` : flat;
};
