// Charts as SVG: lines over time, lines and bars over whatever a query answers with.

import { h, s } from "./dom.js";
import { clock, number } from "./format.js";

const LEFT = 52;
const RIGHT = 10;
const TOP = 8;
const BOTTOM = 20;
export const MOST_SERIES = 6;
const MOST_POINTS = 1500; // of a line: more than a screen has columns

/** Round numbers from 0, or from the lowest value, to at least the highest. */
export function ticks(lowest, highest, wanted = 4) {
  const span = highest - lowest || Math.abs(highest) || 1;
  const rough = span / wanted;
  const size = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].find((each) => each * size >= rough) * size;
  const first = Math.floor(lowest / step) * step;
  const found = [];
  for (let i = 0; first + i * step < highest + step * 0.999; i += 1) found.push(Number((first + i * step).toPrecision(12)));
  if (found.length < 2) found.push(found[0] + step);
  return found;
}

/**
 * A chart of lines. `update(series)` shows `[{name, points: [[x, y], ...]}]`, six at most, y null where there is a gap. `format`
 * writes values, `place` what is at x. The legend has the newest values, or those under the pointer.
 */
export function lineChart({ label, format = number, place = clock, height = 150, nothing = "Nothing yet." }) {
  let series = [];
  let at = null;
  const legend = h("ul", { class: "legend" });
  const drawing = s("svg", { role: "img", height, "aria-label": label });
  const figure = h("figure", { class: "chart" }, drawing, legend);
  new ResizeObserver(() => draw()).observe(figure);
  drawing.addEventListener("pointermove", (event) => {
    at = event.clientX - drawing.getBoundingClientRect().left;
    draw();
  });
  drawing.addEventListener("pointerleave", () => {
    at = null;
    draw();
  });

  function draw() {
    const width = figure.clientWidth;
    if (width === 0) return;
    drawing.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const points = series.flatMap((each) => each.points.filter(([, y]) => y !== null));
    const values = points.map(([, y]) => y);
    const xs = series.flatMap((each) => each.points.map(([x]) => x));
    const [low, high] = [smallest(xs), largest(xs)];
    const marks = ticks(smallest(values, 0), largest(values, 0) || 1);
    const x = (value) => LEFT + ((width - LEFT - RIGHT) * (value - low)) / (high - low || 1);
    const y = (value) => TOP + (height - TOP - BOTTOM) * (1 - (value - marks[0]) / (marks.at(-1) - marks[0]));
    const parts = marks.flatMap((mark) => [
      s("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y(mark), y2: y(mark) }),
      s("text", { class: "axis", x: LEFT - 7, y: y(mark) + 4, "text-anchor": "end" }, format(mark)),
    ]);
    if (xs.length > 0 && high > low) {
      parts.push(s("text", { class: "axis", x: LEFT, y: height - 4 }, place(low)));
      parts.push(s("text", { class: "axis", x: width - RIGHT, y: height - 4, "text-anchor": "end" }, place(high)));
    }
    const nearest =
      at === null || xs.length === 0 ? null : closest(series, low + ((at - LEFT) / (width - LEFT - RIGHT)) * (high - low));
    series.forEach((each, i) => {
      if (series.length === 1)
        parts.push(s("path", { class: `area s${i + 1}`, d: area(each.points, x, y, y(Math.max(marks[0], 0))) }));
      parts.push(s("path", { class: `line s${i + 1}`, fill: "none", d: path(each.points, x, y) }));
    });
    if (nearest !== null) {
      parts.push(s("line", { class: "cursor", x1: x(nearest), x2: x(nearest), y1: TOP, y2: height - BOTTOM }));
      series.forEach((each, i) => {
        const value = each.points.find(([px]) => px === nearest)?.[1] ?? null;
        if (value !== null) parts.push(s("circle", { class: `dot s${i + 1}`, cx: x(nearest), cy: y(value), r: 3.5 }));
      });
    }
    if (points.length === 0)
      parts.push(s("text", { class: "axis", x: (LEFT + width) / 2, y: height / 2, "text-anchor": "middle" }, nothing));
    drawing.replaceChildren(...parts);
    tell(nearest);
  }

  function tell(nearest) {
    const shown = series.map((each) => {
      const point =
        nearest === null ? each.points.findLast(([, value]) => value !== null) : each.points.find(([px]) => px === nearest);
      return [each.name, format(point?.[1] ?? null)];
    });
    drawing.setAttribute("aria-label", `${label}. ${shown.map((pair) => pair.join(" ")).join(", ") || nothing}`);
    const items = shown.map(([name, value], i) =>
      h("li", { title: name }, h("i", { class: `s${i + 1}` }), h("span", {}, name), h("b", {}, value)),
    );
    if (nearest !== null) items.push(h("li", {}, h("span", {}, place(nearest))));
    legend.replaceChildren(...items);
  }

  return {
    element: figure,
    update(next) {
      series = next.slice(0, MOST_SERIES).map((each) => ({ ...each, points: thinned(each.points) }));
      draw();
    },
  };
}

/** The smallest and the largest of any number of values; `Math.min(...values)` fails for a hundred thousand. */
const smallest = (values, start = Infinity) => values.reduce((one, other) => Math.min(one, other), start);
export const largest = (values, start = -Infinity) => values.reduce((one, other) => Math.max(one, other), start);

/** Points that look the same where there are more than can be seen: of those side by side the first, the lowest, the highest. */
function thinned(points) {
  if (points.length <= MOST_POINTS) return points;
  const step = Math.ceil((3 * points.length) / MOST_POINTS);
  const kept = [];
  for (let from = 0; from < points.length; from += step) {
    let [low, high] = [from, from];
    const end = Math.min(from + step, points.length);
    for (let i = from; i < end; i += 1) {
      const y = points[i][1];
      if (y !== null && !(points[low][1] !== null && y >= points[low][1])) low = i;
      if (y !== null && !(points[high][1] !== null && y <= points[high][1])) high = i;
    }
    kept.push(...[...new Set([from, low, high])].sort((one, other) => one - other).map((i) => points[i]));
  }
  return [...kept, points.at(-1)];
}

function closest(series, wanted) {
  let best = null;
  for (const each of series) {
    for (const [px] of each.points) if (best === null || Math.abs(px - wanted) < Math.abs(best - wanted)) best = px;
  }
  return best;
}

function path(points, x, y) {
  let told = "";
  let pen = "M";
  for (const [px, py] of points) {
    if (py === null) pen = "M";
    else {
      told += `${pen}${x(px).toFixed(1)} ${y(py).toFixed(1)}`;
      pen = "L";
    }
  }
  return told;
}

function area(points, x, y, base) {
  const there = points.filter(([, py]) => py !== null);
  if (there.length < 2) return "";
  return `${path(there, x, y)}L${x(there.at(-1)[0]).toFixed(1)} ${base}L${x(there[0][0]).toFixed(1)} ${base}Z`;
}

/** A chart of bars: `rows` of `[name, [values]]`, the names of the `series`, six at most. */
export function barChart({ label, series, rows, format = number, height = 240 }) {
  const legend = h(
    "ul",
    { class: "legend" },
    series.map((name, i) => h("li", {}, h("i", { class: `s${i + 1}` }), h("span", {}, name))),
  );
  const drawing = s("svg", { role: "img", height, "aria-label": label });
  const figure = h("figure", { class: "chart" }, drawing, series.length > 1 ? legend : null);
  new ResizeObserver(draw).observe(figure);

  function draw() {
    const width = figure.clientWidth;
    if (width === 0) return;
    drawing.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const values = rows.flatMap(([, all]) => all).filter((value) => value !== null);
    const marks = ticks(Math.min(0, ...values), Math.max(0, ...values) || 1);
    const y = (value) => TOP + (height - TOP - BOTTOM) * (1 - (value - marks[0]) / (marks.at(-1) - marks[0]));
    const parts = marks.flatMap((mark) => [
      s("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y(mark), y2: y(mark) }),
      s("text", { class: "axis", x: LEFT - 7, y: y(mark) + 4, "text-anchor": "end" }, format(mark)),
    ]);
    const room = (width - LEFT - RIGHT) / Math.max(1, rows.length);
    const bar = Math.min(44, (room * 0.76) / series.length);
    const every = Math.ceil(rows.length / Math.max(1, Math.floor((width - LEFT) / 78)));
    rows.forEach(([name, all], i) => {
      const middle = LEFT + room * (i + 0.5);
      all.forEach((value, j) => {
        if (value === null) return;
        const top = Math.min(y(value), y(0));
        const left = middle + (j - all.length / 2) * bar;
        const tall = Math.max(1, Math.abs(y(value) - y(0)));
        const told = s("title", {}, `${name}: ${series.length > 1 ? `${series[j]} ` : ""}${format(value)}`);
        parts.push(
          s(
            "rect",
            { class: `s${j + 1}`, x: left, y: top, width: Math.max(1, bar - 1), height: tall, rx: Math.min(2, bar / 4) },
            told,
          ),
        );
      });
      if (i % every === 0) {
        const most = Math.max(3, Math.floor((room * every) / 6.6));
        const text = name.length > most ? `${name.slice(0, most - 1)}…` : name;
        parts.push(s("text", { class: "axis", x: middle, y: height - 4, "text-anchor": "middle" }, text));
      }
    });
    drawing.replaceChildren(...parts);
  }
  return figure;
}

/** A bar that shows a part of a whole, with its number beside it in words elsewhere. */
export const share = (part, kind = "") =>
  s(
    "svg",
    { class: `share ${kind}`, viewBox: "0 0 100 8", preserveAspectRatio: "none", "aria-hidden": "true" },
    s("rect", { width: Math.max(part > 0 ? 1 : 0, Math.min(100, part * 100)), height: 8, rx: 2 }),
  );
