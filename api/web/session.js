// What the user of this tab has chosen. A token stays in the tab, and goes when it is closed.

function stored(storage, name) {
  try {
    return storage().getItem(`esb.${name}`) ?? "";
  } catch {
    return "";
  }
}

function store(storage, name, value) {
  try {
    if (value) storage().setItem(`esb.${name}`, value);
    else storage().removeItem(`esb.${name}`);
  } catch {
    // Without storage a choice counts until the page is loaded again.
  }
}

const tab = () => sessionStorage;
const browser = () => localStorage;

export const session = {
  token: stored(tab, "token"),
  tenant: stored(tab, "tenant"),
  theme: stored(browser, "theme") || "system",
  shortcuts: stored(browser, "shortcuts") !== "off",
};

/** Keep what was chosen, and show the page in the colours that were. */
export function choose(changes) {
  Object.assign(session, changes);
  store(tab, "token", session.token);
  store(tab, "tenant", session.tenant);
  store(browser, "theme", session.theme === "system" ? "" : session.theme);
  store(browser, "shortcuts", session.shortcuts ? "" : "off");
  if (session.theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = session.theme;
}

/**
 * Take a token out of the address, where `/#token=...` or `/#/streams?token=...` has brought one, and keep it. It leaves the
 * address first, so that it is neither behind the Back button nor in a bookmark or a picture of the window. Returns whether there
 * was one.
 */
export function arrive() {
  const hash = location.hash.slice(1);
  const at = hash.startsWith("/") ? hash.indexOf("?") : -1;
  const place = hash.startsWith("/") ? (at < 0 ? hash : hash.slice(0, at)) : "/";
  const query = new URLSearchParams(hash.startsWith("/") ? (at < 0 ? "" : hash.slice(at + 1)) : hash);
  const token = query.get("token");
  if (token === null) return false;
  query.delete("token");
  const rest = hash.startsWith("/") && query.size > 0 ? `?${query}` : "";
  history.replaceState(history.state, "", `#${place}${rest}`);
  choose({ token: token.trim() });
  return true;
}
arrive();

/** What was asked in SQL before, newest first. */
export const questions = {
  all() {
    try {
      return JSON.parse(stored(tab, "questions") || "[]");
    } catch {
      return [];
    }
  },
  add(sql) {
    store(tab, "questions", JSON.stringify([sql, ...this.all().filter((each) => each !== sql)].slice(0, 20)));
  },
};
