// Aggregates: find one, see its life as a timeline, and its state as of each version.

import { ask, get, path, post } from "../api.js";
import { asking, choice, field, h, head, panel, facts } from "../dom.js";
import { brief, count, json, state, time } from "../format.js";
import { link } from "../router.js";
import { empty, failed, filled } from "../states.js";
import { table } from "../table.js";
import { difference } from "../text_diff.js";

const PAGE = 100;
const TYPES = `SELECT aggregate_type, count(DISTINCT aggregate_id) AS aggregates FROM events
  WHERE aggregate_type IS NOT NULL GROUP BY ALL ORDER BY aggregate_type`;

export function aggregates({ query, signal }) {
  const place = h("div", {});
  const id = h("input", { required: true, autocomplete: "off", spellcheck: "false", "data-find": true });
  const open = asking(
    () => {
      location.hash = link`aggregates/${id.value.trim()}`;
    },
    field("Aggregate id", id, { wide: true }),
    h("button", { type: "submit" }, "Open"),
  );
  filled(
    place,
    () => ask(TYPES, { signal }),
    (types) => {
      if (types.length === 0)
        return empty(
          "No event belongs to an aggregate yet. An aggregate is a thing with a life, stored as the events that made it so.",
        );
      return list(types, query.get("type") ?? types[0].aggregate_type, signal);
    },
    signal,
  );
  return h("div", {}, head("Aggregates"), panel("Find", { label: "hidden" }, open, place));
}

function list(types, first, signal) {
  const kind = choice(
    types.map((each) => [each.aggregate_type, `${each.aggregate_type} (${count(each.aggregates)})`]),
    first,
  );
  const place = h("div", {});
  const more = h("button", { type: "button", hidden: true }, "More");
  const grid = table({
    caption: "Aggregates",
    columns: [
      {
        name: "Aggregate",
        value: (row) => row.aggregate_id,
        cell: (row) => h("a", { href: link`aggregates/${row.aggregate_id}` }, row.aggregate_id),
      },
      { name: "Version", right: true, value: (row) => row.current_version },
      { name: "Status", value: (row) => row.status, cell: (row) => state(row.status) },
      { name: "Made", tight: true, value: (row) => row.created_at, cell: (row) => time(row.created_at) },
    ],
    key: (row) => row.aggregate_id,
    nothing: "Events name this type, but no aggregate of it was appended to.",
  });
  let rows = [];
  const show = (page) => {
    rows = [...rows, ...page.aggregates];
    grid.update(rows);
    more.hidden = page.next_after === null;
    more.onclick = async () =>
      show(
        await get("event-sourcing/aggregates", {
          query: { aggregate_type: kind.value, limit: PAGE, after: page.next_after },
          signal,
        }),
      );
  };
  const load = () => {
    rows = [];
    filled(
      place,
      () => get("event-sourcing/aggregates", { query: { aggregate_type: kind.value, limit: PAGE }, signal }),
      (page) => {
        show(page);
        return grid.element;
      },
      signal,
    );
  };
  kind.addEventListener("change", load);
  load();
  return [h("div", { class: "bar" }, field("Type", kind)), place, h("div", { class: "more" }, more)];
}

export function aggregate({ params, signal }) {
  const id = params.aggregate;
  const place = h("div", {});
  filled(
    place,
    async () => {
      const where = path`event-sourcing/aggregates/${id}`;
      const [{ events }, about] = await Promise.all([
        get(`${where}/events`, { query: { limit: 1000 }, signal }),
        get(where, { signal }),
      ]);
      return { events, about };
    },
    ({ events, about }) => details(id, events, about, signal),
    signal,
  );
  return h("div", {}, head(id, { crumbs: [["Aggregates", "#/aggregates"]] }), place);
}

function details(id, events, about, signal) {
  const versions = events.map((each) => each.version);
  const last = versions.at(-1) ?? 0;
  const slider = h("input", { type: "range", min: versions[0] ?? 0, max: last, value: String(last), "aria-label": "Version" });
  const label = h("strong", {}, `Version ${last}`);
  const place = h("div", { role: "status" });
  const items = new Map();
  const states = new Map();
  let asked = 0;

  const stateAt = async (version) => {
    if (!states.has(version))
      states.set(
        version,
        (await post("event-sourcing/reconstruct", { aggregate_id: id, as_of_version: version }, { signal })).state,
      );
    return states.get(version);
  };
  async function show(version) {
    const mine = (asked += 1);
    slider.value = String(version);
    label.textContent = `Version ${version}`;
    for (const [each, item] of items) {
      item.classList.toggle("chosen", each === version);
      if (each === version) item.querySelector("button").setAttribute("aria-current", "true");
      else item.querySelector("button").removeAttribute("aria-current");
    }
    try {
      const now = await stateAt(version);
      const before = version > versions[0] ? await stateAt(version - 1) : null;
      if (mine !== asked) return;
      place.replaceChildren(
        json(now),
        before === null
          ? ""
          : h(
              "div",
              {},
              h("h3", {}, `What version ${version} changed`),
              difference(JSON.stringify(before, null, 2), JSON.stringify(now, null, 2), "The change of the state"),
            ),
      );
    } catch (error) {
      if (mine === asked && error.name !== "AbortError") place.replaceChildren(failed(error));
    }
  }

  const timeline = events.toReversed().map((each) => {
    const item = h(
      "li",
      {},
      h(
        "div",
        { class: "line" },
        h("button", { type: "button", class: "link", onclick: () => show(each.version) }, `${each.version} ${each.event_type}`),
        time(each.timestamp, { precise: true }),
      ),
      h(
        "div",
        {},
        h("code", { class: "muted" }, brief(each.event_data)),
        " ",
        h("a", { class: "small", href: link`events/${each.event_id}` }, "event"),
      ),
    );
    items.set(each.version, item);
    return item;
  });
  slider.addEventListener("input", () => show(Number(slider.value)));
  if (events.length > 0) show(last);
  return h(
    "div",
    { class: "columns" },
    h(
      "div",
      {},
      panel(
        "About",
        {},
        facts([
          ["Type", about.aggregate_type],
          ["Status", state(about.status)],
          ["Version", count(about.current_version)],
          ["Made", time(about.created_at)],
          ["Dropped up to version", about.gone_version || null],
        ]),
      ),
      panel(
        "Timeline",
        {},
        events.length === 0 ? empty("It has no events that are kept.") : h("ol", { class: "story" }, timeline),
      ),
    ),
    panel("State", {}, h("p", {}, label), events.length > 1 && slider, place),
  );
}
