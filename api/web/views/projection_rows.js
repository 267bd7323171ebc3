// A look at the rows of a projection: one of its tables, those that fit a condition, in an order.

import { get } from "../api.js";
import { act } from "../dialog.js";
import { asking, choice, field, h, panel } from "../dom.js";
import { brief, moment } from "../format.js";
import { filled } from "../states.js";
import { table } from "../table.js";

const PAGE = 50;
const RIGHT = ["integer", "number"];
const OPERATORS = [
  ["eq", "is"],
  ["ne", "is not"],
  ["gt", "is more than"],
  ["lt", "is less than"],
];

/** `told` is the projection as its status has it, `where` its path in the API. */
export function rowsPanel(told, where, signal) {
  const chosen = choice(told.tables, told.tables[0]);
  const place = h("div", {});
  const show = () => place.replaceChildren(...oneTable(told, where, chosen.value, signal));
  chosen.addEventListener("change", show);
  show();
  return panel("Rows", {}, told.tables.length > 1 && h("div", { class: "bar" }, field("Table", chosen)), place);
}

/** The columns of a table: `{name, type}`, as the definition has them. */
const columnsOf = (told, name) =>
  Object.entries(told.definition?.tables?.[name]?.columns ?? {}).map(([column, { type }]) => ({ name: column, type }));

function oneTable(told, where, name, signal) {
  const columns = columnsOf(told, name);
  const names = columns.map((column) => column.name);
  const column = choice(names, names[0]);
  const operator = choice(OPERATORS, "eq", { "aria-label": "How it is compared" });
  const value = h("input", { "aria-label": "Value", autocomplete: "off", spellcheck: "false", "data-find": true });
  const order = choice([["", "the key"], ...names.flatMap((each) => [each, [`-${each}`, `${each}, highest first`]])], "");
  const more = h("button", { type: "button", hidden: true }, "More rows");
  const place = h("div", {});
  let rows = [];
  const grid = table({
    caption: `Rows of ${name}`,
    columns: columns.map((each) => ({
      name: each.name,
      right: RIGHT.includes(each.type),
      sort: false,
      value: (row) => row[each.name],
      cell: (row) => shown(row[each.name], each.type),
    })),
    key: (row) => rows.indexOf(row),
    nothing: "No row fits.",
    stacked: columns.length <= 6,
  });
  const fetched = (cursor) => {
    const condition = value.value.trim() && {
      [column.value]: { [operator.value]: typed(value.value.trim(), typeOf(column.value)) },
    };
    const query = { table: name, limit: PAGE, order: order.value, where: condition && JSON.stringify(condition), cursor };
    return get(`${where}/rows`, { query, signal });
  };
  const typeOf = (wanted) => columns.find((each) => each.name === wanted)?.type;
  const take = (page) => {
    rows = [...rows, ...page.rows];
    grid.update(rows);
    more.hidden = page.cursor === null;
    more.onclick = () => act(more, async () => take(await fetched(page.cursor)));
  };
  const load = filled(
    place,
    () => fetched(null),
    (page) => {
      rows = [];
      take(page);
      return grid.element;
    },
    signal,
  );
  const form = asking(
    load,
    field("Those whose", column),
    operator,
    value,
    field("In the order of", order),
    h("button", { type: "submit" }, "Look"),
  );
  order.addEventListener("change", load);
  return [form, place, h("div", { class: "more" }, more)];
}

function shown(value, type) {
  if (value === null || value === undefined) return h("span", { class: "muted" }, "null");
  if (type === "timestamp") return moment(value);
  return typeof value === "object" ? h("code", {}, brief(value, 200)) : String(value);
}

/** What is typed, as a value of a column's type; what is no such value is left for the server to refuse. */
function typed(text, type) {
  if (type === "boolean") return text === "true" ? true : text === "false" ? false : text;
  if (RIGHT.includes(type) && text !== "" && Number.isFinite(Number(text))) return Number(text);
  return text;
}
