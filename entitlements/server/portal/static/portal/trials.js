// What is tried: how long still, what to do with it this week, and how it goes on.

import { badge, button, card, h } from "../shared/elements.js";
import * as format from "../shared/format.js";
import { fill } from "../shared/texts.js";
import { Failure } from "../shared/api.js";
import { cancelTrial, convertTrial, mayBuy, startTrial } from "./commit.js";
import { live } from "./live.js";
import { review } from "./quote.js";
import { texts } from "./texts.js";
import { daysLeft, plural, prices } from "./values.js";

const said = texts.trials;

export async function trials(api, context) {
  const { viewer, customer, catalog, sandboxClock } = await api.ask("Trials");
  live(api, context, customer.revision);
  const buys = mayBuy(viewer);
  const running = customer.trials.filter((trial) => trial.status === "ACTIVE");
  const over = customer.trials.filter((trial) => trial.status !== "ACTIVE");
  const open = buys ? triable(customer, catalog) : [];
  return [
    running.length > 0 && h("div", { class: "cards wide" }, running.map((trial) => trialCard(api, context, trial, { buys, sandboxClock, guide: true }))),
    running.length === 0 && (open.length ? h("p", {}, said.noneWay) : h("section", { class: "card empty" }, h("h2", {}, said.none), h("p", {}, said.noneLeft))),
    open.length > 0 && h("section", { class: "stack" }, h("h2", {}, said.open), h("div", { class: "cards" }, open.map((offered) => tryCard(api, context, offered, customer)))),
    over.length > 0 && card(said.over, h("ul", { class: "list" }, over.map(past))),
  ];
}

/**
 * @param {{buys: boolean, sandboxClock: object | null, guide?: boolean}} options `guide`: all of it, not this week's step alone
 */
export function trialCard(api, context, trial, { buys, sandboxClock, guide = false }) {
  const { package: tried, endsAt, atEnd, currentStep, successCriteria } = trial;
  const steps = guide ? (tried.trial?.guide ?? []) : [];
  return card(
    tried.name,
    h("div", { class: "row" }, badge(daysLeft(endsAt, sandboxClock), "good"), h("span", { class: "quiet-text" }, fill(said.until, { at: format.date(endsAt) }))),
    h("p", {}, said.atEnd[atEnd]),
    steps.length > 0 ? allSteps(steps, currentStep) : currentStep && step(currentStep, true),
    successCriteria.length > 0 && h("section", {}, h("h3", {}, said.criteria), h("ul", { class: "dots" }, successCriteria.map((words) => h("li", {}, words)))),
    buys && h("div", { class: "actions" }, button(said.convert, async () => convert(api, context, trial)), button(said.cancel, () => cancelTrial(api, context, { id: trial.id, name: tried.name }), { kind: "quiet" })),
  );
}

function allSteps(steps, current) {
  return h("section", { class: "stack" }, h("h3", {}, said.guide), h("ol", { class: "guide" }, steps.map((one) => h("li", { "aria-current": one.week === current?.week ? "step" : null }, step(one, one.week === current?.week)))));
}

function step({ week, title, body }, now) {
  return h("div", { class: now ? "step now" : "step" }, h("p", { class: "quiet-text" }, fill(now ? said.weekNow : said.week, { week: format.number(week) })), h("p", {}, h("strong", {}, title)), h("p", {}, body));
}

/** The quote of converting now, and the button that does it. */
function convert(api, context, { id, package: { name } }) {
  const quoted = async () => {
    const { customer } = await api.ask("Conversions");
    const { conversion } = customer.trials.find((trial) => trial.id === id) ?? {};
    if (!conversion) throw new Failure("CANNOT_CONVERT", said.cannot);
    return conversion;
  };
  const title = fill(said.convertTitle, { name });
  review(api, context, null, { title, label: said.convertLabel, path: "", words: fill(said.converted, { name }), quoted, carryOut: () => convertTrial(api, id) });
}

/** What has a trial that is open: not tried before, not held, and beside what is held. */
function triable({ subscriptions, trials: tried }, { products }) {
  const before = new Set(tried.map((trial) => trial.package.id));
  return products.flatMap(({ id, plans, addOns, bundles }) => {
    const held = subscriptions.find((subscription) => subscription.product.id === id);
    const items = new Set(held?.items.map((item) => item.package.id));
    const fits = ({ worksWith }) => !worksWith || worksWith.some((plan) => items.has(plan.id));
    const offered = held ? [...addOns.filter(fits), ...bundles] : plans;
    return offered.filter((one) => one.trial && !before.has(one.id) && !items.has(one.id));
  });
}

function tryCard(api, context, offered, { currency, subscriptions }) {
  const { id, __typename, name, description, problem, useCase, trial } = offered;
  const interval = (__typename !== "Plan" && subscriptions.find((s) => s.product.id === offered.product.id)?.interval) || "MONTH";
  return card(
    name,
    (problem ?? useCase ?? description) && h("p", {}, problem ?? useCase ?? description),
    h("p", { class: "quiet-text" }, terms(offered, currency, interval)),
    h("div", { class: "actions" }, button(tryWords(trial), () => startTrial(api, context, { id, name }), { kind: "quiet" }), __typename !== "Plan" && h("a", { class: "subtle", href: `/portal/add-ons/${encodeURIComponent(id)}` }, said.more)),
  );
}

/** What happens at the end, and whether a card is needed. */
export function terms(offered, currency, interval) {
  const { atEnd, requiresPaymentMethod } = offered.trial;
  const [cost] = prices(offered, currency, interval);
  return [fill(said.terms[atEnd], { price: `${cost.main} ${cost.rest}` }), requiresPaymentMethod ? said.cardNeeded : said.cardNotNeeded].join(" ");
}

export const tryWords = ({ days }) => plural(said.tryDays, days);

function past({ package: { name }, status, startedAt, endsAt }) {
  return h("li", { class: "row" }, h("span", {}, name), h("span", { class: "quiet-text" }, `${texts.trialStatuses[status]} · ${format.period({ start: startedAt, end: endsAt })}`));
}
