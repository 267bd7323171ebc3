// Projections: how far each read model has come, what went wrong, and a look at its rows.

import { call, get, path, post } from "../api.js";
import { act, confirmed } from "../dialog.js";
import { facts, h, head, panel } from "../dom.js";
import { count, json, percent, rate, seconds, state, time, tone } from "../format.js";
import { may } from "../rights.js";
import { link } from "../router.js";
import { empty, every, filled } from "../states.js";
import { searched, table } from "../table.js";
import { rowsPanel } from "./projection_rows.js";

const PERIOD_MS = 1500;
const shownState = (row) => state(row.state, row.state === "PAUSED" || row.state === "REBUILDING" ? "warn" : tone(row.state));

export function projections({ signal }) {
  const grid = table({
    caption: "Projections",
    columns: [
      { name: "Projection", value: (row) => row.name, cell: (row) => h("a", { href: link`projections/${row.name}` }, row.name) },
      { name: "State", value: (row) => row.state, cell: shownState },
      { name: "Lag", right: true, value: (row) => row.lag, cell: (row) => count(row.lag) },
      { name: "Behind", right: true, value: (row) => row.seconds_behind, cell: (row) => seconds(row.seconds_behind) },
      { name: "Events", right: true, value: (row) => row.events, cell: (row) => count(row.events) },
      { name: "Now", right: true, value: (row) => row.events_per_second, cell: (row) => rate(row.events_per_second) },
      { name: "Skipped", right: true, value: (row) => row.skipped, cell: (row) => count(row.skipped) },
      { name: "Kept in", value: (row) => row.store },
      { name: "Trouble", wide: true, sort: false, value: (row) => row.failure?.message ?? row.trouble ?? "" },
    ],
    key: (row) => row.name,
    order: { name: "Projection", down: false },
    nothing: "No projection is named like that.",
  });
  const search = searched(grid, (row) => `${row.name} ${row.description} ${row.state}`, "Filter by name");
  const none = empty(
    "There is no projection. It is a read model: tables that are kept up to date with the events of aggregates.",
    h("pre", {}, "esb projections apply totals.yaml"),
  );
  const place = h("div", {});
  const load = filled(
    place,
    () => get("projections", { signal }),
    ({ projections: found }) => {
      search.update(found);
      search.input.hidden = found.length === 0;
      return found.length === 0 ? none : grid.element;
    },
    signal,
  );
  every(PERIOD_MS, signal, load);
  return h(
    "div",
    {},
    head("Projections"),
    panel("All projections", { label: "hidden" }, h("div", { class: "bar" }, search.input), place),
  );
}

export function projection({ params, signal }) {
  const { projection: name } = params;
  const where = path`projections/${name}`;
  const title = h("div", {}, head(name, { crumbs: [["Projections", "#/projections"]] }));
  const figures = h("div", {});
  const rest = h("div", {});
  let shown = "";
  const load = filled(
    figures,
    () => get(where, { signal }),
    (told) => {
      const now = JSON.stringify([told.state, told.definition, told.failure]);
      if (now !== shown) {
        shown = now;
        const had = title.contains(document.activeElement);
        title.replaceChildren(projectionHead(told, where, load));
        if (had) title.querySelector("button, h1")?.focus();
      }
      if (!rest.hasChildNodes()) rest.replaceChildren(rowsPanel(told, where, signal), aboutPanels(told));
      return [troubles(told, where, load), numbers(told), skippedPanel(told.skipped_events)];
    },
    signal,
  );
  every(PERIOD_MS, signal, load);
  return h("div", {}, title, figures, rest);
}

const button = (text, onclick, kind = null) => h("button", { type: "button", class: kind, onclick }, text);

function projectionHead(told, where, load) {
  const doing = (verb, said, body) => async (event) => {
    await act(event.currentTarget, () => post(`${where}/${verb}`, body), said);
    load();
  };
  const rebuild = async () => {
    const text =
      "All of its events are projected again in the background. The present rows answer until the new ones have caught up.";
    if (!(await confirmed(`Rebuild ${told.name}?`, text, "Rebuild it"))) return;
    await act(null, () => post(`${where}/rebuild`), "It is being built anew.");
    load();
  };
  const remove = async () => {
    const text = "The projection and its rows are forgotten. The events that they were made of stay.";
    if (!(await confirmed(`Delete ${told.name}?`, text, "Delete the projection"))) return;
    if (await act(null, () => call("DELETE", where), `${told.name} is gone.`)) location.hash = "#/projections";
  };
  const rests = told.state === "PAUSED" || told.state === "FAILED";
  return head(told.name, {
    crumbs: [["Projections", "#/projections"]],
    lead: told.description,
    actions: [
      shownState(told),
      ...(may("projection:manage")
        ? [
            rests
              ? button("Resume", doing("resume", "It goes on."), "primary")
              : button("Pause", doing("pause", "It rests. Its rows still answer.")),
            button("Rebuild", rebuild),
            button("Delete", remove, "danger"),
          ]
        : []),
    ],
  });
}

/** What stops a projection, or holds it up. */
function troubles(told, where, load) {
  const { failure } = told;
  const skip = async () => {
    const text = "It goes on without this event. A later rebuild meets the event again.";
    if (!(await confirmed("Skip this event?", text, "Skip the event"))) return;
    await act(null, () => post(`${where}/resume`, { skip_event: true }), "It goes on without the event.");
    load();
  };
  return [
    failure &&
      h(
        "div",
        { class: "notice bad", role: "alert" },
        h("strong", {}, "It has stopped at an event: "),
        failure.message,
        h("br"),
        failure.event_type ?? "",
        failure.aggregate_id ? [" of ", h("a", { href: link`aggregates/${failure.aggregate_id}` }, failure.aggregate_id)] : "",
        failure.event_id ? [", ", h("a", { href: link`events/${failure.event_id}` }, failure.event_id)] : "",
        may("projection:manage") && button("Skip the event", skip),
      ),
    told.trouble && h("p", { class: "notice warn" }, `It is tried again: ${told.trouble}`),
    told.state === "STOPPED" && h("p", { class: "notice warn" }, "No process runs projections at the moment."),
  ].filter(Boolean);
}

function numbers(told) {
  const tile = (name, value, note) => h("div", {}, h("dt", {}, name), h("dd", {}, value, note && h("small", {}, note)));
  const { rebuild } = told;
  return h(
    "dl",
    { class: "tiles" },
    tile("Lag", count(told.lag), "events at most"),
    tile("Behind", seconds(told.seconds_behind)),
    tile("Events", count(told.events), `${rate(told.events_per_second)} now`),
    tile("Skipped", count(told.skipped)),
    tile("Position", count(told.position), `the newest is ${count(told.head)}`),
    rebuild &&
      tile("New build", percent(rebuild.fraction), `${count(rebuild.events)} events, ${rate(rebuild.events_per_second)}`),
  );
}

function skippedPanel(events) {
  if (!events || events.length === 0) return [];
  const grid = table({
    caption: "Events that were passed over, newest first",
    columns: [
      { name: "When", tight: true, value: (row) => row.at, cell: (row) => time(row.at) },
      {
        name: "Event",
        value: (row) => row.event_id,
        cell: (row) => h("a", { href: link`events/${row.event_id}` }, row.event_type),
      },
      {
        name: "Aggregate",
        value: (row) => row.aggregate_id,
        cell: (row) => h("a", { href: link`aggregates/${row.aggregate_id}` }, row.aggregate_id),
      },
      { name: "Why", wide: true, value: (row) => row.message },
    ],
    rows: events,
    key: (row) => row.position,
  });
  return panel("Skipped events", {}, grid.element);
}

function aboutPanels(told) {
  return h(
    "div",
    { class: "columns" },
    panel(
      "About",
      {},
      facts([
        ["Kept in", told.store],
        ["Tables", told.tables.join(", ")],
        ["Made", time(told.created_at)],
        ["Changed", time(told.changed_at)],
      ]),
    ),
    panel("Its definition", {}, json(told.definition)),
  );
}
