// Routing rules: what is done with events on their way in. A rule is tried before it counts, and each change is a version.

import { call, get, path, post } from "../api.js";
import { act, confirmed, dialog } from "../dialog.js";
import { choice, facts, field, h, head, panel } from "../dom.js";
import { count, json, state, time } from "../format.js";
import { may } from "../rights.js";
import { link } from "../router.js";
import { filled } from "../states.js";
import { searched, table } from "../table.js";
import { difference } from "../text_diff.js";
import { configOf, ruleForm, trial } from "./rule_form.js";

const mayChange = () => may("route:manage");

export function rules({ signal }) {
  const grid = table({
    caption: "Routing rules, in the order in which they run",
    columns: [
      { name: "Rule", value: (row) => row.name, cell: (row) => h("a", { href: link`routes/${row.name}` }, row.name) },
      { name: "Order", right: true, value: (row) => row.order },
      { name: "Events of", value: (row) => row.stream, cell: (row) => ofStream(row.stream) },
      { name: "That match", wide: true, sort: false, value: (row) => row.match, cell: matching },
      { name: "What is done", wide: true, sort: false, value: doings, cell: (row) => doings(row).join(", ") || "nothing" },
      { name: "State", value: (row) => row.is_active, cell: (row) => onOff(row) },
      { name: "Changed", tight: true, value: (row) => row.changed_at, cell: (row) => time(row.changed_at) },
    ],
    key: (row) => row.name,
    nothing: "No rule is named like that, or for such a stream.",
    more: [],
  });
  const search = searched(
    grid,
    (row) => [row.name, row.stream, ...row.to, row.description].join(" "),
    "Filter by name or stream",
  );
  const none = h(
    "div",
    { class: "empty" },
    h("p", {}, "There is no rule. A rule sends events on to further streams, changes them, or puts them aside."),
  );
  const place = h("div", {});
  const load = filled(
    place,
    () => get("routes", { signal }),
    ({ routes: found }) => {
      search.update(found);
      search.input.hidden = found.length === 0;
      return found.length === 0 ? none : grid.element;
    },
    signal,
  );
  const make = h("button", { type: "button", class: "primary", onclick: async () => (await edit(null)) && load() }, "New rule");
  return h(
    "div",
    {},
    head("Routing rules", { lead: "What is done with events when they are published.", actions: [mayChange() && make] }),
    panel("All rules", { label: "hidden" }, h("div", { class: "bar" }, search.input), place),
  );
}

const ofStream = (stream) => (stream === "*" ? "every stream" : h("a", { href: link`streams/${stream}` }, stream));
const onOff = (rule) => (rule.is_active ? state("Active", "good") : state("Off"));

const matching = (rule) => [
  rule.match ? h("code", {}, rule.match) : h("span", { class: "muted" }, "all"),
  rule.sample < 1 ? ` ${count(rule.sample * 100)} % of them` : "",
];

/** What a rule does, in words. */
function doings(rule) {
  const metadata = [...Object.keys(rule.set_metadata), ...rule.remove_metadata.map((name) => `without ${name}`)];
  return [
    rule.to.length > 0 && `${rule.move ? "moved" : "copied"} to ${rule.to.join(", ")}`,
    rule.priority && `priority ${rule.priority}`,
    metadata.length > 0 && `metadata set: ${metadata.join(", ")}`,
    rule.dead_letter && `put aside: ${rule.dead_letter}`,
    rule.then === "stop" && "no further rule",
  ].filter(Boolean);
}

async function edit(rule) {
  const form = ruleForm(rule);
  return dialog(rule ? `Change ${rule.name}` : "New routing rule", form.content, {
    action: rule ? "Save the rule" : "Make the rule",
    wide: true,
    submit: () => save(form.config()),
  });
}

const save = (config) => call("PUT", path`routes/${config.name}`, { body: config });

export function rule({ params, signal }) {
  const { rule: name } = params;
  const title = h("div", {}, head(name, { crumbs: [["Routing rules", "#/routes"]] }));
  const place = h("div", {});
  const load = filled(
    place,
    () => get(path`routes/${name}`, { signal }),
    (found) => {
      title.replaceChildren(ruleHead(found, load));
      return h("div", { class: "columns" }, h("div", {}, aboutPanel(found), versionsPanel(found, signal)), tryPanel(found));
    },
    signal,
  );
  return h("div", {}, title, place);
}

function ruleHead(found, load) {
  const button = (text, onclick, kind = null) => h("button", { type: "button", class: kind, onclick }, text);
  const toggle = async (event) => {
    const config = { ...configOf(found), is_active: !found.is_active };
    const said = found.is_active ? "The rule is off: events pass it by." : "The rule counts from now on.";
    if (await act(event.currentTarget, () => save(config), said)) load();
  };
  const remove = async () => {
    const text = "Events pass it by from now on. Its versions stay to be looked at.";
    if (!(await confirmed(`Remove ${found.name}?`, text, "Remove the rule"))) return;
    if (await act(null, () => call("DELETE", path`routes/${found.name}`), `${found.name} is gone.`)) location.hash = "#/routes";
  };
  return head(found.name, {
    crumbs: [["Routing rules", "#/routes"]],
    lead: found.description,
    actions: [
      onOff(found),
      mayChange() && button("Change", async () => (await edit(found)) && load(), "primary"),
      mayChange() && button(found.is_active ? "Turn off" : "Turn on", toggle),
      mayChange() && button("Remove", remove, "danger"),
    ],
  });
}

function aboutPanel(found) {
  return panel(
    "What it does",
    {},
    facts([
      ["Events of", ofStream(found.stream)],
      ["That match", h("span", {}, matching(found))],
      ["What is done", doings(found).join(", ") || "nothing"],
      ["Order", count(found.order)],
      ["Version", count(found.version)],
      ["Changed", time(found.changed_at)],
      ["By", found.changed_by],
    ]),
    h("details", {}, h("summary", {}, "As it is written in a file"), json(written(found))),
  );
}

/** A rule's configuration without what is as it is by default. */
const written = (found) =>
  Object.fromEntries(
    Object.entries(configOf(found)).filter(
      ([name, value]) =>
        ["name", "stream"].includes(name) ||
        !(value === null || value === "" || value === false || (typeof value === "object" && Object.keys(value).length === 0)),
    ),
  );

function versionsPanel(found, signal) {
  if (found.version < 2) return panel("Versions", {}, h("p", { class: "muted" }, "It was not changed since it was made."));
  const numbers = Array.from({ length: found.version }, (_, i) => String(found.version - i));
  const chosen = choice(numbers.slice(0, -1), numbers[0]);
  const place = h("div", { role: "status" });
  const at = (version) => get(path`routes/${found.name}`, { query: { version }, signal });
  const load = () =>
    filled(
      place,
      () => Promise.all([at(Number(chosen.value) - 1), at(chosen.value)]),
      ([before, after]) => [
        h("p", { class: "muted" }, "Changed ", time(after.changed_at), after.changed_by ? ` by ${after.changed_by}` : ""),
        difference(
          JSON.stringify(written(before), null, 2),
          JSON.stringify(written(after), null, 2),
          `What version ${chosen.value} changed`,
        ),
      ],
      signal,
    );
  chosen.addEventListener("change", load);
  load();
  return panel("Versions", {}, h("div", { class: "bar" }, field("What was changed by version", chosen)), place);
}

function tryPanel(found) {
  const tried = trial(found.stream === "*" ? "" : found.stream, (stream, last) => post("routes/try", { stream, last }));
  return panel(
    "Try the rules",
    {},
    h("p", { class: "muted" }, "What all rules would do with the newest events of a stream."),
    tried,
  );
}
