// Erasure: what there is of a subject, making it unreadable for good, and the certificates of that.

import { get, post } from "../api.js";
import { act, dialog } from "../dialog.js";
import { asking, facts, field, h, head, panel } from "../dom.js";
import { count, json, time } from "../format.js";
import { may } from "../rights.js";
import { failed, filled, loading } from "../states.js";
import { table } from "../table.js";

export function erasure({ signal }) {
  const place = h("div", {});
  const report = h("div", { role: "status" });
  const grid = table({
    caption: "Certificates, newest first",
    columns: [
      { name: "Number", right: true, value: (row) => row.number },
      { name: "Erased", tight: true, value: (row) => row.erased_at, cell: (row) => time(row.erased_at) },
      { name: "By", tight: true, value: (row) => row.erased_by ?? "" },
      { name: "Why", wide: true, value: (row) => row.reason },
      {
        name: "Subject, as a hash",
        value: (row) => row.subject_hash,
        cell: (row) => h("code", { title: row.subject_hash }, `${row.subject_hash.slice(0, 12)}…`),
      },
      { name: "Keys", right: true, value: (row) => row.key_hashes.length },
      { name: "Events", right: true, value: (row) => row.events, cell: (row) => count(row.events) },
      { name: "Details", label: false, sort: false, value: (row) => row.certificate_id, cell: certificate },
    ],
    key: (row) => row.certificate_id,
    nothing: "Nobody was erased. Each erasure leaves a certificate here, which names nobody.",
  });
  const load = filled(
    place,
    () => certificates(signal),
    (found) => {
      grid.update(found.toReversed());
      return grid.element;
    },
    signal,
  );
  const verify = (event) =>
    act(event.currentTarget, async () => {
      const told = await get("erasures/verify", { signal });
      const words = told.is_intact
        ? `${count(told.certificates)} certificates are there, unchanged and true: no key that they speak of is there.`
        : `The certificates are not as they should be: ${told.problems.map(wordsOf).join("; ")}`;
      report.replaceChildren(h("p", { class: `notice ${told.is_intact ? "good" : "bad"}` }, words));
    });
  return h(
    "div",
    {},
    head("Erasure", {
      lead: "Each subject's personal data is encrypted with a key of its own. Once that is gone, nobody can read it any more.",
    }),
    may("erasure:manage") && subjectPanel(load, signal),
    report,
    panel("Certificates", { actions: [h("button", { type: "button", onclick: verify }, "Verify")] }, place),
  );
}

/** All certificates, oldest first, page by page. */
async function certificates(signal) {
  const found = [];
  let cursor = null;
  do {
    const page = await get("erasures", { query: { cursor }, signal });
    found.push(...page.erasures);
    cursor = page.next_cursor;
  } while (cursor !== null);
  return found;
}

const wordsOf = (problem) => `${problem.certificate_id}: ${problem.message}`;

const certificate = (row) => h("details", {}, h("summary", {}, `Certificate ${row.number}`), json(row));

/** A field for a subject, what there is of it, and its erasure. The name is in no address: those are written into logs. */
function subjectPanel(erased, signal) {
  const subject = h("input", { required: true, autocomplete: "off", spellcheck: "false", "data-find": true });
  const counting = h("input", { type: "checkbox" });
  const place = h("div", { role: "status" });
  async function look() {
    const name = subject.value;
    place.replaceChildren(loading("Looking"));
    try {
      const told = await post("erasures/subject-report", { subject: name, count_events: counting.checked }, { signal });
      place.replaceChildren(...reported(name, told, async () => (await erase(name)) && (erased(), look())));
    } catch (error) {
      if (error.name !== "AbortError") place.replaceChildren(failed(error));
    }
  }
  const form = asking(
    look,
    field("Subject, as events name it", subject, { wide: true }),
    h("label", { class: "check" }, counting, "Count its events"),
    h("button", { type: "submit" }, "Look up"),
  );
  return panel("A subject", {}, form, place);
}

function reported(name, told, erase) {
  const events = told.events && Object.entries(told.events);
  const known = told.certificate_ids.length;
  const before = known > 0 ? `It was erased ${count(known)} ${known === 1 ? "time" : "times"} before.` : "";
  if (!told.has_key) return [h("p", {}, `There is no personal data of ${name} that could be read. ${before}`)];
  return [
    facts([
      ["Subject", name],
      ["Its key", h("span", {}, `number ${told.epoch}, since `, time(told.key_created_at))],
      ["Erased before", known > 0 ? told.certificate_ids.join(", ") : "never"],
      ["Events", events && (events.map(([stream, number]) => `${count(number)} on ${stream}`).join(", ") || "none")],
    ]),
    h("p", { class: "actions" }, h("button", { type: "button", class: "danger", onclick: erase }, "Erase this subject")),
  ];
}

/** Ask for the name once more and for a reason, and erase; resolves to the certificate, or null. */
async function erase(name) {
  const again = h("input", { required: true, autocomplete: "off", spellcheck: "false" });
  const reason = h("input", { required: true, autocomplete: "off", maxlength: 1000 });
  const counting = h("input", { type: "checkbox" });
  return dialog(
    `Erase ${name}?`,
    [
      h(
        "p",
        { class: "notice bad" },
        "The key is destroyed. All personal data of this subject becomes unreadable, on every stream, in the history and in ",
        "backups. Nobody can take that back.",
      ),
      field("Why", reason, { hint: "It is kept for ever, and should name nobody." }),
      field("To confirm, type the subject", again),
      h("label", { class: "check" }, counting, "Count the events for the certificate; every stream is read for that"),
    ],
    {
      action: "Erase for good",
      danger: true,
      submit: async () => {
        if (again.value !== name) throw new SyntaxError(`The subject is ${name}; something else is typed.`);
        return post("erasures", { subject: name, reason: reason.value.trim(), count_events: counting.checked });
      },
    },
  );
}
