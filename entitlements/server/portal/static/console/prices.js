// Which prices a package had: each version, who agreed to it, and who still pays it.

import { badge, card, facts, h, table } from "../shared/elements.js";
import * as format from "../shared/format.js";
import { fill, texts as shared } from "../shared/texts.js";
import { texts } from "./texts.js";
import { amounts, rise, signedPercent } from "./values.js";

const said = texts.prices;

export async function prices(api, { href }) {
  const { catalog } = await api.ask("Packages");
  const rows = ({ plans, addOns, bundles }) =>
    [["plan", plans], ["addOn", addOns], ["bundle", bundles]].flatMap(([kind, packages]) =>
      packages.map((each) => [
        h("a", { href: href(`prices/${encodeURIComponent(each.id)}`) }, each.name),
        said.kinds[kind],
        h("code", {}, each.id),
        format.number(each.version),
        format.date(each.publishedAt),
      ]),
    );
  const columns = [said.package, said.kind, said.id, { label: said.version, number: true }, said.since];
  return [h("p", {}, said.way), catalog.products.map((product) => table(product.name, columns, rows(product)))];
}

export async function priceHistory(api, { params, setTitle, href }) {
  const { priceHistory: versions } = await api.ask("PriceHistory", { packageId: params.package });
  setTitle(fill(said.of, { package: params.package }));
  const entries = versions.map((entry, index) => h("li", {}, version(entry, versions[index + 1], href)));
  return [h("p", {}, h("a", { href: href("prices") }, said.back)), h("ol", { class: "timeline", "aria-label": said.timeline, reversed: true }, entries)];
}

function version(entry, older, href) {
  const { proposal } = entry;
  const mine = [
    [said.sold, entry.endedAt ? format.period({ start: entry.effectiveAt, end: entry.endedAt }) : fill(said.from, { at: format.date(entry.effectiveAt) })],
    [said.subscribers, format.number(entry.subscribers)],
    [said.mrr, amounts(entry.mrr)],
  ];
  if (proposal) {
    mine.push([said.reason, h("a", { href: href(`proposals/${proposal.id}`) }, proposal.reason)]);
    mine.push([said.proposed, fill(texts.proposal.by, { who: proposal.proposedBy, at: format.dateTime(proposal.createdAt) })]);
    if (proposal.decidedBy) mine.push([said.approved, fill(texts.proposal.by, { who: proposal.decidedBy, at: format.dateTime(proposal.decidedAt) })]);
    if (proposal.decisionNote) mine.push([said.note, proposal.decisionNote]);
  }
  const state = entry.endedAt ? badge(said.ended) : badge(said.current, "good");
  return card(fill(said.versionOf, entry), h("div", {}, state), facts(mine), charges(entry, older));
}

function charges(entry, older) {
  const rows = entry.charges.flatMap((charge) => {
    const before = older?.charges.find(({ id }) => id === charge.id);
    return charge.prices.map((price) => {
      const was = before?.prices.find(({ currency, interval }) => currency === price.currency && interval === price.interval);
      const amount = price.flatAmount ?? price.unitAmount;
      const wasAmount = was && (was.flatAmount ?? was.unitAmount);
      return [charge.name, fill(said.intervals[price.interval], { currency: price.currency.toUpperCase() }), priceWords(charge, price), older ? (was ? change(price, was, amount, wasAmount) : said.isNew) : shared.none];
    });
  });
  if (!rows.length) return h("p", { class: "quiet-text" }, said.noPrice);
  return table(fill(said.chargesOf, entry), [said.charge, said.per, { label: said.price, number: true }, { label: said.against, number: true }], rows);
}

function change(price, was, amount, wasAmount) {
  if (price.tiers || was.tiers) return JSON.stringify(price.tiers) === JSON.stringify(was.tiers) ? said.same : said.otherTiers;
  return amount === wasAmount ? said.same : signedPercent(rise(wasAmount, amount));
}

function priceWords({ model, packageSize, includedQuantity, minimumQuantity, quantityFeature }, { currency, flatAmount, unitAmount, tiers }) {
  const unit = quantityFeature?.unit ?? said.unit;
  const words = [];
  if (tiers) words.push(...tiers.map((tier) => tierWords(tier, currency)));
  else if (model === "FLAT") words.push(format.rate(flatAmount, currency));
  else if (model === "PACKAGE") words.push(fill(said.perBlock, { amount: format.rate(unitAmount, currency), size: format.number(packageSize), unit }));
  else words.push(fill(said.perUnit, { amount: format.rate(unitAmount, currency), unit }));
  if (Number(includedQuantity) > 0) words.push(fill(said.included, { quantity: format.number(includedQuantity) }));
  if (minimumQuantity !== null) words.push(fill(said.minimum, { quantity: format.number(minimumQuantity) }));
  return words.map((line) => h("div", {}, line));
}

function tierWords({ upTo, unitAmount, flatAmount }, currency) {
  const amount = Number(flatAmount) ? fill(said.tierFlat, { unit: format.rate(unitAmount, currency), flat: format.rate(flatAmount, currency) }) : format.rate(unitAmount, currency);
  return upTo === null ? fill(said.lastTier, { amount }) : fill(said.tier, { upTo: format.number(upTo), amount });
}
