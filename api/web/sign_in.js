// What is shown where the server asks who one is: a field for a token. Enter signs in.

import { get } from "./api.js";
import { field, h, head } from "./dom.js";
import { choose, session } from "./session.js";
import { failed } from "./states.js";

/** The form. `refusal` is what the server said of the token that there was, null if there was none; `done` is called once a token
 * was accepted. */
export function signIn(refusal, done) {
  const token = h("input", { type: "password", autocomplete: "off", spellcheck: "false", required: true });
  const button = h("button", { type: "submit", class: "primary" }, "Sign in");
  const trouble = h("div", {}, refusal && failed(refusal));
  async function submit(event) {
    event.preventDefault();
    const old = session.token;
    button.disabled = true;
    choose({ token: token.value.trim() });
    try {
      await get("tokens/self", { isProbe: true });
      done();
    } catch (error) {
      choose({ token: old });
      trouble.replaceChildren(failed(error));
      token.select();
    } finally {
      button.disabled = false;
    }
  }
  return h(
    "div",
    { class: "sign-in" },
    head("Sign in", { lead: "This server asks who you are: give it a token." }),
    h(
      "div",
      { class: "panel" },
      trouble,
      h(
        "form",
        { onsubmit: submit },
        field("Token", token, { hint: "It is kept in this tab until it is closed, and sent to this server only.", wide: true }),
        button,
      ),
      h(
        "details",
        {},
        h("summary", {}, "Where do I get one?"),
        h("p", {}, "The server prints an address with a token in it when it starts. Or in a shell, where the data folder is: "),
        h("pre", {}, "esb tokens create me --role admin"),
      ),
    ),
  );
}
