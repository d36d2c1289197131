// Money, dates and numbers in the way of whoever reads: by the browser's language.

import { texts } from "./texts.js";

const language = navigator.languages?.length ? navigator.languages : undefined;

/**
 * An amount in the currency's own digits. Exact: minor units may be a BigInt's text, and are never
 * a fraction of JavaScript's.
 * @param {{amountMinor: string | number | bigint, currency: string} | null | undefined} money
 * @param {{signed?: boolean}} [options] `signed`: a plus, too
 */
export function money(money, { signed = false } = {}) {
  if (!money) return texts.none;
  const format = currencyFormat(money.currency, signed);
  const digits = format.resolvedOptions().maximumFractionDigits;
  return format.format(decimal(BigInt(money.amountMinor), digits));
}

/**
 * A price as the catalog writes it: major units, up to 12 decimals.
 * @param {string} amount
 * @param {string} currency
 */
export function rate(amount, currency) {
  const digits = currencyFormat(currency, false).resolvedOptions().maximumFractionDigits;
  return new Intl.NumberFormat(language, {
    style: "currency",
    currency: currency.toUpperCase(),
    minimumFractionDigits: digits,
    maximumFractionDigits: 12,
  }).format(amount);
}

function currencyFormat(currency, signed) {
  return new Intl.NumberFormat(language, {
    style: "currency",
    currency: currency.toUpperCase(),
    signDisplay: signed ? "exceptZero" : "auto",
  });
}

/** Minor units as decimal text, which Intl takes exactly: 1250n, 2 → "12.50". */
function decimal(minor, digits) {
  const sign = minor < 0n ? "-" : "";
  const text = String(minor < 0n ? -minor : minor).padStart(digits + 1, "0");
  return digits ? `${sign}${text.slice(0, -digits)}.${text.slice(-digits)}` : `${sign}${text}`;
}

/** @param {string | number | bigint | null | undefined} value also exact text of any length */
export function number(value) {
  return value == null ? texts.none : new Intl.NumberFormat(language, { maximumFractionDigits: 12 }).format(value);
}

/** @param {string | number | null | undefined} value 12.5 is 12.5 % */
export function percent(value) {
  if (value == null) return texts.none;
  const format = { style: "unit", unit: "percent", maximumFractionDigits: 2 };
  return new Intl.NumberFormat(language, format).format(value);
}

/** @param {string | null | undefined} at an instant of the API */
export function date(at) {
  return at ? dateFormat({ dateStyle: "medium" }).format(new Date(at)) : texts.none;
}

/** @param {string | null | undefined} at */
export function dateTime(at) {
  return at ? dateFormat({ dateStyle: "medium", timeStyle: "short" }).format(new Date(at)) : texts.none;
}

/**
 * From the first to the last day: a period's end is not in it.
 * @param {{start: string, end: string}} period
 */
export function period({ start, end }) {
  return dateFormat({ dateStyle: "medium" }).formatRange(new Date(start), new Date(new Date(end) - 1));
}

function dateFormat(options) {
  return new Intl.DateTimeFormat(language, options);
}
