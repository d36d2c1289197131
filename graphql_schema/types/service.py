"""What the service says about itself and about who asks."""

from datetime import datetime

import strawberry


@strawberry.type(description="Who is asking.")
class Viewer:
    role: str = strawberry.field(description="The role of the key, or `customer`.")
    scopes: list[str] = strawberry.field(description="A customer token's scopes.")
    customer_id: strawberry.ID | None = strawberry.field(description="A token's customer.")
    stripe_publishable_key: str | None = strawberry.field(
        description="For the provider's front-end library."
    )


@strawberry.type(description="The clock of a sandboxed service.")
class SandboxClock:
    now: datetime = strawberry.field(description="The present instant.")
