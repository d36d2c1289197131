// One proposal: what it changes, what it is worth, and the decision. Printed, it can be filed.

import { badge, button, card, facts, h, table } from "../shared/elements.js";
import * as format from "../shared/format.js";
import { fill, texts as shared } from "../shared/texts.js";
import { steps } from "./charts.js";
import { csvButton } from "./csv.js";
import { buttonWithReason, done } from "./forms.js";
import { later } from "./loading.js";
import { effective, statusBadge } from "./proposals.js";
import { texts } from "./texts.js";
import { amounts, difference, readable, signedPercent } from "./values.js";

const said = texts.proposal;
const PRICE = /\.prices\.([a-z]{3})\.(?:month|year)$/;

export async function proposal(api, { params, setTitle, reload, href, may }) {
  const { catalogProposal: found, sandboxClock } = await api.ask("Proposal", { id: params.id });
  if (!found) return h("p", { class: "card" }, fill(said.unknown, params));
  setTitle(found.reason);
  const open = found.status === "PROPOSED";
  return [
    h("p", { class: "no-print" }, h("a", { href: href("") }, said.back)),
    head(found, sandboxClock),
    found.notes.length > 0 && notes(found.notes),
    card(said.worth, later(async () => impact((await api.ask("ProposalImpact", { id: found.id })).catalogProposal.impact, found, href))),
    card(said.changes, diffs(found.diff)),
    card(said.policies, policies(found)),
    open && may("decideProposals") && decision(api, found, reload),
    open && !may("decideProposals") && h("p", { class: "quiet-text no-print" }, said.notYours),
  ];
}

function head(found, clock) {
  const pairs = [
    [said.status, statusBadge(found.status)],
    [said.proposed, fill(said.by, { who: found.proposedBy, at: format.dateTime(found.createdAt) })],
    [said.effective, effective(found, clock)],
    [said.revisions, found.publishedRevision ? fill(said.fromTo, { from: found.baseRevision, to: found.publishedRevision }) : fill(said.onTopOf, { from: found.baseRevision })],
  ];
  if (found.decidedBy) pairs.push([found.status === "REJECTED" ? said.rejected : said.approved, fill(said.by, { who: found.decidedBy, at: format.dateTime(found.decidedAt) })]);
  if (found.decisionNote) pairs.push([said.note, found.decisionNote]);
  pairs.push([said.id, h("code", {}, found.id)]);
  const print = button(said.print, async () => window.print(), { kind: "quiet" });
  return h("section", { class: "card", "aria-label": said.about }, facts(pairs), h("div", { class: "actions" }, print));
}

function notes(issues) {
  return h(
    "section",
    { class: "card notice warning", "aria-label": said.notes },
    h("h2", {}, said.notes),
    h("ul", { class: "list" }, issues.map(({ path, message }) => h("li", {}, path.length ? h("strong", {}, `${path.join(".")}: `) : null, message))),
  );
}

// ── what it changes ──────────────────────────────────────────────────────────

function diffs(all) {
  if (!all.length) return h("p", {}, said.nothingChanges);
  const groups = new Map();
  for (const each of all) groups.set(each.packageId, [...(groups.get(each.packageId) ?? []), each]);
  return [...groups].map(([packageId, differences]) => {
    const rows = differences.map((each) => [
      h("span", { class: "path" }, place(each), each.wording && [" ", badge(said.wording)]),
      shown(each, each.before),
      shown(each, each.after),
      each.kind === "CHANGED" ? rise(each) : badge(texts.differences[each.kind], each.kind === "REMOVED" ? "warning" : "good"),
    ]);
    const columns = [said.what, { label: said.before, number: true }, { label: said.after, number: true }, { label: said.change, number: true }];
    return table(packageId ?? said.wholeCatalog, columns, rows);
  });
}

/** Where in its package: the last parts of the path. */
function place({ path, packageId }) {
  const parts = path.split(".");
  const at = packageId ? parts.indexOf(packageId) : -1;
  return (at >= 0 && at < parts.length - 1 ? parts.slice(at + 1) : parts).join(" › ");
}

function shown({ path }, value) {
  const currency = PRICE.exec(path)?.[1];
  if (currency && typeof value === "string") return format.rate(value, currency);
  return typeof value === "string" ? h("div", { class: "words" }, value) : readable(value);
}

function rise({ risePercent }) {
  return risePercent === null ? texts.differences.CHANGED : signedPercent(risePercent);
}

function policies({ policies: named }) {
  return [
    named.length > 0 && h("ul", { class: "list" }, named.map((each) => h("li", {}, h("strong", {}, each.packageId), ": ", policyWords(each)))),
    h("p", { class: "quiet-text" }, said.othersKeep),
  ];
}

function policyWords({ price, entitlements, until, renewals, maxIncreasePercent, noticeDays }) {
  const values = { until: format.date(until), renewals: format.number(renewals) };
  const words = [fill(said.price, { when: fill(texts.policies[price], values) }), fill(said.grants, { when: fill(texts.policies[entitlements], values) })];
  if (maxIncreasePercent !== null) words.push(fill(said.cap, { percent: format.percent(maxIncreasePercent) }));
  if (noticeDays) words.push(fill(said.notice, { days: format.number(noticeDays) }));
  return words.join(" ");
}

// ── what it is worth ─────────────────────────────────────────────────────────

function impact(found, { id, status }, href) {
  const money = (label) => ({ label, number: true });
  const final = found.mrrSteps.length ? found.mrrSteps[found.mrrSteps.length - 1].mrr : found.mrrNow;
  const currencies = found.mrrNow.map(({ currency }) => currency);
  return [
    h("div", { class: "figures" }, [
      figure(said.mrrNow, amounts(found.mrrNow)),
      figure(said.mrrAfter, amounts(final)),
      figure(said.delta, amounts(difference(found.mrrNow, final), { signed: true })),
      figure(said.affected, format.number(found.customersAffected)),
      figure(said.stays, format.number(found.staysGrandfathered)),
    ]),
    h("p", { class: "quiet-text" }, fill(status === "PROPOSED" ? said.computed : said.asSigned, { at: format.dateTime(found.computedAt) })),
    found.mrrSteps.length > 0 && currencies.map((currency) => stepChart(found, currency)),
    table(
      said.steps,
      [said.from, money(said.mrr), money(said.againstNow)],
      [[said.now, amounts(found.mrrNow), shared.none], ...found.mrrSteps.map(({ at, mrr }) => [format.date(at), amounts(mrr), amounts(difference(found.mrrNow, mrr), { signed: true })])],
    ),
    table(
      said.versions,
      [said.held, said.becomes, money(said.customers), said.policy, money(said.capped), money(said.uncapped)],
      found.versions.map((each) => [
        each.versionId,
        each.toVersionId,
        format.number(each.customers),
        fill(said.policyShort, { price: texts.policyNames[each.policy], grants: texts.policyNames[each.entitlementsPolicy] }),
        amounts(each.mrrDelta, { signed: true }),
        amounts(each.uncappedMrrDelta, { signed: true }),
      ]),
    ),
    table(
      said.packages,
      [said.package, money(said.mrrNow), money(said.mrrAfter), money(said.delta)],
      found.packages.map(({ packageId, mrrNow, mrrAfter }) => [packageId, amounts(mrrNow), amounts(mrrAfter), amounts(difference(mrrNow, mrrAfter), { signed: true })]),
    ),
    found.mostAffected.length > 0 &&
      table(
        said.most,
        [said.customer, money(said.mrrNow), money(said.mrrAfter), money(said.delta), said.moves],
        found.mostAffected.map(({ customer, mrrBefore, mrrAfter, movesAt }) => [
          h("a", { href: href(`customers/${encodeURIComponent(customer.id)}`) }, customer.name ?? customer.id),
          format.money(mrrBefore),
          format.money(mrrAfter),
          amounts(difference([mrrBefore], [mrrAfter]), { signed: true }),
          format.date(movesAt),
        ]),
      ),
    h("div", { class: "actions" }, csvButton(`impact-${id}`, COLUMNS, () => rows(found)), h("p", { class: "quiet-text no-print" }, fill(said.wholeFile, { id }))),
  ];
}

function figure(label, value) {
  return h("div", {}, h("p", { class: "quiet-text" }, label), h("div", { class: "big" }, value));
}

function stepChart({ computedAt, mrrNow, mrrSteps }, currency) {
  const minor = (moneys) => Number(moneys.find((money) => money.currency === currency)?.amountMinor ?? 0);
  const points = [{ at: Date.parse(computedAt), value: minor(mrrNow) }, ...mrrSteps.map(({ at, mrr }) => ({ at: Date.parse(at), value: minor(mrr) }))];
  return steps(fill(said.chart, { currency: currency.toUpperCase() }), points, {
    value: (amountMinor) => format.money({ amountMinor, currency }),
    at: (at) => format.date(at),
  });
}

/** As `entitlements catalog impact` writes them. */
const COLUMNS = ["kind", "at", "package", "to", "policy", "customer", "customers", "currency", "mrr_minor", "delta_minor", "uncapped_delta_minor"];

function rows({ computedAt, mrrNow, mrrSteps, versions, packages, mostAffected }) {
  const minor = (moneys, currency) => moneys.find((money) => money.currency === currency)?.amountMinor ?? "0";
  const less = (after, before) => String(BigInt(after) - BigInt(before));
  return [
    ...mrrNow.map(({ currency, amountMinor }) => ({ kind: "now", at: computedAt, currency, mrr_minor: amountMinor })),
    ...mrrSteps.flatMap(({ at, mrr }) => mrr.map(({ currency, amountMinor }) => ({ kind: "step", at, currency, mrr_minor: amountMinor, delta_minor: less(amountMinor, minor(mrrNow, currency)) }))),
    ...versions.flatMap((each) => {
      const base = { kind: "version", package: each.versionId, to: each.toVersionId, policy: each.policy.toLowerCase(), customers: each.customers };
      if (!each.mrrDelta.length) return [{ ...base, delta_minor: 0, uncapped_delta_minor: 0 }];
      return each.mrrDelta.map(({ currency, amountMinor }) => ({ ...base, currency, delta_minor: amountMinor, uncapped_delta_minor: minor(each.uncappedMrrDelta, currency) }));
    }),
    ...packages.flatMap((each) => each.mrrNow.map(({ currency, amountMinor }) => ({ kind: "package", package: each.packageId, currency, mrr_minor: amountMinor, delta_minor: less(minor(each.mrrAfter, currency), amountMinor) }))),
    ...mostAffected.map(({ customer, mrrBefore, mrrAfter, movesAt }) => ({ kind: "customer", at: movesAt, customer: customer.id, currency: mrrBefore.currency, mrr_minor: mrrBefore.amountMinor, delta_minor: less(mrrAfter.amountMinor, mrrBefore.amountMinor) })),
  ];
}

// ── the decision ─────────────────────────────────────────────────────────────

function decision(api, found, reload) {
  const act = (operation, field) => async (note) => {
    done((await api.ask(operation, { id: found.id, note }))[field], "CatalogProposal");
    reload();
  };
  return h(
    "section",
    { class: "card no-print", "aria-label": said.decide },
    h("h2", {}, said.decide),
    h("p", {}, said.decideWay),
    h(
      "div",
      { class: "actions" },
      buttonWithReason(said.approve, { title: said.approveTitle, way: h("p", {}, fill(said.approveWay, { reason: found.reason })), note: said.approveNote, kind: "primary", act: act("ApproveProposal", "approveProposal") }),
      buttonWithReason(said.reject, { title: said.rejectTitle, way: h("p", {}, said.rejectWay), note: said.rejectNote, required: true, kind: "danger", act: act("RejectProposal", "rejectProposal") }),
    ),
  );
}
