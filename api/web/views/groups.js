// Consumer groups: how far behind they are, who is in them, how their partitions were shared out.

import { ask, call, get, path, post, quoted } from "../api.js";
import { lineChart, share } from "../chart.js";
import { choice, field, h, head, panel } from "../dom.js";
import { act, confirmed, dialog, toast } from "../dialog.js";
import { count, milliseconds, number, rate, seconds, state, time, tone } from "../format.js";
import { listen, newest, recent } from "../live.js";
import { may } from "../rights.js";
import { link } from "../router.js";
import { empty, every, filled } from "../states.js";
import { searched, table } from "../table.js";

const verdictOf = (name) => newest()?.data.consumer_lag?.[name] ?? null;

export function groups({ signal }) {
  const grid = table({
    caption: "Consumer groups",
    columns: [
      {
        name: "Group",
        value: (row) => row.group_name,
        cell: (row) => h("a", { href: link`groups/${row.group_name}` }, row.group_name),
      },
      {
        name: "Verdict",
        value: (row) => verdictOf(row.group_name)?.verdict ?? "",
        cell: (row) =>
          verdictOf(row.group_name)
            ? state(verdictOf(row.group_name).verdict, verdictTone(verdictOf(row.group_name).verdict))
            : "–",
      },
      {
        name: "Lag",
        right: true,
        value: (row) => verdictOf(row.group_name)?.total_lag ?? null,
        cell: (row) => count(verdictOf(row.group_name)?.total_lag),
      },
      {
        name: "Behind",
        right: true,
        value: (row) => verdictOf(row.group_name)?.seconds_behind ?? null,
        cell: (row) => seconds(verdictOf(row.group_name)?.seconds_behind),
      },
      { name: "Members", right: true, value: (row) => row.active_consumers },
      {
        name: "State",
        value: (row) => (row.is_paused ? "PAUSED" : row.state),
        cell: (row) => state(row.is_paused ? "PAUSED" : row.state, row.is_paused ? "warn" : undefined),
      },
      { name: "Last rebalance", tight: true, value: (row) => row.last_rebalance, cell: (row) => time(row.last_rebalance) },
    ],
    key: (row) => row.group_id,
    order: { name: "Group", down: false },
    nothing: "There is no consumer group. A group's members share the partitions of the streams that they read.",
  });
  const search = searched(grid, (row) => row.group_name, "Filter by name");
  const place = h("div", {});
  const load = filled(
    place,
    () => get("consumer-groups", { signal }),
    ({ consumer_groups: found }) => {
      search.update(found);
      return grid.element;
    },
    signal,
  );
  every(4000, signal, load);
  listen(search.show, signal);
  const make = h("button", { type: "button", class: "primary", onclick: async () => (await makeGroup()) && load() }, "New group");
  return h(
    "div",
    {},
    head("Consumer groups", { actions: [may("group:manage") && make] }),
    panel("All groups", { label: "hidden" }, h("div", { class: "bar" }, search.input), place),
  );
}

const verdictTone = (verdict) => (verdict === "STOPPED" ? "bad" : tone(verdict));

async function makeGroup() {
  const name = h("input", { required: true, autocomplete: "off", spellcheck: "false" });
  const strategy = choice(["range", "roundrobin", "sticky", "cooperative-sticky"], "range");
  const begin = choice(
    [
      ["earliest", "with the oldest events"],
      ["latest", "with what comes from now on"],
    ],
    "earliest",
  );
  const made = await dialog(
    "New consumer group",
    [field("Name", name), field("Partitions are shared out", strategy), field("It begins", begin)],
    {
      action: "Make the group",
      submit: () =>
        post("consumer-groups", {
          group_name: name.value.trim(),
          partition_assignment_strategy: strategy.value,
          auto_offset_reset: begin.value,
        }),
    },
  );
  if (made) toast(`The group ${name.value.trim()} is there.`);
  return made;
}

export function group({ params, signal }) {
  const name = params.group;
  const where = path`consumer-groups/${name}`;
  const title = h("div", {}, head(name, { crumbs: [["Consumer groups", "#/groups"]] }));
  const lag = h("div", {});
  const members = h("div", {});
  const history = h("div", {});
  const chart = lineChart({
    label: `Events that wait for ${name}`,
    format: number,
    height: 110,
    nothing: "Waiting for the first message.",
  });
  const splits = splitTable();
  let shown = "";

  const numbers = h("div", {});
  const load = filled(
    lag,
    () => get(`${where}/lag`, { signal }),
    (told) => {
      splits.update(told.splits);
      numbers.replaceChildren(...figures(told));
      return [numbers, splits.element];
    },
    signal,
  );
  const loadMembers = filled(
    members,
    () => get(where, { signal }),
    (told) => {
      showTitle(told);
      return told.members.length === 0 ? empty("Nobody is in the group.") : memberTable(told.members);
    },
    signal,
  );
  const loadHistory = filled(
    history,
    () =>
      ask(
        `SELECT generation, strategy, reason, started_at, duration_ms, members_after FROM rebalances
          WHERE group_name = ${quoted(name)} ORDER BY started_at DESC LIMIT 50`,
        { signal },
      ),
    rebalances,
    signal,
  );
  const refresh = () => Promise.all([load(), loadMembers(), loadHistory()]);
  every(2500, signal, () => Promise.all([load(), loadMembers()]));
  every(8000, signal, loadHistory);
  listen(
    () =>
      chart.update([
        { name: "Lag", points: recent().map((each) => [each.at, each.data.consumer_lag?.[name]?.total_lag ?? null]) },
      ]),
    signal,
  );

  function showTitle(told) {
    const now = `${told.state} ${told.is_paused}`;
    if (now === shown) return;
    shown = now;
    const button = (text, verb, said, attributes = {}) =>
      h(
        "button",
        {
          type: "button",
          ...attributes,
          onclick: async (event) => {
            await act(event.currentTarget, () => post(`${where}/${verb}`), said);
            refresh();
          },
        },
        text,
      );
    title.replaceChildren(
      head(name, {
        crumbs: [["Consumer groups", "#/groups"]],
        lead: told.group_description,
        actions: [
          state(told.is_paused ? "PAUSED" : told.state, told.is_paused ? "warn" : undefined),
          ...(may("group:manage")
            ? [
                told.is_paused
                  ? button("Resume", "resume", "The group goes on.")
                  : button("Pause", "pause", "The group gets no events until it is resumed."),
                button("Rebalance", "rebalance", "All members join anew."),
                h("button", { type: "button", onclick: async () => (await reset(where, name)) && refresh() }, "Reset offsets"),
                h("button", { type: "button", class: "danger", onclick: () => remove(where, name) }, "Delete"),
              ]
            : []),
        ],
      }),
    );
  }

  return h(
    "div",
    {},
    title,
    panel("Lag by partition", {}, lag),
    panel("Members", {}, members),
    h("div", { class: "columns" }, panel("Lag over time", {}, chart.element), panel("Rebalances", {}, history)),
  );
}

function figures(told) {
  const tile = (name, value, note) => h("div", {}, h("dt", {}, name), h("dd", {}, value, note && h("small", {}, note)));
  return [
    h(
      "dl",
      { class: "tiles" },
      tile("Verdict", state(told.verdict, verdictTone(told.verdict))),
      tile("Lag", count(told.total_lag), "events"),
      tile("Behind", seconds(told.seconds_behind)),
      tile("Consumes", rate(told.consumption_rate)),
      tile("Members", count(told.active_consumers)),
      tile(
        "Parked",
        `${count(told.parked)}${told.parked_is_complete ? "" : "+"}`,
        h("a", { href: link`dead-letters?group=${told.group_name}` }, "dead letters"),
      ),
    ),
    h("p", { class: "muted" }, told.evidence?.sentence ?? ""),
  ];
}

function splitTable() {
  let largest = 1;
  const grid = table({
    caption: "Lag by stream, partition and lane",
    columns: [
      {
        name: "Stream",
        value: (row) => row.stream,
        cell: (row) => (row.stream.startsWith("_") ? row.stream : h("a", { href: link`streams/${row.stream}` }, row.stream)),
      },
      { name: "Partition", value: (row) => row.partition },
      { name: "Lane", value: (row) => row.lane },
      { name: "Committed", right: true, value: (row) => row.committed, cell: (row) => count(row.committed) },
      { name: "End", right: true, value: (row) => row.end_offset, cell: (row) => count(row.end_offset) },
      { name: "Lag", right: true, value: (row) => row.lag, cell: (row) => count(row.lag) },
      {
        name: "Share",
        sort: false,
        value: (row) => Math.round((100 * row.lag) / largest),
        cell: (row) => share(row.lag / largest, verdictTone(row.verdict) === "good" ? "" : verdictTone(row.verdict)),
      },
      { name: "Behind", right: true, value: (row) => row.seconds_behind, cell: (row) => seconds(row.seconds_behind) },
      { name: "Verdict", value: (row) => row.verdict, cell: (row) => state(row.verdict, verdictTone(row.verdict)) },
      {
        name: "Member",
        value: (row) => row.member_id ?? "",
        cell: (row) => (row.member_id ? h("code", {}, row.member_id.slice(0, 14), "…") : "nobody"),
      },
    ],
    key: (row) => `${row.stream_id} ${row.partition} ${row.lane}`,
    nothing: "The group has committed nothing, and its members read no stream.",
  });
  return {
    element: grid.element,
    update(rows) {
      largest = Math.max(1, ...rows.map((row) => row.lag));
      grid.update(rows);
    },
  };
}

const memberTable = (members) =>
  table({
    caption: "Members",
    columns: [
      { name: "Member", value: (row) => row.member_id, cell: (row) => h("code", {}, row.member_id) },
      { name: "Where", value: (row) => `${row.client_id} ${row.host}, process ${row.pid}`.trim() },
      { name: "Reads", sort: false, value: (row) => row.assignment, cell: (row) => assigned(row.assignment) },
      { name: "Heartbeat", tight: true, value: (row) => row.last_heartbeat, cell: (row) => time(row.last_heartbeat) },
      { name: "Poll", tight: true, value: (row) => row.last_poll, cell: (row) => time(row.last_poll) },
    ],
    rows: members,
    key: (row) => row.member_id,
  }).element;

function assigned(partitions) {
  const byStream = new Map();
  for (const { stream, partition } of partitions) byStream.set(stream, [...(byStream.get(stream) ?? []), partition]);
  return [...byStream].map(([stream, numbers]) => `${stream} ${numbers.join(", ")}`).join("; ") || "nothing";
}

function rebalances(rows) {
  if (rows.length === 0) return empty("Its partitions have not been shared out yet.");
  return h(
    "ol",
    { class: "story" },
    rows.map((row) =>
      h(
        "li",
        {},
        h(
          "div",
          { class: "line" },
          h("span", {}, `Generation ${row.generation}`),
          time(row.started_at),
          h(
            "span",
            { class: "muted small" },
            `${row.strategy}, ${JSON.parse(row.members_after || "[]").length} members, ${milliseconds(row.duration_ms)}`,
          ),
        ),
        h("div", { class: "muted" }, row.reason),
      ),
    ),
  );
}

/** Let the group go on elsewhere; what that means is shown first. */
async function reset(where, name) {
  const to = choice(
    [
      ["earliest", "the oldest event"],
      ["latest", "the end"],
      ["timestamp", "a time"],
    ],
    "latest",
  );
  const at = h("input", { type: "datetime-local", step: 1 });
  const timeField = field("Time, UTC", at);
  timeField.hidden = true;
  to.addEventListener("change", () => {
    timeField.hidden = to.value !== "timestamp";
  });
  const body = () => ({ to: to.value === "timestamp" ? { timestamp: `${at.value}Z` } : to.value });
  const plan = await dialog(`Reset ${name}`, [field("Go on at", to), timeField], {
    action: "See what that means",
    submit: () => post(`${where}/reset-offsets`, body(), { query: { preview: true } }),
  });
  if (!plan) return false;
  if (!plan.is_allowed) {
    toast(plan.refusal, "bad");
    return false;
  }
  const text = `${count(plan.events_skipped)} events will be skipped, ${count(plan.events_read_again)} will be read again.`;
  if (!(await confirmed(`Reset ${name}?`, text, "Reset the offsets"))) return false;
  return act(null, () => post(`${where}/reset-offsets`, body(), { query: { preview: false } }), "The offsets are reset.");
}

async function remove(where, name) {
  if (!(await confirmed(`Delete ${name}?`, "What the group has committed is forgotten.", "Delete the group"))) return;
  if (await act(null, () => call("DELETE", where), `The group ${name} is gone.`)) location.hash = "#/groups";
}
