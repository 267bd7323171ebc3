// API tokens: who has one, what it allows, making one, and letting one count no more.

import { call, get, path } from "../api.js";
import { act, confirmed } from "../dialog.js";
import { h, head, panel } from "../dom.js";
import { bytes, count, state, time } from "../format.js";
import { may, me } from "../rights.js";
import { empty, filled } from "../states.js";
import { searched, table } from "../table.js";
import { makeToken } from "./token_form.js";

export function tokens({ signal }) {
  if (!may("token:manage")) {
    return h(
      "div",
      {},
      head("Tokens"),
      panel("Tokens", { label: "hidden" }, empty("Tokens are for administrators to look at and make.")),
    );
  }
  const past = h("input", { type: "checkbox" });
  const place = h("div", {});
  let all = [];
  const grid = table({
    caption: "Tokens",
    columns: [
      {
        name: "Whose",
        value: (row) => row.principal,
        cell: (row) => [row.principal, isMine(row) && " ", isMine(row) && tag("yours", "blue")].filter(Boolean),
      },
      {
        name: "May be",
        sort: false,
        value: (row) => row.roles,
        cell: (row) => h("span", { class: "tags" }, row.roles.map(roleTag)),
      },
      { name: "What for", wide: true, value: (row) => row.description },
      { name: "Limits", sort: false, value: limits },
      {
        name: "Status",
        value: (row) => row.status,
        cell: (row) => state(row.status, row.status === "active" ? "good" : undefined),
      },
      {
        name: "Made",
        tight: true,
        value: (row) => row.created_at,
        cell: (row) => [time(row.created_at), h("span", { class: "small muted" }, ` by ${row.created_by}`)],
      },
      {
        name: "Expires",
        tight: true,
        value: (row) => row.expires_at,
        cell: (row) => (row.expires_at ? time(row.expires_at) : "never"),
      },
      {
        name: "Last used",
        tight: true,
        value: (row) => row.last_used_at,
        cell: (row) => (row.last_used_at ? time(row.last_used_at) : "never"),
      },
      {
        name: "Action",
        label: false,
        sort: false,
        value: (row) => `${row.token_id} ${row.status}`,
        cell: (row) =>
          row.status === "active"
            ? h(
                "button",
                {
                  type: "button",
                  class: "danger",
                  "aria-label": `Revoke ${row.principal}, ${row.token_id}`,
                  onclick: () => revoke(row, load),
                },
                "Revoke",
              )
            : "",
      },
    ],
    key: (row) => row.token_id,
    order: { name: "Whose", down: false },
    nothing: "There is no token that counts. Whoever is to reach this server from elsewhere needs one.",
  });
  const search = searched(grid, (row) => [row.principal, row.description, ...row.roles].join(" "), "Filter by name or role");
  const show = () => search.update(past.checked ? all : all.filter((row) => row.status === "active"));
  const load = filled(
    place,
    () => get("tokens", { signal }),
    (told) => {
      all = told.tokens;
      show();
      return grid.element;
    },
    signal,
  );
  past.addEventListener("change", show);
  const make = h("button", { type: "button", class: "primary", onclick: async () => (await makeToken()) && load() }, "New token");
  return h(
    "div",
    {},
    head("Tokens", { lead: "Who may use this server, and for what.", actions: [make] }),
    panel(
      "All tokens",
      { label: "hidden" },
      h("div", { class: "bar" }, search.input, h("label", { class: "check" }, past, "Also revoked and expired ones")),
      place,
    ),
  );
}

const isMine = (row) => me()?.token_id === row.token_id;
const tag = (text, kind = "") => h("span", { class: `tag ${kind}` }, text);

const roleTag = (text) => {
  const [role, streams] = text.split(":");
  return [tag(role), streams ? h("span", { class: "small" }, ` ${streams.replaceAll(",", ", ")} `) : " "];
};

const limits = (row) =>
  [
    row.requests_per_s && `${count(row.requests_per_s)} requests/s`,
    row.max_body_bytes && `bodies of ${bytes(row.max_body_bytes)}`,
    row.connections && `${count(row.connections)} connections`,
  ]
    .filter(Boolean)
    .join(", ");

async function revoke(row, load) {
  const mine = isMine(row) ? " It is the one that you are signed in with: you will be signed out." : "";
  const text = `What ${row.principal} does with it is refused from its next use on.${mine} That cannot be taken back.`;
  if (!(await confirmed(`Revoke the token of ${row.principal}?`, text, "Revoke it"))) return;
  if (await act(null, () => call("DELETE", path`tokens/${row.token_id}`), "It counts no more.")) load();
}
