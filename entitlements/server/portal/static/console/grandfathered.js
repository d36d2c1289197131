// Who keeps older terms and what that costs; and the migrations that move them.

import { badge, button, card, h, meter, table } from "../shared/elements.js";
import * as format from "../shared/format.js";
import { fill, texts as shared } from "../shared/texts.js";
import { csvButton } from "./csv.js";
import { buttonWithReason, done } from "./forms.js";
import { texts } from "./texts.js";
import { amounts } from "./values.js";

const said = texts.grandfathered;
const tones = { RUNNING: "good", COMPLETED: "good", PAUSED: "warning", ROLLED_BACK: "bad" };

export async function grandfathered(api, { reload, href, may }) {
  const [{ legacyVersions }, { migrations }] = await Promise.all([api.ask("LegacyVersions"), api.ask("Migrations")]);
  const money = (label) => ({ label, number: true });
  const held = legacyVersions.map((each) => [
    may("prices") ? h("a", { href: href(`prices/${encodeURIComponent(each.versionId.split("@")[0])}`) }, each.versionId) : each.versionId,
    format.number(each.customers),
    amounts(each.mrr),
    amounts(each.gapToList),
    each.endsAt ? format.date(each.endsAt) : said.noEnd,
  ]);
  return [
    h("p", {}, said.way),
    table(said.held, [said.version, money(said.customers), money(said.mrr), money(said.gap), said.ends], held),
    h("div", { class: "actions" }, csvButton("grandfathered", COLUMNS, () => rows(legacyVersions))),
    card(said.migrations, migrations.length ? migrations.map((each) => migration(api, each, reload, href, may("migrations"))) : h("p", {}, shared.nothing)),
  ];
}

const COLUMNS = ["version", "customers", "currency", "mrr_minor", "gap_to_list_minor", "ends_at"];

function rows(versions) {
  return versions.flatMap((each) =>
    each.mrr.map(({ currency, amountMinor }) => ({
      version: each.versionId,
      customers: each.customers,
      currency,
      mrr_minor: amountMinor,
      gap_to_list_minor: each.gapToList.find((gap) => gap.currency === currency)?.amountMinor ?? "0",
      ends_at: each.endsAt,
    })),
  );
}

function migration(api, found, reload, href, mayDecide) {
  const { id, fromVersionId, toVersionId, status, customers, moved, failed, proposal } = found;
  const act = (operation) => async (reason) => {
    done((await api.ask(operation, reason === undefined ? { id } : { id, reason })).result, "Migration");
    reload();
  };
  const named = { from: fromVersionId, to: toVersionId };
  return h(
    "section",
    { class: "part", "aria-label": fill(said.fromTo, named) },
    h("div", { class: "row" }, h("h3", {}, fill(said.fromTo, named)), badge(texts.migrations[status], tones[status])),
    h("p", {}, h("a", { href: href(`proposals/${proposal.id}`) }, proposal.reason)),
    meter(said.progress, { used: moved, limit: customers, words: fill(said.moved, { moved: format.number(moved), customers: format.number(customers) }) }),
    failed > 0 && h("p", { class: "problem" }, fill(said.failed, { failed: format.number(failed) })),
    mayDecide &&
      status !== "ROLLED_BACK" &&
      h(
        "div",
        { class: "actions" },
        status === "PAUSED"
          ? button(said.resume, () => act("ResumeMigration")(), { kind: "quiet" })
          : status !== "COMPLETED" && buttonWithReason(said.pause, { title: fill(said.pauseTitle, named), way: h("p", {}, said.pauseWay), note: said.why, required: true, act: act("PauseMigration") }),
        buttonWithReason(said.rollBack, { title: fill(said.rollBackTitle, named), way: h("p", {}, said.rollBackWay), note: said.why, required: true, kind: "danger", act: act("RollBackMigration") }),
      ),
  );
}
