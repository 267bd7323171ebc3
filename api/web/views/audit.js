// The audit: who did what, to what, when, and how it ended.

import { download, get, post, request } from "../api.js";
import { asking, choice, field, h, head, panel } from "../dom.js";
import { act } from "../dialog.js";
import { count, json, state, time, tone } from "../format.js";
import { filled } from "../states.js";
import { table } from "../table.js";

const PAGE = 100;

export function audit({ signal }) {
  const action = h("input", { placeholder: "stream.*", spellcheck: "false", autocomplete: "off", "data-find": true });
  const actor = h("input", { spellcheck: "false", autocomplete: "off" });
  const target = h("input", { spellcheck: "false", autocomplete: "off" });
  const outcome = choice(
    [
      ["", "any"],
      ["DONE", "done"],
      ["REFUSED", "refused"],
      ["FAILED", "failed"],
    ],
    "",
  );
  const more = h("button", { type: "button", hidden: true, onclick: () => next() }, "Older entries");
  const report = h("div", { role: "status" });
  const place = h("div", {});
  let rows = [];
  let cursor = null;

  const grid = table({
    caption: "Entries of the audit, newest first",
    columns: [
      { name: "When", tight: true, sort: false, value: (row) => row.at, cell: (row) => time(row.at) },
      { name: "Who", sort: false, value: (row) => row.actor },
      { name: "From", sort: false, value: (row) => row.address ?? "" },
      { name: "Action", sort: false, value: (row) => row.action, cell: (row) => h("code", {}, row.action) },
      { name: "Target", sort: false, value: (row) => row.target },
      {
        name: "Outcome",
        sort: false,
        value: (row) => row.outcome,
        cell: (row) =>
          h(
            "span",
            {},
            state(row.outcome, row.outcome === "FAILED" ? "bad" : tone(row.outcome)),
            row.repeated > 1 ? ` × ${count(row.repeated)}` : "",
          ),
      },
      { name: "Details", label: false, sort: false, value: (row) => row.seq, cell: details },
    ],
    key: (row) => row.seq,
    nothing: "No entry fits.",
  });

  const fetched = (from) =>
    get("audit", {
      query: {
        action: action.value.trim(),
        actor: actor.value.trim(),
        target: target.value.trim(),
        outcome: outcome.value,
        limit: PAGE,
        cursor: from,
      },
      signal,
    });
  function load() {
    rows = [];
    filled(
      place,
      () => fetched(null),
      (page) => {
        show(page);
        return grid.element;
      },
      signal,
    );
  }
  function show(page) {
    rows = [...rows, ...page.entries];
    cursor = page.next_cursor;
    more.hidden = cursor === null;
    grid.update(rows);
  }
  const next = () => act(more, async () => show(await fetched(cursor)));

  async function verify(event) {
    await act(event.currentTarget, async () => {
      const told = await post("audit/verify");
      const words = told.is_intact
        ? `${count(told.entries)} entries are there, unchanged and in their places; signed up to entry ${count(told.signed_seq)}.`
        : `The audit is not intact: ${count(told.problem_count)} problems. ${told.problems.map(wordsOf).join(" ")}`;
      report.replaceChildren(h("p", { class: `notice ${told.is_intact ? "good" : "bad"}` }, words));
    });
  }
  async function save(event) {
    await act(event.currentTarget, async () =>
      download("audit.ndjson", await (await request("GET", "audit/export", { signal })).text(), "application/x-ndjson"),
    );
  }

  const form = asking(
    load,
    field("Action", action),
    field("Who", actor),
    field("Target", target),
    field("Outcome", outcome),
    h("button", { type: "submit" }, "Filter"),
  );
  load();
  return h(
    "div",
    {},
    head("Audit", {
      actions: [
        h("button", { type: "button", onclick: verify }, "Verify"),
        h("button", { type: "button", onclick: save }, "Export"),
      ],
    }),
    report,
    panel("Entries", { label: "hidden" }, form, place, h("div", { class: "more" }, more)),
  );
}

const wordsOf = (problem) => problem.message ?? JSON.stringify(problem);

function details(row) {
  const about = Object.fromEntries(
    ["reason", "before", "after", "token_id", "request_id", "tenant_id", "hash"]
      .filter((name) => row[name] !== null && row[name] !== undefined)
      .map((name) => [name, row[name]]),
  );
  return h("details", {}, h("summary", { "aria-label": `Details of entry ${row.seq}` }, `Entry ${row.seq}`), json(about));
}
