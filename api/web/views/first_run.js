// What an empty bus shows: three steps to a flow that runs.

import { act } from "../dialog.js";
import { h, panel } from "../dom.js";
import { makeStream, startFlow } from "../sample.js";

export function firstRun() {
  const step = (title, text, name, work) => {
    const button = h("button", { type: "button", class: "primary", onclick: work }, name);
    return { button, element: h("li", {}, h("div", {}, h("h2", {}, title), h("p", {}, text)), button) };
  };
  const steps = [
    step("Make a stream", "sample_orders, with two hundred orders of the last minute in it.", "Make the sample stream", make),
    step(
      "Start a flow",
      "Two processors: one keeps large orders, one sums them up by country every ten seconds. A few orders a second keep coming.",
      "Start the sample flow",
      start,
    ),
    step("See it run", "The flow as a graph, with the events that go along its edges.", "Watch the flow", () => {
      location.hash = "#/flows";
    }),
  ];
  async function make() {
    if (await act(steps[0].button, async () => (await makeStream()) ?? true, "The stream sample_orders has 200 events."))
      reach(1);
  }
  async function start() {
    if (await act(steps[1].button, startFlow, "The flow runs.")) reach(2);
  }
  function reach(next, focus = true) {
    steps.forEach((each, i) => {
      each.element.className = i < next ? "done" : i === next ? "next" : "";
      each.button.disabled = i !== next;
      each.button.classList.toggle("primary", i === next);
    });
    if (focus) steps[next].button.focus();
  }
  reach(0, false);
  return h(
    "div",
    {},
    h(
      "ol",
      { class: "steps" },
      steps.map((each) => each.element),
    ),
    panel(
      "With events of your own",
      {},
      h("p", {}, "A stream is made on the page ", h("a", { href: "#/streams" }, "Streams"), ", over REST, or in a shell:"),
      h("pre", {}, "esb stream create orders\nesb publish orders orders.ndjson --type order.created\nesb run sales.yaml"),
    ),
  );
}
