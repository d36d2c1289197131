// The ledger: what was done, by whom and why; and whether it still adds up.

import { badge, button, card, facts, h, openDialog, table } from "../shared/elements.js";
import * as format from "../shared/format.js";
import { fill, texts as shared } from "../shared/texts.js";
import { csvButton } from "./csv.js";
import { field, filters } from "./forms.js";
import { paged } from "./loading.js";
import { texts } from "./texts.js";
import { sideBySide } from "./values.js";

const PAGE = 100;
const said = texts.ledger;
const FILTERS = ["stream", "actor", "action", "objectType", "objectId"];

export async function ledger(api, { query, go }) {
  const controls = Object.fromEntries(FILTERS.map((name) => [name, h("input", { value: query.get(name), maxlength: 255, autocapitalize: "off", spellcheck: "false", autocomplete: "off" })]));
  const days = { from: h("input", { type: "date", value: query.get("from") }), to: h("input", { type: "date", value: query.get("to") }) };
  const show = () => {
    const chosen = Object.entries({ ...controls, ...days }).map(([name, control]) => [name, control.value.trim()]);
    go(`ledger?${new URLSearchParams(chosen.filter(([, value]) => value))}`);
  };
  const form = filters(Object.entries({ ...controls, ...days }).map(([name, control]) => field(said.filters[name], control)), texts.show, show);

  const filter = Object.fromEntries(FILTERS.filter((name) => query.get(name)).map((name) => [name, query.get(name)]));
  if (query.get("from")) filter.from = midnight(query.get("from"));
  if (query.get("to")) filter.to = midnight(query.get("to"), 1); // the day is meant whole
  const broken = new Set();
  const read = async (after) => (await api.ask("Ledger", { filter, first: PAGE, after })).auditEntries;
  const list = await paged(read, (found) => entries(found, broken));
  const file = csvButton("ledger", COLUMNS, () => list.found.map(row));
  return [
    verification(api, query.get("stream"), (id) => {
      broken.add(id);
      list.redraw();
    }),
    form,
    list.place,
    h("div", { class: "actions" }, file, h("p", { class: "quiet-text" }, said.wholeFile)),
  ];
}

/** The instant at which a day begins where the reader is. */
function midnight(day, later = 0) {
  const at = new Date(`${day}T00:00`);
  at.setDate(at.getDate() + later);
  return at.toISOString();
}

/** Entries of the ledger as a table; each can be opened. `broken`: ids of those that do not add up. */
export function entries(found, broken = new Set()) {
  const rows = found.map((entry) => [
    format.dateTime(entry.at),
    [h("button", { class: "link", type: "button", onclick: () => open(entry), "aria-label": fill(said.openEntry, entry) }, entry.action), broken.has(entry.id) && [" ", badge(said.broken, "bad")]],
    entry.actor,
    `${entry.objectType} ${entry.objectId}`,
    entry.reason ?? shared.none,
    entry.mrrDelta ? format.money(entry.mrrDelta, { signed: true }) : shared.none,
    `${entry.stream} #${entry.sequence}`,
  ]);
  return table(said.caption, [said.at, said.action, said.actor, said.object, said.reason, { label: said.mrrDelta, number: true }, said.place], rows);
}

function open(entry) {
  const dialog = openDialog(fill(said.entry, entry), () => [
    facts([
      [said.at, `${format.dateTime(entry.at)} (${entry.at})`],
      [said.actor, entry.actor],
      [said.object, `${entry.objectType} ${entry.objectId}`],
      [said.reason, entry.reason ?? shared.none],
      [said.mrrDelta, format.money(entry.mrrDelta, { signed: true })],
      [said.place, `${entry.stream} #${entry.sequence}`],
      [said.request, entry.requestId ? h("code", {}, entry.requestId) : shared.none],
    ]),
    entry.before || entry.after ? sideBySide(said.beforeAfter, entry.before, entry.after) : h("p", { class: "quiet-text" }, said.noState),
    facts([
      [said.hash, h("code", {}, entry.hash)],
      [said.previousHash, entry.previousHash ? h("code", {}, entry.previousHash) : said.first],
    ]),
  ]);
  dialog.classList.add("wide");
}

function verification(api, stream, found) {
  const place = h("div", { role: "status" });
  const verify = async () => {
    place.replaceChildren();
    const { verifyAudit } = await api.ask("VerifyAudit", { stream });
    place.replaceChildren(outcome(verifyAudit));
    if (verifyAudit.firstBroken) found(verifyAudit.firstBroken.id);
  };
  return card(
    said.verifyTitle,
    h("p", {}, stream ? fill(said.verifyStream, { stream }) : said.verifyWay),
    button(said.verify, verify, { kind: "quiet" }),
    place,
  );
}

function outcome({ ok, entries: read, seals, problem, firstBroken }) {
  const figures = { entries: format.number(read), seals: format.number(seals) };
  if (ok) return h("div", { class: "part notice good" }, h("p", {}, h("strong", {}, said.consistent)), h("p", {}, fill(said.consistentWay, figures)));
  return h(
    "div",
    { class: "part notice bad" },
    h("p", {}, h("strong", {}, said.tampered)),
    h("p", {}, problem),
    firstBroken &&
      facts([
        [said.firstBroken, `${firstBroken.stream} #${firstBroken.sequence}`],
        [said.action, firstBroken.action],
        [said.at, format.dateTime(firstBroken.at)],
        [said.actor, firstBroken.actor],
      ]),
    firstBroken && h("div", { class: "actions" }, h("button", { class: "button quiet", type: "button", onclick: () => open(firstBroken) }, said.openBroken)),
    h("p", {}, said.tamperedWay),
  );
}

/** As `entitlements audit export` writes them. */
const COLUMNS = ["id", "stream", "sequence", "at", "actor", "action", "object_type", "object_id", "before", "after", "reason", "request_id", "mrr_delta_minor", "currency", "previous_hash", "hash"];

function row(entry) {
  return {
    ...entry,
    object_type: entry.objectType,
    object_id: entry.objectId,
    request_id: entry.requestId,
    mrr_delta_minor: entry.mrrDelta?.amountMinor,
    currency: entry.mrrDelta?.currency,
    previous_hash: entry.previousHash,
  };
}
