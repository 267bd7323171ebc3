// Puts the page together: the routes, the frame around the views, the keyboard.

import { get } from "./api.js";
import { byId, h, head } from "./dom.js";
import { connect } from "./live.js";
import { link, route } from "./router.js";
import { session } from "./session.js";
import { settings } from "./settings.js";
import { empty } from "./states.js";
import { aggregate, aggregates } from "./views/aggregates.js";
import { audit } from "./views/audit.js";
import { deadLetter, deadLetters } from "./views/dead_letters.js";
import { event } from "./views/event.js";
import { flows } from "./views/flows.js";
import { group, groups } from "./views/groups.js";
import { overview } from "./views/overview.js";
import { processor } from "./views/processor.js";
import { schema, schemas } from "./views/schemas.js";
import { sql } from "./views/sql.js";
import { stream } from "./views/stream.js";
import { streams } from "./views/streams.js";

const ROUTES = [
  ["", overview],
  ["streams", streams],
  ["streams/:stream", stream],
  ["events/:event", event],
  ["flows", flows],
  ["flows/:processor", processor],
  ["schemas", schemas],
  ["schemas/:schema", schema],
  ["groups", groups],
  ["groups/:group", group],
  ["dead-letters", deadLetters],
  ["dead-letters/:letter", deadLetter],
  ["aggregates", aggregates],
  ["aggregates/:aggregate", aggregate],
  ["sql", sql],
  ["audit", audit],
  ["nowhere", () => h("div", {}, head("Not found"), empty("There is no such page.", h("a", { href: "#/" }, "Overview")))],
];
const PLACES = {
  o: "",
  s: "streams",
  f: "flows",
  c: "schemas",
  g: "groups",
  d: "dead-letters",
  a: "aggregates",
  q: "sql",
  u: "audit",
};

const show = route(ROUTES, byId("main"), (section) => {
  for (const each of byId("nav").querySelectorAll("[data-view]")) {
    const isHere = each.dataset.view === section || (section === "events" && each.dataset.view === "streams");
    if (isHere) each.setAttribute("aria-current", "page");
    else each.removeAttribute("aria-current");
  }
  openMenu(false);
});

function openMenu(isOpen) {
  byId("nav").classList.toggle("open", isOpen);
  byId("menu").setAttribute("aria-expanded", String(isOpen));
}

function isLive(live) {
  const light = byId("live");
  const text = live ? "Live" : "Connecting again";
  if (light.textContent !== text) light.textContent = text;
  light.className = `state ${live ? "good" : "warn"}`;
}

async function tellWho() {
  try {
    const me = await get("tokens/self");
    byId("who").textContent = `${me.principal}, tenant ${me.tenant_id}`;
    return true;
  } catch {
    byId("who").textContent = "";
    return false;
  }
}

let asking = false;
async function change(trouble) {
  if (asking) return;
  asking = true;
  const isNew = await settings(trouble);
  asking = false;
  if (isNew) start();
}

/** Everything anew, for whoever the user says to be now. */
async function start() {
  if (await tellWho()) connect(isLive);
  show();
}

byId("skip").addEventListener("click", (click) => {
  click.preventDefault();
  byId("main").focus();
});
byId("menu").addEventListener("click", () => openMenu(!byId("nav").classList.contains("open")));
byId("settings").addEventListener("click", () => change(""));
byId("find").addEventListener("submit", (submit) => {
  submit.preventDefault();
  const id = byId("find-id").value.trim();
  if (id) location.hash = link`events/${id}`;
});
document.addEventListener("esb:token", (refusal) =>
  change(session.token ? refusal.detail.message : "This server asks who you are: give it a token."),
);

let went_ms = 0;
document.addEventListener("keydown", (press) => {
  const isTyping = press.target.closest("input, textarea, select, dialog");
  if (press.key === "Escape" && byId("nav").classList.contains("open")) {
    openMenu(false);
    byId("menu").focus();
  }
  if (!session.shortcuts || isTyping || press.ctrlKey || press.metaKey || press.altKey) return;
  if (performance.now() - went_ms < 1500 && press.key in PLACES) location.hash = `#/${PLACES[press.key]}`;
  else if (press.key === "/") (byId("main").querySelector("[data-find]") ?? byId("find-id")).focus();
  else if (press.key === "?") change("");
  else if (press.key === "g") {
    went_ms = performance.now();
    return;
  } else return;
  went_ms = 0;
  press.preventDefault();
});

tellWho().then((isKnown) => isKnown && connect(isLive));
performance.mark("esb:ready"); // from here on everything answers to the keyboard and the pointer
