// Numbers, sizes, times and JSON as people read them. Times are UTC, as they are in SQL.

import { h } from "./dom.js";

const WHOLE = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const FINE = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });
const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];
const NOTHING = "–";

export const count = (value) => (value === null || value === undefined ? NOTHING : WHOLE.format(value));

/** A number of any size in few digits. */
export function number(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return NOTHING;
  return Math.abs(value) >= 1000 ? WHOLE.format(value) : FINE.format(value);
}

export const rate = (value) => (value === null || value === undefined ? NOTHING : `${number(value)}/s`);

export function bytes(value) {
  if (value === null || value === undefined) return NOTHING;
  let unit = 0;
  let left = value;
  while (left >= 1024 && unit < UNITS.length - 1) {
    left /= 1024;
    unit += 1;
  }
  return `${FINE.format(left)} ${UNITS[unit]}`;
}

export const percent = (part) => (part === null || part === undefined ? NOTHING : `${WHOLE.format(part * 100)} %`);

/** A span of time in its largest unit. */
export function seconds(value) {
  if (value === null || value === undefined) return NOTHING;
  const size = Math.abs(value);
  if (size < 0.001) return size === 0 ? "0 s" : `${FINE.format(value * 1e6)} µs`;
  if (size < 1) return `${FINE.format(value * 1000)} ms`;
  if (size < 120) return `${FINE.format(value)} s`;
  if (size < 7200) return `${WHOLE.format(value / 60)} min`;
  if (size < 172800) return `${WHOLE.format(value / 3600)} h`;
  return `${WHOLE.format(value / 86400)} days`;
}

export const milliseconds = (value) => (value === null || value === undefined ? NOTHING : seconds(value / 1000));

/** A time as `2026-01-31 10:15:00.250`; `precise` keeps the part below a second. */
export function moment(text, { precise = false } = {}) {
  if (!text) return NOTHING;
  const plain = String(text).replace("T", " ").replace(/Z$/, "");
  return precise ? plain.replace(/(\.\d{3})\d+$/, "$1") : plain.replace(/\.\d+$/, "");
}

/** A time as an element: the time itself, or how long ago it was. */
export function time(text, { ago = false, precise = false } = {}) {
  if (!text) return NOTHING;
  const iso = /Z$/.test(text) ? text : `${text}Z`;
  const told = ago ? `${seconds(Math.max(0, (Date.now() - Date.parse(iso)) / 1000))} ago` : moment(text, { precise });
  return h("time", { datetime: iso, title: `${moment(text, { precise: true })} UTC` }, told);
}

export const clock = (ms) => new Date(ms).toISOString().slice(11, 19);

/** A value in one line, cut off if it is long. */
export function brief(value, most = 160) {
  const text = typeof value === "string" ? value : JSON.stringify(value);
  if (text === undefined || text === "null") return NOTHING;
  return text.length > most ? `${text.slice(0, most - 1)}…` : text;
}

const TOKEN = /("(?:[^"\\]|\\.)*")(\s*:)?|\b(true|false|null)\b|(-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)/g;

/** JSON, indented and coloured. */
export function json(value) {
  const text = JSON.stringify(value, null, 2) ?? "null";
  const parts = [];
  let end = 0;
  if (text.length < 200_000) {
    for (const found of text.matchAll(TOKEN)) {
      const [whole, string, colon, word] = found;
      parts.push(text.slice(end, found.index));
      const kind = string ? (colon ? "key" : "string") : word ? "word" : "number";
      parts.push(h("span", { class: kind }, string ?? whole), colon ?? "");
      end = found.index + whole.length;
    }
  }
  return h("pre", { tabindex: "0" }, parts, text.slice(end));
}

const TONES = {
  good: ["RUNNING", "COMPLETED", "OK", "STABLE", "ACTIVE", "RETRIED", "DONE", "PASSED", "LIVE"],
  warn: [
    "STARTING",
    "STOPPING",
    "WARN",
    "REWOUND",
    "FILTERED",
    "SKIPPED",
    "REBALANCING",
    "ARCHIVED",
    "OPEN",
    "REFUSED",
    "CATCHING_UP",
    "EXPIRED",
  ],
  bad: ["FAILED", "STALLED"],
};

/** How a state is to be taken: good, warn, bad, or nothing. */
export function tone(state) {
  return Object.keys(TONES).find((each) => TONES[each].includes(String(state).toUpperCase())) ?? "";
}

/** A state as a light with its name; it never speaks by its colour alone. */
export const state = (name, as = tone(name)) => h("span", { class: `state ${as}` }, sentence(name));

export const sentence = (name) => String(name).charAt(0).toUpperCase() + String(name).slice(1).toLowerCase().replaceAll("_", " ");
