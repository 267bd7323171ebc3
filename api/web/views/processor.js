// One processor: how it does, what it is told to do, what its workers printed.

import { call, get, path } from "../api.js";
import { lineChart } from "../chart.js";
import { h, head, panel, facts } from "../dom.js";
import { act, confirmed } from "../dialog.js";
import { count, json, milliseconds, number, rate, seconds, state, time } from "../format.js";
import { around, modelOf } from "../flow_model.js";
import { picture } from "../flow_picture.js";
import { listen, recent } from "../live.js";
import { may } from "../rights.js";
import { link } from "../router.js";
import { every, filled } from "../states.js";
import { isOurs, liveOf, startStop } from "./flows.js";
import { perSecond } from "./streams.js";

export function processor({ params, signal }) {
  const id = params.processor;
  const where = path`stream-processors/${id}`;
  const title = h("div", {}, head("Processor", { crumbs: [["Flows", "#/flows"]] }));
  const figures = h("div", {});
  const graph = h("div", {});
  const rest = h("div", {});
  const logs = h("div", {});
  const follow = h("input", { type: "checkbox", checked: true });
  let known = null;

  const load = filled(
    figures,
    async () => {
      known = await get(where, { signal });
      return isOurs(known) ? get(`${where}/metrics`, { signal }) : null;
    },
    (metrics) => {
      showTitle();
      return numbers(known, metrics);
    },
    signal,
  );
  const chart = lineChart({ label: "Events a second", format: rate, height: 120, nothing: "Waiting for the first message." });
  const loadLogs = filled(
    logs,
    () => get(`${where}/logs`, { query: { tail: 300 }, signal }),
    ({ lines }) => {
      const text = lines.length > 0 ? lines.join("\n") : "Its workers have printed nothing.";
      const before = logs.querySelector("pre");
      if (before?.textContent === text) return null;
      const made = h("pre", { class: "logs", tabindex: "0" }, text);
      requestAnimationFrame(() => {
        if (follow.checked) made.scrollTop = made.scrollHeight;
      });
      return made;
    },
    signal,
  );
  filled(
    graph,
    () => Promise.all([get("stream-processors", { signal }), get("streams", { signal })]),
    ([{ processors }, { streams }]) => {
      const drawn = picture(around(modelOf(processors, streams), id), "What it reads and what reads it", id);
      listen(() => drawn.update(liveOf, perSecond), signal);
      drawn.update(liveOf, perSecond);
      return h(
        "div",
        { class: "graph", tabindex: "0", role: "region", "aria-label": "Its flow, may be scrolled" },
        drawn.element,
      );
    },
    signal,
  );
  filled(
    rest,
    () => get(where, { signal }),
    (found) => [panel("Configuration", {}, settings(found))],
    signal,
  );
  listen(() => {
    if (!known) return;
    const series = (name, side) => ({
      name,
      points: recent().map((message) => [message.at, liveOf(known, message)?.[side] ?? null]),
    });
    chart.update([series("In", "in"), series("Out", "out")]);
  }, signal);
  every(2000, signal, load);
  every(4000, signal, async () => follow.checked && loadLogs());

  let shown = "";
  function showTitle() {
    if (shown === `${known.status}`) return;
    shown = known.status;
    const remove = h("button", { type: "button", class: "danger", onclick: () => forget(known, where) }, "Delete");
    const had = title.contains(document.activeElement) && document.activeElement.tagName === "BUTTON";
    title.replaceChildren(
      head(known.processor_name, {
        crumbs: [["Flows", "#/flows"]],
        lead: known.processor_description,
        actions: [state(known.status), startStop(known, load), isOurs(known) && may("processor:manage") && remove],
      }),
    );
    document.title = `${known.processor_name} · Event Streaming Bus`;
    if (had) title.querySelector("button")?.focus();
  }

  return h(
    "div",
    {},
    title,
    figures,
    panel("Its flow", {}, graph),
    h("div", { class: "columns" }, panel("Rates", {}, chart.element), rest),
    panel("Logs", { actions: [h("label", { class: "check" }, follow, "Follow")] }, logs),
  );
}

function numbers(known, metrics) {
  const live = liveOf(known)?.processor;
  const tile = (name, value, note) => h("div", {}, h("dt", {}, name), h("dd", {}, value, note && h("small", {}, note)));
  const taken = metrics?.events_processed ?? live?.events_in;
  const watermark = metrics?.watermark
    ? time(metrics.watermark)
    : live?.watermark_delay_seconds !== undefined && live?.watermark_delay_seconds !== null
      ? `${seconds(live.watermark_delay_seconds)} ago`
      : "–";
  return [
    known.last_error && h("p", { class: "notice bad" }, known.last_error),
    h(
      "dl",
      { class: "tiles" },
      tile("Taken in", count(taken), metrics ? `${rate(metrics.events_per_second)} now` : null),
      tile("Passed", count(metrics?.events_passed ?? live?.events_passed)),
      tile("Filtered", count(metrics?.events_filtered ?? live?.events_filtered)),
      tile(
        "Failed",
        count(metrics?.error_count ?? (live ? live.events_dead + live.events_skipped : null)),
        h("a", { href: link`dead-letters?processor=${known.processor_name}` }, "dead letters"),
      ),
      tile("Late", count(metrics?.events_late ?? live?.events_late)),
      tile("In its state", count(metrics?.events_in_state ?? live?.events_in_state), "events held"),
      tile("Given out", count(metrics?.events_out ?? live?.events_out)),
      metrics && tile("Done", `${number(metrics.processing_rate)} %`, "of its source"),
      metrics && tile("Work", milliseconds(metrics.avg_processing_time_ms), "on an event"),
      tile("Watermark", watermark, "of event time"),
    ),
  ].filter(Boolean);
}

function settings(found) {
  return h(
    "div",
    {},
    facts([
      ["Type", found.processor_type],
      ["Reads", [found.source_stream_id, found.processing_logic?.join_stream_id].filter(Boolean).join(", ")],
      ["Writes", found.target_stream_id],
      ["Workers", count(found.parallelism)],
      ["On errors", found.error_handling_strategy],
      ["Made", time(found.created_at)],
      ["By", found.created_by],
      ["Id", h("code", {}, found.processor_id)],
    ]),
    json({ processing_logic: found.processing_logic, ...(found.window_config ? { window_config: found.window_config } : {}) }),
  );
}

async function forget(known, where) {
  if (
    !(await confirmed(
      `Delete ${known.processor_name}?`,
      "How far it has come, its state and its logs are forgotten. Its streams stay.",
      "Delete the processor",
    ))
  )
    return;
  if (await act(null, () => call("DELETE", where), `${known.processor_name} is gone.`)) location.hash = "#/flows";
}
