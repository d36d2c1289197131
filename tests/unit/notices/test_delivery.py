"""Notices arrive, whoever dies or does not answer; and a bad endpoint harms nobody else."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from sqlalchemy import select, update
from structlog.testing import capture_logs

from entitlements.audit.ledger import Actor
from entitlements.kernel.clock import WallClock, wall_now
from entitlements.kernel.errors import NotFound, ValidationFailed
from entitlements.kernel.signing import Signer
from entitlements.notices import outbox
from entitlements.notices.delivery import LANES, PAUSES, RETENTION, Deliveries, pause
from entitlements.notices.events import Event
from entitlements.notices.sending import Sender
from entitlements.notices.service import ENDPOINTS_AT_MOST, Delivery, Notices
from entitlements.notices.tables import WebhookDeliveryRow, WebhookMessageRow
from entitlements.storage.engine import create_engine
from entitlements.storage.unit_of_work import Database
from tests.conftest import ADMIN_KEY, on_sqlite
from tests.receiver import SILENCE, Receiver, receiving

ANN = Actor("ann")
"""Where the database has no part in it, one will do."""


class Notifying:
    """The room by itself, on a database: what happens, and how time passes for deliveries."""

    def __init__(self, database: Database, *, keys: tuple[str, ...] = ("a signing key",)) -> None:
        self.database = database
        self.sender = Sender(sandbox=True)
        self.notices = Notices(database, WallClock(), Signer(keys), self.sender)
        self.deliveries = Deliveries(database, Signer(keys), self.sender)

    async def listen(self, receiver: Receiver, *events: str) -> str:
        """Have a receiver told of events; the secret."""
        _, secret = await self.notices.create(ANN, receiver.url, events or ("*",))
        return secret

    async def happen(self, count: int = 1, event: Event = Event.CHANGE_APPLIED) -> None:
        async with self.database.write() as session:
            for n in range(count):
                ids = {"changeId": f"chg_{n}"} if event is Event.CHANGE_APPLIED else {}
                await outbox.append(session, event, wall_now(), "acme", 7, **ids)

    async def deliver(self) -> None:
        await self.deliveries.deliver_due()
        await self.deliveries.finished()

    async def wait(self) -> None:
        """Until everything that waits, or is leased, is due."""
        async with self.database.write() as session:
            await session.execute(
                update(WebhookDeliveryRow)
                .where(WebhookDeliveryRow.next_attempt_at.is_not(None))
                .values(next_attempt_at=wall_now())
            )

    async def all(self, failed: bool | None = None) -> list[Delivery]:
        """What was or is to be delivered, oldest first."""
        found = await self.notices.deliveries(None, failed, first=200, after=None)
        return list(found)[::-1]

    async def one(self) -> WebhookDeliveryRow:
        [delivery] = await self.all()
        return delivery.row


@pytest.fixture
async def notifying(database_url: str) -> AsyncIterator[Notifying]:
    opened = Notifying(Database(create_engine(database_url)))
    yield opened
    await opened.deliveries.close()
    await opened.database.close()


async def test_a_notice_is_signed_as_standard_webhooks_has_it(notifying: Notifying) -> None:
    async with receiving() as receiver:
        secret = await notifying.listen(receiver)
        await notifying.happen()
        await notifying.deliver()
        [received] = receiver.received
        said = received.verified(secret)
        assert said["type"] == "change.applied"
        assert said["data"] == {"customerId": "acme", "revision": "7", "changeId": "chg_0"}
        row = await notifying.one()
        assert (row.message_id, row.last_status, row.attempts) == (received.id, 204, 1)
        assert row.delivered_at
        assert row.next_attempt_at is None


@on_sqlite
async def test_an_endpoint_gets_what_it_asks_for_and_nothing_is_kept_for_nobody(
    notifying: Notifying,
) -> None:
    await notifying.happen()
    async with receiving() as all_of_it, receiving() as payments:
        await notifying.listen(all_of_it)
        await notifying.listen(payments, "payment.failed")
        await notifying.happen()
        await notifying.deliver()
        assert (len(all_of_it.received), payments.received) == (1, [])
    async with notifying.database.read() as session:
        assert len((await session.scalars(select(WebhookMessageRow))).all()) == 1


async def test_the_same_event_twice_in_a_transaction_is_one_notice_at_the_last_revision(
    notifying: Notifying,
) -> None:
    async with receiving() as receiver:
        secret = await notifying.listen(receiver)
        async with notifying.database.write() as session:
            for revision in (7, 8):
                for customer in ("acme", "other"):
                    event = Event.ENTITLEMENTS_CHANGED
                    await outbox.append(session, event, wall_now(), customer, revision)
        await notifying.deliver()
        told = [received.verified(secret)["data"] for received in receiver.received]
        assert sorted(told, key=lambda data: data["customerId"]) == [
            {"customerId": "acme", "revision": "8"},
            {"customerId": "other", "revision": "8"},
        ]


@on_sqlite
async def test_what_is_rolled_back_is_not_told(notifying: Notifying) -> None:
    async with receiving() as receiver:
        await notifying.listen(receiver)
        async with notifying.database.write() as session:
            at = wall_now()
            await outbox.append(session, Event.ENTITLEMENTS_CHANGED, at, "acme", 7)
            await session.rollback()
        assert await notifying.deliveries.deliver_due() == 0
        assert await notifying.all() == []


@on_sqlite
async def test_a_notice_carries_its_own_ids_and_nothing_else(notifying: Notifying) -> None:
    async with notifying.database.write() as session:
        for ids in ({}, {"changeId": "chg_1", "amount": "12.50"}):
            with pytest.raises(TypeError, match="carries"):
                await outbox.append(session, Event.CHANGE_APPLIED, wall_now(), "acme", 7, **ids)


async def test_after_a_failure_it_is_tried_again_later_under_the_same_id(
    notifying: Notifying,
) -> None:
    async with receiving(500, 302, 200) as receiver:
        await notifying.listen(receiver)
        await notifying.happen()
        for attempts, status in ((1, 500), (2, 302)):
            before = wall_now()
            await notifying.deliver()
            [failed] = await notifying.all(failed=True)
            assert (failed.row.attempts, failed.row.last_status) == (attempts, status)
            assert failed.row.next_attempt_at
            assert failed.row.next_attempt_at >= before + PAUSES[attempts - 1]
            if attempts == 2:
                await notifying.deliver()  # it is not due yet
            assert len(receiver.received) == attempts
            await notifying.wait()
        await notifying.deliver()
        assert len({received.id for received in receiver.received}) == 1
        assert await notifying.all(failed=True) == []
        assert len(await notifying.all(failed=False)) == 1


@on_sqlite
async def test_it_is_given_up_in_the_end_which_shows_until_one_arrives(
    notifying: Notifying,
) -> None:
    async with receiving(503) as receiver:
        await notifying.listen(receiver)
        await notifying.happen()
        for _ in range(len(PAUSES) + 1):
            [endpoint] = await notifying.notices.endpoints()
            assert endpoint.failing_since is None
            await notifying.deliver()
            await notifying.wait()
        assert await notifying.deliveries.deliver_due() == 0
        [endpoint] = await notifying.notices.endpoints()
        assert endpoint.failing_since is not None
        receiver.answer(204)
        await notifying.notices.resend(ANN, (await notifying.one()).id)
        await notifying.deliver()
        [endpoint] = await notifying.notices.endpoints()
        assert endpoint.failing_since is None
        assert (await notifying.one()).attempts == len(receiver.received) == len(PAUSES) + 2


def test_the_pauses_add_up_to_about_three_days_and_are_not_all_alike() -> None:
    pauses = [[pause(f"whd_{n}", attempt + 1) for attempt in range(len(PAUSES))] for n in range(50)]
    for each in pauses:
        total = sum((wait for wait in each if wait is not None), timedelta())
        assert timedelta(days=3) < total < timedelta(days=4)
    assert len({each[3] for each in pauses}) > 10


@on_sqlite
async def test_an_endpoint_that_is_gone_gets_nothing_until_somebody_resends(
    notifying: Notifying,
) -> None:
    async with receiving(410, 200) as receiver:
        await notifying.listen(receiver)
        await notifying.happen()
        await notifying.deliver()
        [endpoint] = await notifying.notices.endpoints()
        assert endpoint.disabled_at is not None
        await notifying.happen()  # while it is gone: not for it
        await notifying.deliver()
        assert len(receiver.received) == 1
        await notifying.notices.resend(ANN, (await notifying.one()).id)
        await notifying.happen()
        await notifying.deliver()
        assert len(receiver.received) == 3
        [endpoint] = await notifying.notices.endpoints()
        assert endpoint.disabled_at is None


@on_sqlite
async def test_logs_tell_how_it_went_and_not_what_was_sent_or_where(notifying: Notifying) -> None:
    async with receiving(500) as receiver:
        receiver.url += "/path-with-a-token"
        secret = await notifying.listen(receiver)
        await notifying.happen()
        with capture_logs() as logs:
            await notifying.deliver()
        [entry] = logs
        assert (entry["event"], entry["outcome"], entry["status"]) == (
            "webhook_attempt",
            "postponed",
            500,
        )
        for hidden in ("token", "acme", "127.0.0.1", secret, "v1,"):
            assert hidden not in str(logs)


@on_sqlite
async def test_a_silent_endpoint_holds_up_nobody_else(notifying: Notifying) -> None:
    async with receiving(SILENCE) as silent, receiving() as quick:
        for receiver in (silent, quick):
            await notifying.listen(receiver)
        await notifying.happen(3 * LANES)
        await notifying.deliveries.deliver_due()
        await quick.has_received(3 * LANES)
        await silent.has_received(LANES)
        assert await notifying.deliveries.deliver_due() == 0  # its lanes are all taken
        assert len(await notifying.all(failed=True)) == 0
        await notifying.deliveries.close()


async def test_two_workers_send_each_notice_once(notifying: Notifying, database_url: str) -> None:
    other = Notifying(Database(create_engine(database_url)))
    async with receiving() as receiver:
        await notifying.listen(receiver)
        await notifying.happen(40)
        for worker in (notifying, other):
            await worker.deliveries.deliver_due()
        for worker in (notifying, other):
            await worker.deliveries.finished()
        assert len(receiver.received) == len({r.id for r in receiver.received}) == 40
        assert {delivery.row.attempts for delivery in await notifying.all()} == {1}
    await other.deliveries.close()
    await other.database.close()


async def test_a_worker_that_stops_leaves_its_notice_to_another(
    notifying: Notifying, database_url: str
) -> None:
    async with receiving(SILENCE, 204) as receiver:
        await notifying.listen(receiver)
        await notifying.happen()
        await notifying.deliveries.deliver_due()
        await receiver.has_received(1)
        await notifying.deliveries.close()
        other = Notifying(Database(create_engine(database_url)))
        await other.deliver()
        assert len(receiver.received) == 1  # it is leased still
        await other.wait()
        await other.deliver()
        assert len({received.id for received in receiver.received}) == 1
        assert (await notifying.one()).delivered_at
        await other.deliveries.close()
        await other.database.close()


async def test_a_worker_killed_while_it_sends_is_followed_by_one_that_sends_the_same(
    notifying: Notifying, database_url: str
) -> None:
    """At least once: the receiver tells by the `webhook-id` that it had it already."""
    environment = {
        "ENTITLEMENTS_DATABASE_URL": database_url,
        "ENTITLEMENTS_STRIPE_API_KEY": "sk_test_for_tests",
        "ENTITLEMENTS_STRIPE_API_BASE": "http://127.0.0.1:9",
        "ENTITLEMENTS_ADMIN_KEY": ADMIN_KEY,
        "ENTITLEMENTS_SANDBOX": "true",
    }
    async with receiving() as receiver:
        await notifying.listen(receiver)
        await notifying.happen()
        worker = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "entitlements", "worker", "--once",
            env=os.environ | environment,
        )  # fmt: skip
        receiver.on_receipt = worker.kill
        assert await worker.wait() == -signal.SIGKILL
        receiver.on_receipt = None
        row = await notifying.one()
        assert (row.attempts, row.last_status, row.delivered_at) == (1, None, None)
        await notifying.deliver()
        assert len(receiver.received) == 1  # it is leased still
        await notifying.wait()
        await notifying.deliver()
        first, second = receiver.received
        assert (first.id, first.body) == (second.id, second.body)
        assert (await notifying.one()).delivered_at


@on_sqlite
async def test_while_keys_are_rotated_both_secrets_verify(
    notifying: Notifying,
) -> None:
    rotating = Notifying(notifying.database, keys=("a new key", "a signing key"))
    async with receiving() as receiver:
        old = await notifying.listen(receiver)
        [endpoint] = await notifying.notices.endpoints()
        new = await rotating.notices.secret(ANN, endpoint.id)
        assert new != old
        await rotating.happen()
        await rotating.deliver()
        [received] = receiver.received
        for secret in (old, new):
            assert received.verified(secret)["type"] == "change.applied"
    await rotating.sender.close()


@on_sqlite
async def test_a_deleted_endpoint_gets_nothing_more(notifying: Notifying) -> None:
    async with receiving() as receiver:
        await notifying.listen(receiver)
        await notifying.happen()
        [endpoint] = await notifying.notices.endpoints()
        delivery = await notifying.one()
        await notifying.notices.delete(ANN, endpoint.id)
        await notifying.happen()
        await notifying.deliver()
        assert receiver.received == []
        assert await notifying.notices.endpoints() == []
        for again in (
            notifying.notices.delete(ANN, endpoint.id),
            notifying.notices.resend(ANN, delivery.id),
            notifying.notices.secret(ANN, endpoint.id),
        ):
            with pytest.raises(NotFound):
                await again


@on_sqlite
async def test_there_are_so_many_endpoints_at_most(notifying: Notifying) -> None:
    async with receiving() as receiver:
        for _ in range(ENDPOINTS_AT_MOST):
            await notifying.listen(receiver)
        with pytest.raises(ValidationFailed, match="delete one"):
            await notifying.listen(receiver)


async def test_old_notices_are_forgotten_with_their_deliveries(notifying: Notifying) -> None:
    async with receiving() as receiver:
        await notifying.listen(receiver)
        await notifying.happen(2)
        [old, young] = await notifying.all()
        async with notifying.database.write() as session:
            await session.execute(
                update(WebhookMessageRow)
                .where(WebhookMessageRow.id == old.row.message_id)
                .values(created_at=wall_now() - RETENTION)
            )
        await notifying.deliver()
        assert [d.row.id for d in await notifying.all()] == [young.row.id]
        assert len(receiver.received) == 1
