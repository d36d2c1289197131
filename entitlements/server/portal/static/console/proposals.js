// What is proposed, and what was: the newest first.

import { badge, button, h, table } from "../shared/elements.js";
import * as format from "../shared/format.js";
import { texts as shared } from "../shared/texts.js";
import { texts } from "./texts.js";

const PAGE = 50;
const said = texts.proposals;
const tones = { PROPOSED: "warning", APPROVED: "good", PUBLISHED: "good", REJECTED: "bad" };

export async function proposals(api) {
  const found = [];
  const place = h("div", {});

  async function read(after) {
    const { catalogProposals } = await api.ask("Proposals", { first: PAGE, after });
    found.push(...catalogProposals.nodes);
    const { hasNextPage, endCursor } = catalogProposals.pageInfo;
    const columns = [said.reason, said.status, said.proposedBy, said.createdAt, said.effectiveAt, said.decidedBy];
    place.replaceChildren(
      table(said.caption, columns, found.map(row)),
      ...(hasNextPage ? [button(shared.more, () => read(endCursor), { kind: "quiet" })] : []),
    );
  }

  await read(null);
  return place;
}

function row(proposal) {
  return [
    proposal.reason,
    badge(texts.statuses[proposal.status], tones[proposal.status]),
    proposal.proposedBy,
    format.dateTime(proposal.createdAt),
    format.dateTime(proposal.effectiveAt),
    proposal.decidedBy ?? shared.none,
  ];
}
