// All streams, and making one.

import { get, post } from "../api.js";
import { choice, field, h, head, panel } from "../dom.js";
import { dialog, toast } from "../dialog.js";
import { bytes, count, rate, time } from "../format.js";
import { listen, newest } from "../live.js";
import { mayAnywhere } from "../rights.js";
import { link } from "../router.js";
import { every, filled } from "../states.js";
import { searched, table } from "../table.js";

export const perSecond = (name) => newest()?.data.streams?.[name]?.throughput.events_per_second ?? null;

export function streams({ signal }) {
  const grid = table({
    caption: "Streams",
    columns: [
      { name: "Stream", value: (row) => row.name, cell: (row) => h("a", { href: link`streams/${row.name}` }, row.name) },
      { name: "Description", value: (row) => row.description },
      { name: "Events", right: true, value: (row) => row.events, cell: (row) => count(row.events) },
      { name: "Now", right: true, value: (row) => perSecond(row.name), cell: (row) => rate(perSecond(row.name)) },
      { name: "Size", right: true, value: (row) => row.stored_bytes, cell: (row) => bytes(row.stored_bytes) },
      { name: "Partitions", right: true, value: (row) => row.partitions },
      {
        name: "Schema",
        value: (row) => (row.schema_id ? "yes" : ""),
        cell: (row) => (row.schema_id ? h("span", { class: "tag blue" }, "guarded") : ""),
      },
      { name: "Made", tight: true, value: (row) => row.created_at, cell: (row) => time(row.created_at) },
    ],
    key: (row) => row.stream_id,
    order: { name: "Stream", down: false },
    nothing: "No stream is named like that.",
  });
  const search = searched(grid, (row) => `${row.name} ${row.description} ${row.stream_id}`, "Filter by name");
  const place = h("div", {});
  const load = filled(
    place,
    () => get("streams", { signal }),
    ({ streams: found }) => {
      search.update(found);
      return grid.element;
    },
    signal,
  );
  every(5000, signal, load);
  listen(search.show, signal);
  const make = h(
    "button",
    { type: "button", class: "primary", onclick: async () => (await makeStream()) && load() },
    "New stream",
  );
  return h(
    "div",
    {},
    head("Streams", { actions: [mayAnywhere("stream:manage") && make] }),
    panel("All streams", { label: "hidden" }, h("div", { class: "bar" }, search.input), place),
  );
}

async function makeStream() {
  const name = h("input", { required: true, autocomplete: "off", spellcheck: "false", maxlength: 200 });
  const description = h("input", { autocomplete: "off" });
  const partitions = h("input", { type: "number", min: 1, max: 1024, value: "1" });
  const schema = h("input", { autocomplete: "off", spellcheck: "false" });
  const invalid = choice(
    [
      ["REFUSE", "are refused"],
      ["DEAD_LETTER", "become dead letters"],
    ],
    "REFUSE",
  );
  const made = await dialog(
    "New stream",
    [
      field("Name", name),
      field("Description", description),
      field("Partitions", partitions, { hint: "They cannot be changed afterwards." }),
      field("Schema", schema, { hint: "A schema's name, or name@version; may be left empty." }),
      field("Events that break the schema", invalid),
    ],
    {
      action: "Make the stream",
      submit: () =>
        post("streams", {
          name: name.value.trim(),
          description: description.value.trim(),
          partitions: Number(partitions.value),
          on_invalid: invalid.value,
          ...(schema.value.trim() ? { schema: schema.value.trim() } : {}),
        }),
    },
  );
  if (made) toast(`The stream ${made.name} is there.`);
  return made;
}
