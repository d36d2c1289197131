// What customers asked for that staff has to approve first.

import { card, facts, h, table } from "../shared/elements.js";
import * as format from "../shared/format.js";
import { fill, texts as shared } from "../shared/texts.js";
import { buttonWithReason, done } from "./forms.js";
import { paged } from "./loading.js";
import { texts } from "./texts.js";

const PAGE = 50;
const said = texts.waiting;

export async function waiting(api, { reload, href, may }) {
  const read = async (after) => (await api.ask("Waiting", { first: PAGE, after })).changesAwaitingApproval;
  const show = (found) => (found.length ? found.map((each) => change(api, each, reload, href, may("decideChanges"))) : h("p", { class: "card" }, said.nothing));
  const { place } = await paged(read, show);
  return [h("p", {}, may("decideChanges") ? said.way : said.onlyLook), place];
}

function change(api, found, reload, href, mayDecide) {
  const act = (operation, ...wanted) => async (note) => {
    done((await api.ask(operation, { id: found.id, note })).result, ...wanted);
    reload();
  };
  const { customer } = found;
  const lines = found.lines.map((line) => [line.description, line.period ? format.period(line.period) : shared.none, format.money(line.amount)]);
  return card(
    found.description,
    facts([
      [said.customer, h("a", { href: href(`customers/${encodeURIComponent(customer.id)}`) }, customer.name ?? customer.id)],
      [said.asked, fill(texts.proposal.by, { who: found.createdBy, at: format.dateTime(found.createdAt) })],
      [said.effective, format.dateTime(found.effectiveAt)],
      [said.reason, found.reason ?? shared.none],
      [said.total, format.money(found.total)],
      [said.mrrDelta, format.money(found.mrrDelta, { signed: true })],
    ]),
    lines.length > 0 && table(fill(said.linesOf, found), [said.line, said.period, { label: said.amount, number: true }], lines),
    mayDecide &&
      h(
        "div",
        { class: "actions" },
        buttonWithReason(said.approve, {
          title: fill(said.approveTitle, found),
          way: h("p", {}, said.approveWay),
          note: said.approveNote,
          kind: "primary",
          act: act("ApproveChange", "ChangeCommitted", "CheckoutRequired", "PaymentActionRequired"),
        }),
        buttonWithReason(said.decline, { title: fill(said.declineTitle, found), way: h("p", {}, said.declineWay), note: said.declineNote, required: true, kind: "danger", act: act("DeclineChange", "ChangeCommitted") }),
      ),
  );
}
