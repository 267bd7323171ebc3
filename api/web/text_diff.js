// Two texts side by side in one: which lines went, which came.

import { h } from "./dom.js";

const MOST_LINES = 3000;
const AROUND = 3;

/** `[kind, line]` for each line of both texts, in order: `kept`, `removed` or `added`. By the longest common subsequence. */
export function lines(before, after) {
  const [one, other] = [before.split("\n"), after.split("\n")];
  let start = 0;
  while (start < one.length && start < other.length && one[start] === other[start]) start += 1;
  let end = 0;
  while (end < one.length - start && end < other.length - start && one.at(-1 - end) === other.at(-1 - end)) end += 1;
  const [left, right] = [one.slice(start, one.length - end), other.slice(start, other.length - end)];
  const middle =
    left.length > MOST_LINES || right.length > MOST_LINES
      ? [...left.map((line) => ["removed", line]), ...right.map((line) => ["added", line])]
      : common(left, right);
  return [
    ...one.slice(0, start).map((line) => ["kept", line]),
    ...middle,
    ...one.slice(one.length - end).map((line) => ["kept", line]),
  ];
}

function common(left, right) {
  const length = Array.from({ length: left.length + 1 }, () => new Uint16Array(right.length + 1));
  for (let i = left.length - 1; i >= 0; i -= 1) {
    for (let j = right.length - 1; j >= 0; j -= 1) {
      length[i][j] = left[i] === right[j] ? length[i + 1][j + 1] + 1 : Math.max(length[i + 1][j], length[i][j + 1]);
    }
  }
  const found = [];
  let [i, j] = [0, 0];
  while (i < left.length || j < right.length) {
    if (i < left.length && j < right.length && left[i] === right[j]) {
      found.push(["kept", left[i]]);
      i += 1;
      j += 1;
    } else if (j >= right.length || (i < left.length && length[i + 1][j] >= length[i][j + 1])) {
      found.push(["removed", left[i]]);
      i += 1;
    } else {
      found.push(["added", right[j]]);
      j += 1;
    }
  }
  return found;
}

/** The difference of two texts as an element; of long stretches that both have, only the ends are shown. */
export function difference(before, after, label) {
  const all = lines(before, after);
  if (all.every(([kind]) => kind === "kept")) return h("p", { class: "muted" }, "They are the same.");
  const near = all.map((_, i) => all.slice(Math.max(0, i - AROUND), i + AROUND + 1).some(([kind]) => kind !== "kept"));
  const parts = [];
  all.forEach(([kind, line], i) => {
    if (near[i]) parts.push(h("span", { class: kind }, { added: "+ ", removed: "− ", kept: "  " }[kind], line));
    else if (i === 0 || near[i - 1]) parts.push(h("span", { class: "muted" }, "  ⋯"));
  });
  return h("pre", { class: "diff", tabindex: "0", "aria-label": label }, parts);
}
