// A change on its way: what it waits for, and what came of it. The provider's pages lead back here.

import { button, card, facts, h, linkButton } from "../shared/elements.js";
import * as format from "../shared/format.js";
import { fill } from "../shared/texts.js";
import { mayBuy, takeBack } from "./commit.js";
import { lines } from "./quote.js";
import { texts } from "./texts.js";

const said = texts.change;
const LOOK_AGAIN_MS = 1500;

/** A change that is not settled yet. All but those that wait for sales keep the customer from making another. */
export const WAITING = ["PENDING", "AWAITING_PAYMENT", "AWAITING_CHECKOUT", "AWAITING_APPROVAL"];

export async function change(api, context) {
  const { viewer, change: found } = await asked(api, context.params.id);
  if (!found) return h("p", { class: "card" }, said.none);
  context.setTitle(said.titles[found.status]);
  if (WAITING.includes(found.status)) watch(api, context, found);
  return state(api, context, found, mayBuy(viewer));
}

async function asked(api, id) {
  if (id !== "latest") return api.ask("Change", { id });
  const { viewer, customer } = await api.ask("LatestChange");
  return { viewer, change: customer.changes.nodes[0] };
}

function failureWords({ code, message }) {
  const known = said.failures[code] ?? texts.failures[code];
  return known ? fill(known, { why: "" }) : message;
}

/** Look again until it is at another place. */
function watch(api, context, { id, status }) {
  const timer = setInterval(async () => {
    try {
      const { change: now } = await api.ask("Change", { id });
      if (now.status !== status) context.reload();
    } catch {
      // The next look may have an answer; who is signed out is told so.
    }
  }, LOOK_AGAIN_MS);
  context.onLeave(() => clearInterval(timer));
}

function state(api, context, found, buys) {
  const { id, status, description, total, effectiveAt, payment, failure, decisionNote } = found;
  const tone = { APPLIED: "good", FAILED: "bad", CANCELED: "", SCHEDULED: "good" }[status] ?? "warning";
  const words = fill(said.words[status], { at: format.date(status === "AWAITING_PAYMENT" ? payment?.expiresAt : effectiveAt) });
  return h(
    "div",
    { class: "stack narrow" },
    card(
      description,
      h("div", { class: `notice inset ${tone}` }, h("p", {}, words), failure && h("p", {}, failureWords(failure)), decisionNote && h("p", {}, decisionNote)),
      BigInt(total.amountMinor) !== 0n && status !== "APPLIED" && facts([[said.total, format.money(total)]]),
      status === "APPLIED" && found.lines.length > 0 && lines(said.charged, found.lines),
      h(
        "div",
        { class: "actions" },
        buys && payment && h("a", { class: "button primary", href: payment.hostedUrl, target: "_blank", rel: "noopener" }, said.toBank),
        status === "FAILED" && texts.ways[failure?.code] && linkButton(texts.ways[failure.code].label, texts.ways[failure.code].href),
        buys && WAITING.includes(status) && status !== "PENDING" && button(said.giveUp, () => takeBack(api, context, id, said.givenUp), { kind: "quiet" }),
        !WAITING.includes(status) && linkButton(said.back, "/portal", status === "APPLIED" ? "primary" : "quiet"),
      ),
    ),
  );
}
