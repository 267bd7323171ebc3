// All flows as graphs with what goes along their edges, and their processors as a list.

import { get, post, path } from "../api.js";
import { field, h, head, panel } from "../dom.js";
import { act, dialog, parsed } from "../dialog.js";
import { count, rate, seconds, state } from "../format.js";
import { modelOf, parts, title } from "../flow_model.js";
import { picture } from "../flow_picture.js";
import { listen, ofProcessor } from "../live.js";
import { may } from "../rights.js";
import { link } from "../router.js";
import { makeStream, startFlow } from "../sample.js";
import { empty, every, filled } from "../states.js";
import { searched, table } from "../table.js";
import { perSecond } from "./streams.js";

const MOST_PICTURES = 12;
const RUNS = ["RUNNING", "STARTING"];

/** What is measured of a processor: the monitoring knows those without a flow file by their names alone. */
export const liveOf = (processor, message) =>
  ofProcessor(isOurs(processor) ? null : processor.flow, processor.processor_name, message);
/** How far the watermark of a processor is behind the clock, in whole seconds, or null. */
const delayOf = (processor) => {
  const delay_s = liveOf(processor)?.processor.watermark_delay_seconds ?? null;
  return delay_s === null ? null : Math.round(delay_s);
};
/** Whether the server runs a processor itself; those of flow files are run by `esb run`. */
export const isOurs = (processor) => processor.flow === processor.processor_id;

const mayChange = () => may("processor:manage");
/** Whether the user may do all that the sample takes. */
export const maySample = () => mayChange() && may("stream:manage") && may("event:publish");

export function flows({ signal }) {
  const pictures = h("div", {});
  const place = h("div", {});
  let drawn = { shape: "", all: [] };
  const grid = table({
    caption: "Processors",
    columns: [
      {
        name: "Processor",
        value: (row) => row.processor_name,
        cell: (row) => h("a", { href: link`flows/${row.processor_id}` }, row.processor_name),
      },
      { name: "Flow", value: (row) => (isOurs(row) ? "" : row.flow) },
      { name: "Type", value: (row) => row.processor_type.toLowerCase() },
      { name: "State", value: (row) => row.status, cell: (row) => state(row.status) },
      { name: "In", right: true, value: (row) => liveOf(row)?.in, cell: (row) => rate(liveOf(row)?.in) },
      { name: "Out", right: true, value: (row) => liveOf(row)?.out, cell: (row) => rate(liveOf(row)?.out) },
      {
        name: "Taken in",
        right: true,
        value: (row) => liveOf(row)?.processor.events_in,
        cell: (row) => count(liveOf(row)?.processor.events_in),
      },
      {
        name: "Watermark",
        right: true,
        value: (row) => delayOf(row),
        cell: (row) => (delayOf(row) === null ? "–" : `${seconds(delayOf(row))} ago`),
      },
      {
        name: "Action",
        label: false,
        sort: false,
        value: (row) => `${row.processor_id} ${row.status}`,
        cell: (row) => startStop(row, load),
      },
    ],
    key: (row) => row.processor_id,
    order: { name: "Processor", down: false },
    nothing: "No processor is named like that.",
  });
  const search = searched(grid, (row) => `${row.processor_name} ${row.flow} ${row.processor_type}`, "Filter by name");
  const list = h(
    "section",
    { class: "panel", "aria-label": "Processors" },
    h("div", { class: "bar" }, search.input),
    grid.element,
  );
  const update = () => {
    for (const each of drawn.all) each.update(liveOf, perSecond);
  };
  const load = filled(
    place,
    () => Promise.all([get("stream-processors", { signal }), get("streams", { signal })]),
    ([{ processors }, { streams }]) => {
      if (processors.length === 0) {
        pictures.replaceChildren();
        return empty(
          "There is no processor yet.",
          h("p", {}, "Make one here, over REST, or run a flow file with ", h("code", {}, "esb run"), "."),
          maySample() && h("button", { type: "button", onclick: sample }, "Start the sample flow"),
        );
      }
      search.update(processors);
      drawn = redrawn(drawn, pictures, processors, streams);
      update();
      return list;
    },
    signal,
  );
  async function sample(event) {
    await act(
      event.target,
      async () => {
        await makeStream();
        return startFlow();
      },
      "The sample flow runs.",
    );
    load();
  }
  every(3000, signal, load);
  listen(() => {
    search.show();
    update();
  }, signal);
  const make = h(
    "button",
    { type: "button", class: "primary", onclick: async () => (await makeProcessor()) && load() },
    "New processor",
  );
  return h("div", {}, head("Flows", { actions: [mayChange() && make] }), pictures, place);
}

/** The pictures of all parts, drawn anew only if another processor or stream is in them. */
function redrawn(drawn, place, processors, streams) {
  const found = parts(modelOf(processors, streams));
  const shape = JSON.stringify(found.map((part) => [[...part.nodes.keys()], part.edges.map((edge) => [edge.from, edge.to])]));
  if (shape === drawn.shape) return drawn;
  const all = found
    .slice(0, MOST_PICTURES)
    .map((part) => ({ part, picture: picture(part, `The flow ${title(part)} as a graph`) }));
  place.replaceChildren(
    ...all.map(({ part, picture: each }) =>
      panel(
        title(part),
        {},
        h(
          "div",
          { class: "graph", tabindex: "0", role: "region", "aria-label": `${title(part)}, may be scrolled` },
          each.element,
        ),
      ),
    ),
  );
  if (found.length > MOST_PICTURES)
    place.append(h("p", { class: "muted" }, `${found.length - MOST_PICTURES} smaller flows are in the list only.`));
  return { shape, all: all.map((each) => each.picture) };
}

/** The button that starts or stops a processor; a word for those that are run elsewhere, nothing for who may not. */
export function startStop(processor, done) {
  if (!isOurs(processor)) return h("span", { class: "muted small" }, "by esb run");
  if (!mayChange()) return "";
  const isRunning = RUNS.includes(processor.status);
  const verb = isRunning ? "stop" : "start";
  return h(
    "button",
    {
      type: "button",
      "aria-label": `${isRunning ? "Stop" : "Start"} ${processor.processor_name}`,
      onclick: async (event) => {
        await act(
          event.currentTarget,
          () => post(path`stream-processors/${processor.processor_id}/${verb}`),
          `${processor.processor_name} ${isRunning ? "is being stopped" : "runs"}.`,
        );
        done();
      },
    },
    isRunning ? "Stop" : "Start",
  );
}

async function makeProcessor() {
  const example = {
    processor_name: "large_orders",
    processor_type: "FILTER",
    source_stream_id: "orders",
    target_stream_id: "large",
    processing_logic: { filter_expression: "payload.total > 100" },
  };
  const text = h("textarea", { rows: 14, spellcheck: "false", value: JSON.stringify(example, null, 2) });
  return dialog(
    "New processor",
    [
      field("Configuration, in JSON", text, {
        hint: "It has the keys of a processor in a flow file. Its streams must be there.",
      }),
    ],
    {
      action: "Make the processor",
      wide: true,
      submit: () => post("stream-processors", parsed(text.value, "The configuration")),
    },
  );
}
