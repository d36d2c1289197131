"""Appending a notice in the transaction of what it tells: both are there, or neither."""

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from entitlements.kernel.clock import wall_now
from entitlements.kernel.ids import new_id
from entitlements.notices.events import Event, asks_for, body
from entitlements.notices.tables import WebhookDeliveryRow, WebhookEndpointRow, WebhookMessageRow

_APPENDED, _ENDPOINTS = "notices", "notices_to"


async def append(
    session: AsyncSession, event: Event, at: datetime, customer_id: str, revision: int, **ids: str
) -> None:
    """Tell every endpoint that asks for `event`; nothing is stored where none does.

    `at` is when it happened by the service's clock, `revision` the customer's with it, so raise
    that first. `ids` are the event's own (`events.KINDS`). The same event about the same ids in one
    transaction is one notice, at the last revision.
    """
    text = body(event, at, customer_id, revision, **ids)
    appended: dict[object, WebhookMessageRow | None] = session.info.setdefault(_APPENDED, {})
    key = (event, customer_id, *ids.values())
    if key in appended:
        if (message := appended[key]) is not None:
            message.body = text
        return
    if _ENDPOINTS not in session.info:  # once a transaction: it may tell of many customers
        query = select(WebhookEndpointRow).where(
            WebhookEndpointRow.deleted_at.is_(None), WebhookEndpointRow.disabled_at.is_(None)
        )
        session.info[_ENDPOINTS] = (await session.scalars(query)).all()
    asking = [each.id for each in session.info[_ENDPOINTS] if asks_for(each.events, event)]
    appended[key] = None
    if not asking:
        return
    now = wall_now()
    message = WebhookMessageRow(id=new_id("msg"), body=text, created_at=now)
    session.add(message)
    await session.flush()
    appended[key] = message
    session.add_all(
        WebhookDeliveryRow(
            id=new_id("whd"),
            endpoint_id=endpoint_id,
            message_id=message.id,
            event=event.value,
            created_at=now,
            attempts=0,
            next_attempt_at=now,
        )
        for endpoint_id in asking
    )
    await session.flush()
