// Settings of this browser and tab: who one is, the colours, the keyboard.

import { get } from "./api.js";
import { choice, field, h, facts } from "./dom.js";
import { dialog } from "./dialog.js";
import { choose, session } from "./session.js";

const KEYS = [
  ["/", "find: the filter of the page, or an event"],
  ["g then o, s, f, c", "overview, streams, flows, schemas"],
  ["g then r, g, d, t", "routing rules, groups, dead letters, scheduled"],
  ["g then a, p, q", "aggregates, projections, SQL"],
  ["g then u, e, k", "audit, erasure, tokens"],
  ["?", "this list"],
];

/** The dialog of settings. Resolves to whether something changed. */
export async function settings() {
  const token = h("input", { type: "password", autocomplete: "off", spellcheck: "false", value: session.token });
  const tenant = h("input", { autocomplete: "off", spellcheck: "false", value: session.tenant, placeholder: "default" });
  const theme = choice(
    [
      ["system", "as the system"],
      ["light", "light"],
      ["dark", "dark"],
    ],
    session.theme,
  );
  const shortcuts = h("input", { type: "checkbox", checked: session.shortcuts });
  const before = session.theme;
  theme.addEventListener("change", () => choose({ theme: theme.value }));
  const changed = await dialog(
    "Settings",
    [
      field("Token", token, { hint: "It is kept in this tab until it is closed, and sent to this server only." }),
      field("Tenant", tenant, { hint: "For administrators of the default tenant; others have the tenant of their token." }),
      field("Colours", theme),
      h("label", { class: "check" }, shortcuts, "Keyboard shortcuts"),
      h("details", {}, h("summary", {}, "Keyboard"), facts(KEYS)),
    ],
    {
      action: "Save",
      submit: async () => {
        const old = { token: session.token, tenant: session.tenant };
        choose({ token: token.value.trim(), tenant: tenant.value.trim(), theme: theme.value, shortcuts: shortcuts.checked });
        try {
          await get("tokens/self", { isProbe: true });
        } catch (error) {
          choose(old);
          throw error;
        }
        return true;
      },
    },
  );
  if (!changed) choose({ theme: before });
  return changed === true;
}
