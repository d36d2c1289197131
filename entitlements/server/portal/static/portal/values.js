// What a feature is worth, and what a package costs, in words.

import { h, svg } from "../shared/elements.js";
import * as format from "../shared/format.js";
import { fill } from "../shared/texts.js";
import { texts } from "./texts.js";

const said = texts.values;
const language = navigator.languages?.length ? navigator.languages : undefined;
const KNOWN_UNITS = { hour: "hour", minute: "minute", day: "day", week: "week", GB: "gigabyte", MB: "megabyte", TB: "terabyte" };

/** So many of a feature's units. A unit that no language has a form for is left to the feature's name. */
export function amount(feature, value) {
  const unit = KNOWN_UNITS[feature.unit];
  if (!unit) return format.number(value);
  const unitDisplay = unit.endsWith("byte") ? "short" : "long";
  return new Intl.NumberFormat(language, { style: "unit", unit, unitDisplay }).format(value);
}

/**
 * @param {object} feature
 * @param {object | null} value null: none
 */
export function valueWords(feature, value) {
  if (!value) return said.none;
  if (feature.kind === "BOOLEAN") return value.enabled ? said.included : said.none;
  if (feature.kind === "ENUM") return value.choice ? value.choice[0].toUpperCase() + value.choice.slice(1) : said.none;
  if (feature.kind === "NUMBER") return amount(feature, value.number);
  return value.unlimited ? said.unlimited : amount(feature, value.limit);
}

/** What a package grants, as a list: "Seats: 5 more". */
export function grantWords({ feature, mode, value }) {
  if (feature.kind === "BOOLEAN") return feature.name;
  const words = valueWords(feature, value);
  return fill(mode === "ADD" ? said.more : said.is, { feature: feature.name, value: words });
}

/** ✓ or ✗, said in words to who does not see it. */
export function mark(yes) {
  const path = yes ? "M3 8.5l3.2 3.2L13 4.8" : "M4 4l8 8M12 4l-8 8";
  return h(
    "span",
    { class: yes ? "mark yes" : "mark no" },
    svg("svg", { viewBox: "0 0 16 16", "aria-hidden": "true" }, svg("path", { d: path })),
    h("span", { class: "hidden" }, yes ? said.included : said.notIncluded),
  );
}

/** A list with a tick before each. */
export function ticked(items, { yes = true } = {}) {
  return h("ul", { class: "ticked" }, items.map((item) => h("li", {}, mark(yes), h("span", {}, item))));
}

const priceOf = (charge, currency, interval) =>
  charge.prices.find((price) => price.currency === currency && price.interval === interval);

/** Whether it can be billed so. Use that is billed monthly whatever the interval does not matter. */
export function soldBy(offered, currency, interval) {
  const licensed = offered.charges.filter((charge) => charge.billing === "IN_ADVANCE");
  return licensed.every((charge) => priceOf(charge, currency, interval));
}

/**
 * Each charge in words, the licensed ones first: `[{main: "$29.00", rest: "a month"}]`.
 */
export function prices(offered, currency, interval) {
  const inOrder = [...offered.charges].sort((a, b) => (a.billing === "IN_ARREARS") - (b.billing === "IN_ARREARS"));
  return inOrder.flatMap((charge) => {
    const price = priceOf(charge, currency, interval) ?? priceOf(charge, currency, "MONTH");
    return price ? [priceWords(charge, price)] : [];
  });
}

function priceWords(charge, { currency, interval, flatAmount, unitAmount, tiers }) {
  const per = interval === "YEAR" ? said.aYear : said.aMonth;
  const what = charge.quantityFeature?.unit ?? charge.quantityFeature?.name;
  if (charge.model === "FLAT") return { main: format.rate(flatAmount, currency), rest: per };
  if (charge.model === "PACKAGE") {
    const values = { count: format.number(charge.packageSize), what: charge.quantityFeature?.name ?? charge.name, included: format.number(charge.includedQuantity) };
    return { main: format.rate(unitAmount, currency), rest: fill(BigInt(charge.includedQuantity) > 0n ? said.perBlockBeyond : said.perBlock, values), metered: true };
  }
  const each = fill(what ? said.perUnit : said.each, { what, per });
  const metered = charge.billing === "IN_ARREARS";
  if (charge.model === "PER_UNIT") return { main: format.rate(unitAmount, currency), rest: each, metered };
  return { main: format.rate(tiers[0].unitAmount, currency), rest: fill(said.lessForMore, { each, least: format.rate(tiers.at(-1).unitAmount, currency) }), metered };
}

/** What the year saves, in percent; null where there is no single figure. */
export function yearlySaving(offered, currency) {
  const found = offered.charges.map((charge) => priceOf(charge, currency, "YEAR")?.annualSavingPercent).filter((percent) => Number(percent) > 0);
  return found.length ? found[0] : null;
}

/** A charge that is by the level bought, such as seats; undefined if there is none. */
export const levelCharge = (offered) =>
  offered.charges.find((charge) => charge.billing === "IN_ADVANCE" && charge.quantityFeature?.aggregation === "LEVEL");

/** An amount per interval. */
export function recurring(money, interval) {
  return fill(interval === "YEAR" ? said.perYear : said.perMonth, { amount: format.money(money) });
}

/**
 * "3 days left": whole days, begun ones count.
 * @param {string} at
 * @param {{now: string} | null} sandboxClock whose time it is, where it is not the machine's
 */
export function daysLeft(at, sandboxClock) {
  const now = sandboxClock ? new Date(sandboxClock.now) : Date.now();
  const days = Math.max(0, Math.ceil((new Date(at) - now) / 86_400_000));
  return plural(said.daysLeft, days);
}

/** A text by number: `{one: "{count} day", other: "{count} days"}`. */
export function plural(forms, count) {
  const form = new Intl.PluralRules(texts.language).select(count);
  return fill(forms[form] ?? forms.other, { count: format.number(count) });
}
