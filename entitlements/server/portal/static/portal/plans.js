// The plans side by side, and the change from one to another.

import { badge, button, h, table } from "../shared/elements.js";
import * as format from "../shared/format.js";
import { fill } from "../shared/texts.js";
import { mayBuy, startTrial } from "./commit.js";
import { live } from "./live.js";
import { review } from "./quote.js";
import { texts } from "./texts.js";
import { tryWords } from "./trials.js";
import { levelCharge, mark, prices, soldBy, valueWords, yearlySaving } from "./values.js";

const said = texts.plans;

export async function plans(api, context) {
  const { viewer, customer, catalog } = await api.ask("Plans");
  live(api, context, customer.revision);
  const { products } = catalog;
  const { query } = context;
  const product = products.find(({ id }) => id === query.get("product")) ?? products.find(({ id }) => customer.subscriptions.some((s) => s.product.id === id)) ?? products[0];
  if (!product) return h("p", { class: "card" }, said.none);
  const held = customer.subscriptions.find((s) => s.product.id === product.id);
  const { comparePlans } = await api.ask("Compare", { productId: product.id });
  const tried = new Set(customer.trials.map((trial) => trial.package.id));
  const offers = { api, context, product, held, currency: customer.currency, buys: mayBuy(viewer), tried };
  const shelf = h("div", { class: "cards plans" });
  const put = (interval) => shelf.replaceChildren(...product.plans.map((plan) => offered(offers, plan, interval)));
  const first = query.get("interval") ?? held?.interval ?? "MONTH";
  put(first);
  return [
    h("div", { class: "row" }, products.length > 1 && choice(products, product), intervals(product, customer.currency, first, put)),
    shelf,
    held && offers.buys && levels(offers),
    comparison(comparePlans),
  ];
}

function choice(products, chosen) {
  return h("nav", { "aria-label": said.products }, h("ul", { class: "segments" }, products.map(({ id, name }) => h("li", {}, h("a", { href: `/portal/plans?product=${encodeURIComponent(id)}`, "aria-current": id === chosen.id ? "page" : null }, name)))));
}

/** Monthly or yearly; what the year saves stands beside it. */
function intervals(product, currency, first, put) {
  const savings = product.plans.map((plan) => yearlySaving(plan, currency)).filter(Boolean);
  const most = savings.sort((a, b) => Number(b) - Number(a))[0];
  const choose = (interval) => {
    const query = new URLSearchParams(location.search);
    query.set("interval", interval);
    history.replaceState(null, "", `${location.pathname}?${query}`);
    put(interval);
  };
  const option = (interval, label) =>
    h("label", {}, h("input", { type: "radio", name: "interval", value: interval, checked: interval === first, onchange: () => choose(interval) }), h("span", {}, label));
  return h("fieldset", { class: "segments" }, h("legend", { class: "hidden" }, said.interval), option("MONTH", said.monthly), option("YEAR", [said.yearly, most && h("em", {}, fill(said.saveUpTo, { percent: format.percent(most) }))]));
}

function offered(offers, plan, interval) {
  const { api, context, product, held, currency, buys, tried } = offers;
  const current = held?.plan.id === plan.id;
  const all = prices(plan, currency, interval);
  const [main, ...others] = all;
  const saving = interval === "YEAR" && yearlySaving(plan, currency);
  const sold = soldBy(plan, currency, interval);
  const level = !current && levelCharge(plan);
  const count = level && quantityField(level, said.howMany);
  const wanted = () => ({ productId: product.id, planId: plan.id, interval, ...(count && { quantities: [{ featureId: level.quantityFeature.id, quantity: count.value() }] }) });
  const name = plan.name;
  const ask = async () => review(api, context, wanted(), options(offers, plan, interval));
  const same = current && held.interval === interval;
  const heading = h("h2", { id: `plan-${plan.id}` }, name);
  return h(
    "section",
    { class: current ? "card featured plan" : "card plan", "aria-labelledby": heading.id },
    h("div", { class: "row" }, heading, current && badge(said.yours, "good")),
    plan.description && h("p", { class: "quiet-text" }, plan.description),
    h(
      "div",
      {},
      main ? h("p", { class: "price" }, h("strong", {}, main.main), " ", h("span", {}, main.rest)) : h("p", { class: "price" }, h("strong", {}, said.onRequest)),
      others.map((price) => h("p", { class: "quiet-text" }, `+ ${price.main} ${price.rest}`)),
      saving && h("p", { class: "saving" }, fill(said.save, { percent: format.percent(saving) })),
    ),
    h(
      "div",
      { class: "stack end" },
      count?.element,
      !sold && plan.selfServe && h("p", { class: "quiet-text" }, interval === "YEAR" ? said.notYearly : said.notMonthly),
      buys && sold && !same && button(label(offers, plan, interval), ask, { kind: current || lower(held, plan) || !plan.selfServe ? "quiet" : "primary" }),
      buys && sold && !held && plan.trial && !tried.has(plan.id) && button(tryWords(plan.trial), () => startTrial(api, context, { id: plan.id, name, interval }), { kind: "quiet" }),
      same && h("p", { class: "quiet-text" }, said.nothingToDo),
    ),
  );
}

const lower = (held, plan) => held && plan.rank < held.plan.rank;

function label({ held }, plan, interval) {
  if (!plan.selfServe) return fill(said.ask, { plan: plan.name });
  if (!held) return fill(said.start, { plan: plan.name });
  if (held.plan.id === plan.id) return interval === "YEAR" ? said.toYear : said.toMonth;
  return fill(lower(held, plan) ? said.downgrade : said.upgrade, { plan: plan.name });
}

function options({ held }, plan, interval) {
  const values = { plan: plan.name };
  if (held?.plan.id === plan.id) return { title: label({ held }, plan, interval), label: said.confirm, path: "", words: said.intervalDone };
  if (!plan.selfServe) return { title: label({ held }, plan, interval), label: said.confirm, path: "", words: fill(said.done, values) };
  if (lower(held, plan)) return { title: fill(said.downgradeTitle, values), lead: said.downgradeLead, label: fill(said.downgrade, values), path: "", words: fill(said.done, values) };
  return { title: fill(held ? said.upgradeTitle : said.startTitle, values), label: said.confirm, path: "", words: fill(said.done, values) };
}

/** A number of seats or the like to buy: `value()` is it. */
export function quantityField(charge, words, now) {
  const id = `quantity-${charge.quantityFeature.id}-${charge.id}`;
  const least = charge.minimumQuantity && BigInt(charge.minimumQuantity) > 0n ? charge.minimumQuantity : "1";
  const input = h("input", { id, type: "number", inputmode: "numeric", min: "1", step: "1", required: true, value: now ?? least });
  return { element: h("div", { class: "field" }, h("label", { for: id }, fill(words, { feature: charge.quantityFeature.name })), input), value: () => input.value, input };
}

/** More or fewer of the levels that are bought, such as seats. */
function levels({ api, context, product, held, buys }) {
  const plan = product.plans.find(({ id }) => id === held.plan.id);
  const charge = plan && levelCharge(plan);
  if (!charge || !buys) return null;
  const { id: featureId, name } = charge.quantityFeature;
  const now = held.quantities.find(({ feature }) => feature.id === featureId)?.quantity;
  const count = quantityField(charge, said.levelNow, now);
  const input = () => ({ productId: product.id, quantities: [{ featureId, quantity: count.value() }] });
  const ask = async () => review(api, context, input(), { title: fill(said.levelTitle, { feature: name, quantity: format.number(count.value()) }), label: said.confirm, path: "", words: fill(said.levelDone, { feature: name }) });
  return h("form", { class: "card", novalidate: false, onsubmit: (event) => event.preventDefault() }, h("h2", {}, fill(said.levels, { feature: name })), h("div", { class: "inline" }, count.element, button(said.seeCost, ask, { kind: "quiet", type: "submit" })));
}

function comparison({ plans: all, rows }) {
  return h(
    "section",
    { class: "stack compare" },
    h("h2", {}, said.compare),
    table(said.compare, [said.feature, ...all.map((plan) => plan.name)], rows.map(({ feature, cells }) => [
      [feature.name, feature.description && h("span", { class: "quiet-text" }, ` ${feature.description}`)],
      ...cells.map((cell) => compared(feature, cell)),
    ]), { quiet: true }),
  );
}

function compared(feature, { included, value, viaAddOns }) {
  const via = viaAddOns.length > 0 && (!included || feature.kind !== "BOOLEAN") && h("details", { class: "via" }, h("summary", {}, included ? said.moreByAddOn : said.byAddOn), h("ul", {}, viaAddOns.map(({ id, name }) => h("li", {}, h("a", { href: `/portal/add-ons/${encodeURIComponent(id)}` }, name)))));
  const words = included && feature.kind !== "BOOLEAN" ? valueWords(feature, value) : mark(included);
  return [words, via];
}
