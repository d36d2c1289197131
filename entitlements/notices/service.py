"""Endpoints and their deliveries, for those who operate them."""

from collections.abc import Sequence

import msgspec
from sqlalchemy import and_, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from entitlements.audit import ledger
from entitlements.audit.ledger import Actor
from entitlements.kernel.clock import Clock, wall_now
from entitlements.kernel.errors import NotFound, ValidationFailed
from entitlements.kernel.ids import new_id
from entitlements.kernel.signing import Signer
from entitlements.notices.addresses import origin
from entitlements.notices.events import EVERY, subscription_issues
from entitlements.notices.sending import Sender
from entitlements.notices.signatures import secret
from entitlements.notices.tables import WebhookDeliveryRow, WebhookEndpointRow
from entitlements.storage.installation import lock_installation
from entitlements.storage.unit_of_work import Database

ENDPOINTS_AT_MOST = 20
STREAM = "webhooks"


class Delivery(msgspec.Struct, frozen=True):
    """A delivery, and the endpoint that it is for."""

    row: WebhookDeliveryRow
    endpoint: WebhookEndpointRow


class Notices:
    def __init__(self, database: Database, clock: Clock, signer: Signer, sender: Sender) -> None:
        self._database = database
        self._clock = clock
        self._signer = signer
        self._sender = sender

    async def create(
        self, actor: Actor, url: str, events: Sequence[str]
    ) -> tuple[WebhookEndpointRow, str]:
        """A new endpoint and its secret, which the API does not show again.

        `ValidationFailed` for a URL that notices do not go to, an unknown event, or too many.
        """
        issues = subscription_issues(events)
        try:
            await self._sender.check(url)
        except ValidationFailed as error:
            issues = [*error.issues, *issues]
        if issues:
            raise ValidationFailed(issues)
        row = WebhookEndpointRow(
            id=new_id("whe"),
            url=url,
            events=[EVERY] if EVERY in events else list(dict.fromkeys(events)),
            created_at=wall_now(),
        )
        async with self._database.write() as session:
            await lock_installation(session)
            there = await session.scalar(
                select(func.count()).where(WebhookEndpointRow.deleted_at.is_(None))
            )
            if (there or 0) >= ENDPOINTS_AT_MOST:
                words = f"there are {ENDPOINTS_AT_MOST} endpoints already: delete one"
                raise ValidationFailed.of("url", "TOO_MANY_ENDPOINTS", words)
            session.add(row)
            await self._record(session, actor, "webhook_endpoint.created", row, after=_said(row))
        return row, secret(self._signer, row.id)

    async def delete(self, actor: Actor, endpoint_id: str) -> WebhookEndpointRow:
        """Send nothing to an endpoint any more. What is on its way to it may still arrive."""
        async with self._database.write() as session:
            await lock_installation(session)
            row = await _endpoint(session, endpoint_id)
            row.deleted_at = wall_now()
            await self._record(session, actor, "webhook_endpoint.deleted", row, before=_said(row))
        return row

    async def secret(self, actor: Actor, endpoint_id: str) -> str:
        """An endpoint's secret by the signing key in use, for whoever rotates the keys."""
        async with self._database.write() as session:
            await lock_installation(session)
            row = await _endpoint(session, endpoint_id)
            await self._record(session, actor, "webhook_endpoint.secret_shown", row)
        return secret(self._signer, row.id)

    async def resend(self, actor: Actor, delivery_id: str) -> Delivery:
        """Try a delivery again at once, also one that arrived or was given up.

        It keeps its `webhook-id`. An endpoint that said it is gone is used again.
        """
        async with self._database.write() as session:
            await lock_installation(session)
            row = await session.get(WebhookDeliveryRow, delivery_id, with_for_update=True)
            if row is None:
                raise NotFound("webhook delivery", delivery_id)
            endpoint = await session.get_one(WebhookEndpointRow, row.endpoint_id)
            if endpoint.deleted_at is not None:
                raise NotFound("webhook delivery", delivery_id)
            row.next_attempt_at = wall_now()
            endpoint.disabled_at = None
            await self._record(
                session,
                actor,
                "webhook_delivery.resent",
                endpoint,
                after={"delivery": row.id, "event": row.event, "attempts": row.attempts},
            )
        return Delivery(row, endpoint)

    async def endpoints(self) -> Sequence[WebhookEndpointRow]:
        """All that are there, the newest first: at most `ENDPOINTS_AT_MOST`."""
        query = (
            select(WebhookEndpointRow)
            .where(WebhookEndpointRow.deleted_at.is_(None))
            .order_by(WebhookEndpointRow.id.desc())
        )
        async with self._database.read() as session:
            return (await session.scalars(query)).all()

    async def deliveries(
        self, endpoint_id: str | None, failed: bool | None, *, first: int, after: str | None
    ) -> Sequence[Delivery]:
        """Up to `first` deliveries, newest first, older than `after`, of one endpoint or all.

        `failed`: those that were tried and have not arrived, whether they are tried again or
        given up; False: the others.
        """
        query = (
            select(WebhookDeliveryRow, WebhookEndpointRow)
            .join(WebhookEndpointRow, WebhookEndpointRow.id == WebhookDeliveryRow.endpoint_id)
            .order_by(WebhookDeliveryRow.id.desc())
            .limit(first)
        )
        if endpoint_id is not None:
            query = query.where(WebhookDeliveryRow.endpoint_id == endpoint_id)
        if after is not None:
            query = query.where(WebhookDeliveryRow.id < after)
        if failed is not None:
            arrived = WebhookDeliveryRow.delivered_at.is_not(None)
            tried = or_(
                WebhookDeliveryRow.last_status.is_not(None),
                WebhookDeliveryRow.last_error.is_not(None),
            )
            query = query.where(and_(~arrived, tried) if failed else or_(arrived, ~tried))
        async with self._database.read() as session:
            return [Delivery(row, endpoint) for row, endpoint in await session.execute(query)]

    async def _record(
        self,
        session: AsyncSession,
        actor: Actor,
        action: str,
        row: WebhookEndpointRow,
        *,
        before: object = None,
        after: object = None,
    ) -> None:
        """An entry in the stream of endpoints, which the installation's lock serialises."""
        await ledger.append(
            session,
            stream=STREAM,
            at=self._clock.now(),
            actor=actor,
            action=action,
            object_type="webhook_endpoint",
            object_id=row.id,
            before=before,
            after=after,
        )


def _said(row: WebhookEndpointRow) -> dict[str, object]:
    """What the ledger keeps of an endpoint, for ever."""
    return {"origin": origin(row.url), "events": row.events}


async def _endpoint(session: AsyncSession, endpoint_id: str) -> WebhookEndpointRow:
    row = await session.get(WebhookEndpointRow, endpoint_id)
    if row is None or row.deleted_at is not None:
        raise NotFound("webhook endpoint", endpoint_id)
    return row
