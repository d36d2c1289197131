// A quote: what a change does and costs, and the button that does just that.

import { Failure } from "../shared/api.js";
import { button, facts, h, openDialog, skeleton, told } from "../shared/elements.js";
import * as format from "../shared/format.js";
import { fill } from "../shared/texts.js";
import { commit, goOn, wanted } from "./commit.js";
import { act } from "./live.js";
import { texts } from "./texts.js";
import { mark, valueWords } from "./values.js";

const said = texts.quote;

/** Whether it takes effect with the change, and not at the end of the period. */
const atOnce = ({ effectiveAt, prorationDate }) => new Date(effectiveAt) <= new Date(prorationDate);

/** Ask what a change would do. Throws a `Failure`, with where to do something about it. */
export async function preview(api, input, operation = "Preview") {
  return wanted((await api.ask(operation, { input })).previewChange, "Quote");
}

/** What is due now and what comes next, in few words: enough to press one button by. */
export function inShort(quote) {
  const { nextInvoice, warnings } = quote;
  return h(
    "div",
    { class: "due" },
    h("div", { class: "row" }, h("span", {}, said.dueNow), h("strong", {}, due(quote))),
    credit(quote),
    !atOnce(quote) && h("p", { class: "quiet-text" }, fill(said.later, { at: format.date(quote.effectiveAt) })),
    warnings.map((words) => h("p", { class: "quiet-text" }, words)),
    nextInvoice && h("div", { class: "row quiet-text" }, h("span", {}, fill(said.nextInvoice, { at: format.date(nextInvoice.at) })), h("span", { class: "number" }, format.money(nextInvoice.total))),
  );
}

/** What is due now. A credit that counts until the commit makes it a little less each minute. */
function due({ dueNow, dueNowExact, lines: all }) {
  const moves = !dueNowExact && BigInt(dueNow.amountMinor) > 0n && (!all || all.some(({ kind }) => kind === "CREDIT"));
  return moves ? fill(said.about, { amount: format.money(dueNow) }) : format.money(dueNow);
}

function credit({ creditApplied, creditBalanceAfter }) {
  const positive = ({ amountMinor }) => BigInt(amountMinor) > 0n;
  const words = [
    positive(creditApplied) && fill(said.creditApplied, { amount: format.money(creditApplied) }),
    positive(creditBalanceAfter) && fill(said.creditAfter, { amount: format.money(creditBalanceAfter) }),
  ].filter(Boolean);
  return words.length > 0 && h("p", { class: "quiet-text" }, words.join(" "));
}

/** All of it. */
export function whole(quote) {
  const gained = quote.entitlementChanges.filter((change) => change.better);
  const lost = quote.entitlementChanges.filter((change) => !change.better);
  const today = atOnce(quote);
  const unpriced = quote.approvalRequired && BigInt(quote.recurringAfter.amountMinor) === 0n;
  return h(
    "div",
    { class: "stack" },
    !unpriced && [
      h(
        "div",
        { class: "hero" },
        h("div", {}, h("p", { class: "quiet-text" }, said.dueNow), h("p", { class: "sum" }, due(quote))),
        h("p", { class: "when" }, today ? said.today : fill(said.later, { at: format.date(quote.effectiveAt) })),
      ),
      credit(quote),
    ],
    quote.approvalRequired && notice("warning", unpriced ? said.approvalUnpriced : said.approval),
    quote.usageViolations.length > 0 &&
      notice("bad", said.violations, quote.usageViolations.map(({ feature, used, limitAfter }) => fill(said.violation, { feature: feature.name, used: format.number(used), limit: format.number(limitAfter) }))),
    quote.removedAddOns.length > 0 && notice("warning", said.removed, quote.removedAddOns.map(({ name }) => name)),
    quote.grandfatheringLost.length > 0 &&
      notice("warning", said.grandfathering, quote.grandfatheringLost.map((g) => fill(said.grandfathered, { held: format.money(g.recurring), list: format.money(g.listRecurring) }))),
    warned(quote),
    !unpriced && facts([
      [said.recurring, recurringWords(quote)],
      quote.nextInvoice && [fill(said.nextInvoice, { at: format.date(quote.nextInvoice.at) }), format.money(quote.nextInvoice.total)],
    ].filter(Boolean)),
    !unpriced && quote.lines.length > 0 && lines(said.lines, quote.lines),
    (gained.length > 0 || lost.length > 0) &&
      h("div", { class: "pair" }, changes(said.gained, gained, true), changes(today ? said.lost : fill(said.lostAt, { at: format.date(quote.effectiveAt) }), lost, false)),
  );
}

function recurringWords({ recurringBefore, recurringAfter }) {
  const [before, after] = [format.money(recurringBefore), format.money(recurringAfter)];
  return before === after ? after : fill(said.beforeAfter, { before, after });
}

/** What the service says in sentences, without what is listed already. */
function warned({ warnings, removedAddOns, usageViolations }) {
  const listed = [...removedAddOns.map(({ name }) => `${name} does not fit`), ...usageViolations.map(({ feature }) => `${feature.name}:`)];
  const others = warnings.filter((words) => !listed.some((start) => words.startsWith(start)));
  return others.length > 0 && notice("warning", said.warnings, others);
}

/** @param {string[]} [items] */
export function notice(tone, words, items = []) {
  return h("div", { class: `notice inset ${tone}` }, h("p", {}, words), items.length > 0 && h("ul", { class: "dots" }, items.map((item) => h("li", {}, item))));
}

/** What is charged and credited, line by line, with its sum. */
export function lines(title, all) {
  const sum = all.reduce((total, line) => total + BigInt(line.amount.amountMinor), 0n);
  const { currency } = all[0].amount;
  return h(
    "section",
    { class: "lines" },
    h("h3", {}, title),
    h("ul", {}, all.map(line)),
    h("div", { class: "row total" }, h("span", {}, said.total), h("span", { class: "number" }, format.money({ amountMinor: sum, currency }))),
  );
}

function line({ description, period, amount, allocations = [] }) {
  return h(
    "li",
    {},
    h("div", { class: "row" }, h("span", {}, description), h("span", { class: "number" }, format.money(amount))),
    period && h("span", { class: "quiet-text" }, format.period(period)),
    allocations.length > 0 &&
      h("ul", { class: "allocations", "aria-label": said.allocations }, allocations.map((part) => h("li", { class: "row quiet-text" }, h("span", {}, part.package.name), h("span", { class: "number" }, format.money(part.amount))))),
  );
}

function changes(title, all, better) {
  if (!all.length) return null;
  return h("section", { class: "ticked-part" }, h("h3", {}, title), h("ul", { class: "ticked" }, all.map((change) => h("li", {}, mark(better), h("span", {}, changeWords(change))))));
}

function changeWords({ feature, before, after }) {
  if (feature.kind === "BOOLEAN") return feature.name;
  const values = { feature: feature.name, before: valueWords(feature, before), after: valueWords(feature, after) };
  return fill(before && after ? said.fromTo : said.is, { ...values, value: valueWords(feature, after ?? before) });
}

/**
 * A quote that is fetched, shown, and done by one button. A stale one is replaced by the fresh one,
 * in words; so is one after whose commit nothing was done, so that pressing again is right again.
 * @param {object} options
 * @param {() => Promise<object>} options.quoted fetches the quote
 * @param {(quote: object) => any} options.show
 * @param {(quote: object) => string} options.label of the button
 * @param {(quote: object) => Promise<object>} [options.carryOut] answers the union; else the quote is committed
 * @param {(result: object) => Promise<unknown>} options.done
 * @param {string} [options.kind] of the button
 * @param {boolean} [options.allowed] whether there is a button at all
 */
export function offer(api, { quoted, show, label, carryOut = (quote) => commit(api, quote.token), done, kind = "primary", allowed = true }) {
  const box = h("div", { class: "stack offer" }, skeleton(1));

  function put(quote, error) {
    const trouble = error && h("div", { class: `notice inset ${error.result?.quote ? "warning" : "bad"} trouble`, role: "alert", tabindex: "-1" }, h("p", {}, told(error)));
    const press = () =>
      act(async () => {
        const result = await carryOut(quote);
        if (result.quote) return put(result.quote, new Failure(result.code, result.message, result));
        try {
          await done(result);
        } catch (failure) {
          await load(failure);
        }
      });
    box.replaceChildren(...[trouble, show(quote), allowed && button(label(quote), press, { kind })].filter(Boolean));
    trouble?.focus({ preventScroll: false });
  }

  async function load(failure) {
    try {
      put(await quoted(), failure);
    } catch (error) {
      box.replaceChildren(h("div", { class: `notice inset ${failure ? "bad trouble" : "warning"}`, role: failure ? "alert" : null }, h("p", {}, told(failure ?? error))));
    }
  }

  void load();
  return box;
}

/**
 * A dialog with the whole quote of a change, and the button that makes it.
 * @param {object} input of `previewChange`
 * @param {{title: string, lead?: string, label: string, path: string, words: string, kind?: string, allowed?: boolean}} options
 *   `path` and `words`: where one goes when it is done, and what is told there
 */
export function review(api, context, input, { title, lead, label, path, words, kind, allowed, quoted = () => preview(api, input), carryOut }) {
  openDialog(title, (close) => {
    const done = async (result) => {
      wanted(result, "ChangeCommitted", "PaymentActionRequired", "CheckoutRequired", "ApprovalRequired");
      if (result.__typename !== "CheckoutRequired") close();
      await goOn(context, result, path, words);
    };
    const named = (quote) => (quote.approvalRequired ? said.askForApproval : payWords(quote, label));
    return [lead && h("p", {}, lead), offer(api, { quoted, show: whole, label: named, done, kind, allowed, carryOut })];
  });
}

/** A button's label with what is charged by it. */
export function payWords(quote, label) {
  return BigInt(quote.dueNow.amountMinor) > 0n ? fill(said.labelAndPay, { label, amount: due(quote) }) : label;
}
