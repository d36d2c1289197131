// What is proposed, and what was: the newest first.

import { badge, h, table } from "../shared/elements.js";
import * as format from "../shared/format.js";
import { texts as shared } from "../shared/texts.js";
import { field, filters, select } from "./forms.js";
import { paged } from "./loading.js";
import { texts } from "./texts.js";

const PAGE = 50;
const CLOCKS_DIFFER_MS = 60_000;
const said = texts.proposals;
const tones = { PROPOSED: "warning", APPROVED: "good", PUBLISHED: "good", REJECTED: "bad" };

/** From when on it is sold: one that named no instant is sold from its approval on. */
export function effective({ status, effectiveAt }, sandboxClock) {
  const now = sandboxClock ? Date.parse(sandboxClock.now) : Date.now();
  return status === "PROPOSED" && Date.parse(effectiveAt) <= now + CLOCKS_DIFFER_MS ? said.atApproval : format.dateTime(effectiveAt);
}

export const statusBadge = (status) => badge(texts.statuses[status], tones[status]);

export async function proposals(api, { query, go, href }) {
  const status = query.get("status") || null;
  const chosen = select([["", said.all], ...Object.entries(texts.statuses)], status ?? "", { name: "status" });
  const form = filters([field(said.status, chosen)], texts.show, () => go(chosen.value ? `?status=${chosen.value}` : ""));

  let clock = null;
  const read = async (after) => {
    const { catalogProposals, sandboxClock } = await api.ask("Proposals", { status, first: PAGE, after });
    clock = sandboxClock;
    return catalogProposals;
  };
  const columns = [said.reason, said.status, said.proposedBy, said.createdAt, said.effectiveAt, said.decidedBy];
  const { place } = await paged(read, (found) => table(said.caption, columns, found.map((proposal) => row(proposal, clock, href))));
  return [form, place];
}

function row(proposal, clock, href) {
  return [
    h("a", { href: href(`proposals/${proposal.id}`) }, proposal.reason),
    statusBadge(proposal.status),
    proposal.proposedBy,
    format.dateTime(proposal.createdAt),
    effective(proposal, clock),
    proposal.decidedBy ?? shared.none,
  ];
}
