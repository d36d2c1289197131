// What is charged, and another card by the provider's page.

import { button, card, h } from "../shared/elements.js";
import { fill } from "../shared/texts.js";
import * as format from "../shared/format.js";
import { mayBuy, saveCard } from "./commit.js";
import { payButton } from "./invoices.js";
import { live } from "./live.js";
import { texts } from "./texts.js";

const said = texts.payment;
const BEFORE = "payment-method-before";
const LOOK_AGAIN_MS = 1000;
const LOOKS = 8;

export async function payment(api, context) {
  const { viewer, customer } = await api.ask("PaymentMethod");
  live(api, context, customer.revision);
  const buys = mayBuy(viewer);
  const { paymentMethod: method } = customer;
  const open = customer.invoices.nodes.filter((invoice) => invoice.status === "open");
  const go = () => {
    sessionStorage.setItem(BEFORE, JSON.stringify(method));
    return saveCard(api);
  };
  return h(
    "div",
    { class: "stack narrow" },
    context.query.has("returned") && cameBack(api, context, method),
    card(
      method ? said.charged : said.none,
      method ? face(method) : h("p", {}, said.noneWay),
      buys && h("div", { class: "actions" }, button(method ? said.change : said.add, go)),
      h("p", { class: "quiet-text" }, said.where),
    ),
    buys && open.map((invoice) => card(fill(said.open, { number: invoice.number ?? "" }), h("p", {}, fill(said.openWay, { amount: format.money(invoice.amountDue) })), h("div", { class: "actions" }, payButton(api, context, invoice)))),
  );
}

function face({ brand, last4, expires }) {
  return h("div", { class: "face" }, h("strong", {}, (brand ?? said.account).toUpperCase()), h("span", { class: "digits" }, fill(said.ending, { last4: last4 ?? "" })), expires && h("span", { class: "quiet-text" }, fill(said.expires, { expires })));
}

/** What came of it: the provider tells us of a card a moment after it lets the customer go. */
function cameBack(api, context, method) {
  const before = sessionStorage.getItem(BEFORE);
  if (before === null) return null;
  const words = h("p", {});
  const box = h("div", { class: "card notice", role: "status" }, words);
  const put = (text, tone) => {
    words.textContent = text;
    box.className = `card notice ${tone}`;
  };
  if (method && JSON.stringify(method) !== before) {
    put(fill(said.saved, { brand: method.brand ?? "", last4: method.last4 ?? "" }), "good");
    return box;
  }
  put(said.waiting, "");
  let looks = 0;
  const timer = setInterval(async () => {
    looks += 1;
    try {
      const { customer } = await api.ask("PaymentMethod");
      if (JSON.stringify(customer.paymentMethod) !== before) return context.reload();
    } catch {
      // The next look may have an answer.
    }
    if (looks < LOOKS) return;
    clearInterval(timer);
    put(method ? said.unchanged : said.notSaved, "warning");
  }, LOOK_AGAIN_MS);
  context.onLeave(() => clearInterval(timer));
  return box;
}
