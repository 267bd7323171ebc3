// Making a token: for whom, with which roles, for which streams and until when. What is made is shown once.

import { post } from "../api.js";
import { dialog, toast } from "../dialog.js";
import { choice, field, fresh, h } from "../dom.js";
import { moment } from "../format.js";

const DAY_MS = 86_400_000;
const ENDS = [
  ["1", "in a day"],
  ["7", "in a week"],
  ["30", "in 30 days"],
  ["90", "in 90 days"],
  ["365", "in a year"],
  ["", "never"],
];
const MEANS = {
  admin: "Everything, tokens and erasures too",
  operator:
    "Looks at everything but tokens; makes, changes and removes streams, groups, processors, schemas, rules and projections",
  publisher: "Publishes, appends to aggregates, looks at streams and schemas",
  consumer: "Consumes in groups, looks at events, streams and schemas",
  delegate: "Names another user as the one whose event it is, beside the role publisher",
  viewer: "Looks at everything but tokens and the audit, asks the history",
  monitor: "Reads the metrics and live numbers, and nothing else",
};
const FOR_ALL_STREAMS = ["admin", "delegate", "monitor"];
const PATTERNS = "Streams are names or patterns, as in orders.*, with commas between.";

/** Ask for a token, make it, and show it this once; resolves to whether one was made. */
export async function makeToken() {
  const principal = h("input", { required: true, autocomplete: "off", spellcheck: "false", maxlength: 200 });
  const description = h("input", { autocomplete: "off", maxlength: 1000 });
  const ends = choice(ENDS, "90");
  const requests = h("input", { type: "number", min: 1, step: "any" });
  const body = h("input", { type: "number", min: 1 });
  const connections = h("input", { type: "number", min: 1 });
  const grants = roleFields();
  const limit = (input) => (input.value === "" ? null : Number(input.value));
  const made = await dialog(
    "New token",
    [
      field("For whom", principal, { hint: "A person or a program, as the audit is to name it." }),
      grants.element,
      field("It expires", ends),
      field("What for", description),
      h(
        "details",
        {},
        h("summary", {}, "Limits"),
        h(
          "div",
          { class: "pair" },
          field("Requests a second", requests),
          field("Bytes of a body", body),
          field("Connections at once", connections),
        ),
      ),
    ],
    {
      action: "Make the token",
      submit: () =>
        post("tokens", {
          principal: principal.value.trim(),
          roles: grants.value(),
          description: description.value.trim(),
          expires_at: ends.value === "" ? null : Date.now() + Number(ends.value) * DAY_MS,
          requests_per_s: limit(requests),
          max_body_bytes: limit(body),
          connections: limit(connections),
        }),
    },
  );
  if (!made) return false;
  await shownOnce(made);
  return true;
}

/** One or more roles, each with the streams that it is for. `value()` is what the API takes. */
function roleFields() {
  const rows = [];
  const place = h("div", { class: "roles" });
  const more = h("button", { type: "button", onclick: () => add("viewer").focus() }, "Another role");
  function add(chosen) {
    const role = choice(Object.keys(MEANS), chosen);
    const streams = h("input", { placeholder: "every stream", autocomplete: "off", spellcheck: "false" });
    const means = h("p", { class: "small muted", id: fresh("means") });
    const remove = h("button", { type: "button", class: "quiet", "aria-label": "Without this role" }, "✕");
    const element = h(
      "div",
      {},
      h("div", { class: "bar" }, field("Role", role), field("Streams", streams, { wide: true }), remove),
      means,
    );
    const tell = () => {
      streams.disabled = FOR_ALL_STREAMS.includes(role.value);
      if (streams.disabled) streams.value = "";
      means.textContent = `${MEANS[role.value]}. ${streams.disabled ? "" : PATTERNS}`;
    };
    role.setAttribute("aria-describedby", means.id);
    role.addEventListener("change", tell);
    remove.addEventListener("click", () => {
      rows.splice(rows.indexOf(row), 1);
      element.remove();
      fewer();
      more.focus();
    });
    const row = { role, streams, remove };
    rows.push(row);
    place.append(element);
    tell();
    fewer();
    return role;
  }
  const fewer = () => rows.forEach((row) => (row.remove.hidden = rows.length === 1));
  add("viewer");
  return {
    element: h("div", {}, place, more),
    value: () =>
      rows.map(({ role, streams }) => {
        const patterns = streams.value.split(",").map((each) => each.trim());
        return patterns.some(Boolean) ? `${role.value}:${patterns.filter(Boolean).join(",")}` : role.value;
      }),
  };
}

/** The token itself. Nobody can see it again, so this must be answered. */
async function shownOnce(made) {
  const secret = h("input", { class: "mono", readonly: true, value: made.token, onfocus: () => secret.select() });
  const copy = h("button", { type: "button" }, "Copy");
  copy.addEventListener("click", async () => {
    secret.select();
    try {
      await navigator.clipboard.writeText(made.token);
      toast("It is in the clipboard.");
    } catch {
      toast("The browser does not let the page copy it: copy what is selected.", "bad");
    }
  });
  await dialog(
    `The token of ${made.principal}`,
    [
      h("p", { class: "notice warn" }, "Copy it now: it is shown this once, and kept nowhere."),
      h("div", { class: "bar" }, field("Token", secret, { wide: true }), copy),
      h("p", { class: "muted" }, made.expires_at ? `It expires on ${moment(made.expires_at)} UTC.` : "It does not expire."),
    ],
    { action: "I have it", must: true },
  );
  secret.value = "";
}
