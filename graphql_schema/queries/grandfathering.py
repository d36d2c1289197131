"""Who is on an older version, and how far migrations are."""

from typing import Annotated

import strawberry

from entitlements.subscriptions.migrations import MigrationStatus
from graphql_schema.context import Info
from graphql_schema.permissions import Guarded
from graphql_schema.types.grandfathering import (
    LegacyVersion,
    Migration,
    legacy_types,
    migration_type,
)


@strawberry.type
class GrandfatheringQueries:
    @strawberry.field(
        extensions=[Guarded()],
        description="Every version that somebody keeps. Reads all who do: seconds for a hundred "
        "thousand.",
    )
    async def legacy_versions(
        self,
        info: Info,
        product_id: Annotated[
            strawberry.ID | None,
            strawberry.argument(description="Of this product; all if left out."),
        ] = None,
    ) -> list[LegacyVersion]:
        return legacy_types(await info.context.services.migrations.legacy(product_id))

    @strawberry.field(
        extensions=[Guarded()],
        description="The newest 200 migrations, newest first. Counts those that each concerns.",
    )
    async def migrations(
        self,
        info: Info,
        status: Annotated[
            MigrationStatus | None,
            strawberry.argument(description="Only those that are so far; all if left out."),
        ] = None,
    ) -> list[Migration]:
        found = await info.context.services.migrations.every(status)
        return [migration_type(info.context, each) for each in found]
