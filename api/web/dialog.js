// Dialogs, and the short messages that say how something went.

import { byId, fresh, h } from "./dom.js";
import { failed } from "./states.js";

/** Say something for a few seconds; errors stay until they are closed. */
export function toast(text, kind = "good") {
  const message = h("div", { class: `toast ${kind}` }, h("span", {}, text));
  const close = () => message.remove();
  message.append(h("button", { type: "button", class: "quiet", "aria-label": "Close this message", onclick: close }, "✕"));
  byId("toasts").append(message);
  while (byId("toasts").children.length > 4) byId("toasts").firstChild.remove();
  if (kind !== "bad") setTimeout(close, 6000);
}

/** Do it, and say how that went. `done` is what to say, or a function that makes it of the answer. The button waits meanwhile. */
export async function act(button, work, done) {
  if (button) button.disabled = true;
  try {
    const answer = await work();
    const text = typeof done === "function" ? done(answer) : done;
    if (text) toast(text);
    return answer;
  } catch (error) {
    if (error.name !== "AbortError") toast(error.message, "bad");
    return null;
  } finally {
    if (button) button.disabled = false;
  }
}

/**
 * A dialog with fields. `submit()` does what is wanted; if it throws, the dialog stays and shows why. Resolves to what it
 * returned, or null if the dialog was left; one that `must` be answered cannot be left by its Cancel or by Escape.
 */
export function dialog(
  title,
  content,
  { action = "OK", danger = false, wide = false, must = false, submit = async () => true } = {},
) {
  const { promise, resolve } = withResolvers();
  const id = fresh("dialog");
  const trouble = h("div", {});
  const button = h("button", { type: "submit", class: danger ? "danger" : "primary" }, action);
  let result = null;
  const form = h(
    "form",
    { method: "dialog" },
    h("h2", { id }, title),
    content,
    trouble,
    h("div", { class: "buttons" }, !must && h("button", { type: "button", onclick: () => box.close() }, "Cancel"), button),
  );
  form.addEventListener("input", () => trouble.replaceChildren()); // what was wrong may be right now
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    button.disabled = true;
    trouble.replaceChildren();
    try {
      result = await submit();
      box.close();
    } catch (error) {
      if (!("status" in error) && !(error instanceof SyntaxError)) console.error(error);
      trouble.replaceChildren(failed(error));
    } finally {
      button.disabled = false;
    }
  });
  const box = h("dialog", { "aria-labelledby": id, class: wide ? "wide" : null }, form);
  if (must) box.addEventListener("cancel", (event) => event.preventDefault());
  box.addEventListener("close", () => {
    box.remove();
    resolve(result);
  });
  document.body.append(box);
  box.showModal();
  return promise;
}

/** Ask before something that cannot be taken back; resolves to whether it may be done. */
export const confirmed = async (title, text, action) =>
  (await dialog(title, h("p", {}, text), { action, danger: true })) === true;

function withResolvers() {
  let resolve;
  const promise = new Promise((fulfil) => {
    resolve = fulfil;
  });
  return { promise, resolve };
}

/** What is typed as JSON. Throws an error that says which field is wrong. */
export function parsed(text, name) {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new SyntaxError(`${name} is not JSON: ${error.message}`);
  }
}
