"""Endpoints for notices, and what they were told."""

from datetime import datetime
from typing import Self

import strawberry

from entitlements.notices.service import Delivery
from entitlements.notices.tables import WebhookEndpointRow
from graphql_schema.types.pages import PageInfo


@strawberry.type(
    description="Where notices are posted to, in the format of Standard Webhooks. Up to 20."
)
class WebhookEndpoint:
    id: strawberry.ID = strawberry.field(description="Its id, such as `whe_…`.")
    url: str = strawberry.field(description="Where it is.")
    events: list[str] = strawberry.field(description="What it asks for; `*` is every event.")
    created_at: datetime = strawberry.field(description="When it was made, by wall time.")
    failing_since: datetime | None = strawberry.field(
        description="When a delivery was given up, if none has arrived since."
    )
    disabled_at: datetime | None = strawberry.field(
        description="When it answered 410 (gone): nothing is sent until one is resent."
    )

    @classmethod
    def of(cls, row: WebhookEndpointRow) -> Self:
        return cls(
            id=strawberry.ID(row.id),
            url=row.url,
            events=list(row.events),
            created_at=row.created_at,
            failing_since=row.failing_since,
            disabled_at=row.disabled_at,
        )


@strawberry.type(description="A new endpoint.")
class WebhookEndpointCreated:
    endpoint: WebhookEndpoint = strawberry.field(description="The endpoint.")
    secret: str = strawberry.field(
        description="What the receiver verifies signatures with, `whsec_…`. Shown this once."
    )


@strawberry.type(
    description="A notice on its way to one endpoint: at least once, in no promised order. It is "
    "tried ten times within about three days, until the answer is 2xx. Kept for 30 days."
)
class WebhookDelivery:
    id: strawberry.ID = strawberry.field(description="Its id, such as `whd_…`.")
    endpoint: WebhookEndpoint = strawberry.field(description="Where it goes.")
    message_id: strawberry.ID = strawberry.field(
        description="The header `webhook-id`: the same at every attempt and every endpoint."
    )
    event: str = strawberry.field(description="What it tells, such as `change.applied`.")
    created_at: datetime = strawberry.field(description="When it happened, by wall time.")
    attempts: int = strawberry.field(description="How often it was tried.")
    last_status: int | None = strawberry.field(
        description="The HTTP status of the last attempt; null where there was no answer, or none "
        "was made."
    )
    last_error: str | None = strawberry.field(
        description="Why the last attempt had no answer, in a few words."
    )
    delivered_at: datetime | None = strawberry.field(
        description="When it was last answered with 2xx, by wall time."
    )
    next_attempt_at: datetime | None = strawberry.field(
        description="When it is tried next, by wall time; null where it is not tried any more."
    )

    @classmethod
    def of(cls, delivery: Delivery) -> Self:
        row, endpoint = delivery.row, delivery.endpoint
        off = endpoint.deleted_at is not None or endpoint.disabled_at is not None
        return cls(
            id=strawberry.ID(row.id),
            endpoint=WebhookEndpoint.of(endpoint),
            message_id=strawberry.ID(row.message_id),
            event=row.event,
            created_at=row.created_at,
            attempts=row.attempts,
            last_status=row.last_status,
            last_error=row.last_error,
            delivered_at=row.delivered_at,
            next_attempt_at=None if off else row.next_attempt_at,
        )


@strawberry.type(description="A page of deliveries, newest first.")
class WebhookDeliveryConnection:
    nodes: list[WebhookDelivery] = strawberry.field(description="The deliveries.")
    page_info: PageInfo = strawberry.field(description="Whether and where there is more.")
