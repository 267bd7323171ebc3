// What a part of a view shows while it has nothing to show: that it loads, that there is nothing, what went wrong.

import { h } from "./dom.js";

export const loading = (what = "Loading") => h("p", { class: "loading", "aria-busy": "true" }, `${what} …`);

export const empty = (text, ...more) => h("div", { class: "empty" }, h("p", {}, text), ...more);

/** An error in words, with a way to try again. */
export function failed(error, retry = null) {
  const title = error.title && error.title !== error.message ? h("strong", {}, `${spaced(error.title)}: `) : null;
  return h(
    "div",
    { class: "notice bad", role: "alert" },
    title,
    error.message,
    retry && h("button", { type: "button", onclick: retry }, "Try again"),
  );
}

const spaced = (title) => title.replace(/([a-z])([A-Z])/g, (_, left, right) => `${left} ${right.toLowerCase()}`);

/** Put into `place` what `render` makes of what `fetch` brings; meanwhile, and if that fails, say so. The returned function loads
 * again, without a flicker if there is something to see. */
export function filled(place, fetch, render, signal) {
  let shown = false;
  async function load() {
    if (!shown) place.replaceChildren(loading());
    place.setAttribute("aria-busy", "true");
    try {
      const value = await fetch(signal);
      if (signal?.aborted) return;
      const made = render(value);
      if (made) replace(place, [made].flat(Infinity));
      shown = true;
    } catch (error) {
      if (signal?.aborted || error.name === "AbortError") return;
      if (!("status" in error)) console.error(error);
      shown = false;
      place.replaceChildren(failed(error, load));
    } finally {
      place.removeAttribute("aria-busy");
    }
  }
  load();
  return load;
}

const STOPS = "a[href], button, input, select, textarea, summary, [tabindex]";

/** Replace what is in `place`. What is the same stays where it is, and the focus is where it was before. */
function replace(place, parts) {
  const nodes = parts.map((part) => (part instanceof Node ? part : document.createTextNode(part)));
  if (nodes.length === place.childNodes.length && nodes.every((node, i) => node === place.childNodes[i])) return;
  const stop = [...place.querySelectorAll(STOPS)].indexOf(document.activeElement);
  place.replaceChildren(...nodes);
  if (stop >= 0) place.querySelectorAll(STOPS)[stop]?.focus({ preventScroll: true });
}

/** Call `act` every so often until the signal, one call at a time, and not while the page is out of sight. */
export function every(period_ms, signal, act) {
  let timer = 0;
  const step = async () => {
    if (signal.aborted) return;
    if (!document.hidden) {
      try {
        await act();
      } catch (error) {
        if (signal.aborted || error.name === "AbortError") return;
      }
    }
    if (!signal.aborted) timer = setTimeout(step, period_ms);
  };
  timer = setTimeout(step, period_ms);
  signal.addEventListener("abort", () => clearTimeout(timer));
}
