"""About the one who asks, and the sandbox's clock."""

import strawberry

from graphql_schema.context import Info
from graphql_schema.permissions import Guarded
from graphql_schema.types.service import SandboxClock, Viewer


@strawberry.type
class ServiceQueries:
    @strawberry.field(extensions=[Guarded()], description="Who is asking.")
    async def viewer(self, info: Info) -> Viewer:
        principal = info.context.principal
        customer_id = principal.customer_id
        return Viewer(
            role=principal.role.value,
            scopes=sorted(scope.name for scope in principal.scopes),
            customer_id=strawberry.ID(customer_id) if customer_id is not None else None,
            stripe_publishable_key=info.context.services.settings.stripe_publishable_key or None,
        )

    @strawberry.field(extensions=[Guarded()], description="Null outside sandbox mode.")
    async def sandbox_clock(self, info: Info) -> SandboxClock | None:
        enabled = info.context.services.sandbox_clock.enabled
        return SandboxClock(now=info.context.services.clock.now()) if enabled else None
