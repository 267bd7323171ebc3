// One event: its envelope and payload, what was done with it, what led to it and what followed.

import { get, path } from "../api.js";
import { h, head, panel, facts } from "../dom.js";
import { json, milliseconds, state, time, tone } from "../format.js";
import { link } from "../router.js";
import { empty, failed, filled } from "../states.js";

export function event({ params, signal }) {
  const id = params.event;
  const place = h("div", {});
  filled(
    place,
    () => get(path`events/${id}`, { signal }),
    (found) => details(found, signal),
    signal,
  );
  return h("div", {}, head(h("span", { class: "mono" }, id), { crumbs: [["Streams", "#/streams"]] }), place);
}

function details(found, signal) {
  const story = h("div", {});
  const relations = h("div", {});
  filled(story, () => get(path`events/${found.event_id}/processing-history`, { signal }), steps, signal);
  filled(
    relations,
    () => trees(found, signal),
    (both) => related(found, both),
    signal,
  );
  const aggregate =
    found.aggregate_id &&
    h("a", { href: link`aggregates/${found.aggregate_id}` }, `${found.aggregate_type} ${found.aggregate_id}`);
  return h(
    "div",
    { class: "columns" },
    h(
      "div",
      {},
      panel(
        "Payload",
        {},
        found.payload === null || found.payload === undefined ? empty("The payload is no JSON.") : json(found.payload),
      ),
      panel(
        "Envelope",
        {},
        facts([
          ["Type", found.event_type],
          ["Stream", h("a", { href: link`streams/${found.stream}` }, found.stream)],
          ["Place", `partition ${found.partition}, lane ${found.lane}, offset ${found.offset}`],
          ["Event time", time(found.timestamp, { precise: true })],
          ["Published", time(found.published_at, { precise: true })],
          ["Key", found.key],
          ["Source", found.source_capability],
          ["Aggregate", aggregate],
          ["User", found.user_id],
          ["Correlation id", found.correlation_id],
          ["Caused by", found.causation_id && h("a", { href: link`events/${found.causation_id}` }, found.causation_id)],
          ["Schema", found.schema_id && h("a", { href: link`schemas/${found.schema_id}` }, found.schema_id)],
          ["Delivered at", found.deliver_at && time(found.deliver_at)],
          ["Expires at", found.expires_at && time(found.expires_at)],
          ["Trace", found.traceparent],
          ["Format", `${found.serialization_format}, ${found.compression_type}`],
          ["Metadata", found.metadata && json(found.metadata)],
        ]),
      ),
    ),
    h("div", {}, panel("What was done with it", {}, story), panel("What led to it, what followed", {}, relations)),
  );
}

function steps(told) {
  if (told.processing_history.length === 0) return empty("The history knows of no step yet.");
  const items = told.processing_history.map((step) =>
    h(
      "li",
      { class: tone(step.status) },
      h(
        "div",
        { class: "line" },
        h("span", {}, step.processor_name ?? step.processor_id),
        h("span", { class: "muted" }, step.processing_stage.toLowerCase()),
        state(step.status),
        h("span", { class: "muted small" }, milliseconds(step.processing_duration_ms)),
      ),
      h(
        "div",
        { class: "muted small" },
        time(step.started_at, { precise: true }),
        step.retry_count > 0 ? ` · attempt ${step.retry_count + 1}` : "",
      ),
      step.error_message && h("p", { class: "notice bad" }, `${step.error_type}: ${step.error_message}`),
      step.output_data && h("details", {}, h("summary", { class: "small" }, "Result"), json(step.output_data)),
      step.stack_trace &&
        h("details", {}, h("summary", { class: "small" }, "Stack trace"), h("pre", { tabindex: "0" }, step.stack_trace)),
    ),
  );
  return [
    h(
      "p",
      { class: "muted" },
      state(told.overall_status),
      ` · ${told.stages_completed} steps · ${milliseconds(told.total_processing_time_ms)} of work`,
    ),
    h("ol", { class: "story" }, items),
  ];
}

/** What led to an event and what followed. Who may not see one of them sees the other. */
async function trees(found, signal) {
  const [before, after] = await Promise.allSettled([
    get(path`events/${found.event_id}/ancestors`, { signal }),
    get(path`events/${found.event_id}/tree`, { signal }),
  ]);
  if (before.status === "rejected" && after.status === "rejected") throw before.reason;
  return { before, after };
}

function related(found, { before, after }) {
  const part = (settled, title, nothing) => {
    if (settled.status === "rejected") return [h("h3", {}, title), failed(settled.reason)];
    const { trees: roots, is_cut_off: isCut } = settled.value;
    const isAlone = roots.every((root) => root.followed_by.length === 0);
    return [
      h("h3", {}, title),
      isAlone
        ? h("p", { class: "muted" }, nothing)
        : h(
            "ul",
            { class: "tree" },
            roots.map((root) => branch(root, found.event_id)),
          ),
      isCut && h("p", { class: "muted small" }, "There is more than is shown."),
    ];
  };
  return [
    ...part(before, "Led to it", "Nothing is known to have caused it."),
    ...part(after, "Followed", "Nothing has followed from it."),
  ].filter(Boolean);
}

function branch(node, here) {
  const name = node.event_type ?? "unknown event";
  const line =
    node.event_id === here
      ? h("span", { class: "here", "aria-current": "true" }, name)
      : node.is_known
        ? h("a", { href: link`events/${node.event_id}` }, name)
        : h("span", {}, node.event_id);
  return h(
    "li",
    {},
    line,
    node.stream && h("span", { class: "muted" }, ` on ${node.stream} `),
    node.published_at && h("span", { class: "muted small" }, time(node.published_at, { precise: true })),
    node.followed_by.length > 0 &&
      h(
        "ul",
        {},
        node.followed_by.map((each) => branch(each, here)),
      ),
  );
}
