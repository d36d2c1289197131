// Asking people: fields with their labels, and a dialog that asks for a reason before something is done.

import { Failure, expected } from "../shared/api.js";
import { button, h, openDialog, uniqueId } from "../shared/elements.js";
import { texts } from "./texts.js";

/** A control with its label. */
export function field(label, control) {
  control.id ||= uniqueId("field");
  return h("div", { class: "field" }, h("label", { for: control.id }, label), control);
}

/**
 * @param {[string, string][]} options values and what they are called
 * @param {string} [chosen]
 */
export function select(options, chosen, props = {}) {
  return h("select", props, options.map(([value, label]) => h("option", { value, selected: value === chosen }, label)));
}

/**
 * A line of fields with a button that acts on them.
 * @param {HTMLElement[]} fields
 * @param {string} label
 * @param {() => unknown} act
 */
export function filters(fields, label, act) {
  return h("form", { class: "filters no-print" }, fields, button(label, async () => act(), { type: "submit", kind: "quiet" }));
}

/**
 * A button that asks why first.
 * @param {string} label
 * @param {{title: string, way?: any, note: string, required?: boolean, kind?: string, act: (note: string | null) => Promise<unknown>}} asked
 */
export function buttonWithReason(label, { title, way, note, required = false, kind = "quiet", act }) {
  const ask = () =>
    openDialog(title, (close) => {
      const words = h("textarea", { rows: 4, required, maxlength: 2000 });
      const confirm = async () => {
        await act(words.value.trim() || null);
        close();
      };
      const form = h("form", { class: "stack" }, way && h("div", { class: "stack" }, way), field(note, words));
      form.append(button(label.replace(/…$/, ""), confirm, { type: "submit", kind: kind === "danger" ? "danger" : "primary" }));
      return form;
    });
  return h("button", { class: `button ${kind}`, type: "button", onclick: ask }, label);
}

/** As `expected`; what is refused is said with what can be done about it, where the console knows. */
export function done(result, ...wanted) {
  try {
    return expected(result, ...wanted);
  } catch (error) {
    const way = texts.ways[error.code];
    throw way ? new Failure(error.code, `${sentence(error.message)} ${way}`, error.result) : error;
  }
}

function sentence(words) {
  const begun = words.charAt(0).toUpperCase() + words.slice(1);
  return /[.!?]$/.test(begun) ? begun : `${begun}.`;
}
