// The numbers of the monitoring WebSocket, one message a second, for all views that want them.

import { ROOT } from "./api.js";
import { session } from "./session.js";

export const KEPT = 300; // messages: five minutes
const listeners = new Set();
const messages = []; // {at, data}
let socket = null;
let waits_ms = 500;
let timer = 0;
let told = () => {};

/** The messages of the last minutes, oldest first. */
export const recent = () => messages;

/** The newest message, or null. */
export const newest = () => messages.at(-1) ?? null;

/** Call `listener` with each message from now on, and with the newest one at once. */
export function listen(listener, signal) {
  listeners.add(listener);
  signal?.addEventListener("abort", () => listeners.delete(listener));
  if (messages.length > 0) listener(messages.at(-1));
}

/** Connect, and stay connected. `tell(isLive)` is called when that changes. */
export function connect(tell) {
  told = tell;
  disconnect();
  open();
}

/** Connect no more. */
export function disconnect() {
  clearTimeout(timer);
  if (socket) {
    socket.onclose = null;
    socket.close();
  }
  socket = null;
  messages.length = 0;
}

function open() {
  const url = new URL("ws/monitoring", ROOT);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  if (session.tenant) url.searchParams.set("tenant_id", session.tenant);
  socket = session.token ? new WebSocket(url, ["bearer", session.token]) : new WebSocket(url);
  socket.onopen = () => {
    waits_ms = 500;
  };
  socket.onmessage = (event) => {
    const message = JSON.parse(event.data);
    if (message.message_type !== "monitoring") return;
    take({ at: Date.parse(message.timestamp), data: message.data });
  };
  socket.onclose = () => {
    told(false);
    timer = setTimeout(open, waits_ms);
    waits_ms = Math.min(waits_ms * 2, 15_000);
  };
}

function take(message) {
  const before = messages.at(-1);
  message.rates = rates(before, message);
  messages.push(message);
  if (messages.length > KEPT) messages.shift();
  told(true);
  for (const listener of listeners) listener(message);
}

const keyOf = (processor) => `${processor.flow ?? ""}|${processor.processor_name}`;

/** What each processor took in and gave out a second, by flow and name, averaged over up to five seconds: their counts are looked
 * at every five seconds only. */
function rates(before, now) {
  const found = new Map();
  const base = messages.at(-5) ?? before;
  for (const each of now.data.processors ?? []) {
    const old = base?.data.processors?.find((other) => keyOf(other) === keyOf(each));
    const passed_s = base ? (now.at - base.at) / 1000 : 0;
    const per = (name) => (old && passed_s > 0 ? Math.max(0, each[name] - old[name]) / passed_s : null);
    found.set(keyOf(each), { in: per("events_in"), out: per("events_out"), processor: each });
  }
  return found;
}

/** What a message, by default the newest one, says of a processor, or null. */
export const ofProcessor = (flow, name, message = newest()) => message?.rates.get(`${flow ?? ""}|${name}`) ?? null;
