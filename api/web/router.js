// Which view is shown: the part of the address behind the #.

/**
 * The routes' view for an address such as `#/streams/orders?tab=1`, with the values that its pattern names; null if none fits.
 */
export function matched(routes, hash) {
  const [place, query = ""] = hash.replace(/^#/, "").split("?");
  const parts = place.split("/").filter(Boolean);
  for (const [pattern, view] of routes) {
    const wanted = pattern.split("/").filter(Boolean);
    if (wanted.length !== parts.length) continue;
    const params = {};
    const fits = wanted.every((part, i) => {
      if (!part.startsWith(":")) return part === parts[i];
      try {
        params[part.slice(1)] = decodeURIComponent(parts[i]);
        return true;
      } catch {
        return false;
      }
    });
    if (fits) return { view, params, query: new URLSearchParams(query), section: parts[0] ?? "overview" };
  }
  return null;
}

/** The address of a view; values are encoded. */
export const link = (strings, ...values) =>
  `#/${String.raw({ raw: strings }, ...values.map((each) => encodeURIComponent(each)))}`;

/** Show the view of the address in `place`, now and whenever it changes. A view is a function `({params, query, signal})` that
 * returns an element at once; the signal is aborted when another view takes its place. What `instead()` returns, unless null, is
 * shown in place of any view. */
export function route(routes, place, shown, instead = () => null) {
  let leaving = new AbortController();
  let before = null;
  function show() {
    if (location.hash && !location.hash.startsWith("#/")) return;
    leaving.abort();
    leaving = new AbortController();
    const found = matched(routes, location.hash || "#/") ?? matched(routes, "#/nowhere");
    const other = instead();
    place.replaceChildren(other ?? found.view({ params: found.params, query: found.query, signal: leaving.signal }));
    const heading = place.querySelector("h1");
    document.title = `${heading ? `${heading.textContent} · ` : ""}Event Streaming Bus`;
    if (before !== null) {
      window.scrollTo(0, 0);
      heading?.focus({ preventScroll: true });
    }
    before = location.hash;
    shown(found.section);
  }
  window.addEventListener("hashchange", show);
  show();
  return show;
}
