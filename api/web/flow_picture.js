// A flow as a picture: boxes with links to what they stand for, and along the edges how many events go there a second.

import { fresh, s } from "./dom.js";
import { number, sentence, tone } from "./format.js";
import { layOut } from "./layout.js";
import { link } from "./router.js";

const MARGIN = 6;
const MOST = 28;
const SMALLEST = 0.72;

const cut = (text, most = MOST) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);

function sizeOf(node) {
  const letters = Math.max(
    cut(node.name).length * 7.6,
    node.kind === "processor" ? node.processor.processor_type.length * 6.6 + 74 : 66,
  );
  return { width: Math.round(letters + 26), height: node.kind === "processor" ? 56 : 44 };
}

/**
 * The picture of a part of the flows; the processor with the id `here` stands out. `update(live)` shows other numbers:
 * `live(processor)` is `{in, out, processor}` or null, `ofStream(name)` how many events a second a stream gets, or null.
 */
export function picture(part, label, here = null) {
  const layout = layOut(new Map([...part.nodes].map(([id, node]) => [id, sizeOf(node)])), part.edges);
  const tip = fresh("tip");
  const width = layout.width + 2 * MARGIN;
  const height = layout.height + 2 * MARGIN;
  const lines = part.edges.map((edge, i) => line(edge, layout.routes[i], tip));
  const boxes = [...part.nodes.values()].map((node) => box(node, layout.boxes.get(node.id), here));
  const element = s(
    "svg",
    { role: "group", "aria-label": label, viewBox: `0 0 ${width} ${height}` },
    s(
      "defs",
      {},
      s(
        "marker",
        {
          id: tip,
          viewBox: "0 0 10 10",
          refX: 9,
          refY: 5,
          markerWidth: 8,
          markerHeight: 8,
          markerUnits: "userSpaceOnUse",
          orient: "auto",
        },
        s("path", { class: "tip", d: "M0 1 L10 5 L0 9 z" }),
      ),
    ),
    s(
      "g",
      { transform: `translate(${MARGIN} ${MARGIN})` },
      lines.map((each) => each.path),
      boxes.map((each) => each.element),
      lines.map((each) => each.label),
    ),
  );
  // As large as it is, smaller where there is less room, but not too small to read.
  element.style.width = `min(100%, ${Math.round(width)}px)`;
  element.style.minWidth = `${Math.round(width * SMALLEST)}px`;
  return {
    element,
    update(live, ofStream) {
      part.edges.forEach((edge, i) => lines[i].show(rateOf(edge, part, live, ofStream)));
      for (const each of boxes) each.show(live, ofStream);
    },
  };
}

/**
 * How many events a second go along an edge, or null. As many as the stream gets for a JOIN, which counts both of its sides
 * together, and for a processor that runs but was not measured yet.
 */
function rateOf(edge, part, live, ofStream) {
  const [from, to] = [part.nodes.get(edge.from), part.nodes.get(edge.to)];
  if (edge.port !== "events") return null;
  const guess = (processor, stream) =>
    stream.kind === "stream" && processor.status === "RUNNING" ? ofStream(stream.name) : null;
  if (to.kind === "processor" && !edge.shared) return live(to.processor)?.in ?? guess(to.processor, from);
  if (from.kind === "processor") return live(from.processor)?.out ?? guess(from.processor, to);
  return guess({ status: "RUNNING" }, from);
}

function line(edge, points, tip) {
  let d = `M${points[0].x} ${points[0].y}`;
  for (let i = 1; i < points.length; i += 1) {
    const [one, other] = [points[i - 1], points[i]];
    const half = (one.x + other.x) / 2;
    d += one.y === other.y ? `L${other.x} ${other.y}` : `C${half} ${one.y} ${half} ${other.y} ${other.x} ${other.y}`;
  }
  const path = s("path", { class: `edge ${edge.port}`, d, "marker-end": `url(#${tip})` });
  const [from, to] = [points.at(-2), points.at(-1)];
  const port = edge.port === "events" ? "" : edge.port;
  const label = s("text", { class: "rate", x: (from.x + to.x) / 2, y: (from.y + to.y) / 2 - 5, "text-anchor": "middle" }, port);
  return {
    path,
    label,
    show(rate) {
      const text = rate === null ? port : `${number(Math.round(rate * 10) / 10)}/s`;
      if (label.textContent !== text) label.textContent = text;
      path.classList.toggle("flowing", rate !== null && rate > 0);
      label.classList.toggle("idle", rate === 0);
    },
  };
}

function box(node, { x, y, width, height }, here) {
  const href = node.kind === "stream" ? link`streams/${node.name}` : link`flows/${node.processor.processor_id}`;
  const shape = s("rect", { class: "box", width, height, rx: node.kind === "stream" ? height / 2 : 7 });
  const name = s("text", { class: "name", x: 13, y: node.kind === "stream" ? 19 : 22 }, cut(node.name));
  const note = s("text", { class: "note", x: node.kind === "stream" ? 13 : 26, y: node.kind === "stream" ? 34 : 42 });
  const light = node.kind === "processor" && s("circle", { class: "light", cx: 17, cy: 38, r: 4 });
  const whole = s(
    "title",
    {},
    node.kind === "processor" ? [node.name, node.processor.processor_description].filter(Boolean).join(": ") : node.name,
  );
  const element = s("a", { class: node.kind, href, transform: `translate(${x} ${y})` }, whole, shape, name, note, light);
  if (node.kind === "stream")
    [name, note].forEach((text) => {
      text.setAttribute("x", width / 2);
      text.setAttribute("text-anchor", "middle");
    });
  return {
    element,
    show(live, ofStream) {
      let told;
      if (node.kind === "stream") {
        const rate = ofStream(node.name);
        told = rate === null ? "stream" : `stream · ${number(rate)}/s`;
        element.setAttribute("aria-label", `Stream ${node.name}${rate === null ? "" : `, ${number(rate)} events a second`}`);
      } else {
        const status = live(node.processor)?.processor.status ?? node.processor.status;
        told = `${node.processor.processor_type.toLowerCase()} · ${sentence(status).toLowerCase()}`;
        light.setAttribute("class", `light ${tone(status)}`);
        element.setAttribute(
          "class",
          `processor ${status === "FAILED" ? "failed" : ""} ${node.processor.processor_id === here ? "here" : ""}`,
        );
        element.setAttribute("aria-label", `Processor ${node.name}, ${told}`);
      }
      if (note.textContent !== told) note.textContent = told;
    },
  };
}
