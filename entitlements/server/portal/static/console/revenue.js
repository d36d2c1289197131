// What became of the monthly recurring revenue, from one month to another.

import { badge, card, h, table } from "../shared/elements.js";
import * as format from "../shared/format.js";
import { fill } from "../shared/texts.js";
import { waterfall } from "./charts.js";
import { csvButton } from "./csv.js";
import { field, filters, select } from "./forms.js";
import { texts } from "./texts.js";

const said = texts.revenue;
const MONTH = /^\d{4}-(0[1-9]|1[0-2])$/;
const SUMS = ["opening", "new", "expansion", "reactivation", "contraction", "churn", "closing"];
const TAKEN_OFF = new Set(["contraction", "churn"]);

export async function revenue(api, { query, go }) {
  const { catalog, sandboxClock } = await api.ask("Currencies");
  const present = (sandboxClock?.now ?? new Date().toISOString()).slice(0, 7);
  const chosen = {
    from: MONTH.test(query.get("from")) ? query.get("from") : monthLater(present, -11),
    to: MONTH.test(query.get("to")) ? query.get("to") : present,
    currency: query.get("currency") ?? catalog.currencies[0] ?? "usd",
    by: Object.hasOwn(said.dimensions, query.get("by")) ? query.get("by") : "PLAN",
  };
  const controls = {
    from: h("input", { type: "month", value: chosen.from, required: true, pattern: "\\d{4}-\\d{2}", placeholder: "2026-01" }),
    to: h("input", { type: "month", value: chosen.to, required: true, pattern: "\\d{4}-\\d{2}", placeholder: "2026-12" }),
    currency: select(catalog.currencies.map((each) => [each, each.toUpperCase()]), chosen.currency),
    by: select(Object.entries(said.dimensions), chosen.by),
  };
  const show = () => go(`revenue?${new URLSearchParams(Object.entries(controls).map(([name, control]) => [name, control.value]))}`);
  const form = filters(Object.entries(controls).map(([name, control]) => field(said.filters[name], control)), texts.show, show);
  if (chosen.to < chosen.from) return [form, h("p", { class: "card notice warning", role: "alert" }, said.backwards)];

  const period = { from: `${chosen.from}-01T00:00:00Z`, to: `${monthLater(chosen.to, 1)}-01T00:00:00Z`, currency: chosen.currency, by: chosen.by };
  const { mrrMovements, mrrMovementsBy } = await api.ask("MrrMovements", period);
  const months = { from: month(chosen.from), to: month(chosen.to), currency: chosen.currency.toUpperCase() };
  return [
    form,
    card(fill(said.between, months), retention(mrrMovements), chartOf(mrrMovements, months), sums(mrrMovements)),
    groups(mrrMovementsBy, chosen.by),
    h("p", { class: "quiet-text" }, chosen.by === "PLAN" ? said.planWay : chosen.by === "ADD_ON" ? said.addOnWay : said.utc),
    h("div", { class: "actions" }, csvButton(`mrr-${chosen.currency}-${chosen.from}-${chosen.to}`, COLUMNS, () => rows(mrrMovements, mrrMovementsBy)), h("p", { class: "quiet-text" }, said.wholeFile)),
  ];
}

/** "2026-11", 2 → "2027-01". */
function monthLater(from, months) {
  const [year, number] = from.split("-").map(Number);
  const at = new Date(Date.UTC(year, number - 1 + months));
  return at.toISOString().slice(0, 7);
}

function month(key) {
  return new Intl.DateTimeFormat(navigator.languages, { month: "long", year: "numeric", timeZone: "UTC" }).format(new Date(`${key}-01T00:00:00Z`));
}

function retention({ nrrPercent, grrPercent }) {
  const figure = (label, title, value) => h("div", {}, h("p", { class: "quiet-text" }, label), h("p", { class: "big" }, value === null ? said.nobody : format.percent(value)), h("p", { class: "quiet-text" }, title));
  return h("div", { class: "figures" }, figure(said.nrr, said.nrrWay, nrrPercent), figure(said.grr, said.grrWay, grrPercent));
}

function signed(movements, name) {
  const { amountMinor, currency } = movements[name];
  return { currency, amountMinor: TAKEN_OFF.has(name) ? String(-BigInt(amountMinor)) : amountMinor };
}

const isTotal = (name) => name === "opening" || name === "closing";

function words(movements, name) {
  return format.money(signed(movements, name), { signed: !isTotal(name) });
}

function chartOf(movements, months) {
  let at = 0;
  const bars = SUMS.map((name) => {
    const minor = Number(signed(movements, name).amountMinor);
    const [from, to] = isTotal(name) ? [0, minor] : [at, at + minor];
    at = to;
    return { label: said.sums[name], from, to, words: words(movements, name), kind: isTotal(name) ? "total" : minor < 0 ? "down" : "up" };
  });
  return waterfall(fill(said.chart, { ...months, opening: words(movements, "opening"), closing: words(movements, "closing") }), bars);
}

function sums(movements) {
  return table(said.sumsCaption, [said.movement, { label: said.amount, number: true }], SUMS.map((name) => [said.sums[name], words(movements, name)]));
}

function groups(found, by) {
  const number = (label) => ({ label, number: true });
  const rows = found.map(({ key, movements }) => [
    by === "MONTH" || by === "COHORT" ? (MONTH.test(key) ? month(key) : key) : key || badge(said.noKey),
    ...SUMS.map((name) => words(movements, name)),
    format.percent(movements.nrrPercent),
    format.percent(movements.grrPercent),
  ]);
  return table(fill(said.grouped, { by: said.dimensions[by] }), [said.dimensions[by], ...SUMS.map((name) => number(said.sums[name])), number(said.nrr), number(said.grr)], rows);
}

/** As `entitlements finance export mrr` writes them; the whole has no key. */
const COLUMNS = ["key", "from", "to", "currency", ...SUMS.map((name) => `${name}_minor`), "nrr_percent", "grr_percent"];

function rows(whole, groups) {
  return [{ key: "", movements: whole }, ...groups].map(({ key, movements }) => ({
    key,
    from: movements.period.start,
    to: movements.period.end,
    currency: movements.opening.currency,
    ...Object.fromEntries(SUMS.map((name) => [`${name}_minor`, movements[name].amountMinor])),
    nrr_percent: movements.nrrPercent,
    grr_percent: movements.grrPercent,
  }));
}
