// The end of a product: what is lost and when, before it is confirmed.

import { card, h, linkButton } from "../shared/elements.js";
import * as format from "../shared/format.js";
import { fill } from "../shared/texts.js";
import { goOn, mayBuy } from "./commit.js";
import { live } from "./live.js";
import { offer, preview, whole } from "./quote.js";
import { texts } from "./texts.js";

const said = texts.cancel;

export async function cancel(api, context) {
  const { viewer, customer } = await api.ask("Ending");
  live(api, context, customer.revision);
  const held = customer.subscriptions.find(({ product }) => product.id === context.params.product);
  if (!held) return h("div", { class: "card stack" }, h("p", {}, said.notHeld), h("div", { class: "actions" }, linkButton(texts.change.back, "/portal")));
  const { id: productId, name } = held.product;
  context.setTitle(fill(said.title, { product: name }));
  if (held.cancelAt) return h("div", { class: "card stack" }, h("p", {}, fill(said.already, { at: format.date(held.cancelAt) })), h("div", { class: "actions" }, linkButton(said.toOverview, "/portal")));
  return h(
    "div",
    { class: "stack narrow" },
    card(
      said.what,
      h("p", {}, said.lead),
      offer(api, {
        quoted: () => preview(api, { productId, cancel: true }),
        show: whole,
        label: () => fill(said.confirm, { product: name }),
        kind: "danger",
        allowed: mayBuy(viewer),
        done: (result) => goOn(context, result, "", fill(said.ended, { product: name })),
      }),
      h("div", { class: "actions" }, linkButton(said.keep, "/portal")),
    ),
  );
}
