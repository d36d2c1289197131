"""Contact sales: what a customer asks for waits until staff approves or declines it.

A preview decides nothing: also a quote that staff made waits, if it is the customer who commits it.
What staff commits goes on at once, since they could approve it themselves.
"""

import contextlib
from collections.abc import Sequence

import msgspec
from sqlalchemy import select

from entitlements.audit.ledger import Actor
from entitlements.kernel.clock import Clock
from entitlements.kernel.errors import Conflict, QuoteStale, ServiceError, ValidationFailed
from entitlements.storage.unit_of_work import Database
from entitlements.subscriptions import quote as quotes
from entitlements.subscriptions.change import Authority, ChangePlan
from entitlements.subscriptions.quote import Quote
from entitlements.subscriptions.quoting import Quoting
from entitlements.subscriptions.records import (
    AWAITING_APPROVAL,
    AWAITING_CHECKOUT,
    locked_customer,
    record,
    refuse_while_unsettled,
    supersede,
)
from entitlements.subscriptions.request import ChangeRequest
from entitlements.subscriptions.settlement import Committed, Settlement
from entitlements.subscriptions.tables import ChangeRow, CustomerRow

NOTE_MAX_LENGTH = 2000


def needs_approval(plan: ChangePlan, authority: Authority) -> bool:
    """Whether a change has to wait, by who commits it (not by whose quote it is)."""
    return plan.approval_required and authority is not Authority.STAFF


def dearer(due_now_minor: int, mrr_delta_minor: int, quote: Quote) -> bool:
    """Whether a quote is above what was agreed to: now, or every month from then on.

    A quote that cannot be pinned to an instant has the leeway that a commit gives it.
    """
    most = due_now_minor if quote.due_now_exact else quotes.most_to_accept(due_now_minor)
    return quote.due_now_minor > most or quote.plan.mrr_delta_minor > mrr_delta_minor


class Approvals:
    def __init__(
        self, database: Database, clock: Clock, quoting: Quoting, settlement: Settlement
    ) -> None:
        self._database = database
        self._clock = clock
        self._quoting = quoting
        self._settlement = settlement

    async def approve(self, actor: Actor, change_id: str, note: str | None) -> Committed:
        """Quote what was asked for anew, and let it go on as any commit does.

        Above what the customer agreed to it ends as `QUOTE_STALE`, and `QuoteStale` carries what
        to ask them next. `Conflict` where it does not wait (any more), or cannot go on right now.
        """
        _check_note(note)
        change = await self._settlement.change(change_id)
        _refuse_unless_awaiting(change)
        request = msgspec.convert(change.request, ChangeRequest)
        authority = Authority(change.authority)
        row, state = await self._quoting.loaded(change.customer_id)
        quote = await self._quoting.quote_state(row, state, request, authority)
        stale = dearer(change.due_now_minor, change.mrr_delta_minor, quote)
        async with self._database.write() as session:
            row = await locked_customer(session, change.customer_id)
            change = await session.get_one(ChangeRow, change.id, with_for_update=True)
            _refuse_unless_awaiting(change)
            await refuse_while_unsettled(session, row.id)
            if row.revision != state.revision:
                raise Conflict(
                    "the customer has changed meanwhile: ask again", code="CHANGED_MEANWHILE"
                )
            self._decide(row, change, actor, note)
            message = "it costs more than the customer agreed to: ask them again"
            if stale:
                self._fail(change, "QUOTE_STALE", message)
            else:
                now = self._clock.now()
                await supersede(session, row, change.product_id, AWAITING_CHECKOUT, now)
                await self._settlement.plan_anew(session, state, change, quote)
                change.due_now_minor = quote.due_now_minor
            await record(
                session,
                self._clock.now(),
                actor,
                row,
                "change.failed" if stale else "change.approved",
                object_type="change",
                object_id=change.id,
                after={
                    "status": change.status,
                    "failure": change.failure_code,
                    "lines": quote.plan.lines,
                    "total_minor": quote.plan.total_minor,
                    "due_now_minor": quote.due_now_minor,
                    "currency": quote.plan.currency,
                },
                reason=note,
            )
        if stale:
            fresh = None
            with contextlib.suppress(ServiceError):  # the decision stands, with a quote or without
                fresh = await self._quoting.quote(change.customer_id, request, authority)
            raise QuoteStale(message, fresh)
        async with self._settlement.working_on(change.id):
            return await self._settlement.carry_out(change.id)

    async def decline(self, actor: Actor, change_id: str, note: str) -> Committed:
        """End it, `FAILED` with the note for the customer to read."""
        _check_note(note)
        if not note.strip():
            raise ValidationFailed.of("note", "REQUIRED", "say why it is declined")
        change = await self._settlement.change(change_id)
        async with self._database.write() as session:
            row = await locked_customer(session, change.customer_id)
            change = await session.get_one(ChangeRow, change.id, with_for_update=True)
            _refuse_unless_awaiting(change)
            self._decide(row, change, actor, note)
            self._fail(change, "APPROVAL_DECLINED", note)
            await record(
                session,
                self._clock.now(),
                actor,
                row,
                "change.declined",
                object_type="change",
                object_id=change.id,
                after={"status": change.status, "failure": change.failure_code},
                reason=note,
            )
        return Committed(change_id=change.id, customer_id=row.id, revision=row.revision)

    async def withdraw(self, actor: Actor, change: ChangeRow) -> Committed:
        """The customer, or whoever may act for them, takes back what was asked for."""
        async with self._database.write() as session:
            row = await locked_customer(session, change.customer_id)
            change = await session.get_one(ChangeRow, change.id, with_for_update=True)
            _refuse_unless_awaiting(change)
            change.status, change.settled_at = "canceled", self._clock.now()
            row.revision += 1
            await record(
                session,
                self._clock.now(),
                actor,
                row,
                "change.canceled",
                object_type="change",
                object_id=change.id,
            )
        return await self._settlement.answer(change)

    async def awaiting(self, *, first: int, after: str | None) -> Sequence[ChangeRow]:
        """Up to `first` changes that wait for approval, newest first, older than `after`."""
        query = select(ChangeRow).where(ChangeRow.status == AWAITING_APPROVAL)
        if after is not None:
            query = query.where(ChangeRow.id < after)
        async with self._database.read() as session:
            query = query.order_by(ChangeRow.id.desc()).limit(first)
            return (await session.scalars(query)).all()

    def _decide(self, row: CustomerRow, change: ChangeRow, actor: Actor, note: str | None) -> None:
        change.decided_by, change.decided_at = actor.name, self._clock.now()
        change.decision_note = note
        row.revision += 1

    def _fail(self, change: ChangeRow, code: str, message: str) -> None:
        change.status, change.settled_at = "failed", self._clock.now()
        change.failure_code, change.failure_message = code, message


def _check_note(note: str | None) -> None:
    if note is not None and len(note) > NOTE_MAX_LENGTH:
        message = f"a note has at most {NOTE_MAX_LENGTH} characters"
        raise ValidationFailed.of("note", "LENGTH", message)


def _refuse_unless_awaiting(change: ChangeRow) -> None:
    if change.status != AWAITING_APPROVAL:
        by = f" by {change.decided_by}" if change.decided_by else ""
        raise Conflict(
            f"the change does not wait for approval: it is {change.status}{by}",
            code="NOT_AWAITING_APPROVAL",
        )
