"""Changes asked for: each once per idempotency key, stored before the provider is called.

A commit is a durable intent. It is stored `PENDING` in one transaction; `settlement.py` carries it
out and settles it in another. Between the two anything may die.
"""

import asyncio
import contextlib
import hashlib
from collections.abc import Awaitable, Callable
from functools import partial

import msgspec
from sqlalchemy import select

from entitlements.audit.ledger import Actor
from entitlements.catalog.model import Catalog, ChangeTiming
from entitlements.kernel.clock import Clock, wall_now
from entitlements.kernel.errors import (
    Conflict,
    IdempotencyConflict,
    NotFound,
    QuoteStale,
    TrialNotAvailable,
    ValidationFailed,
)
from entitlements.kernel.ids import new_id
from entitlements.storage.unit_of_work import Database
from entitlements.subscriptions import quote as quotes
from entitlements.subscriptions.alignment import Alignment
from entitlements.subscriptions.approval import Approvals, needs_approval
from entitlements.subscriptions.change import Authority, ChangePlan, pinned, plan_change
from entitlements.subscriptions.due import Due
from entitlements.subscriptions.holdings import entitlement_changes
from entitlements.subscriptions.leases import LEASE
from entitlements.subscriptions.payments import (
    Outcome,
    OutcomeKind,
    PaymentProvider,
)
from entitlements.subscriptions.queue import is_due, is_renewing, roll
from entitlements.subscriptions.quote import Quote, QuoteClaims
from entitlements.subscriptions.quoting import Quoting
from entitlements.subscriptions.records import (
    AWAITING_APPROVAL,
    AWAITING_CHECKOUT,
    drop,
    load_state,
    locked_customer,
    make_room,
    raise_future,
    record,
    refuse_while_unsettled,
    supersede,
)
from entitlements.subscriptions.request import ChangeRequest
from entitlements.subscriptions.return_urls import ReturnUrls
from entitlements.subscriptions.settlement import WAITING, Committed, Settlement
from entitlements.subscriptions.sync import ProviderSync
from entitlements.subscriptions.tables import ChangeRow, CustomerRow, SubscriptionRow
from entitlements.subscriptions.violations import (
    levels_in_use,
    refuse_over_limit,
    usage_violations,
)

WAIT_FOR_OWN_INTENT_SECONDS = 10
RENEWAL_TRIES = 5
RENEWAL_PAUSE_SECONDS = 0.1


class Caller(msgspec.Struct, frozen=True):
    """Who asks, for the ledger, and how freely they may choose."""

    actor: Actor
    authority: Authority


class _Once(msgspec.Struct, frozen=True):
    """What a caller's idempotency key names: one request of one mutation for one customer."""

    customer_id: str
    mutation: str
    key: str
    request_digest: str
    return_url: str | None = None


class ChangeService:
    def __init__(
        self,
        database: Database,
        catalog: Callable[[], Awaitable[Catalog]],
        clock: Clock,
        payments: PaymentProvider,
        quoting: Quoting,
        settlement: Settlement,
        approvals: Approvals,
        alignment: Alignment,
        due: Due,
        sync: ProviderSync,
        return_urls: ReturnUrls,
    ) -> None:
        self._database = database
        self._catalog = catalog
        self._clock = clock
        self._payments = payments
        self._quoting = quoting
        self._settlement = settlement
        self._approvals = approvals
        self._alignment = alignment
        self._due = due
        self._sync = sync
        self._return_urls = return_urls

    async def preview(self, caller: Caller, customer_id: str, request: ChangeRequest) -> Quote:
        """What a change would do and cost. Stores nothing of it."""
        await self._renew(customer_id)
        return await self._quoting.quote(customer_id, request, caller.authority)

    async def commit(
        self,
        caller: Caller,
        token: str,
        key: str,
        *,
        return_url: str | None = None,
        bound_to: str | None = None,
    ) -> Committed:
        """Do what a quote or an offer says, once per idempotency key.

        `bound_to` is the customer of a caller who has only one: somebody else's quote is not found.
        `return_url` is where the provider's pages lead back to.
        """
        claims = self._quoting.read(token)
        if bound_to not in (None, claims.customer_id):
            raise NotFound("customer", claims.customer_id)
        once = _Once(claims.customer_id, "commitChange", key, _digest(token), return_url)

        async def commit_quoted() -> Committed:
            await self._renew(claims.customer_id)
            await self._quoting.check_fresh(claims)
            if claims.is_offer:
                await self._quoting.check_offer(claims)
            return await self._commit(caller, claims, once)

        return await self._do_once(once, commit_quoted)

    async def purchase_add_on(
        self,
        caller: Caller,
        customer_id: str,
        add_on_id: str,
        *,
        quantity: int,
        max_due_now_minor: int | None,
        key: str,
        return_url: str | None = None,
    ) -> Committed:
        """One click: preview and commit in one, adding to what is held."""

        async def quoted() -> Quote:
            quote = await self._quoting.quote_add_on(
                caller.authority, customer_id, add_on_id, quantity
            )
            if max_due_now_minor is not None and quote.due_now_minor > max_due_now_minor:
                raise QuoteStale("it costs more now than what was agreed to", quote)
            return quote

        asked = [add_on_id, quantity, max_due_now_minor]
        return await self.do(
            caller, customer_id, "purchaseAddOn", key, asked, quoted, return_url=return_url
        )

    async def cancel_subscription(
        self,
        caller: Caller,
        customer_id: str,
        product_id: str,
        *,
        timing: ChangeTiming | None,
        reason: str | None,
        key: str,
    ) -> Committed:
        """Cancel by the product's policy, or as `timing` says where the caller may choose."""
        request = ChangeRequest(product_id=product_id, cancel=True, timing=timing, reason=reason)

        async def quoted() -> Quote:
            return await self._quoting.quote(customer_id, request, caller.authority)

        asked = [product_id, timing, reason]
        return await self.do(caller, customer_id, "cancelSubscription", key, asked, quoted)

    async def do(
        self,
        caller: Caller,
        customer_id: str,
        mutation: str,
        key: str,
        asked: object,
        quoted: Callable[[], Awaitable[Quote]],
        *,
        return_url: str | None = None,
    ) -> Committed:
        """Preview and commit in one, once per key of a customer and mutation.

        `asked` is what the caller asked for: the same key with anything else is refused. `quoted`
        prices it, once the renewal that comes first is done.
        """
        once = _Once(customer_id, mutation, key, _digest(asked), return_url)

        async def commit_quoted() -> Committed:
            await self._renew(customer_id)
            quote = await quoted()
            return await self._commit(caller, self._quoting.read(quote.token), once)

        return await self._do_once(once, commit_quoted)

    async def approve(self, caller: Caller, change_id: str, note: str | None) -> Committed:
        """Let a change that waits for approval go on (`Approvals.approve`)."""
        change = await self._settlement.change(change_id)
        await self._renew(change.customer_id)
        return await self._approvals.approve(caller.actor, change_id, note)

    async def _renew(self, customer_id: str) -> None:
        """The renewal comes first: what is due by now is done before anything is planned after it.

        `Conflict` `RENEWAL_IN_PROGRESS` where the provider has not begun the new period yet.
        """
        for _ in range(RENEWAL_TRIES):
            row, state = await self._quoting.loaded(customer_id)
            now = self._clock.now()
            if any(is_due(s, now) and (s.queue or s.cancel_at) for s in state.subscriptions):
                await self._due.apply(customer_id)
            if not is_renewing(state, now) or row.provider_id is None:
                return
            await self._payments.advance_clock(now)
            with contextlib.suppress(Conflict):  # its webhooks may be at work on it, too
                await self._sync.customer(row.provider_id)
                _, state = await self._quoting.loaded(customer_id)
                if not is_renewing(state, now):
                    return
            await asyncio.sleep(RENEWAL_PAUSE_SECONDS)
        raise Conflict(
            "the period has just ended and is being renewed: ask again", code="RENEWAL_IN_PROGRESS"
        )

    async def _do_once(self, once: _Once, do: Callable[[], Awaitable[Committed]]) -> Committed:
        """Answer a repeated key as the first time; otherwise do it.

        What stands in the way of `do` may be the same request, which was faster: then that one's
        answer is this one's.
        """
        if not 1 <= len(once.key) <= 255:
            raise ValidationFailed.of("idempotencyKey", "LENGTH", "a key has 1 to 255 characters")
        if repeated := await self._repeated(once):
            return repeated
        if once.return_url is not None:
            self._return_urls.checked(once.return_url)
        try:
            return await do()
        except (Conflict, QuoteStale, TrialNotAvailable, ValidationFailed):
            if repeated := await self._repeated(once):
                return repeated
            raise

    async def _repeated(self, once: _Once) -> Committed | None:
        """The first answer to a repeated key: waits for its own intent, takes over a dead one."""
        async with self._database.read() as session:
            change = await session.scalar(
                select(ChangeRow).where(
                    ChangeRow.customer_id == once.customer_id,
                    ChangeRow.mutation == once.mutation,
                    ChangeRow.idempotency_key == once.key,
                )
            )
        if change is None:
            return None
        if change.request_digest != once.request_digest:
            raise IdempotencyConflict("this key was used for another request")
        for _ in range(WAIT_FOR_OWN_INTENT_SECONDS * 20):
            if change.status != "pending":
                break
            if change.leased_until <= wall_now():
                return await self._settlement.finish(change.id)
            await asyncio.sleep(0.05)
            change = await self._settlement.change(change.id)
        return await self._settlement.answer(change)

    async def _commit(self, caller: Caller, claims: QuoteClaims, once: _Once) -> Committed:
        catalog = await self._catalog()
        async with self._database.write() as session:
            row = await locked_customer(session, claims.customer_id)
            await refuse_while_unsettled(session, row.id)
            state = await load_state(session, row)
            if not claims.holds_for(state.revision, catalog.revision):
                raise QuoteStale("the customer or the catalog has changed since the quote")
            if is_renewing(state, self._clock.now()):
                raise QuoteStale("the period has ended since the quote")
            used = await self._quoting.used(session, catalog, state)
            as_quoted = partial(
                plan_change,
                catalog,
                state,
                claims.request,
                authority=claims.authority,
                levels_in_use=levels_in_use(catalog, used),
            )
            plan = as_quoted(claims.at)
            if not plan.exact:  # the provider cannot pin that instant: it is the commit's
                plan = as_quoted(self._clock.now())
            if claims.is_offer or plan.exact:
                if not quotes.still_says(claims, plan):
                    raise QuoteStale("the quote does not hold any more")
            elif plan.invoice_total_minor > quotes.most_to_accept(claims.total_minor):
                raise QuoteStale("it has become dearer since the quote")
            violations = usage_violations(entitlement_changes(catalog, state, plan), used)
            refuse_over_limit(catalog, claims.request, plan, violations)
            waits = needs_approval(plan, caller.authority)
            in_place_of = AWAITING_APPROVAL if waits else AWAITING_CHECKOUT
            await supersede(session, row, plan.product_id, in_place_of, self._clock.now())
            change = self._intent(row, plan, claims, caller, once)
            session.add(change)
            if waits:
                change.status = AWAITING_APPROVAL
                change.request = msgspec.to_builtins(claims.request)  # what is approved is new
            else:
                await make_room(session, state, plan)
            row.revision += 1
            await session.flush()
            await record(
                session,
                self._clock.now(),
                caller.actor,
                row,
                "change.approval_asked" if waits else "change.requested",
                object_type="change",
                object_id=change.id,
                after={
                    "description": plan.description,
                    "direction": plan.direction,
                    "lines": plan.lines,
                    "total_minor": plan.total_minor,
                    "currency": plan.currency,
                },
                reason=claims.request.reason,
            )
        if waits:
            return await self._settlement.answer(change)
        async with self._settlement.working_on(change.id):
            return await self._settlement.carry_out(change.id)

    def _intent(
        self,
        row: CustomerRow,
        plan: ChangePlan,
        claims: QuoteClaims,
        caller: Caller,
        once: _Once,
    ) -> ChangeRow:
        started_at = wall_now()
        return ChangeRow(
            id=new_id("chg"),
            customer_id=row.id,
            migration_id=claims.request.move.migration_id if claims.request.move else None,
            product_id=plan.product_id,
            subscription_id=plan.subscription_id,
            status="pending",
            direction=plan.direction.value,
            description=plan.description,
            mutation=once.mutation,
            idempotency_key=once.key,
            request_digest=once.request_digest,
            request=msgspec.to_builtins(pinned(plan, claims.request)),
            plan=msgspec.json.encode(plan).decode(),
            levels=dict(plan.quantities),
            currency=plan.currency,
            effective_at=plan.effective_at,
            created_at=self._clock.now(),
            started_at=started_at,
            leased_until=started_at + LEASE,
            created_by=caller.actor.name,
            authority=claims.authority.value,
            due_now_minor=claims.due_now_minor,
            return_url=once.return_url,
            reason=claims.request.reason,
            lines=msgspec.to_builtins(plan.lines),
            total_minor=plan.total_minor,
            mrr_delta_minor=plan.mrr_delta_minor,
        )

    async def abandon(
        self, caller: Caller, change_id: str, *, bound_to: str | None = None
    ) -> Committed:
        """Give up a change that waits for the customer, or take back one that is scheduled."""
        change = await self._settlement.change(change_id)
        if bound_to not in (None, change.customer_id):
            raise NotFound("change", change_id)
        if change.status in WAITING:
            return await self._give_up(caller, change)
        if change.status == AWAITING_APPROVAL:
            return await self._approvals.withdraw(caller.actor, change)
        if change.status == "scheduled" and change.migration_id is not None:
            raise Conflict(
                "a policy moves it: only its migration can be paused or rolled back",
                code="MOVED_BY_POLICY",
            )
        if change.status == "scheduled":
            await self._due.apply(change.customer_id)
            taken_back = await self._take_back(caller, change.id)
            change = await self._settlement.change(change_id)
            if taken_back and change.subscription_id is not None:
                await self._alignment.align(change.subscription_id)
                return await self._settlement.answer(change)
        told_now = change.status == "canceled" and change.subscription_id is not None
        if told_now and await self._alignment.align(change.subscription_id or ""):
            return await self._settlement.answer(change)
        raise Conflict(f"the change is {change.status}: there is nothing to undo", code="SETTLED")

    async def _give_up(self, caller: Caller, change: ChangeRow) -> Committed:
        """That it was given up is stored first: whoever then hears of it settles it as that."""
        async with self._database.write() as session:
            await locked_customer(session, change.customer_id)
            change = await session.get_one(ChangeRow, change.id, with_for_update=True)
            if change.status in WAITING:
                change.abandoned_by = caller.actor.name
                change.leased_until = wall_now() + LEASE
        outcome = Outcome(kind=OutcomeKind.DECLINED)  # a checkout page expires by itself
        async with self._settlement.working_on(change.id):
            if change.status == "awaiting_payment":
                order, _ = await self._settlement.order_of(change)
                outcome = await self._payments.abandon(change.id, order)
            committed = await self._settlement.settle(change.id, outcome)
        if (await self._settlement.change(change.id)).status == "applied":
            raise Conflict("it has been paid in the meantime", code="ALREADY_APPLIED")
        return committed

    async def _take_back(self, caller: Caller, change_id: str) -> bool:
        """A scheduled change is not to happen: stored first, so that it is not lost; then the
        provider is told. What waits after it stays if it still applies."""
        catalog = await self._catalog()
        now = self._clock.now()
        async with self._database.write() as session:
            change = await session.get_one(ChangeRow, change_id)
            row = await locked_customer(session, change.customer_id)
            await session.refresh(change)
            if change.status != "scheduled":
                return False
            change.status, change.settled_at = "canceled", now
            subscription = await session.get_one(SubscriptionRow, change.subscription_id)
            if change.request.get("cancel"):
                subscription.cancel_at = None
            await session.flush()
            state = await load_state(session, row)
            held = next(s for s in state.subscriptions if s.id == subscription.id)
            dropped = roll(catalog, state, held, held.queue).dropped
            await drop(session, now, caller.actor, row, dropped)
            raise_future(subscription)
            row.revision += 1
            await record(
                session,
                now,
                caller.actor,
                row,
                "change.canceled",
                object_type="change",
                object_id=change.id,
            )
        return True


def _digest(request: object) -> str:
    return hashlib.sha256(msgspec.json.encode(request)).hexdigest()
