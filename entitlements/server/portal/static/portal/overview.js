// What the customer holds, what waits, what is used of it, and what has to be done.

import { badge, button, card, facts, h, linkButton, meter } from "../shared/elements.js";
import * as format from "../shared/format.js";
import { fill } from "../shared/texts.js";
import { WAITING } from "./change.js";
import { mayBuy, takeBack } from "./commit.js";
import { payButton } from "./invoices.js";
import { live } from "./live.js";
import { texts } from "./texts.js";
import { trialCard } from "./trials.js";
import { amount, recurring } from "./values.js";

const said = texts.overview;
const IN_ARREARS = ["PAST_DUE", "UNPAID", "INCOMPLETE"];

export async function overview(api, context) {
  const { viewer, customer, sandboxClock } = await api.ask("Overview");
  live(api, context, customer.revision);
  const buys = mayBuy(viewer);
  const { subscriptions, trials } = customer;
  const tried = trials.filter((trial) => trial.status === "ACTIVE");
  const waiting = customer.changes.nodes.find((change) => WAITING.includes(change.status));
  const meters = customer.entitlements.filter((e) => e.feature.kind === "METERED" && (e.used !== null || e.value.limit !== null));
  return [
    waiting && unsettled(waiting),
    subscriptions.filter((s) => IN_ARREARS.includes(s.status)).map((s) => arrears(api, context, s, customer, buys)),
    subscriptions.length ? h("div", { class: "cards" }, subscriptions.map((s) => held(api, context, s, buys, tried))) : nothingHeld(buys),
    tried.length > 0 && part(said.trials, tried.map((trial) => trialCard(api, context, trial, { buys, sandboxClock }))),
    meters.length > 0 && usage(meters),
    BigInt(customer.creditBalance.amountMinor) > 0n && h("p", { class: "card notice good" }, fill(said.credit, { amount: format.money(customer.creditBalance) })),
  ];
}

const part = (title, cards) => h("section", { class: "stack" }, h("h2", {}, title), h("div", { class: "cards" }, cards));

function nothingHeld(buys) {
  return h("section", { class: "card empty" }, h("h2", {}, said.nothing), h("p", {}, said.nothingWay), buys && h("div", { class: "actions" }, linkButton(said.choose, "/portal/plans")));
}

/** A change that is not settled: nothing else can be bought until it is. */
function unsettled(change) {
  return h(
    "section",
    { class: "card notice warning" },
    h("h2", {}, texts.change.titles[change.status]),
    h("p", {}, change.description),
    h("div", { class: "actions" }, linkButton(said.goOn, `/portal/changes/${change.id}`)),
  );
}

function arrears(api, context, { id, status, product, graceEndsAt }, { invoices, paymentMethod }, buys) {
  const open = invoices.nodes.filter((invoice) => invoice.status === "open" && invoice.subscription?.id === id);
  const heading = h("h2", { id: `arrears-${id}` }, fill(said.arrears[status], { product: product.name }));
  return h(
    "section",
    { class: "card notice bad", "aria-labelledby": heading.id },
    heading,
    h("p", {}, graceEndsAt ? fill(said.grace, { at: format.date(graceEndsAt) }) : said.noGrace),
    h("p", {}, paymentMethod ? said.arrearsWay : said.arrearsWayNoCard),
    buys && h("div", { class: "actions" }, open.map((invoice) => payButton(api, context, invoice)), linkButton(said.changeCard, "/portal/payment-method", "quiet")),
  );
}

function held(api, context, subscription, buys, tried) {
  const { plan, product, status, items, scheduledChanges, cancelAt, quantities } = subscription;
  const addOns = items.filter((item) => item.package.__typename !== "Plan");
  const tone = { ACTIVE: "good", TRIALING: "good", PAUSED: "neutral" }[status] ?? "warning";
  const ending = scheduledChanges.find(({ change }) => change.direction === "CANCELLATION");
  const others = scheduledChanges.filter((scheduled) => scheduled !== ending);
  const onTrial = status === "TRIALING" && tried.some((trial) => trial.package.id === plan.id);
  return card(
    product.name,
    h(
      "div",
      { class: "held" },
      h("div", { class: "row" }, h("strong", { class: "big" }, plan.name), badge(texts.statuses[status], tone)),
      plan.description && h("p", { class: "quiet-text" }, plan.description),
    ),
    facts([
      [said.price, recurring(subscription.recurring, subscription.interval)],
      end(subscription),
      ...quantities.map(({ feature, quantity }) => [feature.name, format.number(quantity)]),
      ...(addOns.length ? [[said.addOns, h("ul", {}, addOns.map((item) => h("li", {}, addOnWords(item, subscription))))]] : []),
      ...items.filter((item) => item.grandfathered).map((item) => [item.package.name, oldPrice(item.grandfathered)]),
    ]),
    cancelAt && h("div", { class: "notice inset warning" }, h("p", {}, fill(said.endsOn, { at: format.date(cancelAt) })), buys && ending && button(said.keep, () => takeBack(api, context, ending.id, said.kept), { kind: "quiet" })),
    others.map((scheduled) => scheduledNotice(api, context, scheduled, buys)),
    buys && h("div", { class: "actions" }, linkButton(said.change, `/portal/plans?product=${encodeURIComponent(product.id)}`, "quiet"), !cancelAt && !onTrial && h("a", { class: "subtle", href: `/portal/cancel/${encodeURIComponent(product.id)}` }, said.cancel)),
  );
}

function addOnWords({ package: { id, name }, quantity, recurring: money }, { interval, status }) {
  const words = quantity > 1 ? fill(said.times, { name, quantity: format.number(quantity) }) : name;
  return [h("a", { href: `/portal/add-ons/${encodeURIComponent(id)}` }, words), status === "TRIALING" ? null : h("span", { class: "quiet-text" }, ` ${recurring(money, interval)}`)];
}

function oldPrice({ movesAt, recurring: held, listRecurring }) {
  const values = { held: format.money(held), list: format.money(listRecurring), at: format.date(movesAt) };
  return fill(movesAt ? said.grandfatheredUntil : said.grandfathered, values);
}

function scheduledNotice(api, context, { id, description, effectiveAt }, buys) {
  return h(
    "div",
    { class: "notice inset" },
    h("p", {}, fill(said.scheduled, { what: description, at: format.date(effectiveAt) })),
    buys && button(said.takeBack, () => takeBack(api, context, id, fill(said.takenBack, { what: description })), { kind: "quiet" }),
  );
}

function end({ cancelAt, trialEndsAt, status, currentPeriod }) {
  if (cancelAt) return [said.ends, format.date(cancelAt)];
  if (status === "TRIALING" && trialEndsAt) return [said.trialEnds, format.date(trialEndsAt)];
  return [said.renews, format.date(currentPeriod.end)];
}

// ── use ──────────────────────────────────────────────────────────────────────

function usage(all) {
  return card(said.usage, h("div", { class: "meters" }, all.map(used)));
}

function used({ feature, value, used: count, resetsAt }) {
  const now = count ?? "0";
  if (value.unlimited) return h("div", { class: "row" }, h("span", {}, feature.name), h("span", { class: "quiet-text" }, fill(said.ofUnlimited, { used: amount(feature, now) })));
  const share = Number(value.limit) > 0 ? (100 * Number(now)) / Number(value.limit) : 100;
  const full = BigInt(now) >= BigInt(value.limit);
  const warning = Math.max(0, ...(value.warnAtPercent ?? []).filter((percent) => share >= percent));
  const words = fill(said.usedOf, { used: format.number(now), limit: amount(feature, value.limit) });
  const note = full ? fill(value.overage ? said.overLimit : said.atLimit, { feature: feature.name }) : warning ? fill(said.warning, { percent: format.percent(warning) }) : null;
  return h(
    "div",
    { class: "use" },
    meter(feature.name, { used: now, limit: value.limit, words, tone: full && !value.overage ? "bad" : warning || full ? "warning" : "good" }),
    h(
      "p",
      { class: "quiet-text" },
      [note, resetsAt && fill(said.resets, { at: format.date(resetsAt) })].filter(Boolean).join(" "),
      note && " ",
      note && h("a", { href: `/portal/features/${encodeURIComponent(feature.id)}?more=1` }, said.getMore),
    ),
  );
}
