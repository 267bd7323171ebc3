// All schemas, and one of them: its versions, what changed between two, and whether a next one would fit.

import { get, path, post } from "../api.js";
import { choice, field, h, head, panel, facts } from "../dom.js";
import { act, dialog, parsed, toast } from "../dialog.js";
import { brief, count, json, time } from "../format.js";
import { may } from "../rights.js";
import { link } from "../router.js";
import { filled } from "../states.js";
import { searched, table } from "../table.js";
import { difference } from "../text_diff.js";

export function schemas({ signal }) {
  const grid = table({
    caption: "Schemas",
    columns: [
      {
        name: "Schema",
        value: (row) => row.latest.schema_name,
        cell: (row) => h("a", { href: link`schemas/${row.latest.schema_id}` }, row.latest.schema_name),
      },
      { name: "Newest version", value: (row) => row.latest.schema_version },
      { name: "Versions", right: true, value: (row) => row.versions },
      { name: "Format", value: (row) => row.latest.format },
      { name: "Event type", value: (row) => row.latest.event_type ?? "" },
      { name: "Rules", right: true, value: (row) => row.latest.validation_rules?.business_rules?.length ?? 0 },
      {
        name: "State",
        value: (row) => life(row.latest),
        cell: (row) => h("span", { class: `tag ${life(row.latest) === "active" ? "good" : "warn"}` }, life(row.latest)),
      },
      { name: "Registered", tight: true, value: (row) => row.latest.created_at, cell: (row) => time(row.latest.created_at) },
    ],
    key: (row) => row.latest.schema_name,
    order: { name: "Schema", down: false },
    nothing: "There is no schema. A schema guards a stream: what breaks it is refused, or becomes a dead letter.",
  });
  const search = searched(grid, (row) => row.latest.schema_name, "Filter by name");
  const place = h("div", {});
  const load = filled(
    place,
    () => get("schemas", { signal }),
    ({ schemas: found }) => {
      const byName = Map.groupBy ? Map.groupBy(found, (each) => each.schema_name) : grouped(found);
      search.update(
        [...byName.values()].map((all) => ({
          latest: all.reduce((one, other) => (other.version > one.version ? other : one)),
          versions: all.length,
        })),
      );
      return grid.element;
    },
    signal,
  );
  const make = h(
    "button",
    { type: "button", class: "primary", onclick: async () => (await register("", EXAMPLE)) && load() },
    "Register a schema",
  );
  return h(
    "div",
    {},
    head("Schemas", { actions: [may("schema:manage") && make] }),
    panel("All schemas", { label: "hidden" }, h("div", { class: "bar" }, search.input), place),
  );
}

const EXAMPLE = {
  type: "object",
  properties: { order_id: { type: "string" }, total: { type: "number", minimum: 0 } },
  required: ["order_id"],
  additionalProperties: false,
};

function grouped(found) {
  const groups = new Map();
  for (const each of found) groups.set(each.schema_name, [...(groups.get(each.schema_name) ?? []), each]);
  return groups;
}

const life = (version) => (!version.is_active ? "not active" : version.deprecated ? "deprecated" : "active");
const textOf = (version) => version.json_schema ?? version.avro_schema ?? version.schema ?? {};

export function schema({ params, signal }) {
  const place = h("div", {});
  const title = h("div", {}, head("Schema", { crumbs: [["Schemas", "#/schemas"]] }));
  const load = filled(
    place,
    async () => {
      const { schema_name: name, versions } = await get(path`schemas/${params.schema}/versions`, { signal });
      return { name, versions, level: await get("schemas/level", { query: { name }, signal }) };
    },
    ({ name, versions, level }) => {
      const again = async () => (await register(name, textOf(versions.at(-1)))) && load();
      const canRegister = may("schema:manage") && versions.at(-1).json_schema !== undefined;
      title.replaceChildren(
        head(name, {
          crumbs: [["Schemas", "#/schemas"]],
          lead: `New versions must be ${level.compatibility_level} compatible.`,
          actions: canRegister ? [h("button", { type: "button", class: "primary", onclick: again }, "Register a version")] : [],
        }),
      );
      document.title = `${name} · Event Streaming Bus`;
      return details(versions, params.schema, signal);
    },
    signal,
  );
  return h("div", {}, title, place);
}

function details(versions, chosen, signal) {
  const newest = versions.at(-1);
  const shown = versions.find((each) => each.schema_id === chosen) ?? newest;
  const list = table({
    caption: "Versions",
    columns: [
      {
        name: "Version",
        value: (row) => row.schema_version,
        cell: (row) =>
          h("a", { href: link`schemas/${row.schema_id}`, "aria-current": row === shown ? "true" : null }, row.schema_version),
      },
      {
        name: "State",
        value: life,
        cell: (row) => h("span", { class: `tag ${life(row) === "active" ? "good" : "warn"}` }, life(row)),
      },
      { name: "Registered", value: (row) => row.created_at, cell: (row) => time(row.created_at) },
      { name: "By", value: (row) => row.created_by ?? "" },
    ],
    rows: versions.toReversed(),
    key: (row) => row.schema_id,
  });
  const rules = shown.validation_rules?.business_rules ?? [];
  return [
    h(
      "div",
      { class: "columns" },
      h(
        "div",
        {},
        panel(`${versions.length} ${versions.length === 1 ? "version" : "versions"}`, {}, list.element),
        differencePanel(versions, signal),
      ),
      h(
        "div",
        {},
        panel(
          `Version ${shown.schema_version}`,
          {},
          facts([
            ["Format", shown.format],
            ["Event type", shown.event_type],
            ["Ids", `${shown.schema_id}, ${shown.id}`],
            ["Evolution", shown.evolution_strategy],
          ]),
          json(textOf(shown)),
          rules.length > 0 && [
            h("h3", {}, "Business rules"),
            h(
              "ul",
              {},
              rules.map((rule) => h("li", {}, h("code", {}, rule.rule), ` ${rule.description ?? rule.name}`)),
            ),
          ],
        ),
        checkPanel(newest),
      ),
    ),
  ];
}

/** What changed from one version to another, and what that breaks. */
function differencePanel(versions, signal) {
  if (versions.length < 2) return panel("What changed", {}, h("p", { class: "muted" }, "There is one version only."));
  const names = versions.map((each) => [each.schema_id, each.schema_version]);
  const from = choice(names, versions.at(-2).schema_id);
  const to = choice(names, versions.at(-1).schema_id);
  const place = h("div", {});
  const load = () =>
    filled(
      place,
      () => get(path`schemas/${from.value}/diff`, { query: { to: to.value }, signal }),
      (told) => {
        const [one, other] = [from.value, to.value].map((id) =>
          JSON.stringify(textOf(versions.find((each) => each.schema_id === id)), null, 2),
        );
        return [
          h(
            "p",
            {},
            verdict("Backward", told.is_backward_compatible, "the new one reads what the old one wrote"),
            h("br"),
            verdict("Forward", told.is_forward_compatible, "the old one reads what the new one writes"),
          ),
          difference(one, other, "The difference of the two schemas"),
          problems("Not backward compatible", told.backward),
          problems("Not forward compatible", told.forward),
          h(
            "details",
            {},
            h("summary", {}, `${told.changes.length} ${told.changes.length === 1 ? "change" : "changes"} one by one`),
            changes(told.changes),
          ),
        ];
      },
      signal,
    );
  from.addEventListener("change", load);
  to.addEventListener("change", load);
  load();
  return panel("What changed", {}, h("div", { class: "bar" }, field("From version", from), field("To version", to)), place);
}

const verdict = (name, isFine, meaning) => [
  h("span", { class: `tag ${isFine ? "good" : "bad"}` }, `${name} ${isFine ? "compatible" : "incompatible"}`),
  h("span", { class: "muted small" }, ` ${meaning}`),
];

function problems(title, differences) {
  if (differences.length === 0) return "";
  return h(
    "details",
    {},
    h("summary", {}, `${title}: ${count(differences.length)} ${differences.length === 1 ? "reason" : "reasons"}`),
    reasons(differences),
  );
}

const reasons = (differences) =>
  h(
    "ul",
    {},
    differences.map((each) =>
      h("li", {}, h("code", {}, each.pointer || "/"), ` ${each.message}. `, h("span", { class: "muted" }, each.fix ?? "")),
    ),
  );

const changes = (all) =>
  table({
    caption: "Changes",
    columns: [
      { name: "Where", value: (row) => row.pointer, cell: (row) => h("code", {}, row.pointer) },
      { name: "Change", value: (row) => row.change },
      {
        name: "Before",
        sort: false,
        value: (row) => brief(row.before ?? null),
        cell: (row) => h("code", {}, brief(row.before ?? null)),
      },
      {
        name: "After",
        sort: false,
        value: (row) => brief(row.after ?? null),
        cell: (row) => h("code", {}, brief(row.after ?? null)),
      },
    ],
    rows: all,
    key: (row) => row.pointer,
  }).element;

/** Whether a next version would fit, and whether an event does. */
function checkPanel(newest) {
  const isJson = newest.json_schema !== undefined;
  const text = h("textarea", { rows: 10, spellcheck: "false", value: JSON.stringify(isJson ? textOf(newest) : {}, null, 2) });
  const answer = h("div", { role: "status" });
  const judge = (isFine, words, more) =>
    answer.replaceChildren(h("p", { class: `notice ${isFine ? "good" : "bad"}` }, words), more ?? "");
  const check = async (event) => {
    await act(event.currentTarget, async () => {
      const told = await post("schemas/check", {
        schema_name: newest.schema_name,
        json_schema: parsed(text.value, "The schema"),
      });
      judge(
        told.is_compatible,
        told.is_compatible
          ? `It could be registered: it is ${told.compatibility_level} compatible.`
          : `It would be refused: it is not ${told.compatibility_level} compatible.`,
        told.incompatibilities
          .flatMap((each) => [h("h3", {}, `With version ${each.schema_version}`), reasons(each.differences)])
          .reduce((all, each) => (all.append(each), all), h("div", {})),
      );
    });
  };
  const validate = async (event) => {
    await act(event.currentTarget, async () => {
      const told = await post(path`schemas/${newest.schema_id}/validate`, parsed(text.value, "The event"));
      judge(
        told.is_valid,
        told.is_valid ? `It is valid by version ${told.schema_version}.` : `It is not valid by version ${told.schema_version}.`,
        h(
          "ul",
          {},
          told.validation_errors.map((each) => h("li", {}, h("code", {}, each.pointer || "/"), ` ${each.message}`)),
        ),
      );
    });
  };
  return panel(
    "Try it",
    {},
    field(isJson ? "A next version, or an event, in JSON" : "An event, in JSON", text),
    h(
      "p",
      { class: "actions" },
      isJson && h("button", { type: "button", onclick: check }, "Check as the next version"),
      h("button", { type: "button", onclick: validate }, "Validate as an event"),
    ),
    answer,
  );
}

async function register(name, example) {
  const title = h("input", { required: true, value: name, disabled: name !== "", autocomplete: "off", spellcheck: "false" });
  const text = h("textarea", { rows: 14, spellcheck: "false", value: JSON.stringify(example, null, 2) });
  const strategy = choice(
    [
      ["COMPATIBLE", "must be compatible"],
      ["BREAKING_CHANGE", "may break readers: a new major version"],
    ],
    "COMPATIBLE",
  );
  const made = await dialog(
    name ? `Register a version of ${name}` : "Register a schema",
    [field("Name", title), name && field("The new version", strategy), field("JSON schema", text)].filter(Boolean),
    {
      action: "Register",
      wide: true,
      submit: () =>
        post("schemas/enhanced", {
          schema_name: title.value.trim(),
          json_schema: parsed(text.value, "The schema"),
          ...(name ? { evolution_strategy: strategy.value } : {}),
        }),
    },
  );
  if (made) toast("It is registered.");
  return made;
}
