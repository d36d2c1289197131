// What can be held beside a plan: bought by one click, with what it costs in sight before it.

import { badge, button, h, linkButton, skeleton } from "../shared/elements.js";
import * as format from "../shared/format.js";
import { fill } from "../shared/texts.js";
import { commit, goOn, mayBuy, startTrial } from "./commit.js";
import { live } from "./live.js";
import { inShort, offer, payWords, preview, review } from "./quote.js";
import { texts } from "./texts.js";
import { terms, tryWords } from "./trials.js";
import { grantWords, prices, ticked } from "./values.js";

const said = texts.addOns;

export async function addOns(api, context) {
  const { customer: billed } = await api.ask("Billed");
  const interval = billed.subscriptions[0]?.interval ?? "MONTH";
  const { viewer, customer, catalog } = await api.ask("AddOns", { currency: billed.currency, interval });
  live(api, context, customer.revision);
  if (!customer.subscriptions.length) return h("section", { class: "card empty" }, h("h2", {}, said.planFirst), h("p", {}, said.planFirstWay), h("div", { class: "actions" }, linkButton(texts.overview.choose, "/portal/plans")));
  const products = catalog.products.filter((product) => customer.subscriptions.some((s) => s.product.id === product.id) && product.addOns.length + product.bundles.length > 0);
  if (!products.length) return h("p", { class: "card" }, said.none);
  const shop = { api, context, customer, buys: mayBuy(viewer) };
  const order = Object.keys(said.kinds);
  return products.map(({ id, bundles, addOns: singles, name }) =>
    h(
      "section",
      { class: "stack", "aria-labelledby": `product-${id}` },
      h("p", { id: `product-${id}`, class: products.length > 1 ? "quiet-text" : "hidden" }, name),
      h("div", { class: "cards" }, [...bundles, ...singles.toSorted((a, b) => order.indexOf(a.kind) - order.indexOf(b.kind))].map((one) => shown(one, shop))),
    ),
  );
}

/** An add-on's or a bundle's own page. */
export async function addOn(api, context) {
  const { customer: billed } = await api.ask("Billed");
  const interval = billed.subscriptions[0]?.interval ?? "MONTH";
  const found = await api.ask("AddOn", { id: context.params.id, currency: billed.currency, interval });
  const one = found.addOn ?? found.bundle;
  live(api, context, found.customer.revision);
  if (!one) return h("p", { class: "card" }, said.notSold);
  context.setTitle(one.name);
  return h("div", { class: "stack narrow" }, shown(one, { api, context, customer: found.customer, buys: mayBuy(found.viewer), alone: true }), h("p", {}, h("a", { href: "/portal/add-ons" }, said.all)));
}

function shown(one, shop) {
  const { customer, alone } = shop;
  const subscription = customer.subscriptions.find((s) => s.product.id === one.product.id);
  const held = subscription?.items.find((item) => item.package.id === one.id)?.quantity ?? 0;
  const trial = customer.trials.find((t) => t.package.id === one.id && t.status === "ACTIVE");
  const interval = subscription?.interval ?? "MONTH";
  const [cost, ...others] = prices(one, customer.currency, interval);
  const main = h("strong", {}, cost?.main);
  if (others.length) void inAll(shop.api, one, customer.currency, interval).then((total) => main.replaceChildren(total));
  const path = `/portal/add-ons/${encodeURIComponent(one.id)}`;
  const heading = h("h2", { id: `sold-${one.id}` }, alone ? said.about : h("a", { href: path }, one.name));
  const lead = one.problem ?? one.useCase ?? one.description;
  return h(
    "section",
    { class: held ? "card sold featured" : "card sold", "aria-labelledby": heading.id },
    h("p", { class: "kind" }, one.components ? said.bundle : said.kinds[one.kind]),
    h("div", { class: "row" }, heading, held > 0 && badge(held > 1 ? fill(said.heldTimes, { quantity: format.number(held) }) : said.held, "good"), trial && badge(said.onTrial, "good")),
    lead && h("p", { class: "lead" }, lead),
    one.audience && h("p", { class: "quiet-text" }, fill(said.audience, { audience: one.audience })),
    ticked(contents(one)),
    h(
      "div",
      {},
      cost ? h("p", { class: "price small" }, main, " ", h("span", {}, cost.rest)) : h("p", { class: "price small" }, texts.plans.onRequest),
      one.saving && BigInt(one.saving.amount.amountMinor) > 0n && h("p", { class: "saving" }, fill(interval === "YEAR" ? said.savingYear : said.savingMonth, { amount: format.money(one.saving.amount), percent: format.percent(one.saving.percent) })),
      one.requires?.length > 0 && h("p", { class: "quiet-text" }, fill(said.requires, { names: names(one.requires) })),
    ),
    h("div", { class: "stack end" }, ways(one, shop, { subscription, held, trial })),
  );
}

/** What a bundle of several charges comes to: only the service knows how many of each it has. */
async function inAll(api, { id }, currency, interval) {
  try {
    const { estimate } = await api.ask("Estimate", { input: { bundles: [{ id }], currency, interval } });
    return format.money(estimate.total);
  } catch {
    return texts.plans.onRequest;
  }
}

function contents({ components, entitlements }) {
  if (components) return components.map(({ quantity, package: part }) => (quantity > 1 ? fill(texts.overview.times, { name: part.name, quantity: format.number(quantity) }) : part.name));
  return entitlements.map(grantWords);
}

const names = (packages) => new Intl.ListFormat(texts.language).format(packages.map(({ name }) => name));

function ways(one, shop, { subscription, held, trial }) {
  const { api, context, customer, buys } = shop;
  if (!subscription) return h("p", { class: "quiet-text" }, fill(said.otherProduct, { product: one.product.name }));
  const fits = !one.worksWith || one.worksWith.some(({ id }) => id === subscription.plan.id);
  if (!fits && !held) return [h("p", { class: "quiet-text" }, fill(said.worksWith, { plans: names(one.worksWith) })), h("a", { href: "/portal/plans" }, said.comparePlans)];
  if (trial) return linkButton(said.seeTrial, "/portal/trials", "quiet");
  const { interval } = subscription;
  const tried = customer.trials.some((t) => t.package.id === one.id);
  const most = one.__typename === "Bundle" ? 1 : one.maxQuantity;
  const more = most === null || held < most;
  return [
    more && buy(one, shop, held, most),
    more && held === 0 && buys && one.trial && !tried && h("div", { class: "stack tight" }, button(tryWords(one.trial), () => startTrial(api, context, one), { kind: "quiet" }), h("p", { class: "quiet-text" }, terms(one, customer.currency, interval))),
    held > 0 && buys && button(held > 1 ? said.removeAll : said.remove, async () => remove(one, shop), { kind: "danger" }),
  ];
}

const input = (one, quantity) => ({ productId: one.product.id, [one.__typename === "Bundle" ? "bundles" : "addOns"]: [{ id: one.id, quantity }] });

/** The price comes when the card does; on a page of its own one can say how many. */
function buy(one, { api, context, buys, alone }, held, most) {
  const box = h("div", { class: "offer-space" }, skeleton(1));
  const path = alone ? `add-ons/${encodeURIComponent(one.id)}` : "add-ons";
  const put = (count) =>
    box.replaceChildren(
      offer(api, {
        quoted: () => preview(api, input(one, held + count), "PreviewInShort"),
        show: inShort,
        label: (quote) => (quote.approvalRequired ? texts.quote.askForApproval : payWords(quote, held ? said.buyMore : said.buy)),
        carryOut: (quote) => commit(api, quote.token),
        done: (result) => goOn(context, result, path, fill(said.bought, { name: one.name })),
        allowed: buys,
      }),
    );
  const chosen = alone && (most === null || most - held > 1) && howMany(most === null ? 1000 : most - held, put);
  whenSeen(box, () => put(1));
  return [chosen, box];
}

function howMany(most, put) {
  let timer;
  const input = h("input", { id: "how-many", type: "number", inputmode: "numeric", min: "1", max: most, step: "1", value: "1", oninput: () => {
    clearTimeout(timer);
    if (input.checkValidity() && input.value) timer = setTimeout(() => put(Number(input.value)), 300);
  } });
  return h("div", { class: "field" }, h("label", { for: "how-many" }, said.howMany), input);
}

function whenSeen(element, act) {
  const observer = new IntersectionObserver((entries) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    observer.disconnect();
    act();
  }, { rootMargin: "200px" });
  observer.observe(element);
}

function remove(one, { api, context, buys }) {
  const values = { name: one.name };
  review(api, context, input(one, 0), { title: fill(said.removeTitle, values), lead: said.removeLead, label: said.removeConfirm, kind: "danger", path: "", words: fill(said.removed, values), allowed: buys });
}
