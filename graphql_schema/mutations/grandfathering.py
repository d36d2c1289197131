"""Migrations paused, resumed and rolled back."""

from typing import Annotated

import strawberry

from graphql_schema.context import Info
from graphql_schema.permissions import Guarded
from graphql_schema.types.errors import Conflict, NotFound
from graphql_schema.types.grandfathering import Migration, migration_type

MigrationResult = Annotated[
    Migration | Conflict | NotFound,
    strawberry.union("MigrationResult", description="The migration, or why nothing was done."),
]
MigrationId = Annotated[strawberry.ID, strawberry.argument(description="The migration's id.")]
Reason = Annotated[str, strawberry.argument(description="Why: it is kept.")]


@strawberry.type
class GrandfatheringMutations:
    @strawberry.mutation(
        extensions=[Guarded()],
        description="Move nobody for now, nor raise what it capped. What waits for the end of a "
        "period is taken back by the worker, within seconds. Conflict: PAUSED, ROLLED_BACK, "
        "REASON_REQUIRED.",
    )
    async def pause_migration(self, info: Info, id: MigrationId, reason: Reason) -> MigrationResult:
        actor = info.context.caller.actor
        found = await info.context.services.migrations.pause(actor, id, reason)
        return migration_type(info.context, found)

    @strawberry.mutation(
        extensions=[Guarded()],
        description="Go on: what was due meanwhile moves at its next renewal. Conflict: "
        "NOT_PAUSED, ROLLED_BACK.",
    )
    async def resume_migration(self, info: Info, id: MigrationId) -> MigrationResult:
        found = await info.context.services.migrations.resume(info.context.caller.actor, id)
        return migration_type(info.context, found)

    @strawberry.mutation(
        extensions=[Guarded()],
        description="Whoever was moved returns at their next renewal, unless they have given the "
        "package up meanwhile, and nobody else is moved. Nothing that was paid is credited. It is "
        "for good. Conflict: ROLLED_BACK, REASON_REQUIRED.",
    )
    async def roll_back_migration(
        self, info: Info, id: MigrationId, reason: Reason
    ) -> MigrationResult:
        actor = info.context.caller.actor
        found = await info.context.services.migrations.roll_back(actor, id, reason)
        return migration_type(info.context, found)
