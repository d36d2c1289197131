"""Reading changes of the catalog on their way."""

from functools import partial
from typing import Annotated

import strawberry

from graphql_schema.context import Info
from graphql_schema.permissions import Guarded
from graphql_schema.types.pages import After, First, page
from graphql_schema.types.proposals import (
    CatalogProposal,
    CatalogProposalConnection,
    ProposalStatus,
    proposal_type,
)


@strawberry.type
class ProposalQueries:
    @strawberry.field(
        extensions=[Guarded()], description="A proposed catalog; null if there is no such."
    )
    async def catalog_proposal(
        self,
        info: Info,
        id: Annotated[strawberry.ID, strawberry.argument(description="The proposal's id.")],
    ) -> CatalogProposal | None:
        row = await info.context.services.catalog.proposal(id)
        return None if row is None else proposal_type(info.context, row)

    @strawberry.field(extensions=[Guarded()], description="Proposed catalogs, newest first.")
    async def catalog_proposals(
        self,
        info: Info,
        status: Annotated[
            ProposalStatus | None,
            strawberry.argument(description="Only those that have come so far; all if left out."),
        ] = None,
        first: First = 50,
        after: After = None,
    ) -> CatalogProposalConnection:
        load = partial(info.context.services.catalog.proposals, status and status.value)
        rows, page_info = await page(load, first, after, cursor=lambda row: row.id)
        return CatalogProposalConnection(
            nodes=[proposal_type(info.context, row) for row in rows], page_info=page_info
        )
