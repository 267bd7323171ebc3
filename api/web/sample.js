// The sample: a stream of orders, two processors over it, and orders that come for as long as this page is open.

import { get, post, path } from "./api.js";
import { byId, h } from "./dom.js";

export const STREAM = "sample_orders";
const LARGE = "sample_large_orders";
const TOTALS = "sample_totals";
const COUNTRIES = ["NL", "DE", "FR", "PL", "ES"];
const PERIOD_MS = 1000;
const MOST_ROUNDS = 900;
let timer = 0;

const PROCESSORS = [
  {
    processor_name: "large_orders",
    processor_description: "Orders of more than 150",
    processor_type: "FILTER",
    source_stream_id: STREAM,
    target_stream_id: LARGE,
    processing_logic: { filter_expression: "payload.total > 150" },
  },
  {
    processor_name: "totals_by_country",
    processor_description: "What orders come to, by country and ten seconds",
    processor_type: "AGGREGATE",
    source_stream_id: STREAM,
    target_stream_id: TOTALS,
    processing_logic: {
      aggregations: [
        { function: "sum", field: "total", as: "revenue" },
        { function: "count", as: "orders" },
      ],
      group_by: ["country"],
    },
    window_config: { window_type: "tumbling", window_size_ms: 10000 },
  },
];

/** `number` orders that were placed one after the other, the last one now. */
function orders(number, apart_ms) {
  const now = Date.now();
  return Array.from({ length: number }, (_, i) => {
    const country = COUNTRIES[Math.floor(Math.random() * COUNTRIES.length)];
    const total = Math.round(500 + Math.random() ** 2 * 30000) / 100;
    return {
      event_type: "order.placed",
      source_capability: "sample",
      key: country,
      timestamp: new Date(now - (number - 1 - i) * apart_ms).toISOString(),
      payload: { order_id: `${now.toString(36)}-${i}`, country, total, items: 1 + Math.floor(Math.random() * 5) },
    };
  });
}

/** Make the streams, and put a minute's orders into the first one. */
export async function makeStream() {
  for (const [name, description] of [
    [STREAM, "Sample orders"],
    [LARGE, "Sample: large orders"],
    [TOTALS, "Sample: totals by country"],
  ]) {
    await post("streams", { name, description, partitions: name === STREAM ? 2 : 1 });
  }
  await post("events/batch", { stream_id: STREAM, events: orders(200, 300) });
}

/** Make and start the processors that are not there yet, and let orders come. Returns the id of the first one. */
export async function startFlow() {
  const { processors } = await get("stream-processors");
  let first = null;
  for (const config of PROCESSORS) {
    const known = processors.find((each) => each.processor_name === config.processor_name);
    const { processor_id } = known ?? (await post("stream-processors", config));
    if (!known || known.status !== "RUNNING") await post(path`stream-processors/${processor_id}/start`);
    first ??= processor_id;
  }
  feed();
  return first;
}

/** Publish a few orders a second, say so in the head of the page, and stop when told to, or after a quarter of an hour. */
export function feed() {
  stop();
  let rounds = 0;
  const place = byId("traffic");
  place.replaceChildren(
    h("span", {}, "Sample orders are published"),
    h("button", { type: "button", class: "quiet", onclick: stop, "aria-label": "Stop publishing sample orders" }, "Stop sample"),
  );
  place.hidden = false;
  timer = setInterval(async () => {
    rounds += 1;
    if (rounds > MOST_ROUNDS) stop();
    else await post("events/batch", { stream_id: STREAM, events: orders(5 + Math.floor(Math.random() * 20), 20) }).catch(stop);
  }, PERIOD_MS);
}

export function stop() {
  clearInterval(timer);
  byId("traffic").hidden = true;
}
