// A feature that is locked: why, and the way to yes.

import { card, h, linkButton, button } from "../shared/elements.js";
import * as format from "../shared/format.js";
import { fill } from "../shared/texts.js";
import { commit, finished, goOn, mayBuy, startTrial } from "./commit.js";
import { act, live } from "./live.js";
import { texts } from "./texts.js";
import { amount, plural, recurring, valueWords } from "./values.js";

const said = texts.feature;

export async function feature(api, context) {
  const { params, query } = context;
  const featureId = params.feature;
  const more = query.has("more");
  const asked = { featureId, quantity: query.get("quantity") ?? "1", atLeast: query.get("atLeast") };
  let found = await api.ask("LockedFeature", asked);
  if (more && found.access.allowed && found.access.remaining !== null) {
    const quantity = String(BigInt(found.access.remaining) + 1n);
    found = await api.ask("LockedFeature", { ...asked, quantity });
  }
  const { viewer, customer, catalog, access } = found;
  live(api, context, customer.revision);
  const about = catalog.features.find(({ id }) => id === featureId);
  context.setTitle(about?.name ?? said.unknown);
  if (!about) return h("p", { class: "card" }, said.unknownWay);
  const buys = mayBuy(viewer);
  return [
    access.allowed ? open(about, access) : locked(about, access, more),
    !access.allowed && access.unlocks.length > 0 && h("section", { class: "stack" }, h("h2", {}, more ? said.moreWays : said.ways), h("div", { class: "cards" }, access.unlocks.map((unlock, index) => way(api, context, unlock, { customer, buys, first: index === 0, about })))),
    !access.allowed && access.unlocks.length === 0 && noWay(access.reason),
  ];
}

function open(about, { value, used, remaining }) {
  const counted = about.kind === "METERED" && used !== null;
  const words = counted && remaining !== null ? fill(said.openLeft, { remaining: amount(about, remaining) }) : about.kind === "BOOLEAN" ? said.open : fill(said.openWith, { value: valueWords(about, value) });
  return h("section", { class: "card notice good" }, h("h2", {}, said.yes), about.description && h("p", { class: "quiet-text" }, about.description), h("p", {}, words), h("div", { class: "actions" }, linkButton(texts.change.back, "/portal", "quiet")));
}

function locked(about, { reason, value, used }, more) {
  const limit = value?.limit ?? null;
  const has = value && about.kind !== "BOOLEAN" ? fill(used !== null && limit !== null ? said.hasUsed : said.has, { value: valueWords(about, value), used: format.number(used ?? 0) }) : null;
  return h(
    "section",
    { class: "card notice warning" },
    h("h2", {}, more ? said.moreTitle : said.locked),
    about.description && h("p", { class: "quiet-text" }, about.description),
    h("p", {}, more ? said.moreWords : said.reasons[reason]),
    has && h("p", {}, has),
  );
}

function noWay(reason) {
  const way = { SUBSCRIPTION_UNPAID: ["/portal/invoices", said.pay], NO_ACTIVE_SUBSCRIPTION: ["/portal/plans", said.plans] }[reason] ?? ["/portal/plans", said.compare];
  return h("section", { class: "card" }, h("p", {}, said.noWays), h("div", { class: "actions" }, linkButton(way[1], way[0])));
}

function way(api, context, unlock, { customer, buys, first, about }) {
  const { package: offered, quantity, quantities, dueNow, recurringDelta, trialDays, offerToken } = unlock;
  const interval = customer.subscriptions.find((s) => s.product.id === offered.product.id)?.interval ?? "MONTH";
  const path = `features/${encodeURIComponent(about.id)}`;
  const name = quantity > 1 ? fill(texts.overview.times, { name: offered.name, quantity: format.number(quantity) }) : offered.name;
  const words = fill(said.done, { name });
  const levels = quantities.map((level) => fill(said.moreOf, { quantity: format.number(level.quantity), feature: level.feature.name }));
  const buy = () =>
    act(async () => {
      const result = await commit(api, offerToken);
      const outdated = ["QuoteStale", "QuoteExpired"].includes(result.__typename); // the page offers anew
      return outdated ? finished(context, path, texts.failures[result.code], "warning") : goOn(context, result, path, words);
    });
  const chosen = card(
    name,
    h("p", {}, offered.problem ?? offered.useCase ?? offered.description ?? said.kinds[offered.__typename]),
    levels.length > 0 && h("ul", { class: "dots" }, levels.map((level) => h("li", {}, level))),
    h(
      "div",
      { class: "due" },
      h("div", { class: "row" }, h("span", {}, texts.quote.dueNow), h("strong", {}, format.money(dueNow))),
      h("div", { class: "row quiet-text" }, h("span", {}, said.then), h("span", { class: "number" }, recurring(recurringDelta, interval))),
    ),
    buys && button(BigInt(dueNow.amountMinor) > 0n ? fill(said.buy, { amount: format.money(dueNow) }) : said.buyFree, buy, { kind: first ? "primary" : "quiet" }),
    buys && trialDays !== null && button(plural(texts.trials.tryDays, trialDays), () => startTrial(api, context, { id: offered.id, name, path }), { kind: "quiet" }),
  );
  chosen.classList.add("way");
  if (first) chosen.classList.add("featured");
  return chosen;
}
