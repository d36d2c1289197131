// Values of the ledger, of catalogs and of grants, for people to read.

import { badge, h, table } from "../shared/elements.js";
import * as format from "../shared/format.js";
import { fill, texts as shared } from "../shared/texts.js";
import { texts } from "./texts.js";

const said = texts.values;

/** Any JSON: plain values as text, the rest with a line for each field, as the catalog file has it. */
export function readable(value) {
  if (value === null || value === undefined) return shared.none;
  if (typeof value !== "object") return scalar(value);
  const written = lines(value);
  return written.length ? h("pre", { class: "written" }, written.join("\n")) : said.empty;
}

function scalar(value) {
  return typeof value === "boolean" ? (value ? said.yes : said.no) : String(value ?? shared.none);
}

function lines(value, indent = "") {
  const entries = Array.isArray(value) ? value.map((each) => ["-", each]) : Object.entries(value).map(([key, each]) => [`${key}:`, each]);
  return entries.flatMap(([key, each]) => {
    if (each === null || typeof each !== "object") return [`${indent}${key} ${scalar(each)}`];
    if (Array.isArray(each) && each.every((one) => one === null || typeof one !== "object")) return [`${indent}${key} ${each.map(scalar).join(", ")}`];
    return [`${indent}${key}`, ...lines(each, `${indent}  `)];
  });
}

/** What was and what is, field by field, those that differ first. */
export function sideBySide(caption, before, after) {
  const fields = [...new Set([...Object.keys(before ?? {}), ...Object.keys(after ?? {})])];
  const rows = fields.map((name) => {
    const [was, is] = [before?.[name], after?.[name]];
    const same = JSON.stringify(was) === JSON.stringify(is);
    return { same, cells: [name, readable(was), readable(is), same ? said.same : badge(was === undefined ? said.added : is === undefined ? said.removed : said.changed, "warning")] };
  });
  rows.sort((a, b) => a.same - b.same);
  return table(caption, [said.field, said.before, said.after, said.difference], rows.map(({ cells }) => cells));
}

/** Amounts of several currencies, a line each. */
export function amounts(moneys, options) {
  return moneys.length ? moneys.map((money) => h("div", {}, format.money(money, options))) : shared.none;
}

/** Amounts of before and after as one of the difference, a line for each currency. */
export function difference(before, after) {
  const currencies = [...new Set([...before, ...after].map(({ currency }) => currency))];
  const minor = (moneys, currency) => BigInt(moneys.find((money) => money.currency === currency)?.amountMinor ?? 0);
  return currencies.map((currency) => ({ currency, amountMinor: String(minor(after, currency) - minor(before, currency)) }));
}

/** What is granted of a feature. */
export function granted(value, unit) {
  if (value.unlimited) return said.unlimited;
  if (value.limit !== null) {
    const limit = unit ? fill(said.limit, { limit: format.number(value.limit), unit }) : format.number(value.limit);
    return value.overage ? fill(said.overage, { limit }) : limit;
  }
  if (value.enabled !== null) return value.enabled ? said.yes : said.no;
  return value.choice ?? format.number(value.number);
}

/**
 * By how much one decimal is above another, in percent; null where that says nothing.
 * @param {string | null} before
 * @param {string | null} after
 */
export function rise(before, after) {
  return Number(before) > 0 && after !== null && before !== after ? (100 * (Number(after) - Number(before))) / Number(before) : null;
}

/** A rise for people: with its sign. */
export function signedPercent(value) {
  return value === null || value === undefined ? shared.none : `${Number(value) > 0 ? "+" : ""}${format.percent(value)}`;
}
