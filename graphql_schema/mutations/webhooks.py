"""Making and deleting endpoints for notices, and sending again."""

from typing import Annotated

import strawberry

from entitlements.notices.events import EVERY, KINDS
from graphql_schema.context import Info
from graphql_schema.permissions import Guarded
from graphql_schema.types.errors import NotFound, ValidationFailed
from graphql_schema.types.webhooks import (
    WebhookDelivery,
    WebhookEndpoint,
    WebhookEndpointCreated,
)

WebhookEndpointResult = Annotated[
    WebhookEndpointCreated | WebhookEndpoint | ValidationFailed | NotFound,
    strawberry.union("WebhookEndpointResult", description="The endpoint, or why not."),
]
WebhookDeliveryResult = Annotated[
    WebhookDelivery | NotFound,
    strawberry.union("WebhookDeliveryResult", description="The delivery, or why not."),
]
_EVENTS = "; ".join(
    f"`{event}`: {kind.description} Carries {', '.join(('customerId', 'revision', *kind.ids))}"
    for event, kind in KINDS.items()
)


@strawberry.type
class WebhookMutations:
    @strawberry.mutation(
        extensions=[Guarded()],
        description="Post notices to a URL from now on, signed as Standard Webhooks has it. Its "
        "secret is in the answer, and is not shown again.",
    )
    async def create_webhook_endpoint(
        self,
        info: Info,
        url: Annotated[
            str,
            strawberry.argument(
                description="https, on port 443 or one from 1024 on, at a public address; in a "
                "sandbox also http and this machine itself."
            ),
        ],
        events: Annotated[
            list[str],
            strawberry.argument(
                description=f"At least one; `{EVERY}` is every event, also those to come. {_EVENTS}"
            ),
        ],
    ) -> WebhookEndpointResult:
        context = info.context
        row, secret = await context.services.notices.create(context.caller.actor, url, events)
        return WebhookEndpointCreated(endpoint=WebhookEndpoint.of(row), secret=secret)

    @strawberry.mutation(
        extensions=[Guarded()],
        description="Post nothing to an endpoint any more. One attempt may be under way still.",
    )
    async def delete_webhook_endpoint(
        self,
        info: Info,
        id: Annotated[strawberry.ID, strawberry.argument(description="The endpoint's id.")],
    ) -> WebhookEndpointResult:
        row = await info.context.services.notices.delete(info.context.caller.actor, id)
        return WebhookEndpoint.of(row)

    @strawberry.mutation(
        extensions=[Guarded()],
        description="Try a delivery again at once, also one that arrived or was given up; the "
        "`webhook-id` stays. An endpoint that said it is gone is used again.",
    )
    async def resend_webhook(
        self,
        info: Info,
        id: Annotated[strawberry.ID, strawberry.argument(description="The delivery's id.")],
    ) -> WebhookDeliveryResult:
        delivery = await info.context.services.notices.resend(info.context.caller.actor, id)
        return WebhookDelivery.of(delivery)
