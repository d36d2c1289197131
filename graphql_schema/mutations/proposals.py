"""Proposing a catalog and deciding on it: the only way for a price to reach customers."""

from typing import Annotated

import strawberry

from graphql_schema.context import Info
from graphql_schema.permissions import Guarded
from graphql_schema.types.errors import Conflict, NotFound, ValidationFailed
from graphql_schema.types.proposals import (
    CatalogProposal,
    ProposeCatalogInput,
    policy_of,
    proposal_type,
)

ProposeCatalogResult = Annotated[
    CatalogProposal | ValidationFailed | Conflict,
    strawberry.union("ProposeCatalogResult", description="The proposal, or why there is none."),
]
DecideProposalResult = Annotated[
    CatalogProposal | Conflict | NotFound | ValidationFailed,
    strawberry.union("DecideProposalResult", description="The proposal, or why nothing was done."),
]
ProposalId = Annotated[strawberry.ID, strawberry.argument(description="The proposal's id.")]


@strawberry.type
class ProposalMutations:
    @strawberry.mutation(
        extensions=[Guarded()],
        description="Propose a whole catalog, on top of the latest approved one. Nothing is sold "
        "otherwise until somebody else approves it. Every mistake in the document is listed, with "
        "its path from `document` on. Conflict: STALE_BASE, see `baseRevision`.",
    )
    async def propose_catalog(
        self,
        info: Info,
        input: Annotated[ProposeCatalogInput, strawberry.argument(description="What and why.")],
    ) -> ProposeCatalogResult:
        row = await info.context.services.catalog.propose(
            info.context.caller.actor,
            input.document,
            input.reason,
            effective_at=input.effective_at,
            policies=[policy_of(policy) for policy in input.policies or ()],
            base_revision=input.base_revision,
        )
        return proposal_type(info.context, row)

    @strawberry.mutation(
        extensions=[Guarded()],
        description="Approve a proposal. It is published at its instant, or in this very answer "
        "if it has none. All others that are open are SUPERSEDED by it. Conflict: OWN_PROPOSAL, "
        "STALE_BASE where another was approved since it was proposed, BEFORE_BASE where that takes "
        "effect later, DECIDED.",
    )
    async def approve_proposal(
        self,
        info: Info,
        id: ProposalId,
        note: Annotated[
            str | None, strawberry.argument(description="For the record; may be left out.")
        ] = None,
    ) -> DecideProposalResult:
        row = await info.context.services.catalog.approve(info.context.caller.actor, id, note)
        info.context.changed()
        return proposal_type(info.context, row)

    @strawberry.mutation(
        extensions=[Guarded()], description="Reject a proposal. Conflict: DECIDED, STALE_BASE."
    )
    async def reject_proposal(
        self,
        info: Info,
        id: ProposalId,
        note: Annotated[str, strawberry.argument(description="Why: it is kept.")],
    ) -> DecideProposalResult:
        row = await info.context.services.catalog.reject(info.context.caller.actor, id, note)
        info.context.changed()
        return proposal_type(info.context, row)
