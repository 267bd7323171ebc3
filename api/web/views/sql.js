// The SQL console: a question to the history, its answer as a table and a chart.

import { download, post } from "../api.js";
import { barChart, largest, lineChart, MOST_SERIES } from "../chart.js";
import { choice, field, h, head, panel } from "../dom.js";
import { brief, count, moment, number, seconds } from "../format.js";
import { questions } from "../session.js";
import { empty, failed, loading } from "../states.js";
import { table } from "../table.js";

const MOST_BARS = 60;
const NUMBERS = /^(u?int|float|double|decimal|hugeint|half)/;
const TIMES = /^(timestamp|date)/;
const EXAMPLES = [
  [
    "Events by stream",
    `SELECT stream, count(*) AS events
FROM events
GROUP BY stream
ORDER BY events DESC
LIMIT 20`,
  ],
  [
    "Published by minute",
    `SELECT date_trunc('minute', published_at) AS minute, count(*) AS events
FROM events
GROUP BY minute
ORDER BY minute`,
  ],
  [
    "Steps and their outcome",
    `SELECT processor_name, processing_stage AS stage, status, count(*) AS events,
       round(avg(processing_duration_ms), 3) AS avg_ms
FROM processing_history
GROUP BY ALL
ORDER BY events DESC`,
  ],
  [
    "Dead letters by error",
    `SELECT error_type, count(*) AS letters
FROM dead_letters
GROUP BY ALL
ORDER BY letters DESC`,
  ],
  [
    "Runs of processors",
    `SELECT processor_name, status, events_in, events_out, started_at, ended_at
FROM processor_runs
ORDER BY started_at DESC
LIMIT 50`,
  ],
  [
    "Late events",
    `SELECT processor_name, window_start, count(*) AS late
FROM late_events
GROUP BY ALL
ORDER BY window_start DESC
LIMIT 100`,
  ],
  [
    "Rebalances",
    `SELECT group_name, generation, reason, started_at, duration_ms
FROM rebalances
ORDER BY started_at DESC
LIMIT 50`,
  ],
];

export function sql({ query, signal }) {
  const text = h("textarea", {
    rows: 7,
    spellcheck: "false",
    autocapitalize: "off",
    value: query.get("q") ?? questions.all()[0] ?? EXAMPLES[0][1],
    "data-find": true,
  });
  const run = h("button", { type: "submit", class: "primary" }, "Run");
  const stop = h("button", { type: "button", disabled: true, onclick: () => running?.abort() }, "Stop");
  const examples = choice(
    [
      ["", "Examples and what was asked"],
      ...EXAMPLES.map(([name, each]) => [each, name]),
      ...questions.all().map((each) => [each, `asked: ${brief(each.replaceAll(/\s+/g, " "), 60)}`]),
    ],
    "",
    { "aria-label": "Examples and what was asked" },
  );
  const answer = h("div", {}, panel("Answer", {}, empty("Ask something: Ctrl + Enter runs it.")));
  let running = null;
  examples.addEventListener("change", () => {
    if (examples.value) text.value = examples.value;
    examples.value = "";
    text.focus();
  });
  text.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      ask();
    }
  });

  async function ask() {
    running?.abort();
    running = new AbortController();
    signal.addEventListener("abort", () => running.abort());
    run.disabled = true;
    stop.disabled = false;
    answer.replaceChildren(panel("Answer", {}, loading("Asking")));
    const began_ms = performance.now();
    try {
      const told = await post("history/query", { sql: text.value }, { signal: running.signal });
      questions.add(text.value);
      answer.replaceChildren(...shown(told, (performance.now() - began_ms) / 1000));
    } catch (error) {
      if (signal.aborted) return;
      answer.replaceChildren(panel("Answer", {}, error.name === "AbortError" ? empty("It was stopped.") : failed(error)));
    } finally {
      run.disabled = false;
      stop.disabled = true;
    }
  }

  const tables = "events, processing_history, dead_letters, processor_runs, late_events, rebalances";
  return h(
    "div",
    {},
    head("SQL", { lead: "Questions to the history of all events and of every step of their processing, in DuckDB's SQL." }),
    panel(
      "Question",
      { label: "hidden" },
      h(
        "form",
        {
          onsubmit: (event) => {
            event.preventDefault();
            ask();
          },
        },
        field("Question", text, { hint: `Tables: ${tables}. It can read, nothing else.` }),
        h("p", { class: "actions" }, run, stop, examples),
      ),
    ),
    answer,
  );
}

function shown(told, took_s) {
  const { columns, types, rows } = told;
  const name = (i) => columns[i] || `column ${i + 1}`;
  const isNumber = types.map((type) => NUMBERS.test(type));
  const grid = table({
    caption: "Answer",
    columns: columns.map((_, i) => ({
      name: name(i),
      right: isNumber[i],
      value: (row) => row[i],
      cell: (row) =>
        row[i] === null
          ? h("span", { class: "muted" }, "null")
          : TIMES.test(types[i])
            ? moment(row[i], { precise: true })
            : typeof row[i] === "object"
              ? brief(row[i], 400)
              : String(row[i]),
    })),
    rows,
    nothing: "The answer has no rows.",
    stacked: columns.length <= 6,
  });
  const save = h(
    "button",
    { type: "button", onclick: () => download("answer.csv", csv(columns, rows), "text/csv") },
    "Download CSV",
  );
  const title = `${count(rows.length)} ${rows.length === 1 ? "row" : "rows"} in ${seconds(took_s)}`;
  return [
    chartPanel(
      columns.map((_, i) => name(i)),
      types,
      rows,
    ),
    panel(
      title,
      { actions: [save] },
      told.truncated && h("p", { class: "notice warn" }, "The answer was cut off here."),
      grid.element,
    ),
  ].filter(Boolean);
}

/** The answer as a chart: numbers over the first column that is none, lines over time and bars over anything else. */
function chartPanel(names, types, rows) {
  const values = names.map((_, i) => i).filter((i) => NUMBERS.test(types[i]));
  const others = names.map((_, i) => i).filter((i) => !values.includes(i));
  const axis = others.find((i) => TIMES.test(types[i])) ?? others[0] ?? values[0];
  const drawn = values.filter((i) => i !== axis).slice(0, MOST_SERIES);
  if (rows.length < 2 || drawn.length === 0) return null;
  const isTime = TIMES.test(types[axis]);
  const kind = choice(
    [
      ["line", "lines"],
      ["bar", "bars"],
      ["none", "nothing"],
    ],
    isTime && rows.length > 2 ? "line" : "bar",
  );
  const x = choice(
    names.map((name, i) => [String(i), name]),
    String(axis),
  );
  const y = choice(
    [["", "all numbers"], ...values.map((i) => [String(i), names[i]])],
    drawn.length > 1 && spread(drawn, rows) > 50 ? String(drawn[0]) : "",
  );
  const place = h("div", {});
  const draw = () => {
    const at = Number(x.value);
    const chosen = y.value === "" ? drawn.filter((i) => i !== at) : [Number(y.value)];
    place.replaceChildren(
      kind.value === "none"
        ? ""
        : kind.value === "line"
          ? lines(names, types, rows, at, chosen)
          : bars(names, types, rows, at, chosen),
    );
  };
  for (const each of [kind, x, y]) each.addEventListener("change", draw);
  draw();
  return panel("Chart", {}, h("div", { class: "bar" }, field("Draw", kind), field("Of", y), field("Over", x)), place);
}

/** How much larger the largest value of a column is than that of another: numbers of different kinds are no chart together. */
function spread(columns, rows) {
  const tops = columns.map((i) => largest(rows.map((row) => Math.abs(row[i] ?? 0))) || 1);
  return Math.max(...tops) / Math.min(...tops);
}

function lines(names, types, rows, at, chosen) {
  const isTime = TIMES.test(types[at]);
  const isNumber = NUMBERS.test(types[at]);
  const place = (row, i) => (isTime ? Date.parse(`${row[at]}Z`) || Date.parse(row[at]) : isNumber ? Number(row[at]) : i);
  const told = (value) =>
    isTime ? moment(new Date(value).toISOString()) : isNumber ? number(value) : String(rows[value]?.[at] ?? "");
  const chart = lineChart({ label: `${chosen.map((i) => names[i]).join(", ")} over ${names[at]}`, place: told, height: 240 });
  const ordered = rows.map((row, i) => [place(row, i), row]).sort(([one], [other]) => one - other);
  chart.update(
    chosen.map((i) => ({ name: names[i], points: ordered.map(([px, row]) => [px, row[i] === null ? null : Number(row[i])]) })),
  );
  return chart.element;
}

function bars(names, types, rows, at, chosen) {
  const some = rows.slice(0, MOST_BARS);
  const word = (value) => (TIMES.test(types[at]) ? moment(value) : String(value ?? "null"));
  const chart = barChart({
    label: `${chosen.map((i) => names[i]).join(", ")} by ${names[at]}`,
    series: chosen.map((i) => names[i]),
    rows: some.map((row) => [word(row[at]), chosen.map((i) => (row[i] === null ? null : Number(row[i])))]),
  });
  return [chart, rows.length > MOST_BARS ? h("p", { class: "muted small" }, `The first ${MOST_BARS} rows.`) : ""].reduce(
    (all, each) => (all.append(each), all),
    h("div", {}),
  );
}

/** Rows as CSV (RFC 4180). What a spreadsheet would take for a formula gets an apostrophe in front. */
export function csv(columns, rows) {
  const cell = (value) => {
    if (value === null) return "";
    let text = typeof value === "object" ? JSON.stringify(value) : String(value);
    if (typeof value === "string" && /^[=+\-@\t\r]/.test(text)) text = `'${text}`;
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return [columns, ...rows].map((row) => row.map(cell).join(",")).join("\r\n") + "\r\n";
}
