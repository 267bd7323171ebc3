// How the bus is now: figures, charts of the last minutes, the busiest streams, the processors.

import { get } from "../api.js";
import { lineChart, MOST_SERIES } from "../chart.js";
import { h, head, panel } from "../dom.js";
import { bytes, count, number, percent, rate, seconds, state } from "../format.js";
import { newest, listen, recent } from "../live.js";
import { link } from "../router.js";
import { filled } from "../states.js";
import { table } from "../table.js";
import { firstRun } from "./first_run.js";
import { maySample } from "./flows.js";

export function overview({ signal }) {
  const title = head("Overview", { lead: " " });
  const place = h("div", {});
  filled(
    place,
    () => get("streams", { signal }),
    ({ streams }) => {
      const isNew = streams.length === 0;
      title.querySelector("h1").textContent = isNew ? "Welcome" : "Overview";
      const canStart = maySample();
      title.querySelector(".lead").textContent = !isNew
        ? ""
        : `There is no stream yet.${canStart ? " Three clicks lead to a flow that runs; or publish events of your own." : ""}`;
      return isNew && canStart ? firstRun() : figures(signal);
    },
    signal,
  );
  return h("div", {}, title, place);
}

const sum = (values) => values.reduce((all, each) => all + (each ?? 0), 0);
const most = (values) =>
  values.reduce((all, each) => (each === null || each === undefined ? all : Math.max(all ?? each, each)), null);
const streamsOf = (message) => Object.entries(message.data.streams ?? {});
const latencies = (message, name) => most(streamsOf(message).map(([, each]) => each.latency[name]));

function figures(signal) {
  const tile = (name) => {
    const value = h("dd", {}, "–");
    return { element: h("div", {}, h("dt", {}, name), value), show: (...parts) => value.replaceChildren(...parts) };
  };
  const tiles = {
    throughput: tile("Published"),
    latency: tile("Latency, 95 %"),
    lag: tile("Largest lag"),
    errors: tile("Errors"),
    processors: tile("Processors"),
    server: tile("Server memory"),
  };
  const charts = {
    throughput: lineChart({
      label: "Events published a second, by stream",
      format: rate,
      nothing: "Waiting for the first message.",
    }),
    latency: lineChart({
      label: "Latency of the slowest stream",
      format: seconds,
      nothing: "No event was measured in the last minute.",
    }),
    lag: lineChart({ label: "Events that wait for consumer groups", format: number, nothing: "There is no consumer group." }),
    errors: lineChart({ label: "Errors a second, by stream", format: rate, nothing: "No errors." }),
  };
  const streams = table({
    caption: "Streams by how many events they get",
    columns: [
      { name: "Stream", value: ([name]) => name, cell: ([name]) => h("a", { href: link`streams/${name}` }, name) },
      {
        name: "Now",
        right: true,
        value: ([, each]) => each.throughput.events_per_second,
        cell: ([, each]) => rate(each.throughput.events_per_second),
      },
      { name: "Ever", right: true, value: ([, each]) => each.throughput.total, cell: ([, each]) => count(each.throughput.total) },
      { name: "Latency 95 %", right: true, value: ([, each]) => each.latency.p95, cell: ([, each]) => seconds(each.latency.p95) },
      {
        name: "Errors",
        right: true,
        value: ([, each]) => each.error_rate.errors_total,
        cell: ([, each]) => count(each.error_rate.errors_total),
      },
    ],
    key: ([name]) => name,
    nothing: "There is no stream.",
  });
  const processors = table({
    caption: "Processors",
    columns: [
      { name: "Processor", value: (row) => row.processor.processor_name },
      { name: "State", value: (row) => row.processor.status, cell: (row) => state(row.processor.status) },
      { name: "In", right: true, value: (row) => row.in, cell: (row) => rate(row.in) },
      { name: "Out", right: true, value: (row) => row.out, cell: (row) => rate(row.out) },
      {
        name: "Failed",
        right: true,
        value: (row) => row.processor.events_dead + row.processor.events_skipped,
        cell: (row) => count(row.processor.events_dead + row.processor.events_skipped),
      },
    ],
    key: (row) => `${row.processor.flow}|${row.processor.processor_name}`,
    nothing: "There is no processor.",
    more: [h("a", { href: "#/flows" }, "Flows")],
  });
  listen((message) => show(message, tiles, charts, streams, processors), signal);
  return h(
    "div",
    {},
    h(
      "dl",
      { class: "tiles" },
      Object.values(tiles).map((each) => each.element),
    ),
    h(
      "div",
      { class: "columns" },
      panel("Throughput", {}, charts.throughput.element),
      panel("Latency, end to end", {}, charts.latency.element),
      panel("Lag of consumer groups", {}, charts.lag.element),
      panel("Errors", {}, charts.errors.element),
      panel("Busiest streams", { actions: [h("a", { href: "#/streams" }, "All streams")] }, streams.element),
      panel("Processors", { actions: [h("a", { href: "#/flows" }, "All flows")] }, processors.element),
    ),
    newest() === null && h("p", { class: "muted" }, "The first numbers come in a second."),
  );
}

function show(message, tiles, charts, streams, processors) {
  const all = streamsOf(message);
  const groups = Object.entries(message.data.consumer_lag ?? {});
  const errors = sum(all.map(([, each]) => each.error_rate.errors_total));
  const { resources } = message.data;
  const running = [...message.rates.values()].filter((each) => each.processor.status === "RUNNING").length;
  const lag = groups.toSorted(([, one], [, other]) => other.total_lag - one.total_lag)[0];
  tiles.throughput.show(
    rate(sum(all.map(([, each]) => each.throughput.events_per_second))),
    h("small", {}, `${count(sum(all.map(([, each]) => each.throughput.total)))} ever, ${all.length} streams`),
  );
  tiles.latency.show(seconds(latencies(message, "p95")), h("small", {}, "slowest stream, last minute"));
  tiles.lag.show(
    lag ? count(lag[1].total_lag) : "–",
    h("small", {}, lag ? [h("a", { href: link`groups/${lag[0]}` }, lag[0]), ` ${lag[1].verdict}`] : "no consumer group"),
  );
  tiles.errors.show(count(errors), h("small", {}, "since the server started"));
  tiles.processors.show(`${running} of ${message.rates.size}`, h("small", {}, "running"));
  if (resources)
    tiles.server.show(
      bytes(resources.memory_bytes),
      h("small", {}, `disk ${percent(resources.disk_utilization)} full, ${resources.workers} workers`),
    );
  charts.throughput.update(byName("streams", (each) => each.throughput.events_per_second));
  charts.errors.update(byName("streams", (each) => each.error_rate.errors_per_second));
  charts.lag.update(byName("consumer_lag", (each) => each.total_lag));
  charts.latency.update(
    ["p50", "p95", "p99"].map((name) => ({
      name: name.replace("p", "") + " %",
      points: recent().map((each) => [each.at, latencies(each, name)]),
    })),
  );
  streams.update(all.slice(0, 8));
  processors.update([...message.rates.values()].sort((one, other) => (other.in ?? 0) - (one.in ?? 0)).slice(0, 8));
}

/** The series of those with the largest values in the last minutes; where all are 0 the first ones. */
function byName(part, value) {
  const messages = recent();
  const largest = new Map();
  for (const message of messages) {
    for (const [name, each] of Object.entries(message.data[part] ?? {}))
      largest.set(name, Math.max(largest.get(name) ?? 0, value(each) ?? 0));
  }
  const chosen = [...largest].sort((one, other) => other[1] - one[1]).slice(0, MOST_SERIES - 1);
  const busy = chosen.filter(([, top]) => top > 0);
  return (busy.length > 0 ? busy : chosen.slice(0, 1)).map(([name]) => ({
    name,
    points: messages.map((message) => [message.at, message.data[part]?.[name] ? value(message.data[part][name]) : null]),
  }));
}
