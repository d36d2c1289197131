"""Use that is counted, and what it answers."""

from datetime import datetime
from typing import Annotated

import strawberry

from entitlements.access.counters import Event
from graphql_schema.types.access import AccessDecision
from graphql_schema.types.errors import IdempotencyConflict, ValidationFailed
from graphql_schema.types.scalars import BigInt


@strawberry.input(description="So much was used at an instant.")
class UsageEventInput:
    id: strawberry.ID = strawberry.field(
        description="Yours, 1 to 255 characters: for one customer it counts once."
    )
    customer_id: strawberry.ID = strawberry.field(description="Who used it.")
    feature_id: strawberry.ID = strawberry.field(
        description="A METERED feature that adds up (SUM)."
    )
    quantity: BigInt = strawberry.field(description="How many units, at least 1.")
    at: datetime | None = strawberry.field(
        default=None,
        description="When; now where it is left out. At most 35 days ago and 5 minutes ahead.",
    )

    def domain(self) -> Event:
        return Event(
            id=self.id,
            customer_id=self.customer_id,
            feature_id=self.feature_id,
            quantity=self.quantity,
            at=self.at,
        )


@strawberry.type(description="An event that was not counted.")
class RejectedEvent:
    index: int = strawberry.field(description="Where it stands among the events given, from 0.")
    id: strawberry.ID = strawberry.field(description="The event's id.")
    code: str = strawberry.field(
        description="ID, CUSTOMER_NOT_FOUND, FEATURE_NOT_FOUND, NOT_A_SUM, OUT_OF_RANGE, "
        "IN_FUTURE, TOO_OLD, ID_REUSED: the first that applies."
    )
    message: str = strawberry.field(description="One sentence for people.")


@strawberry.type(description="What became of a batch of events.")
class UsageRecorded:
    accepted: int = strawberry.field(description="How many were counted now.")
    duplicates: int = strawberry.field(description="How many had been counted before.")
    rejected: list[RejectedEvent] = strawberry.field(description="Those that were not counted.")


@strawberry.type(description="The answer to `consume` or `setLevel`, with figures afterwards.")
class Consumed:
    decision: AccessDecision = strawberry.field(
        description="Allowed: it was counted. Not allowed: nothing was."
    )
    duplicate: bool = strawberry.field(
        description="The key was used before: this is the first answer, word for word."
    )


@strawberry.type(description="Use on one day.")
class UsageDay:
    date: datetime = strawberry.field(description="When the UTC day begins.")
    quantity: BigInt = strawberry.field(
        description="SUM: units used on it. LEVEL: the level that it ended with."
    )


ConsumeResult = Annotated[
    Consumed | IdempotencyConflict | ValidationFailed,
    strawberry.union("ConsumeResult", description="The answer, or what is wrong with the request."),
]
RecordUsageResult = Annotated[
    UsageRecorded | ValidationFailed,
    strawberry.union("RecordUsageResult", description="What became of the events."),
]
