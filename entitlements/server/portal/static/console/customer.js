// A customer's story: what they held, paid and were refused, and why, at any instant since they came.

import { badge, button, card, facts, failed, h, openDialog, say, table, tabs } from "../shared/elements.js";
import * as format from "../shared/format.js";
import { fill, texts as shared } from "../shared/texts.js";
import { field } from "./forms.js";
import { entries } from "./ledger.js";
import { later, paged } from "./loading.js";
import { texts } from "./texts.js";
import { granted } from "./values.js";

const PAGE = 100;
const DAY_MS = 86_400_000;
const PAUSE_MS = 150; // who holds an arrow key down means the last instant
const said = texts.customer;

export async function customer(api, { params, query, setTitle, href, may }) {
  const [{ customer: found, sandboxClock }, changes] = await Promise.all([api.ask("Customer", params), changesOf(api, params.id)]);
  if (!found || !changes) return h("p", { class: "card" }, fill(said.unknown, params));
  setTitle(found.name ? fill(said.named, found) : found.id);
  const now = Date.parse(sandboxClock?.now ?? new Date().toISOString());
  const first = Date.parse(found.createdAt);
  const asked = Date.parse(query.get("at") ?? "") || now;
  const story = { at: Math.max(first, Math.min(asked, now)), changed: [] };
  const then = h("div", { class: "stack" });
  const until = later(async () => past(api, found, story, changes, may));

  let turn = 0;
  async function show(at) {
    const mine = ++turn;
    story.at = at;
    await new Promise((resume) => setTimeout(resume, PAUSE_MS));
    if (mine !== turn) return;
    const address = at === now ? location.pathname : `?at=${new Date(at).toISOString()}`;
    globalThis.history.replaceState(null, "", address);
    then.setAttribute("aria-busy", "true");
    const place = await held(api, found.id, at);
    if (mine !== turn) return;
    then.replaceChildren(...place);
    then.removeAttribute("aria-busy");
    for (const redraw of story.changed) redraw();
    say(fill(said.shown, { at: format.dateTime(new Date(at)) }));
  }

  const slider = instants(first, now, story.at, changes.moments, show);
  await held(api, found.id, story.at).then(
    (place) => then.replaceChildren(...place),
    (error) => then.replaceChildren(failed(error)), // the rest of the story can be told
  );
  return [h("p", {}, h("a", { href: href("customers") }, said.back)), about(found), card(said.when, slider), then, h("section", { "aria-label": said.until, class: "stack" }, h("h2", {}, said.until), until)];
}

function about(found) {
  const { paymentMethod } = found;
  return h(
    "section",
    { class: "card", "aria-label": said.about },
    facts([
      [said.id, found.id],
      [said.email, found.email ?? shared.none],
      [said.since, format.dateTime(found.createdAt)],
      [said.card, paymentMethod ? fill(said.cardWords, paymentMethod) : shared.none],
      [said.credit, format.money(found.creditBalance)],
      [said.provider, found.providerId ?? shared.none],
    ]),
  );
}

// ── the instant ──────────────────────────────────────────────────────────────

/**
 * A slider by days, an exact field, and steps from one change to the next.
 * @param {number} first when the customer came
 * @param {number} now
 * @param {number} at
 * @param {() => number[]} moments when something changed, in order
 * @param {(at: number) => Promise<void>} show
 */
function instants(first, now, at, moments, show) {
  const days = Math.max(1, Math.ceil((now - first) / DAY_MS));
  const instant = (day) => Math.min(first + day * DAY_MS, now);
  const dayOf = (to) => (to === now ? days : Math.round((to - first) / DAY_MS));
  const words = h("output", { class: "big" });
  const slider = h("input", { type: "range", min: 0, max: days, step: 1, oninput: () => put(instant(Number(slider.value))), onchange: () => go(instant(Number(slider.value))) });
  const exact = h("input", { type: "datetime-local", step: 1, onchange: () => exact.value && go(Math.min(now, Math.max(first, new Date(exact.value).getTime()))) });
  const problem = h("p", { class: "problem", role: "alert" });
  let current = at;

  function put(to) {
    current = to;
    words.textContent = to === now ? fill(said.now, { at: format.dateTime(new Date(to)) }) : format.dateTime(new Date(to));
    slider.setAttribute("aria-valuetext", words.textContent);
  }

  async function go(to) {
    put(to);
    slider.value = dayOf(to);
    exact.value = local(to);
    problem.replaceChildren();
    try {
      await show(to);
    } catch (error) {
      problem.replaceChildren(error.words ?? String(error));
    }
  }

  const jump = async (to) => to !== undefined && go(to);
  put(at);
  slider.value = dayOf(at);
  exact.value = local(at);
  return [
    words,
    field(said.slider, slider),
    h("div", { class: "row quiet-text", "aria-hidden": "true" }, h("span", {}, format.date(new Date(first))), h("span", {}, format.date(new Date(now)))),
    h(
      "div",
      { class: "actions at-end" },
      button(said.earlier, () => jump(moments().findLast((each) => each < current)), { kind: "quiet" }),
      button(said.later, () => jump(moments().find((each) => each > current) ?? now), { kind: "quiet" }),
      field(said.exact, exact),
    ),
    problem,
  ];
}

/** For a `datetime-local` field: the reader's clock, to the second. */
function local(at) {
  const date = new Date(at);
  return new Date(at - date.getTimezoneOffset() * 60_000).toISOString().slice(0, 19);
}

// ── what was held then ───────────────────────────────────────────────────────

async function held(api, id, at) {
  const { customer: found } = await api.ask("CustomerThen", { id, at: new Date(at).toISOString() });
  const { subscriptions, entitlements } = found.asOf;
  return [
    card(said.held, subscriptions.length ? subscriptions.map(subscription) : h("p", {}, said.heldNothing)),
    table(said.granted, [said.feature, said.value, said.sources], entitlements.map(({ feature, value, sources }) => [feature.name, granted(value, feature.unit), sources.map(source)])),
  ];
}

function subscription({ product, status, interval, currentPeriod, cancelAt, recurring, mrr, items, quantities }) {
  const lines = items.map(({ package: { name, versionId }, quantity, recurring: each }) => [name, h("code", {}, versionId), format.number(quantity), format.money(each)]);
  const pairs = [
    [said.status, badge(texts.subscriptions[status], status === "ACTIVE" || status === "TRIALING" ? "good" : "warning")],
    [said.period, format.period(currentPeriod)],
    [said.recurring, fill(interval === "YEAR" ? said.perYear : said.perMonth, { amount: format.money(recurring) })],
    [said.mrr, format.money(mrr)],
  ];
  if (cancelAt) pairs.push([said.ends, format.date(cancelAt)]);
  for (const { feature, quantity } of quantities) pairs.push([feature.name, format.number(quantity)]);
  return h(
    "section",
    { class: "part", "aria-label": product.name },
    h("h3", {}, product.name),
    facts(pairs),
    table(fill(said.items, { product: product.name }), [said.package, said.version, { label: said.quantity, number: true }, { label: said.price, number: true }], lines),
  );
}

function source({ kind, quantity, package: found, endsAt }) {
  const name = found ? `${found.name} (${found.versionId})` : null;
  const times = quantity > 1 ? ` × ${format.number(quantity)}` : "";
  const words = name ? `${texts.sources[kind]}: ${name}${times}` : texts.sources[kind];
  return h("div", {}, endsAt ? fill(said.sourceUntil, { source: words, at: format.date(endsAt) }) : words);
}

// ── what had happened until then ─────────────────────────────────────────────

async function changesOf(api, id) {
  let known = true;
  let draw = () => [];
  const read = async (after) => {
    const { customer: found } = await api.ask("CustomerChanges", { id, first: PAGE, after });
    known = found !== null;
    return found?.changes ?? { nodes: [], pageInfo: { hasNextPage: false } };
  };
  const list = await paged(read, (nodes) => draw(nodes));
  const instantsOf = ({ createdAt, effectiveAt, status }) => [createdAt, status === "APPLIED" ? effectiveAt : createdAt].map((at) => Date.parse(at));
  const moments = () => [...new Set(list.found.flatMap(instantsOf))].sort((a, b) => a - b);
  return known ? { ...list, moments, drawnBy: (how) => ((draw = how), list.redraw()) } : null;
}

async function past(api, found, story, changes, may) {
  const until = (instant) => Date.parse(instant) <= story.at;
  const live = (draw) => {
    const place = h("div", {});
    const redraw = () => place.replaceChildren(draw());
    story.changed.push(redraw);
    redraw();
    return place;
  };
  changes.drawnBy((nodes) => changeTable(nodes.filter(({ createdAt }) => until(createdAt))));
  story.changed.push(changes.redraw);

  async function invoices() {
    const read = async (after) => (await api.ask("CustomerInvoices", { id: found.id, first: PAGE, after })).customer.invoices;
    const list = await paged(read, (nodes) => invoiceTable(api, nodes.filter(({ createdAt }) => until(createdAt))));
    story.changed.push(list.redraw);
    return list.place;
  }

  async function ledger() {
    const filter = () => ({ stream: `customer:${found.id}`, to: new Date(story.at + 1000).toISOString() });
    const read = async (after) => (await api.ask("Ledger", { filter: filter(), first: PAGE, after })).auditEntries;
    const place = h("div", {});
    const again = async () => place.replaceChildren((await paged(read, (nodes) => entries(nodes))).place);
    story.changed.push(again);
    await again();
    return place;
  }

  const denied = () => live(() => denials(found.denials.filter(({ day }) => until(day))));
  const parts = [
    { label: said.changes, content: () => changes.place },
    { label: said.invoices, content: () => later(invoices) },
    { label: said.refused, content: denied },
    { label: said.trials, content: () => live(() => trials(found.trials.filter(({ startedAt }) => until(startedAt)))) },
    { label: said.overrides, content: () => overrides(found.overrides) },
  ];
  if (may("ledger")) parts.push({ label: said.ledger, content: () => later(ledger) });
  return tabs(said.until, parts);
}

function changeTable(changes) {
  const rows = changes.map((each) => [
    format.dateTime(each.createdAt),
    [each.description, each.failure && h("div", { class: "problem" }, each.failure.message)],
    badge(texts.changes[each.status], { APPLIED: "good", FAILED: "bad", CANCELED: "neutral" }[each.status] ?? "warning"),
    each.createdBy,
    why(each),
    format.dateTime(each.effectiveAt),
    format.money(each.total),
    format.money(each.mrrDelta, { signed: true }),
  ]);
  const columns = [said.at, said.change, said.status, said.who, said.why, said.effective, { label: said.total, number: true }, { label: said.mrrDelta, number: true }];
  return table(said.changesCaption, columns, rows);
}

function why({ reason, decidedBy, decisionNote }) {
  const words = [reason, decidedBy && fill(said.decided, { who: decidedBy }), decisionNote].filter(Boolean);
  return words.length ? words.map((line) => h("div", {}, line)) : shared.none;
}

function denials(found) {
  const rows = found.map(({ day, feature, reason, count, lastAt }) => [format.dateTime(lastAt ?? day), feature.name, texts.denials[reason], format.number(count)]);
  return table(said.refusedCaption, [said.lastAt, said.feature, said.why, { label: said.times, number: true }], rows);
}

function trials(found) {
  const rows = found.map(({ package: { name, versionId }, status, startedAt, endsAt, atEnd }) => [name, h("code", {}, versionId), texts.trials[status], format.date(startedAt), format.date(endsAt), texts.trialEnds[atEnd]]);
  return table(said.trialsCaption, [said.package, said.version, said.status, said.began, said.ends, said.atEnd], rows);
}

function overrides(found) {
  const rows = found.map(({ feature, mode, value, reason, createdBy, createdAt, endsAt }) => [
    feature.name,
    fill(texts.modes[mode], { value: granted(value) }),
    reason,
    createdBy,
    format.dateTime(createdAt),
    endsAt ? format.dateTime(endsAt) : said.untilEnded,
  ]);
  return table(said.overridesCaption, [said.feature, said.value, said.why, said.who, said.at, said.ends], rows);
}

// ── what was paid, and why ───────────────────────────────────────────────────

function invoiceTable(api, invoices) {
  const rows = invoices.map((each) => [
    each.number ?? each.id,
    format.date(each.createdAt),
    texts.invoices[each.status] ?? each.status,
    format.money(each.total),
    format.money(each.amountPaid),
    h("button", { class: "link", type: "button", "aria-label": fill(said.linesOf, { invoice: each.number ?? each.id }), onclick: () => openInvoice(api, each) }, said.lines),
  ]);
  const columns = [said.invoice, said.at, said.status, { label: said.total, number: true }, { label: said.paid, number: true }, said.lines];
  return table(said.invoicesCaption, columns, rows);
}

function openInvoice(api, invoice) {
  const dialog = openDialog(fill(said.linesOf, { invoice: invoice.number ?? invoice.id }), () => {
    const explanation = h("div", { class: "stack", role: "status" });
    const explain = (line) => async () => explanation.replaceChildren(...explained((await api.ask("ExplainCharge", { invoiceId: invoice.id, line })).explainCharge, invoice.lines[line]));
    const rows = invoice.lines.map((line, index) => [line.description, line.period ? format.period(line.period) : shared.none, format.money(line.amount), button(fill(said.explain, { line: index + 1 }), explain(index), { kind: "quiet" })]);
    return [table(said.linesCaption, [said.line, said.period, { label: said.amount, number: true }, said.why], rows), explanation];
  });
  dialog.classList.add("wide");
}

function explained(found, line) {
  if (!found) return [h("p", {}, said.notExplained)];
  return [
    h("h3", {}, line.description),
    h("ol", { class: "list numbered" }, found.steps.map((step) => h("li", {}, step))),
    found.computed && facts([[said.computed, format.money(found.computed)]]),
  ].filter(Boolean);
}
