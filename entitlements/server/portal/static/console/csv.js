// What is on the page as a file for a spreadsheet: the same columns as the command line's exports.

import { button } from "../shared/elements.js";
import { texts } from "./texts.js";

const FORMULA = /^[=+\-@\t\r]/;

/**
 * A button that saves rows as CSV.
 * @param {string} name of the file, without its ending
 * @param {string[]} columns
 * @param {() => Record<string, any>[] | Promise<Record<string, any>[]>} rows by column; others are left empty
 */
export function csvButton(name, columns, rows) {
  return button(texts.csv, async () => save(`${name}.csv`, csv(columns, await rows())), { kind: "quiet" });
}

function csv(columns, rows) {
  const written = [columns, ...rows.map((row) => columns.map((column) => cell(row[column])))];
  return written.map((cells) => cells.map(quoted).join(",")).join("\r\n") + "\r\n";
}

/** Text that a spreadsheet would take for a formula stands behind an apostrophe; a number is none. */
function cell(value) {
  if (value === null || value === undefined) return "";
  if (typeof value === "object") return JSON.stringify(value);
  const text = String(value);
  return FORMULA.test(text) && !/^-?\d+(\.\d+)?$/.test(text) ? `'${text}` : text;
}

function quoted(text) {
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function save(name, text) {
  const url = URL.createObjectURL(new Blob([text], { type: "text/csv;charset=utf-8" }));
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}
