// Invoices: what each is for, and paying one that is open.

import { badge, button, h, openDialog } from "../shared/elements.js";
import * as format from "../shared/format.js";
import { fill, texts as shared } from "../shared/texts.js";
import { finished, mayBuy, payInvoice } from "./commit.js";
import { live } from "./live.js";
import { lines } from "./quote.js";
import { texts } from "./texts.js";

const said = texts.invoices;
const PAGE = 20;
const LOOK_AGAIN_MS = 2000;
const TONES = { paid: "good", open: "warning", uncollectible: "bad" };

export async function invoices(api, context) {
  const { viewer, customer } = await api.ask("Invoices", { first: PAGE });
  live(api, context, customer.revision);
  const buys = mayBuy(viewer);
  if (!customer.invoices.nodes.length) return h("section", { class: "card empty" }, h("h2", {}, said.none), h("p", {}, said.noneWay));
  const list = h("ul", { class: "invoices" });
  const more = h("div", {});
  const put = ({ nodes, pageInfo }) => {
    list.append(...nodes.map((invoice) => h("li", {}, shown(api, context, invoice, buys))));
    const next = async () => put((await api.ask("Invoices", { first: PAGE, after: pageInfo.endCursor })).customer.invoices);
    more.replaceChildren(...(pageInfo.hasNextPage ? [button(shared.more, next, { kind: "quiet" })] : []));
  };
  put(customer.invoices);
  const balance = BigInt(customer.creditBalance.amountMinor);
  return [
    balance !== 0n && h("p", { class: "card" }, fill(balance > 0n ? said.credit : said.carried, { amount: format.money({ ...customer.creditBalance, amountMinor: balance < 0n ? -balance : balance }) })),
    list,
    more,
  ];
}

function shown(api, context, invoice, buys) {
  const { number, status, createdAt, total, amountDue, amountPaid, lines: all, hostedUrl } = invoice;
  const differs = amountDue.amountMinor !== total.amountMinor;
  return h(
    "details",
    { class: "card invoice", open: status === "open" },
    h(
      "summary",
      {},
      h("span", { class: "who" }, h("h2", {}, number ?? said.noNumber), h("span", { class: "quiet-text" }, format.date(createdAt))),
      badge(said.statuses[status] ?? status, TONES[status]),
      h("strong", { class: "number" }, format.money(total)),
    ),
    h(
      "div",
      { class: "stack" },
      all.length > 0 && lines(said.lines, all),
      differs && h("p", { class: "quiet-text" }, fill(said.due, { due: format.money(amountDue), paid: format.money(amountPaid) })),
      h("div", { class: "actions" }, buys && status === "open" && payButton(api, context, invoice), hostedUrl && h("a", { class: "button quiet", href: hostedUrl, target: "_blank", rel: "noopener" }, said.hosted)),
    ),
  );
}

/** Pays an open invoice; where the bank asks for the customer it says so, and waits for them. */
export function payButton(api, context, { id, number, amountDue }) {
  const path = location.pathname.slice("/portal".length).replace(/^\//, "");
  const paid = () => finished(context, path, fill(said.paid, { amount: format.money(amountDue), number: number ?? "" }));
  return button(fill(said.pay, { amount: format.money(amountDue) }), async () => {
    const hostedUrl = await payInvoice(api, id);
    if (hostedUrl === null) return paid();
    openDialog(said.bankTitle, (close) => {
      const timer = setInterval(async () => {
        try {
          const { customer } = await api.ask("Invoices", { first: PAGE });
          if (customer.invoices.nodes.find((one) => one.id === id)?.status !== "paid") return;
          close();
          await paid();
        } catch {
          // The next look may have an answer.
        }
      }, LOOK_AGAIN_MS);
      document.addEventListener("close", () => clearInterval(timer), { capture: true, once: true });
      return [h("p", {}, said.bank), h("div", { class: "actions" }, h("a", { class: "button primary", href: hostedUrl, target: "_blank", rel: "noopener" }, texts.change.toBank))];
    });
  });
}
