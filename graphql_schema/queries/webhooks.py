"""Reading endpoints for notices, and their deliveries."""

from functools import partial
from typing import Annotated

import strawberry

from graphql_schema.context import Info
from graphql_schema.permissions import Guarded
from graphql_schema.types.pages import After, First, page
from graphql_schema.types.webhooks import (
    WebhookDelivery,
    WebhookDeliveryConnection,
    WebhookEndpoint,
)


@strawberry.type
class WebhookQueries:
    @strawberry.field(
        extensions=[Guarded()], description="The endpoints that are there, newest first: up to 20."
    )
    async def webhook_endpoints(self, info: Info) -> list[WebhookEndpoint]:
        rows = await info.context.services.notices.endpoints()
        return [WebhookEndpoint.of(row) for row in rows]

    @strawberry.field(
        extensions=[Guarded()],
        description="What endpoints were told in the last 30 days, newest first.",
    )
    async def webhook_deliveries(
        self,
        info: Info,
        endpoint_id: Annotated[
            strawberry.ID | None,
            strawberry.argument(description="Only to this endpoint; to all if left out."),
        ] = None,
        failed: Annotated[
            bool | None,
            strawberry.argument(
                description="True: only those that were tried and have not arrived, whether they "
                "are tried again or given up. False: only the others."
            ),
        ] = None,
        first: First = 50,
        after: After = None,
    ) -> WebhookDeliveryConnection:
        load = partial(info.context.services.notices.deliveries, endpoint_id, failed)
        found, page_info = await page(load, first, after, cursor=lambda delivery: delivery.row.id)
        return WebhookDeliveryConnection(
            nodes=[WebhookDelivery.of(delivery) for delivery in found], page_info=page_info
        )
