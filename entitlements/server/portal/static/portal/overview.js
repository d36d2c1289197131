// What the customer holds: plan, price, renewal.

import { badge, card, facts, h } from "../shared/elements.js";
import * as format from "../shared/format.js";
import { fill } from "../shared/texts.js";
import { texts } from "./texts.js";

const said = texts.overview;

export async function overview(api, context) {
  const { customer } = await api.ask("Overview");
  context.onLeave(api.listen("EntitlementsChanged", ({ entitlementsChanged: { revision } }) => {
    if (BigInt(revision) > BigInt(customer.revision)) context.reload();
    return revision;
  }));
  return customer.subscriptions.length
    ? h("div", { class: "cards" }, customer.subscriptions.map(held))
    : h("p", { class: "card" }, said.nothing);
}

function held(subscription) {
  const { plan, product, status, items } = subscription;
  const addOns = items.filter((item) => item.package.__typename !== "Plan");
  const tone = { ACTIVE: "good", TRIALING: "good", PAUSED: "neutral" }[status] ?? "warning";
  return card(
    product.name,
    facts([
      [said.plan, h("strong", { class: "big" }, plan.name)],
      [said.price, price(subscription)],
      [said.status, badge(texts.statuses[status], tone)],
      end(subscription),
      ...(addOns.length ? [[said.addOns, addOns.map(({ package: { name }, quantity }) => (quantity > 1 ? `${name} × ${format.number(quantity)}` : name)).join(", ")]] : []),
    ]),
  );
}

function price({ interval, recurring }) {
  return fill(interval === "YEAR" ? said.perYear : said.perMonth, { amount: format.money(recurring) });
}

function end({ cancelAt, trialEndsAt, status, currentPeriod }) {
  if (cancelAt) return [said.ends, format.date(cancelAt)];
  if (status === "TRIALING" && trialEndsAt) return [said.trialEnds, format.date(trialEndsAt)];
  return [said.renews, format.date(currentPeriod.end)];
}
