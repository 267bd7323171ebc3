// The form of a routing rule, and what rules would do with stored events.

import { post } from "../api.js";
import { parsed } from "../dialog.js";
import { choice, field, h } from "../dom.js";
import { count } from "../format.js";
import { failed } from "../states.js";
import { table } from "../table.js";

const LAST = 1000;
const ABOUT = ["version", "changed_at", "changed_by"];

/** The configuration of a rule that an answer shows. */
export const configOf = (rule) => Object.fromEntries(Object.entries(rule).filter(([name]) => !ABOUT.includes(name)));

const words = (text) =>
  text
    .split(",")
    .map((each) => each.trim())
    .filter(Boolean);

/** The fields of a rule, or of a new one: `{content, config()}`. `config` throws if what is typed is no configuration. */
export function ruleForm(rule) {
  const text = (value, more = {}) => h("input", { value: value ?? "", autocomplete: "off", spellcheck: "false", ...more });
  const name = text(rule?.name, { required: true, disabled: Boolean(rule) });
  const stream = text(rule?.stream, { required: true });
  const match = text(rule?.match, { class: "mono", placeholder: "payload.total > 100" });
  const to = text(rule?.to.join(", "));
  const move = h("input", { type: "checkbox", checked: rule?.move ?? false });
  const priority = choice([["", "as it is"], "CRITICAL", "HIGH", "NORMAL", "LOW"], rule?.priority ?? "");
  const letter = text(rule?.dead_letter);
  const share = h("input", { type: "number", min: 0, max: 100, step: "any", value: String((rule?.sample ?? 1) * 100) });
  const order = h("input", { type: "number", step: 1, value: String(rule?.order ?? 100) });
  const then = choice(
    [
      ["continue", "the next rule"],
      ["stop", "no further rule"],
    ],
    rule?.then ?? "continue",
  );
  const set = h("textarea", { rows: 3, spellcheck: "false", value: JSON.stringify(rule?.set_metadata ?? {}) });
  const remove = text(rule?.remove_metadata.join(", "));
  const description = text(rule?.description);
  const config = () => ({
    name: name.value.trim(),
    stream: stream.value.trim(),
    order: Number(order.value),
    match: match.value.trim() || null,
    to: words(to.value),
    move: move.checked,
    priority: priority.value || null,
    set_metadata: parsed(set.value || "{}", "Metadata to set"),
    remove_metadata: words(remove.value),
    sample: Number(share.value) / 100,
    dead_letter: letter.value.trim() || null,
    then: then.value,
    is_active: rule?.is_active ?? true,
    description: description.value.trim(),
  });
  const tried = trial(
    "",
    (_, last) =>
      post("routes/try", { stream: stream.value.trim(), last, routes: [{ ...config(), name: name.value.trim() || "new" }] }),
    { isNamed: true },
  );
  const content = [
    h(
      "div",
      { class: "pair" },
      field("Name", name),
      field("Events of the stream", stream, { hint: "* is every stream." }),
      field("Run in the order of", order),
    ),
    field("That match", match, { hint: "An expression over the event; without one, all do." }),
    field("Send them to", to, { hint: "Streams, with commas between." }),
    h("label", { class: "check" }, move, "They do not stay in their own stream"),
    h(
      "div",
      { class: "pair" },
      field("Priority", priority),
      field("Put aside, because", letter, { hint: "With a reason they become dead letters." }),
      field("After it comes", then),
    ),
    h(
      "details",
      {},
      h("summary", {}, "Metadata, share, description"),
      field("Metadata to set, in JSON", set, { hint: `Text is an expression: {"desk": "payload.country"}.` }),
      field("Metadata to remove", remove),
      field("Share of them, in %", share),
      field("Description", description),
    ),
    h("details", {}, h("summary", {}, "What it would do with the newest events"), tried),
  ];
  return { content, config };
}

/** A button that asks `ask(stream, last)` what rules would do, and the answer. Unless it `isNamed` elsewhere, a field has the
 * stream. */
export function trial(stream, ask, { isNamed = false } = {}) {
  const name = h("input", { value: stream, autocomplete: "off", spellcheck: "false" });
  const last = h("input", { type: "number", min: 1, value: String(LAST) });
  const place = h("div", { role: "status" });
  const button = h("button", { type: "button" }, "Try");
  button.addEventListener("click", async () => {
    button.disabled = true;
    try {
      place.replaceChildren(...outcome(await ask(name.value.trim(), Number(last.value))));
    } catch (error) {
      place.replaceChildren(failed(error));
    } finally {
      button.disabled = false;
    }
  });
  return h("div", {}, h("div", { class: "bar" }, !isNamed && field("Stream", name), field("Newest events", last), button), place);
}

function outcome(told) {
  const sent = Object.entries(told.events_to).map(([stream, number]) => `${count(number)} would go to ${stream}`);
  const grid = table({
    caption: "What each rule would do",
    columns: [
      { name: "Rule", value: (row) => row.name },
      { name: "Matches", right: true, value: (row) => row.matched, cell: (row) => count(row.matched) },
      { name: "Takes", right: true, value: (row) => row.taken, cell: (row) => count(row.taken) },
      {
        name: "Could not tell",
        right: true,
        value: (row) => row.not_evaluated,
        cell: (row) => h("span", { title: row.examples[0]?.message ?? null }, count(row.not_evaluated)),
      },
    ],
    rows: told.rules,
    key: (row) => row.name,
    nothing: "No rule is for this stream.",
  });
  return [
    h(
      "p",
      {},
      `Of ${count(told.events)} events, ${count(told.unchanged)} would be left as they are and ${count(told.stayed)} would stay`,
      sent.length > 0 ? `; ${sent.join(", ")}.` : ".",
    ),
    told.dead_letters.length > 0 &&
      h("p", {}, `Put aside: ${told.dead_letters.map((each) => `${count(each.count)} for ${each.reason}`).join(", ")}.`),
    grid.element,
  ].filter(Boolean);
}
