// Puts the page together: the routes, the frame around the views, the keyboard.

import { get } from "./api.js";
import { byId, h, head } from "./dom.js";
import { connect, disconnect } from "./live.js";
import { mayAnywhere, remember } from "./rights.js";
import { link, route } from "./router.js";
import { arrive, choose, session } from "./session.js";
import { settings } from "./settings.js";
import { signIn } from "./sign_in.js";
import { empty, loading } from "./states.js";
import { aggregate, aggregates } from "./views/aggregates.js";
import { audit } from "./views/audit.js";
import { deadLetter, deadLetters } from "./views/dead_letters.js";
import { erasure } from "./views/erasure.js";
import { event } from "./views/event.js";
import { flows } from "./views/flows.js";
import { group, groups } from "./views/groups.js";
import { overview } from "./views/overview.js";
import { processor } from "./views/processor.js";
import { projection, projections } from "./views/projections.js";
import { rule, rules } from "./views/routing.js";
import { scheduled } from "./views/scheduled.js";
import { schema, schemas } from "./views/schemas.js";
import { sql } from "./views/sql.js";
import { stream } from "./views/stream.js";
import { streams } from "./views/streams.js";
import { tokens } from "./views/tokens.js";

const ROUTES = [
  ["", overview],
  ["streams", streams],
  ["streams/:stream", stream],
  ["events/:event", event],
  ["flows", flows],
  ["flows/:processor", processor],
  ["schemas", schemas],
  ["schemas/:schema", schema],
  ["routes", rules],
  ["routes/:rule", rule],
  ["groups", groups],
  ["groups/:group", group],
  ["dead-letters", deadLetters],
  ["dead-letters/:letter", deadLetter],
  ["scheduled", scheduled],
  ["aggregates", aggregates],
  ["aggregates/:aggregate", aggregate],
  ["projections", projections],
  ["projections/:projection", projection],
  ["sql", sql],
  ["audit", audit],
  ["erasure", erasure],
  ["tokens", tokens],
  ["nowhere", () => h("div", {}, head("Not found"), empty("There is no such page.", h("a", { href: "#/" }, "Overview")))],
];
const PLACES = {
  o: "",
  s: "streams",
  f: "flows",
  c: "schemas",
  r: "routes",
  g: "groups",
  d: "dead-letters",
  t: "scheduled",
  a: "aggregates",
  p: "projections",
  q: "sql",
  u: "audit",
  e: "erasure",
  k: "tokens",
};

/** Whether the server knows who the user is, and what it said if it does not. */
let door = { isOpen: true, refusal: null };
let show = null; // shows the view of the address again, once there was one

/** Mark the place in the navigation. */
function arrived(section) {
  for (const each of byId("nav").querySelectorAll("[data-view]")) {
    const isHere = each.dataset.view === section || (section === "events" && each.dataset.view === "streams");
    if (isHere) each.setAttribute("aria-current", "page");
    else each.removeAttribute("aria-current");
  }
  openMenu(false);
  if (!door.isOpen) byId("main").querySelector("input").focus();
}

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

/** Ask who the user is; the door is open if the server knows, or cannot be asked: then views say so. */
async function tellWho() {
  door = { isOpen: true, refusal: null };
  try {
    const self = await get("tokens/self", { isProbe: true });
    remember(self);
    byId("who").textContent = `${self.principal}, tenant ${self.tenant_id}`;
  } catch (error) {
    remember(null);
    byId("who").textContent = "";
    if (error.status === 401) door = { isOpen: false, refusal: session.token ? error : null };
  }
  document.body.classList.toggle("closed", !door.isOpen);
  byId("sign-out").hidden = !(door.isOpen && session.token);
  for (const each of byId("nav").querySelectorAll("[data-needs]")) each.hidden = !mayAnywhere(each.dataset.needs);
}

const signInForm = () => (door.isOpen ? null : signIn(door.refusal, start));

/** Everything anew, for whoever the user says to be now. */
async function start() {
  await tellWho();
  if (door.isOpen) connect(isLive);
  else {
    disconnect();
    byId("live").textContent = "Signed out";
    byId("live").className = "state";
  }
  if (show === null) show = route(ROUTES, byId("main"), arrived, signInForm);
  else show();
}

byId("skip").addEventListener("click", (click) => {
  click.preventDefault();
  byId("main").focus();
});
byId("menu").addEventListener("click", () => openMenu(!byId("nav").classList.contains("open")));
byId("settings").addEventListener("click", change);
byId("sign-out").addEventListener("click", () => {
  choose({ token: "" });
  start();
});
byId("find").addEventListener("submit", (submit) => {
  submit.preventDefault();
  const id = byId("find-id").value.trim();
  if (id) location.hash = link`events/${id}`;
});
let isAsking = false; // many requests may be refused at once
document.addEventListener("esb:token", async () => {
  if (isAsking || !door.isOpen) return;
  isAsking = true;
  await start();
  isAsking = false;
});
window.addEventListener("hashchange", () => arrive() && start());

async function change() {
  if (document.querySelector("dialog") === null && (await settings())) start();
}

let went_ms = -Infinity; // when `g` was pressed
document.addEventListener("keydown", (press) => {
  const isTyping = press.target.closest("input, textarea, select, dialog");
  if (press.key === "Escape" && byId("nav").classList.contains("open")) {
    openMenu(false);
    byId("menu").focus();
  }
  if (!session.shortcuts || isTyping || press.ctrlKey || press.metaKey || press.altKey) return;
  if (performance.now() - went_ms < 1500 && press.key in PLACES) location.hash = `#/${PLACES[press.key]}`;
  else if (press.key === "/") (byId("main").querySelector("[data-find]") ?? byId("find-id")).focus();
  else if (press.key === "?") change();
  else if (press.key === "g") {
    went_ms = performance.now();
    return;
  } else return;
  went_ms = -Infinity;
  press.preventDefault();
});

byId("main").append(loading());
await start();
performance.mark("esb:ready"); // from here on everything answers to the keyboard and the pointer
