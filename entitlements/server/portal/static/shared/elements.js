// Small builders of DOM. Text is always text: nothing here, and nothing in the pages, reads HTML.

import { fill, texts } from "./texts.js";

/**
 * An element. `class`, `for` and `aria-…` are attributes; `onclick` and the like are listeners;
 * `false`, `null` and `undefined` leave an attribute out, `true` sets it empty.
 * @param {string} tag
 * @param {Record<string, any>} [props]
 * @param {...(Node | string | number | null | undefined | false | any[])} children
 * @returns {HTMLElement}
 */
export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  put(element, props);
  element.append(...nodes(children));
  return element;
}

/** The same in SVG: for charts. */
export function svg(tag, props = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  put(element, props);
  element.append(...nodes(children));
  return element;
}

function put(element, props) {
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === false || value == null) continue;
    if (typeof value === "function") element.addEventListener(name.replace(/^on/, ""), value);
    else if (name === "style") for (const [key, said] of Object.entries(value)) element.style.setProperty(key, said);
    else element.setAttribute(name, value === true ? "" : value);
  }
}

function nodes(children) {
  return children
    .flat(Infinity)
    .filter((child) => child !== null && child !== undefined && child !== false)
    .map((child) => (child instanceof Node ? child : document.createTextNode(String(child))));
}

let ids = 0;
/** An id for labels and descriptions. */
export const uniqueId = (prefix = "id") => `${prefix}-${++ids}`;

/** Say something to whoever listens instead of looking. */
export function say(words) {
  document.getElementById("said")?.replaceChildren(words);
}

/**
 * A button that does something which takes a while. It shows progress, cannot be pressed twice, and
 * says beneath itself, in words, what went wrong and what to do.
 * @param {string} label
 * @param {() => Promise<unknown>} act what it throws is shown: a `Failure` by its `words`
 * @param {{kind?: "primary" | "quiet" | "danger", describedBy?: string, type?: string}} [options]
 */
export function button(label, act, { kind = "primary", describedBy, type = "button" } = {}) {
  const problem = h("p", { class: "problem", role: "alert" });
  const words = h("span", {}, label);
  const element = h("button", { class: `button ${kind}`, type, "aria-describedby": describedBy, onclick: press }, words);
  let busy = false;

  async function press(event) {
    event.preventDefault();
    if (busy) return;
    const form = element.form;
    if (form && type === "submit" && !form.reportValidity()) return;
    busy = true;
    problem.replaceChildren();
    element.setAttribute("aria-disabled", "true"); // not `disabled`: the focus stays where it is
    element.setAttribute("aria-busy", "true");
    words.textContent = texts.working;
    say(texts.working);
    try {
      await act();
      say("");
    } catch (error) {
      problem.replaceChildren(...told(error));
      say("");
    } finally {
      busy = false;
      element.removeAttribute("aria-disabled");
      element.removeAttribute("aria-busy");
      words.textContent = label;
    }
  }

  return h("div", { class: "action" }, element, problem);
}

/** What went wrong, for people. */
export function wordsOf(error) {
  if (!error.words) console.error(error);
  return error.words ?? fill(texts.failures.UNKNOWN, { message: error.message });
}

/** The words, and a link to where something can be done about it, if there is one (`error.way`). */
export function told(error) {
  const { way } = error;
  return way ? [wordsOf(error), " ", h("a", { href: way.href }, way.label)] : [wordsOf(error)];
}

/** Where something is still to come: `rows` grey blocks. */
export function skeleton(rows = 3) {
  return h("div", { class: "skeleton", role: "status" }, h("span", { class: "hidden" }, texts.loading), Array.from({ length: rows }, () => h("div", { class: "bone" })));
}

/** A link that looks like a button. */
export function linkButton(label, href, kind = "primary") {
  return h("a", { class: `button ${kind}`, href }, label);
}

/**
 * Ask before something happens. The dialog closes by Escape, by its button, or by `close`.
 * @param {string} title
 * @param {(close: () => void) => any} content
 */
export function openDialog(title, content) {
  const heading = h("h2", { id: uniqueId("dialog"), tabindex: "-1" }, title);
  const dialog = h("dialog", { "aria-labelledby": heading.id, onclose: () => dialog.remove() });
  const close = () => dialog.close();
  const dismiss = h("button", { class: "button quiet", type: "button", onclick: close }, texts.close);
  dialog.append(h("div", { class: "dialog-top" }, heading, dismiss), ...nodes([content(close)]));
  document.body.append(dialog);
  dialog.showModal();
  heading.focus();
  return dialog;
}

/**
 * A table that scrolls by itself where it is wider than the screen.
 * @param {string} caption says what it is; hidden with `quiet`
 * @param {(string | {label: string, number?: boolean})[]} columns
 * @param {any[][]} rows what is in each cell; the first heads its row
 */
export function table(caption, columns, rows, { quiet = false } = {}) {
  const heads = columns.map((column) => (typeof column === "string" ? { label: column } : column));
  const align = (index) => (heads[index]?.number ? "number" : null);
  const id = uniqueId("table");
  return h(
    "div",
    { class: "scroll", role: "region", "aria-labelledby": id, tabindex: "0" },
    h(
      "table",
      {},
      h("caption", { id, class: quiet ? "hidden" : null }, caption),
      h("thead", {}, h("tr", {}, heads.map(({ label }, index) => h("th", { scope: "col", class: align(index) }, label)))),
      h(
        "tbody",
        {},
        rows.length
          ? rows.map((cells) =>
              h("tr", {}, cells.map((cell, index) => h(index ? "td" : "th", { scope: index ? null : "row", class: align(index) }, cell))),
            )
          : h("tr", {}, h("td", { colspan: heads.length }, texts.nothing)),
      ),
    ),
  );
}

/**
 * Parts of a page of which one is seen. Arrow keys, Home and End move between them.
 * @param {string} label
 * @param {{label: string, content: () => any}[]} parts each is built when it is first opened
 */
export function tabs(label, parts) {
  const list = h("div", { role: "tablist", "aria-label": label, class: "tabs", onkeydown: move });
  const made = parts.map((part) => {
    const panel = h("div", { role: "tabpanel", id: uniqueId("panel"), tabindex: "0", hidden: true });
    const tab = h("button", { role: "tab", type: "button", id: uniqueId("tab"), "aria-controls": panel.id, onclick: () => open(tab) }, part.label);
    panel.setAttribute("aria-labelledby", tab.id);
    list.append(tab);
    return { tab, panel, part };
  });

  function open(wanted) {
    for (const { tab, panel, part } of made) {
      const chosen = tab === wanted;
      tab.setAttribute("aria-selected", String(chosen));
      tab.tabIndex = chosen ? 0 : -1;
      panel.hidden = !chosen;
      if (chosen && !panel.hasChildNodes()) panel.append(...nodes([part.content()]));
    }
  }

  function move(event) {
    const now = made.findIndex(({ tab }) => tab === document.activeElement);
    const last = made.length - 1;
    const to = { ArrowRight: now === last ? 0 : now + 1, ArrowLeft: now === 0 ? last : now - 1, Home: 0, End: last }[event.key];
    if (now < 0 || to === undefined) return;
    event.preventDefault();
    open(made[to].tab);
    made[to].tab.focus();
  }

  if (made.length) open(made[0].tab);
  return h("div", {}, list, made.map(({ panel }) => panel));
}

/**
 * How much of a limit is used. `used` and `limit` are exact text or numbers.
 * @param {string} label
 * @param {{used: string | number, limit: string | number, words: string, tone?: "good" | "warning" | "bad"}} said
 */
export function meter(label, { used, limit, words, tone = "good" }) {
  const share = Number(limit) > 0 ? Math.min(100, (100 * Number(used)) / Number(limit)) : Number(used) > 0 ? 100 : 0;
  const id = uniqueId("meter");
  return h(
    "div",
    { class: "metered" },
    h("div", { class: "row" }, h("span", { id }, label), h("span", { class: "quiet-text" }, words)),
    h(
      "div",
      { class: `meter ${tone}`, role: "meter", "aria-labelledby": id, "aria-valuemin": 0, "aria-valuemax": 100, "aria-valuenow": Math.round(share), "aria-valuetext": words },
      svg("svg", { viewBox: "0 0 100 1", preserveAspectRatio: "none", "aria-hidden": "true" }, svg("rect", { width: share, height: 1 })),
    ),
  );
}

/** @param {"neutral" | "good" | "warning" | "bad"} [tone] */
export function badge(label, tone = "neutral") {
  return h("span", { class: `badge ${tone}` }, label);
}

/** A part of a page with its heading. */
export function card(title, ...children) {
  const id = uniqueId("card");
  return h("section", { class: "card", "aria-labelledby": id }, h("h2", { id }, title), ...children);
}

/** Terms and what they are: `[["Plan", "Starter"], …]`. */
export function facts(pairs) {
  return h("dl", { class: "facts" }, pairs.map(([term, said]) => h("div", {}, h("dt", {}, term), h("dd", {}, said))));
}

/** What is seen where something failed, with a way to try again. */
export function failed(error, again) {
  return h("div", { class: "card notice bad", role: "alert" }, h("p", {}, told(error)), again && button(texts.tryAgain, again, { kind: "quiet" }));
}
