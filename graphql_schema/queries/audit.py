"""Reading the ledger, and proving it."""

from typing import Annotated

import strawberry

from entitlements.audit import ledger, seals
from entitlements.audit.tables import AuditEntryRow
from graphql_schema.context import Info
from graphql_schema.permissions import Guarded
from graphql_schema.types.audit import (
    AuditConnection,
    AuditEntry,
    AuditFilter,
    AuditVerification,
)
from graphql_schema.types.pages import After, First, page
from graphql_schema.types.scalars import BigInt


@strawberry.type
class AuditQueries:
    @strawberry.field(extensions=[Guarded()], description="The ledger, newest first.")
    async def audit_entries(
        self,
        info: Info,
        filter: Annotated[
            AuditFilter | None, strawberry.argument(description="Which entries.")
        ] = None,
        first: First = 50,
        after: After = None,
    ) -> AuditConnection:
        wanted = filter.domain() if filter else ledger.AuditFilter()

        async def load(*, first: int, after: str | None) -> list[AuditEntryRow]:
            async with info.context.services.database.read() as session:
                return list(await ledger.entries(session, wanted, first=first, after=after))

        rows, page_info = await page(load, first, after, cursor=lambda row: row.id)
        return AuditConnection(nodes=[AuditEntry.of(row) for row in rows], page_info=page_info)

    @strawberry.field(
        extensions=[Guarded()],
        description="Read and check every seal and chain, or one: as slow as they are long.",
    )
    async def verify_audit(
        self,
        info: Info,
        stream: Annotated[str | None, strawberry.argument(description="Only this chain.")] = None,
    ) -> AuditVerification:
        services = info.context.services
        async with services.database.read(streaming=True) as session:
            found = await seals.verify(session, services.signer, stream)
        return AuditVerification(
            ok=found.ok,
            entries=BigInt(found.entries),
            seals=BigInt(found.seals),
            first_broken=AuditEntry.of(found.first_broken) if found.first_broken else None,
            problem=found.problem,
        )
