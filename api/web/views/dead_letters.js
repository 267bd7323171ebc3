// Dead letters: find them, look at one, retry or drop them. What a retry would do is shown first.

import { call, get, path, post } from "../api.js";
import { asking, choice, field, h, head, panel, facts } from "../dom.js";
import { act, confirmed, dialog, toast } from "../dialog.js";
import { count, json, state, time } from "../format.js";
import { may } from "../rights.js";
import { link } from "../router.js";
import { filled } from "../states.js";
import { table } from "../table.js";

const PAGE = 100;
const FILTERS = ["stream", "processor", "group", "error_type", "key"];
const NAMES = { stream: "Stream", processor: "Processor", group: "Group", error_type: "Error", key: "Key" };

const mayChange = () => may("dead-letter:manage");

export function deadLetters({ query, signal }) {
  const inputs = Object.fromEntries(
    FILTERS.map((name) => [
      name,
      h("input", { value: query.get(name) ?? "", size: 12, spellcheck: "false", autocomplete: "off" }),
    ]),
  );
  inputs.stream.dataset.find = "true";
  const status = choice(
    [
      ["OPEN", "open"],
      ["RETRIED", "retried"],
      ["DROPPED", "dropped"],
      ["ALL", "all"],
    ],
    query.get("status") ?? "OPEN",
  );
  const chosen = new Set();
  const selected = h("span", { class: "muted", role: "status" });
  const retry = h(
    "button",
    { type: "button", class: "primary", onclick: () => retryThem(selection(), load) },
    "Retry all that fit",
  );
  const drop = h("button", { type: "button", class: "danger", onclick: () => dropThem(selection(), load) }, "Drop all that fit");
  const more = h("button", { type: "button", hidden: true, onclick: () => next() }, "Older letters");
  const place = h("div", {});
  let rows = [];
  let cursor = null;

  const where = () => Object.fromEntries(FILTERS.map((name) => [name, inputs[name].value.trim()]).filter(([, value]) => value));
  const selection = () => (chosen.size > 0 ? { ids: [...chosen] } : { filter: where() });
  const grid = table({
    caption: "Dead letters, newest first",
    columns: [
      {
        name: "Choose",
        label: false,
        sort: false,
        value: (row) => `${row.dead_letter_id}${chosen.has(row.dead_letter_id)}`,
        cell: (row) => box(row),
      },
      {
        name: "Failed",
        tight: true,
        sort: false,
        value: (row) => row.failed_at,
        cell: (row) => h("a", { href: link`dead-letters/${row.dead_letter_id}` }, time(row.failed_at)),
      },
      { name: "Stream", sort: false, value: (row) => row.stream },
      { name: "Step", sort: false, value: (row) => row.step },
      {
        name: "Error",
        wide: true,
        sort: false,
        value: (row) => `${row.error_type}: ${row.error_message}`,
        cell: (row) => h("span", {}, h("strong", {}, row.error_type), ` ${row.error_message}`),
      },
      { name: "Key", sort: false, value: (row) => row.key ?? "" },
      { name: "Tries", right: true, sort: false, value: (row) => row.attempts + row.retries },
      { name: "Status", sort: false, value: (row) => row.status, cell: (row) => state(row.status) },
    ],
    key: (row) => row.dead_letter_id,
    nothing: "No dead letter fits. Events that cannot be processed are kept here, as they were.",
  });

  function box(row) {
    const label = `Choose the letter of ${row.event_type} on ${row.stream}`;
    return h("input", {
      type: "checkbox",
      "aria-label": label,
      checked: chosen.has(row.dead_letter_id),
      disabled: row.status !== "OPEN" || !mayChange(),
      onchange: (event) => {
        if (event.target.checked) chosen.add(row.dead_letter_id);
        else chosen.delete(row.dead_letter_id);
        tell();
      },
    });
  }

  function tell() {
    const number = chosen.size;
    retry.textContent = number > 0 ? `Retry ${count(number)}` : "Retry all that fit";
    drop.textContent = number > 0 ? `Drop ${count(number)}` : "Drop all that fit";
    selected.textContent = number > 0 ? `${count(number)} chosen` : "";
    retry.disabled = drop.disabled = rows.every((row) => row.status !== "OPEN");
  }

  const fetched = (from) =>
    get("dead-letters", { query: { ...where(), status: status.value, limit: PAGE, newest_first: true, cursor: from }, signal });
  function load() {
    chosen.clear();
    filled(
      place,
      () => fetched(null),
      (page) => {
        rows = page.dead_letters;
        show(page);
        return grid.element;
      },
      signal,
    );
  }
  async function next() {
    await act(more, async () => {
      const page = await fetched(cursor);
      rows = [...rows, ...page.dead_letters];
      show(page);
    });
  }
  function show(page) {
    cursor = page.next_cursor;
    more.hidden = cursor === null;
    grid.update(rows);
    tell();
  }

  const form = asking(
    load,
    FILTERS.map((name) => field(NAMES[name], inputs[name])),
    field("Status", status),
    h("button", { type: "submit" }, "Filter"),
  );
  status.addEventListener("change", load);
  load();
  return h(
    "div",
    {},
    head("Dead letters", { actions: mayChange() ? [selected, retry, drop] : [] }),
    panel("Letters", { label: "hidden" }, form, place, h("div", { class: "more" }, more)),
  );
}

/** Show what a retry would do, and do it if that is wanted. */
async function retryThem(selection, done) {
  let plan;
  try {
    plan = await post("dead-letters/retry", { ...selection, preview: true });
  } catch (error) {
    toast(error.message, "bad");
    return;
  }
  const { retry, fail, wait, refuse } = plan.would;
  const groups = table({
    caption: "What would be retried",
    columns: [
      { name: "Letters", right: true, value: (row) => row.letters },
      { name: "From", value: (row) => `${row.step}, ${row.stream}` },
      { name: "Error", value: (row) => row.error_type },
      {
        name: "Goes to",
        value: (row) => (row.destination ? `${row.destination.kind.toLowerCase()} ${row.destination.name}` : "nowhere"),
      },
      { name: "Would succeed", right: true, value: (row) => row.would.retry },
      { name: "Why not", sort: false, value: (row) => row.reasons.map((each) => each.message).join("; ") },
    ],
    rows: plan.groups,
    key: (row) => `${row.step} ${row.stream} ${row.error_type} ${row.destination?.id}`,
    nothing: "No open letter fits.",
  });
  const answer = await dialog(
    "Retry dead letters",
    [
      h(
        "p",
        {},
        `${count(retry)} would be retried, ${count(fail)} would fail again, `,
        `${count(wait)} would wait for others of their key, ${count(refuse)} would be refused.`,
      ),
      groups.element,
    ],
    { action: "Retry", wide: true, submit: () => post("dead-letters/retry", selection) },
  );
  if (!answer) return;
  toast(
    `Retried ${count(answer.counts.retried ?? 0)}, failed ${count(answer.counts.failed ?? 0)}.`,
    (answer.counts.failed ?? 0) > 0 ? "bad" : "good",
  );
  done();
}

async function dropThem(selection, done) {
  const what = selection.ids ? `${count(selection.ids.length)} letters` : "All open letters that fit the filter";
  if (!(await confirmed("Drop dead letters?", `${what} will not be processed any more.`, "Drop them"))) return;
  if (
    await act(
      null,
      () => post("dead-letters/drop", selection),
      (answer) => `Dropped ${count(answer.counts.dropped ?? 0)}.`,
    )
  )
    done();
}

export function deadLetter({ params, signal }) {
  const id = params.letter;
  const where = path`dead-letters/${id}`;
  const place = h("div", {});
  const load = filled(
    place,
    () => get(where, { signal }),
    (letter) => {
      const again = () => load();
      const retry = h("button", { type: "button", class: "primary", onclick: () => retryThem({ ids: [id] }, again) }, "Retry");
      const drop = h(
        "button",
        {
          type: "button",
          class: "danger",
          onclick: async () => {
            if (!(await confirmed("Drop this dead letter?", "Its event will not be processed any more.", "Drop it"))) return;
            await act(null, () => call("DELETE", where), "It is dropped.");
            load();
          },
        },
        "Drop",
      );
      return [
        letter.status === "OPEN" && mayChange() && h("p", { class: "actions" }, retry, drop),
        h("p", { class: "notice bad" }, h("strong", {}, letter.error_type), `: ${letter.error_message}`),
        letter.last_error && h("p", { class: "notice warn" }, `The last retry failed: ${letter.last_error}`),
        h(
          "div",
          { class: "columns" },
          panel(
            "Event",
            {},
            letter.payload === undefined ? h("p", { class: "muted" }, "Its payload is no JSON.") : json(letter.payload),
          ),
          panel(
            "Letter",
            {},
            facts([
              ["Status", state(letter.status)],
              ["Failed", time(letter.failed_at, { precise: true })],
              ["Step", letter.step],
              ["Stream", h("a", { href: link`streams/${letter.stream}` }, letter.stream)],
              ["Attempts", `${letter.attempts}, and ${letter.retries} retries`],
              ["Event", h("a", { href: link`events/${letter.event_id}` }, letter.event_id)],
              ["Type", letter.event_type],
              ["Key", letter.key],
              ["Event time", time(letter.timestamp, { precise: true })],
              ["Correlation id", letter.correlation_id],
              ["Caused by", letter.causation_id],
            ]),
          ),
        ),
      ].filter(Boolean);
    },
    signal,
  );
  return h("div", {}, head("Dead letter", { crumbs: [["Dead letters", "#/dead-letters"]], lead: id }), place);
}
