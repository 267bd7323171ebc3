// Elements, made of text: nothing that the bus holds is ever taken for markup.

const SVG = "http://www.w3.org/2000/svg";

function put(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value" || name === "checked" || name === "disabled" || name === "indeterminate") element[name] = value;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** An HTML element; functions under names such as `onclick` become listeners. */
export function h(tag, attributes, ...children) {
  return put(document.createElement(tag), attributes, children);
}

/** An SVG element. */
export function s(tag, attributes, ...children) {
  return put(document.createElementNS(SVG, tag), attributes, children);
}

export const byId = (id) => document.getElementById(id);

let last = 0;
/** An id that no other element has. */
export const fresh = (prefix) => `${prefix}-${(last += 1)}`;

/** A panel with a heading, and with actions beside it. */
export function panel(title, { actions = [], label } = {}, ...children) {
  const id = fresh("panel");
  return h(
    "section",
    { class: "panel", "aria-labelledby": id },
    h("header", {}, h("h2", { id, class: label === "hidden" ? "hidden" : null }, title), ...actions),
    ...children,
  );
}

/** Names and values. Values that are null are left out. */
export function facts(pairs) {
  const shown = pairs.filter(([, value]) => value !== null && value !== undefined && value !== "");
  return h(
    "dl",
    { class: "facts" },
    shown.map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]),
  );
}

/** The head of a view: where one is, its title, and what can be done. */
export function head(title, { crumbs = [], lead = null, actions = [] } = {}) {
  return h(
    "div",
    { class: "head" },
    h(
      "div",
      {},
      crumbs.length > 0 &&
        h(
          "p",
          { class: "crumbs" },
          crumbs.map(([name, href]) => [h("a", { href }, name), " / "]),
        ),
      h("h1", { tabindex: "-1" }, title),
      lead && h("p", { class: "lead" }, lead),
    ),
    actions.some(Boolean) && h("div", { class: "actions" }, actions),
  );
}

/** A row of fields to ask with: `ask` is called when it is submitted. */
export function asking(ask, ...children) {
  const onsubmit = (event) => {
    event.preventDefault();
    ask();
  };
  return h("form", { class: "bar", onsubmit }, children);
}

/** A field with its label. */
export function field(label, control, { hint = null, wide = false } = {}) {
  control.id ||= fresh("field");
  const note = hint && h("span", { class: "small muted", id: `${control.id}-hint` }, hint);
  if (note) control.setAttribute("aria-describedby", note.id);
  return h("div", { class: wide ? "field wide" : "field" }, h("label", { for: control.id }, label), control, note);
}

/** A choice among values, or among [value, name]. */
export function choice(values, chosen, attributes = {}) {
  const options = values.map((each) => (Array.isArray(each) ? each : [each, each]));
  const select = h(
    "select",
    attributes,
    options.map(([value, name]) => h("option", { value }, name)),
  );
  select.value = chosen;
  return select;
}
