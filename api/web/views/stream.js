// One stream: what it holds, and its events as they come.

import { call, get, path, post } from "../api.js";
import { lineChart } from "../chart.js";
import { asking, choice, field, h, head, panel } from "../dom.js";
import { confirmed, dialog, parsed, toast } from "../dialog.js";
import { brief, bytes, count, milliseconds, rate, seconds, time } from "../format.js";
import { listen, recent } from "../live.js";
import { may } from "../rights.js";
import { link } from "../router.js";
import { every, failed, filled } from "../states.js";
import { table } from "../table.js";
import { follow, older, placeOf } from "../tail.js";

const MOST_SHOWN = 500;

export function stream({ params, query, signal }) {
  const name = params.stream;
  const publish = h("button", { type: "button", class: "primary", onclick: () => publishOne(name) }, "Publish an event");
  const drop = h("button", { type: "button", class: "danger", onclick: () => dropIt(name) }, "Drop");
  const place = h("div", {});
  filled(
    place,
    () => get(path`streams/${name}`, { signal }),
    (found) => details(found, query, signal),
    signal,
  );
  const actions = [may("event:publish", name) && publish, may("stream:manage", name) && drop];
  return h("div", {}, head(name, { crumbs: [["Streams", "#/streams"]], actions }), place);
}

function details(found, query, signal) {
  const chart = lineChart({
    label: `Events a second on ${found.name}`,
    format: rate,
    height: 110,
    nothing: "Waiting for the first message.",
  });
  const events = h("dd", {}, count(found.events));
  const size = h("dd", {}, bytes(found.stored_bytes));
  const now = h("dd", {}, "–");
  const latency = h("dd", {}, "–");
  listen((message) => {
    const mine = message.data.streams?.[found.name];
    now.replaceChildren(rate(mine?.throughput.events_per_second));
    latency.replaceChildren(seconds(mine?.latency.p95));
    chart.update([
      {
        name: "Published",
        points: recent().map((each) => [each.at, each.data.streams?.[found.name]?.throughput.events_per_second ?? null]),
      },
    ]);
  }, signal);
  every(5000, signal, async () => {
    const { events: held, stored_bytes: stored } = await get(path`streams/${found.stream_id}`, { signal });
    events.replaceChildren(count(held));
    size.replaceChildren(bytes(stored));
  });
  const tile = (title, value) => h("div", {}, h("dt", {}, title), value.tagName ? value : h("dd", {}, value));
  const kept = [
    found.retention_ms && milliseconds(found.retention_ms),
    found.retention_bytes && bytes(found.retention_bytes),
  ].filter(Boolean);
  return [
    found.description && h("p", { class: "muted" }, found.description),
    h(
      "dl",
      { class: "tiles" },
      tile("Events", events),
      tile("Now", now),
      tile("Latency, 95 %", latency),
      tile("Size", size),
      tile("Kept", kept.join(", ") || "for good"),
      tile(
        "Schema",
        found.schema_id
          ? h(
              "dd",
              {},
              h("a", { href: link`schemas/${found.schema_id}` }, "guarded"),
              h("small", {}, found.on_invalid === "REFUSE" ? "others are refused" : "others: dead letters"),
            )
          : "none",
      ),
    ),
    tailPanel(found, query, signal),
    h("div", { class: "columns" }, panel("Throughput", {}, chart.element), splitsPanel(found)),
  ].filter(Boolean);
}

function splitsPanel(found) {
  const rows = found.splits.filter((each) => each.end_offset > 0);
  const grid = table({
    caption: "Partitions and lanes",
    columns: [
      { name: "Partition", value: (row) => row.partition },
      { name: "Lane", value: (row) => row.lane },
      { name: "First offset", right: true, value: (row) => row.begin_offset, cell: (row) => count(row.begin_offset) },
      { name: "Next offset", right: true, value: (row) => row.end_offset, cell: (row) => count(row.end_offset) },
    ],
    rows,
    key: (row) => `${row.partition} ${row.lane}`,
    nothing: "No event has been published yet.",
  });
  return panel(`${found.partitions} ${found.partitions === 1 ? "partition" : "partitions"}`, {}, grid.element);
}

/** The newest events, those to come, and older ones on request; those that a filter takes. */
function tailPanel(found, query, signal) {
  let rows = [];
  let waiting = [];
  let cursor = null;
  let following = null;
  let paused = false;
  const filter = h("input", {
    type: "text",
    class: "mono",
    spellcheck: "false",
    autocomplete: "off",
    placeholder: "payload.total > 100",
    value: query.get("filter") ?? "",
    "data-find": true,
  });
  const pause = h("button", { type: "button", "aria-pressed": "false", onclick: () => setPaused(!paused) }, "Pause");
  const status = h("span", { class: "state good", role: "status" }, "Following");
  const note = h("div", {});
  const more = h("button", { type: "button", onclick: readOlder, hidden: true }, "Older events");
  const grid = table({
    caption: `Events of ${found.name}, newest first`,
    columns: [
      {
        name: "Time",
        tight: true,
        sort: false,
        value: (row) => row.timestamp,
        cell: (row) => h("a", { class: "tail-row", href: link`events/${row.event_id}` }, time(row.timestamp, { precise: true })),
      },
      { name: "Type", tight: true, sort: false, value: (row) => row.event_type },
      { name: "Key", tight: true, sort: false, value: (row) => brief(row.key ?? "", 24) },
      {
        name: "Place",
        tight: true,
        sort: false,
        value: (row) => `${row.partition}:${row.offset}${row.lane === "NORMAL" ? "" : ` ${row.lane}`}`,
      },
      {
        name: "Payload",
        fill: true,
        sort: false,
        value: (row) => row.event_id,
        cell: (row) => h("code", {}, brief(row.payload ?? row.payload_base64 ?? null, 400)),
      },
    ],
    key: placeOf,
    scrolls: "tail",
    nothing: "No event yet. What is published appears here.",
  });

  function take(events, page) {
    const known = new Set(rows.map(placeOf));
    const fresh = events.filter((event) => !known.has(placeOf(event)));
    if (page.next_cursor && page.tail_cursor === null) cursor ??= page.next_cursor;
    more.hidden = cursor === null;
    if (page.filter_failures) {
      const { count: number, example } = page.filter_failures;
      note.replaceChildren(
        h(
          "p",
          { class: "notice warn" },
          `The filter could not be evaluated for ${count(number)} events, which are left out: ${example}`,
        ),
      );
    }
    if (paused) waiting = [...fresh, ...waiting].slice(0, MOST_SHOWN);
    else rows = [...fresh, ...rows].slice(0, MOST_SHOWN);
    if (paused && waiting.length > 0) status.textContent = `Paused, ${count(waiting.length)} new`;
    grid.update(rows);
  }

  function setPaused(wanted) {
    paused = wanted;
    pause.setAttribute("aria-pressed", String(paused));
    pause.textContent = paused ? "Go on" : "Pause";
    status.textContent = paused ? "Paused" : "Following";
    status.className = `state ${paused ? "warn" : "good"}`;
    if (!paused) {
      rows = [...waiting, ...rows].slice(0, MOST_SHOWN);
      waiting = [];
      grid.update(rows);
    }
  }

  function start() {
    following?.abort();
    following = new AbortController();
    signal.addEventListener("abort", () => following.abort());
    rows = [];
    waiting = [];
    cursor = null;
    more.hidden = true;
    note.replaceChildren();
    setPaused(false);
    follow(found.name, {
      filter: filter.value.trim(),
      signal: following.signal,
      take,
      failed(error) {
        note.replaceChildren(failed(error, start));
        status.textContent = "Stopped";
        status.className = "state bad";
      },
    });
  }

  async function readOlder() {
    more.disabled = true;
    try {
      const page = await older(found.name, { filter: filter.value.trim(), cursor, signal });
      const known = new Set(rows.map(placeOf));
      rows = [...rows, ...page.events.filter((event) => !known.has(placeOf(event)))];
      cursor = page.next_cursor;
      more.hidden = cursor === null;
      grid.update(rows);
    } catch (error) {
      if (error.name !== "AbortError") note.replaceChildren(failed(error));
    }
    more.disabled = false;
  }

  const form = asking(
    start,
    field("Filter: an expression over the event, evaluated on the server", filter, { wide: true }),
    h("button", { type: "submit" }, "Filter"),
    pause,
  );
  start();
  return panel("Live tail", { actions: [status] }, form, note, grid.element, h("div", { class: "more" }, more));
}

async function publishOne(name) {
  const kind = h("input", { required: true, value: "sample.event", autocomplete: "off", spellcheck: "false" });
  const key = h("input", { autocomplete: "off", spellcheck: "false" });
  const priority = choice(["CRITICAL", "HIGH", "NORMAL", "LOW"], "NORMAL");
  const payload = h("textarea", { rows: 8, spellcheck: "false", required: true, value: '{\n  "total": 25.5\n}' });
  const receipt = await dialog(
    `Publish an event to ${name}`,
    [
      field("Type", kind),
      field("Key", key, { hint: "Events with one key keep their order. It may be left empty." }),
      field("Priority", priority),
      field("Payload, in JSON", payload),
    ],
    {
      action: "Publish",
      submit: async () =>
        post("events", {
          stream_id: name,
          event_type: kind.value,
          key: key.value || null,
          priority: priority.value,
          payload: parsed(payload.value, "The payload"),
        }),
    },
  );
  if (receipt) toast(`It is on disk: partition ${receipt.partition}, offset ${receipt.offset}.`);
}

async function dropIt(name) {
  if (!(await confirmed(`Drop ${name}?`, `The stream and all of its events will be gone for good.`, "Drop the stream"))) return;
  try {
    await call("DELETE", path`streams/${name}`);
    toast(`The stream ${name} is gone.`);
    location.hash = "#/streams";
  } catch (error) {
    toast(error.message, "bad");
  }
}
