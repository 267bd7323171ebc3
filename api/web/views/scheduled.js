// Events that are published but not delivered yet: when they are due, and calling them off.

import { call, get, path } from "../api.js";
import { act, confirmed } from "../dialog.js";
import { asking, field, h, head, panel } from "../dom.js";
import { moment, seconds, time } from "../format.js";
import { may } from "../rights.js";
import { link } from "../router.js";
import { every, filled } from "../states.js";
import { table } from "../table.js";

const PAGE = 100;
const PERIOD_MS = 5000;

export function scheduled({ query, signal }) {
  const stream = h("input", { value: query.get("stream") ?? "", autocomplete: "off", spellcheck: "false", "data-find": true });
  const more = h("button", { type: "button", hidden: true, onclick: () => next() }, "Those due later");
  const place = h("div", {});
  let rows = [];
  let cursor = null;
  let pages = 1;
  const columns = [
    { name: "Due", tight: true, sort: false, value: (row) => row.deliver_at, cell: (row) => time(row.deliver_at) },
    { name: "In", tight: true, sort: false, value: (row) => left(row.deliver_at) },
    {
      name: "Stream",
      sort: false,
      value: (row) => row.stream,
      cell: (row) => h("a", { href: link`streams/${row.stream}` }, row.stream),
    },
    { name: "Type", sort: false, value: (row) => row.event_type },
    { name: "Key", sort: false, value: (row) => row.key ?? "" },
    { name: "Event", sort: false, value: (row) => row.event_id, cell: (row) => h("code", {}, row.event_id) },
    { name: "Published", tight: true, sort: false, value: (row) => row.scheduled_at, cell: (row) => time(row.scheduled_at) },
    {
      name: "Expires",
      tight: true,
      sort: false,
      value: (row) => row.expires_at ?? "",
      cell: (row) => (row.expires_at ? time(row.expires_at) : ""),
    },
  ];
  const cancelling = { name: "Action", label: false, sort: false, value: (row) => row.event_id, cell: (row) => cancel(row) };
  const grid = table({
    caption: "Scheduled events, those due first in front",
    columns: may("scheduled-event:manage") ? [...columns, cancelling] : columns,
    key: (row) => row.event_id,
    nothing: "No event waits for its time. One that is published with deliver_at stands here until it comes into its stream.",
  });
  const fetched = (from) => get("scheduled", { query: { stream_id: stream.value.trim(), limit: PAGE, cursor: from }, signal });
  function cancel(row) {
    const ask = async () => {
      const text = `${row.event_type} for ${row.stream}, due ${moment(row.deliver_at)} UTC, will never come.`;
      if (!(await confirmed("Cancel this event?", text, "Cancel the event"))) return;
      await act(null, () => call("DELETE", path`scheduled/${row.event_id}`), "It is cancelled.");
      load();
    };
    return h("button", { type: "button", "aria-label": `Cancel ${row.event_id}`, onclick: ask }, "Cancel");
  }
  const show = (page) => {
    cursor = page.next_cursor;
    more.hidden = cursor === null;
    grid.update(rows);
  };
  const load = filled(
    place,
    () => fetched(null),
    (page) => {
      pages = 1;
      rows = page.events;
      show(page);
      return grid.element;
    },
    signal,
  );
  const next = () =>
    act(more, async () => {
      const page = await fetched(cursor);
      pages += 1;
      rows = [...rows, ...page.events];
      show(page);
    });
  every(PERIOD_MS, signal, () => pages === 1 && load()); // what was opened further stays as it is
  const form = asking(
    load,
    field("Stream", stream),
    h("button", { type: "submit" }, "Filter"),
  );
  return h(
    "div",
    {},
    head("Scheduled events", { lead: "Published, and delivered when their time comes." }),
    panel("Events", { label: "hidden" }, form, place, h("div", { class: "more" }, more)),
  );
}

const left = (text) => {
  const left_s = (Date.parse(text) - Date.now()) / 1000;
  return left_s <= 0 ? "now" : seconds(left_s < 120 ? Math.ceil(left_s) : left_s);
};
