// Tables: sorted by a click on a heading, changed in place, and readable as cards where there is no room for columns.

import { h } from "./dom.js";
import { empty } from "./states.js";

const PAGE = 200;

/**
 * A table of `columns`: `{name, value(row), cell(row), right, tight, fill, wide, sort: false, label: false}`. `value` says what a
 * row has there, and is sorted by; `cell` makes what is shown of it, by default its text. `key(row)` tells rows apart when they
 * change: cells whose value is the same are left as they are, so nothing that has the focus is lost. `update(rows)` shows other
 * rows.
 */
export function table({
  columns,
  rows = [],
  key = (row, i) => i,
  caption,
  nothing = "There is nothing here.",
  more = [],
  order = null,
  stacked = true,
  scrolls = "",
}) {
  let shown = rows;
  let sorted = order; // {name, down}
  let most = PAGE;
  const known = new Map();
  const headings = columns.map((column) => heading(column));
  const body = h("tbody", { role: "rowgroup" });
  const grid = h(
    "table",
    { class: stacked ? "stack" : null, role: "table" },
    h("caption", { class: "hidden" }, caption),
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, headings)),
    body,
  );
  const scroll = h("div", { class: `scroll ${scrolls}` }, grid);
  const rest = h("button", {
    type: "button",
    class: "more",
    onclick: () => {
      most += PAGE;
      draw();
    },
  });
  const place = h("div", { class: "rows" });

  function heading(column) {
    const attributes = { role: "columnheader", scope: "col", class: column.right ? "right" : null };
    if (column.label === false) return h("th", attributes, h("span", { class: "hidden" }, column.name));
    if (column.sort === false || !column.value) return h("th", attributes, column.name);
    const act = () => {
      sorted = { name: column.name, down: sorted?.name === column.name ? !sorted.down : Boolean(column.right) };
      draw();
    };
    return h("th", attributes, h("button", { type: "button", onclick: act }, column.name));
  }

  function inOrder() {
    const column = sorted && columns.find((each) => each.name === sorted.name);
    for (const [i, each] of columns.entries()) {
      const direction = each === column ? (sorted.down ? "descending" : "ascending") : null;
      if (direction) headings[i].setAttribute("aria-sort", direction);
      else headings[i].removeAttribute("aria-sort");
    }
    if (!column) return shown;
    const sign = sorted.down ? -1 : 1;
    return [...shown].sort((one, other) => sign * compared(column.value(one), column.value(other)));
  }

  function draw() {
    if (shown.length === 0) {
      place.replaceChildren(empty(nothing, ...more));
      known.clear();
      body.replaceChildren();
      return;
    }
    if (!scroll.isConnected || place.firstChild !== scroll) place.replaceChildren(scroll);
    const wanted = inOrder().slice(0, most);
    const used = new Set();
    let at = body.firstChild;
    wanted.forEach((row, i) => {
      const id = String(key(row, i));
      used.add(id);
      const line = known.get(id) ?? fresh(id);
      fill(line, row);
      if (line.element === at) at = at.nextSibling;
      else body.insertBefore(line.element, at);
    });
    for (const [id, line] of known) {
      if (!used.has(id)) {
        line.element.remove();
        known.delete(id);
      }
    }
    if (shown.length > most) {
      rest.textContent = `Show more (${(shown.length - most).toLocaleString("en")} left)`;
      place.append(rest);
    } else rest.remove();
  }

  function fresh(id) {
    const cells = columns.map((column) =>
      h("td", {
        role: "cell",
        class: column.right ? "right" : column.tight ? "tight" : column.fill ? "fill" : column.wide ? "wide" : null,
        "data-label": column.label === false || column.name === "" ? null : column.name,
      }),
    );
    const line = { element: h("tr", { role: "row" }, cells), cells, values: [] };
    known.set(id, line);
    return line;
  }

  function fill(line, row) {
    columns.forEach((column, i) => {
      const value = column.value ? column.value(row) : row;
      const text = typeof value === "object" ? JSON.stringify(value) : value;
      if (i in line.values && Object.is(line.values[i], text)) return;
      line.values[i] = text;
      const made = column.cell ? column.cell(row) : value;
      line.cells[i].replaceChildren(...[made ?? "–"].flat());
      line.cells[i].classList.toggle("blank", made === "" || (made ?? null) === null);
    });
  }

  draw();
  return {
    element: place,
    update(next) {
      shown = next;
      draw();
    },
  };
}

function compared(one, other) {
  const left = one ?? null;
  const right = other ?? null;
  if (left === null || right === null) return (left === null ? 1 : 0) - (right === null ? 1 : 0);
  if (typeof left === "number" && typeof right === "number") return left - right;
  return String(left).localeCompare(String(right), "en", { numeric: true });
}

/**
 * A field that keeps those rows of a table in which `text(row)` holds what is typed. `update(rows)` changes the rows, `show()`
 * shows them again.
 */
export function searched(grid, text, label) {
  let rows = [];
  const input = h("input", { type: "search", placeholder: label, "aria-label": label, "data-find": true, oninput: show });
  function show() {
    const wanted = input.value.trim().toLowerCase();
    grid.update(wanted ? rows.filter((row) => text(row).toLowerCase().includes(wanted)) : rows);
  }
  return {
    input,
    show,
    update(next) {
      rows = next;
      show();
    },
  };
}
