"""Settling: the provider is called, and its answer made ours, once, whoever dies meanwhile.

An intent is carried out under a lease, which says that its process lives. Whoever finds one whose
lease ran out (the same caller again, a webhook, the worker) asks the provider how far it has come.
"""

import contextlib
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from typing import NoReturn

import msgspec
from sqlalchemy import and_, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from entitlements.audit import ledger
from entitlements.audit.ledger import Actor
from entitlements.catalog.model import Catalog, ProrationMode
from entitlements.kernel.clock import Clock, wall_now
from entitlements.kernel.errors import (
    Conflict,
    NotFound,
    PaymentDeclined,
    PaymentProviderUnavailable,
    QuoteStale,
    ServiceError,
    TrialNotAvailable,
    ValidationFailed,
)
from entitlements.kernel.money import Money, smallest_charge_minor
from entitlements.kernel.tracing import traced
from entitlements.storage.unit_of_work import Database
from entitlements.subscriptions import quote as quotes
from entitlements.subscriptions.alignment import Alignment
from entitlements.subscriptions.change import (
    Authority,
    ChangeDirection,
    ChangePlan,
    as_queued,
    once_scheduled,
    pinned,
)
from entitlements.subscriptions.due import Due, end_queue, taken_back
from entitlements.subscriptions.leases import LEASE, kept_alive
from entitlements.subscriptions.orders import future_of, order_of, tell_differences
from entitlements.subscriptions.payments import (
    BillingOrder,
    CheckoutStatus,
    Future,
    Outcome,
    OutcomeKind,
    PaymentProvider,
    ProviderCustomer,
    ProviderInvoice,
    ProviderSubscription,
    as_provided,
)
from entitlements.subscriptions.quote import Quote
from entitlements.subscriptions.quoting import Quoting
from entitlements.subscriptions.records import (
    UNSETTLED,
    drop,
    load_state,
    locked_customer,
    make_room,
    mirror_customer,
    mirror_invoice,
    mirror_subscription,
    raise_future,
    record,
    refuse_while_unsettled,
    store_plan,
)
from entitlements.subscriptions.request import ChangeRequest
from entitlements.subscriptions.return_urls import ReturnUrls
from entitlements.subscriptions.state import CustomerState, Subscription, SubscriptionStatus
from entitlements.subscriptions.tables import ChangeRow, CustomerRow, SubscriptionRow
from entitlements.subscriptions.tried import begin_trials, settle_trials

KEY_AGE_LIMIT = timedelta(hours=23)
"""The provider may forget idempotency keys after 24 hours: older intents are not sent again."""

WAITING = ("awaiting_payment", "awaiting_checkout")


class Committed(msgspec.Struct, frozen=True, kw_only=True):
    """How a commit ended well: applied or scheduled, or waiting: for the customer, or approval."""

    change_id: str
    customer_id: str
    revision: int
    client_secret: str | None = None
    hosted_url: str | None = None
    expires_at: datetime | None = None


class Settlement:
    def __init__(
        self,
        database: Database,
        catalog: Callable[[], Awaitable[Catalog]],
        clock: Clock,
        payments: PaymentProvider,
        quoting: Quoting,
        alignment: Alignment,
        due: Due,
        return_urls: ReturnUrls,
        report_usage: Callable[[str], Awaitable[None]],
    ) -> None:
        self._database = database
        self._catalog = catalog
        self._clock = clock
        self._payments = payments
        self._quoting = quoting
        self._alignment = alignment
        self._due = due
        self._return_urls = return_urls
        self._report_usage = report_usage

    def working_on(self, change_id: str) -> AbstractAsyncContextManager[None]:
        """Keep the lease of an intent for as long as the block runs."""
        return kept_alive(lambda: self._renew_lease(change_id))

    async def _renew_lease(self, change_id: str) -> None:
        async with self._database.write() as session:
            await session.execute(
                update(ChangeRow)
                .where(ChangeRow.id == change_id, ChangeRow.status.in_(UNSETTLED))
                .values(leased_until=wall_now() + LEASE)
            )

    @traced("changes.finish")
    async def finish(self, change_id: str) -> Committed:
        """Bring an unsettled change to its end, by what the provider says of it."""
        async with self._database.write() as session:
            change = await session.get(ChangeRow, change_id, with_for_update=True)
            if change is None:
                raise NotFound("change", change_id)
            if change.status in UNSETTLED:
                change.leased_until = wall_now() + LEASE
        if change.status == "awaiting_checkout":
            return await self._after_checkout(change)
        if change.status not in UNSETTLED:
            return await self.answer(change)
        async with self.working_on(change_id):
            return await self._go_on(change)

    async def _after_checkout(self, change: ChangeRow) -> Committed:
        """Go on once a card is saved: quoted anew, and only if it costs no more than was agreed."""
        assert change.checkout_id is not None
        checkout = await self._payments.finish_checkout(change.checkout_id)
        if checkout.status is CheckoutStatus.OPEN:
            return await self.answer(change)
        if checkout.status is CheckoutStatus.EXPIRED:
            return await self._refuse(change.id, "CHECKOUT_EXPIRED", "no payment method was saved")
        await self._due.apply(change.customer_id)
        request = msgspec.convert(change.request, ChangeRequest)
        row, state = await self._quoting.loaded(change.customer_id)
        authority = Authority(change.authority)
        try:
            quote = await self._quoting.quote_state(row, state, request, authority)
        except (ValidationFailed, Conflict, TrialNotAvailable) as error:
            return await self._refuse(change.id, error.code, error.message)
        if quote.due_now_minor > change.due_now_minor:
            return await self._refuse(change.id, "QUOTE_STALE", "it costs more than was agreed to")
        async with self._database.write() as session:
            row = await locked_customer(session, change.customer_id)
            change = await session.get_one(ChangeRow, change.id, with_for_update=True)
            if change.status == "awaiting_checkout" and row.revision == state.revision:
                await refuse_while_unsettled(session, row.id)
                await self.plan_anew(session, state, change, quote)
                row.revision += 1
        if change.status != "pending":
            return await self.answer(change)
        async with self.working_on(change.id):
            return await self.carry_out(change.id)

    async def plan_anew(
        self, session: AsyncSession, state: CustomerState, change: ChangeRow, quote: Quote
    ) -> None:
        """A stored change goes on by a new quote: the caller holds its lease from now on."""
        plan = quote.plan
        await make_room(session, state, plan)
        request = msgspec.convert(change.request, ChangeRequest)
        change.request = msgspec.to_builtins(pinned(plan, request))
        change.levels = dict(plan.quantities)
        change.status = "pending"
        change.plan = msgspec.json.encode(plan).decode()
        change.subscription_id = plan.subscription_id
        change.lines = msgspec.to_builtins(plan.lines)
        change.total_minor, change.mrr_delta_minor = plan.total_minor, plan.mrr_delta_minor
        change.effective_at = plan.effective_at
        change.started_at = wall_now()
        change.leased_until = change.started_at + LEASE

    async def _refuse(self, change_id: str, code: str, message: str) -> Committed:
        outcome = Outcome(kind=OutcomeKind.REFUSED, message=message, failure_code=code)
        return await self.settle(change_id, outcome)

    async def _go_on(self, change: ChangeRow) -> Committed:
        """Ask the provider how far it has come; send it again only where it never arrived."""
        order, plan = await self.order_of(change)
        if plan.waits:
            return await self._go_on_scheduling(change, plan)
        if _not_the_providers(order, plan) or plan.ours_alone:
            return await self.carry_out(change.id)
        if plan.direction is ChangeDirection.CANCELLATION:
            return await self.carry_out(change.id)  # again: it is cancelled once
        if change.abandoned_by is not None:
            return await self.settle(change.id, await self._payments.abandon(change.id, order))
        outcome = await self._payments.progress(change.id, order, change.invoice_provider_id)
        if outcome is not None:
            return await self.settle(change.id, outcome)
        if change.status == "pending" and wall_now() - change.started_at < KEY_AGE_LIMIT:
            return await self.carry_out(change.id)
        if change.status == "awaiting_payment":
            return await self._refuse(change.id, "PAYMENT_NOT_MADE", "it was not paid in time")
        message = "the provider never took it, and it is too old to be sent again"
        return await self._refuse(change.id, "PROVIDER_REFUSED", message)

    async def unfinished(self, limit: int = 100) -> Sequence[str]:
        """Changes that nobody works on: their process has died, or their checkout has expired."""
        now = wall_now()
        dead = and_(ChangeRow.status == "pending", ChangeRow.leased_until <= now)
        expired = and_(ChangeRow.status == "awaiting_checkout", ChangeRow.payment_expires_at <= now)
        given_up = and_(
            ChangeRow.status == "awaiting_payment",
            ChangeRow.abandoned_by.is_not(None),
            ChangeRow.leased_until <= now,
        )
        query = (
            select(ChangeRow.id)
            .where(or_(dead, expired, given_up))
            .order_by(ChangeRow.id)
            .limit(limit)
        )
        async with self._database.read() as session:
            return (await session.scalars(query)).all()

    async def release_leases(self) -> None:
        """At the start of the only process: whoever held a lease is dead."""
        async with self._database.write() as session:
            for change in await session.scalars(
                select(ChangeRow).where(ChangeRow.status == "pending")
            ):
                change.leased_until = wall_now()

    async def carry_out(self, change_id: str) -> Committed:
        """Call the provider, then settle. What may have arrived there stays pending here."""
        change = await self.change(change_id)
        order, plan = await self.order_of(change)
        try:
            if change.subscription_id is not None:
                await self._alignment.until_free(change.subscription_id)
            if change.subscription_id is not None and not plan.waits and not plan.new_period:
                await self._report_usage(change.subscription_id)  # at the price held until now
            if plan.waits:
                outcome = await self._schedule(change, plan)
            elif _not_the_providers(order, plan):
                outcome = Outcome(kind=OutcomeKind.APPLIED)
            elif plan.direction is ChangeDirection.CANCELLATION:
                outcome = await self._cancel_at_provider(change, order, plan)
            else:
                provided = await self._payments.ensure_customer(order.customer)
                async with self._database.write() as session:
                    mirror_customer(await locked_customer(session, change.customer_id), provided)
                customer = msgspec.structs.replace(order.customer, provider_id=provided.id)
                order = msgspec.structs.replace(order, customer=customer)
                needed = plan.needs_payment_method or self._is_due(plan, provided)
                if provided.payment_method_id is None and needed:
                    return await self._ask_for_a_card(change, provided)
                if plan.ours_alone:
                    outcome = Outcome(kind=OutcomeKind.APPLIED)
                else:
                    outcome = await self._payments.execute(change_id, order)
        except PaymentDeclined as error:
            outcome = Outcome(
                kind=OutcomeKind.DECLINED, message=error.message, decline_code=error.decline_code
            )
        except ValidationFailed as error:
            return await self._refuse(change_id, error.issues[0].code, error.message)
        except Conflict as error:
            if error.code != "PROVIDER_REFUSED":
                await self._give_back_lease(change_id)
                raise
            return await self._refuse(change_id, error.code, error.message)
        except PaymentProviderUnavailable:
            await self._give_back_lease(change_id)
            raise
        return await self.settle(change_id, outcome)

    def _is_due(self, plan: ChangePlan, customer: ProviderCustomer) -> bool:
        """Whether something will have to be charged at once."""
        smallest_minor = smallest_charge_minor(plan.currency)
        due = quotes.due(plan.invoice_total_minor, -customer.balance_minor, smallest_minor)
        return plan.invoiced_now and due.due_now_minor > 0

    async def _ask_for_a_card(self, change: ChangeRow, customer: ProviderCustomer) -> Committed:
        """Without a payment method the change waits for the provider's page that collects one."""
        checkout = await self._payments.start_checkout(
            f"{change.id}:checkout",
            customer.id,
            change.currency,
            self._return_urls.checked(change.return_url),
        )
        async with self._database.write() as session:
            row = await locked_customer(session, change.customer_id)
            change = await session.get_one(ChangeRow, change.id, with_for_update=True)
            if change.status == "pending":
                change.status = "awaiting_checkout"
                change.checkout_id, change.hosted_url = checkout.id, checkout.url
                change.payment_expires_at = checkout.expires_at
                row.revision += 1
                await record(
                    session,
                    self._clock.now(),
                    Actor(change.created_by),
                    row,
                    "change.awaiting_checkout",
                    object_type="change",
                    object_id=change.id,
                )
        return await self.answer(change)

    async def _give_back_lease(self, change_id: str) -> None:
        async with self._database.write() as session:
            change = await session.get(ChangeRow, change_id, with_for_update=True)
            if change is not None and change.status == "pending":
                change.leased_until = wall_now() + timedelta(seconds=1)

    async def _schedule(self, change: ChangeRow, plan: ChangePlan) -> Outcome:
        """Tell the provider what is to happen at the end of the period, this change included."""
        future, held = await self._future_with(change, plan)
        if held.provider_id is None:
            return Outcome(kind=OutcomeKind.APPLIED)
        provided = await self._payments.set_future(change.id, held.provider_id, future)
        if provided.ended_at is not None:
            return Outcome(kind=OutcomeKind.REFUSED, message="the subscription has ended")
        return Outcome(kind=OutcomeKind.APPLIED, subscription=provided)

    async def _future_with(
        self, change: ChangeRow, plan: ChangePlan
    ) -> tuple[Future, Subscription]:
        """What the provider is to do once a change waits with the others, and what is held then."""
        async with self._database.read() as session:
            row = await session.get_one(CustomerRow, change.customer_id)
            state = await load_state(session, row)
        request = msgspec.convert(change.request, ChangeRequest)
        held = once_scheduled(state, plan, as_queued(plan, change.id, request))
        return future_of(await self._catalog(), state, held), held

    async def _go_on_scheduling(self, change: ChangeRow, plan: ChangePlan) -> Committed:
        """The same keys: planned once. Past its instant only what the provider did can tell."""
        if self._clock.now() < plan.effective_at:
            return await self.carry_out(change.id)
        future, held = await self._future_with(change, plan)
        provided = None
        if held.provider_id is not None:
            await self._payments.advance_clock(self._clock.now())
            provided = await self._payments.subscription(held.provider_id)
        if provided is not None and provided.has_done(future):
            return await self.settle(
                change.id, Outcome(kind=OutcomeKind.APPLIED, subscription=provided)
            )
        message = "the period ended before the provider was told: ask again"
        return await self._refuse(change.id, "TOO_LATE", message)

    async def _cancel_at_provider(
        self, change: ChangeRow, order: BillingOrder, plan: ChangePlan
    ) -> Outcome:
        assert order.subscription_provider_id is not None
        return await self._payments.cancel(
            change.id,
            order.subscription_provider_id,
            invoice_now=not plan.void_open_invoices and not plan.on_trial,
            prorate=plan.proration is not ProrationMode.NONE,
            void_open=plan.void_open_invoices,
        )

    async def order_of(self, change: ChangeRow) -> tuple[BillingOrder, ChangePlan]:
        plan = msgspec.json.decode(change.plan, type=ChangePlan)
        async with self._database.read() as session:
            row = await session.get(CustomerRow, change.customer_id)
            assert row is not None
            state = await load_state(session, row)
        return order_of(row, state, plan), plan

    async def settle(self, change_id: str, outcome: Outcome) -> Committed:
        """The second transaction: make the outcome ours. Settling twice changes nothing."""
        provided = None
        if outcome.subscription is not None:
            provided = await self._payments.customer(outcome.subscription.customer_provider_id)
        async with self._database.write() as session:
            change = await session.get(ChangeRow, change_id)
            assert change is not None
            row = await locked_customer(session, change.customer_id)
            await session.refresh(change)
            if change.status in (*UNSETTLED, "awaiting_checkout"):
                if provided is not None:
                    mirror_customer(row, provided)
                await self._apply(session, row, change, outcome)
        if change.status not in WAITING and change.subscription_id is not None:
            # What was planned there made room for the change: nobody waits for its coming back.
            with contextlib.suppress(ServiceError):
                await self._alignment.align(change.subscription_id)
        answer = await self.answer(change)
        return msgspec.structs.replace(answer, client_secret=outcome.client_secret)

    async def _apply(
        self, session: AsyncSession, row: CustomerRow, change: ChangeRow, outcome: Outcome
    ) -> None:
        if outcome.kind is OutcomeKind.ACTION_REQUIRED and change.status == "awaiting_payment":
            return
        row.revision += 1
        plan = msgspec.json.decode(change.plan, type=ChangePlan)
        now = self._clock.now()
        subscription_id = change.subscription_id
        if plan.waits:  # told or not, what the provider has planned is looked at again
            raise_future(await session.get_one(SubscriptionRow, subscription_id))
        if outcome.kind is OutcomeKind.APPLIED:
            await drop(session, now, Actor(change.created_by), row, plan.dropped)
            subscription = await self._make_true(session, row, change, plan, outcome.subscription)
            subscription_id = change.subscription_id = subscription.id
            await begin_trials(session, now, row, change, plan, subscription.id)
            await settle_trials(
                session,
                await self._catalog(),
                now,
                row,
                actor=Actor(change.created_by),
                change_id=change.id,
            )
            change.status = "scheduled" if plan.waits else "applied"
            action = f"change.{change.status}"
        elif outcome.kind is OutcomeKind.ACTION_REQUIRED:
            change.status, action = "awaiting_payment", "change.awaiting_payment"
            change.hosted_url = outcome.hosted_url
            change.payment_expires_at = outcome.expires_at
        elif change.abandoned_by is not None:
            change.status, action = "canceled", "change.canceled"
        else:
            declined = outcome.kind is OutcomeKind.DECLINED
            change.status, action = "failed", "change.failed"
            own_code = "PAYMENT_DECLINED" if declined else "PROVIDER_REFUSED"
            change.failure_code = outcome.failure_code or own_code
            change.failure_message = outcome.message
            change.decline_code = outcome.decline_code
        if change.status != "awaiting_payment":
            change.settled_at = now
        if outcome.invoice is not None and outcome.invoice.id is not None:
            await mirror_invoice(session, row.id, subscription_id, outcome.invoice)
            if plan.invoiced_now and await _is_of(session, change, plan, outcome.invoice):
                change.invoice_provider_id = outcome.invoice.id
                if outcome.kind is OutcomeKind.APPLIED:
                    await self._take_lines(session, row, change, plan, outcome.invoice)
        applied = change.status == "applied"
        await record(
            session,
            now,
            Actor(change.abandoned_by or change.created_by),
            row,
            action,
            object_type="change",
            object_id=change.id,
            after={
                "status": change.status,
                "failure": change.failure_code,
                "decline_code": change.decline_code,
                "invoice": change.invoice_provider_id,
                "items": plan.items if applied else None,
                "quantities": plan.quantities if applied else None,
            },
            reason=change.reason,
            mrr_delta=Money(change.mrr_delta_minor, change.currency) if applied else None,
        )

    async def _make_true(
        self,
        session: AsyncSession,
        row: CustomerRow,
        change: ChangeRow,
        plan: ChangePlan,
        provided: ProviderSubscription | None,
    ) -> SubscriptionRow:
        """Store what a change has made of a subscription: of what waits, only that it does."""
        if plan.ours_alone:
            return await session.get_one(SubscriptionRow, change.subscription_id)
        if plan.ends_trial:
            await self._goes_on(session, row, change)
        if plan.direction is not ChangeDirection.CANCELLATION and not plan.waits:
            return await store_plan(session, row, plan, provided if plan.after else None)
        subscription = await session.get_one(SubscriptionRow, change.subscription_id)
        if plan.waits:
            if plan.direction is ChangeDirection.CANCELLATION:
                subscription.cancel_at = plan.effective_at
            return subscription
        if provided is not None:
            mirror_subscription(subscription, provided)
        else:  # billed outside
            subscription.status = SubscriptionStatus.CANCELED.value
            subscription.ended_at = plan.effective_at
        if subscription.ended_at is not None:
            await end_queue(session, row, subscription.id, self._clock.now())
        return subscription

    async def _goes_on(self, session: AsyncSession, row: CustomerRow, change: ChangeRow) -> None:
        """What would have ended with its trial is paid for now: no end is planned any more."""
        subscription = await session.get_one(SubscriptionRow, change.subscription_id)
        if subscription.cancel_at is not None:
            subscription.cancel_at = None
            raise_future(subscription)
            reason = "what is held is paid for from now on"
            await taken_back(session, row, subscription.id, self._clock.now(), reason)

    async def _take_lines(
        self,
        session: AsyncSession,
        row: CustomerRow,
        change: ChangeRow,
        plan: ChangePlan,
        invoice: ProviderInvoice,
    ) -> None:
        """What was charged is what the provider says; where it is not ours, finance is told."""
        lines = as_provided(plan.invoice_lines, invoice)
        if len(lines) == len(plan.invoice_lines) + len(invoice.metered_lines):
            lines = lines[len(plan.swept) :]  # the others are the lines of earlier changes
        change.lines = msgspec.to_builtins(lines)
        change.total_minor = sum(line.amount_minor for line in lines)
        found = tell_differences(plan.invoice_lines, invoice, change=change.id)
        if found:
            await record(
                session,
                self._clock.now(),
                ledger.SYSTEM,
                row,
                "change.differs",
                object_type="change",
                object_id=change.id,
                after={"differences": found, "invoice": invoice.id, "currency": change.currency},
            )

    async def answer(self, change: ChangeRow) -> Committed:
        """What the caller is told of a change as it stands now: the same at every repetition."""
        if change.status == "failed" and change.failure_code == "PAYMENT_DECLINED":
            raise PaymentDeclined(change.failure_message or "declined", change.decline_code)
        if change.status == "failed":
            _raise_failure(change.failure_code or "", change.failure_message or "refused")
        if change.status == "pending":
            raise PaymentProviderUnavailable(
                f"the change {change.id} is under way: ask again with the same key", 5
            )
        async with self._database.read() as session:
            row = await session.get_one(CustomerRow, change.customer_id)
        return Committed(
            change_id=change.id,
            customer_id=change.customer_id,
            revision=row.revision,
            hosted_url=change.hosted_url if change.status in WAITING else None,
            expires_at=change.payment_expires_at,
        )

    async def change(self, change_id: str) -> ChangeRow:
        async with self._database.read() as session:
            change = await session.get(ChangeRow, change_id)
        if change is None:
            raise NotFound("change", change_id)
        return change


def _not_the_providers(order: BillingOrder, plan: ChangePlan) -> bool:
    """Whether the provider has nothing of it, before and after, nor a card to give: it is not
    asked."""
    if plan.ours_alone:
        return not plan.needs_payment_method
    return order.subscription_provider_id is None and not order.after


def _raise_failure(code: str, message: str) -> NoReturn:
    """A failed change, told as it was the first time."""
    if code == "UNKNOWN_PAYMENT_METHOD":
        raise ValidationFailed.of("sandboxPaymentMethod", code, message)
    if code == "QUOTE_STALE":
        raise QuoteStale(message)
    raise Conflict(message, code=code)


async def _is_of(
    session: AsyncSession, change: ChangeRow, plan: ChangePlan, invoice: ProviderInvoice
) -> bool:
    """Whether a subscription's latest invoice came of this change, and not of an earlier one."""
    if invoice.created_at < plan.at:
        return False
    other = await session.scalar(
        select(ChangeRow.id).where(
            ChangeRow.customer_id == change.customer_id,
            ChangeRow.invoice_provider_id == invoice.id,
            ChangeRow.id != change.id,
        )
    )
    return other is None
