"""Changes: quoted, committed, settled. Decided by the pure core, paid through the port.

A commit is a durable intent. It is stored `PENDING` under the caller's idempotency key before the
provider is called, and settled in a second transaction afterwards. Whoever finds it unfinished
(`finish`: the same caller again, a webhook, the worker) asks the provider how far it has come.
"""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import NoReturn

import msgspec
import structlog
from prometheus_client import Counter
from sqlalchemy import and_, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from entitlements.audit import ledger
from entitlements.audit.ledger import Actor
from entitlements.catalog.model import AddOn, Catalog, ChangeTiming, ProrationMode
from entitlements.kernel.clock import Clock, wall_now
from entitlements.kernel.errors import (
    ApprovalRequired,
    Conflict,
    IdempotencyConflict,
    NotFound,
    PaymentDeclined,
    PaymentProviderUnavailable,
    QuoteExpired,
    QuoteStale,
    ValidationFailed,
)
from entitlements.kernel.ids import new_id
from entitlements.kernel.money import Money, smallest_charge_minor
from entitlements.kernel.period import to_second
from entitlements.kernel.signing import Signer
from entitlements.storage.unit_of_work import Database
from entitlements.subscriptions import quote as quotes
from entitlements.subscriptions.change import Authority, ChangeDirection, ChangePlan, plan_change
from entitlements.subscriptions.holdings import entitlement_changes
from entitlements.subscriptions.invoice_line import (
    TOLERANCE_MINOR,
    Line,
    LineDifference,
    differences,
)
from entitlements.subscriptions.payments import (
    BillingCustomer,
    BillingOrder,
    CheckoutStatus,
    HeldSlot,
    Outcome,
    OutcomeKind,
    PaymentProvider,
    ProviderCustomer,
    ProviderInvoice,
    as_provided,
)
from entitlements.subscriptions.quote import Quote, QuoteClaims
from entitlements.subscriptions.records import (
    load_state,
    locked_customer,
    mirror_customer,
    mirror_invoice,
    mirror_subscription,
    record,
    store_plan,
)
from entitlements.subscriptions.return_urls import ReturnUrls
from entitlements.subscriptions.state import CustomerState, Subscription
from entitlements.subscriptions.tables import ChangeRow, CustomerRow, SubscriptionRow
from entitlements.subscriptions.target import ChangeRequest

log = structlog.get_logger()

LEASE = timedelta(seconds=5)
"""How long after its last sign of life a process is taken for dead, and its intent taken over."""

LEASE_RENEWED_AFTER_SECONDS = 1.5

KEY_AGE_LIMIT = timedelta(hours=23)
"""The provider may forget idempotency keys after 24 hours: older intents are not sent again."""

WAIT_FOR_OWN_INTENT_SECONDS = 10

DIFFERENCES = Counter(
    "entitlements_provider_differences_total",
    "Invoice lines on which our engine and the payment provider did not agree.",
)
UNSETTLED = ("pending", "awaiting_payment")
WAITING = ("awaiting_payment", "awaiting_checkout")


class Caller(msgspec.Struct, frozen=True):
    """Who asks, for the ledger, and how freely they may choose."""

    actor: Actor
    authority: Authority


class Committed(msgspec.Struct, frozen=True, kw_only=True):
    """How a commit ended well: applied or scheduled, or waiting for the customer to pay."""

    change_id: str
    customer_id: str
    revision: int
    client_secret: str | None = None
    hosted_url: str | None = None
    expires_at: datetime | None = None


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
        signer: Signer,
        payments: PaymentProvider,
        return_urls: ReturnUrls,
    ) -> None:
        self._database = database
        self._catalog = catalog
        self._clock = clock
        self._signer = signer
        self._payments = payments
        self._return_urls = return_urls

    # ── quotes ───────────────────────────────────────────────────────────────

    async def preview(self, caller: Caller, customer_id: str, request: ChangeRequest) -> Quote:
        """What a change would do and cost. Stores nothing."""
        row, state = await self._loaded(customer_id)
        catalog = await self._catalog()
        return await self._quote(catalog, row, state, request, caller.authority)

    async def _quote(
        self,
        catalog: Catalog,
        row: CustomerRow,
        state: CustomerState,
        request: ChangeRequest,
        authority: Authority,
    ) -> Quote:
        now = to_second(self._clock.now())
        plan = plan_change(catalog, state, request, now, authority=authority)
        lines = plan.lines
        total = plan.total_minor if plan.invoiced_now else 0
        provided = None
        if (
            plan.invoiced_now and not plan.approval_required
        ):  # what is sold by hand is billed by hand
            provided = await self._payments.preview(_order(row, state, plan))
        if provided is not None:
            total = provided.total_minor
            lines = as_provided(plan.lines, provided)
            _tell_differences(plan.lines, provided, customer=row.id)
        due = quotes.due(total, state.credit_balance_minor, smallest_charge_minor(plan.currency))
        expires_at = quotes.expiry(now)
        claims = QuoteClaims(
            customer_id=row.id,
            customer_revision=state.revision,
            catalog_revision=catalog.revision,
            request=request,
            authority=authority,
            proration_date=int(plan.at.timestamp()),
            expires_at=int(expires_at.timestamp()),
            total_minor=total,
            due_now_minor=due.due_now_minor,
            lines_digest=quotes.digest(plan.lines),
        )
        return Quote(
            token=quotes.sign_quote(self._signer, claims),
            expires_at=expires_at,
            plan=plan,
            lines=lines,
            due_now_minor=due.due_now_minor,
            due_now_exact=not plan.new_period,
            credit_applied_minor=due.credit_applied_minor,
            credit_balance_after_minor=due.credit_after_minor,
            entitlement_changes=entitlement_changes(catalog, state, plan),
        )

    # ── commits ──────────────────────────────────────────────────────────────

    async def commit(
        self,
        caller: Caller,
        token: str,
        key: str,
        *,
        return_url: str | None = None,
        bound_to: str | None = None,
    ) -> Committed:
        """Do what a quote says, once per idempotency key.

        `bound_to` is the customer of a caller who has only one: somebody else's quote is not found.
        `return_url` is where the provider's pages lead back to.
        """
        claims = quotes.read_quote(self._signer, token)
        if bound_to not in (None, claims.customer_id):
            raise NotFound("customer", claims.customer_id)
        once = _Once(claims.customer_id, "commitChange", key, _digest(token), return_url)

        async def commit_quoted() -> Committed:
            await self._check_fresh(claims)
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
        digest = _digest([add_on_id, quantity, max_due_now_minor])
        once = _Once(customer_id, "purchaseAddOn", key, digest, return_url)

        async def purchase() -> Committed:
            quote = await self._quote_add_on(caller, customer_id, add_on_id, quantity)
            if max_due_now_minor is not None and quote.due_now_minor > max_due_now_minor:
                raise QuoteStale("it costs more now than what was agreed to", quote)
            return await self._commit(caller, quotes.read_quote(self._signer, quote.token), once)

        return await self._do_once(once, purchase)

    async def _quote_add_on(
        self, caller: Caller, customer_id: str, add_on_id: str, quantity: int
    ) -> Quote:
        if quantity < 1:
            raise ValidationFailed.of("quantity", "QUANTITY_OUT_OF_RANGE", "buy at least one")
        row, state = await self._loaded(customer_id)
        catalog = await self._catalog()
        add_on = catalog.current.get(add_on_id)
        if not isinstance(add_on, AddOn):
            raise ValidationFailed.of("addOnId", "UNKNOWN_PACKAGE", f"{add_on_id!r} is not sold")
        held = state.live(add_on.product_id)
        has = sum(i.quantity for i in held.items if i.package_id == add_on_id) if held else 0
        request = ChangeRequest(product_id=add_on.product_id, add_ons={add_on_id: has + quantity})
        return await self._quote(catalog, row, state, request, caller.authority)

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
        digest = _digest([product_id, timing, reason])
        once = _Once(customer_id, "cancelSubscription", key, digest)
        request = ChangeRequest(product_id=product_id, cancel=True, timing=timing, reason=reason)

        async def cancel() -> Committed:
            quote = await self.preview(caller, customer_id, request)
            return await self._commit(caller, quotes.read_quote(self._signer, quote.token), once)

        return await self._do_once(once, cancel)

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
        except (Conflict, QuoteStale, ValidationFailed):
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
                return await self.finish(change.id)
            await asyncio.sleep(0.05)
            change = await self._change(change.id)
        return await self._answer(change)

    async def _check_fresh(self, claims: QuoteClaims) -> None:
        """Refuse a quote that is past its time or no longer true, with a fresh one."""
        expired = claims.expires_at <= self._clock.now().timestamp()
        async with self._database.read() as session:
            row = await session.get(CustomerRow, claims.customer_id)
            if row is None:
                raise NotFound("customer", claims.customer_id)
            await _refuse_while_unsettled(session, row.id)
            state = await load_state(session, row)
        catalog = await self._catalog()
        said = (claims.customer_revision, claims.catalog_revision)
        if not expired and said == (state.revision, catalog.revision):
            return
        try:
            fresh = await self._quote(catalog, row, state, claims.request, claims.authority)
        except (ValidationFailed, Conflict):
            fresh = None  # what was quoted is not possible any more
        if expired:
            raise QuoteExpired("the quote is past its time", fresh)
        raise QuoteStale("the customer or the catalog has changed since the quote", fresh)

    async def _commit(self, caller: Caller, claims: QuoteClaims, once: _Once) -> Committed:
        catalog = await self._catalog()
        async with self._database.write() as session:
            row = await locked_customer(session, claims.customer_id)
            await _refuse_while_unsettled(session, row.id)
            state = await load_state(session, row)
            if (state.revision, catalog.revision) != (
                claims.customer_revision,
                claims.catalog_revision,
            ):
                raise QuoteStale("the customer or the catalog has changed since the quote")
            plan = plan_change(
                catalog, state, claims.request, claims.at, authority=claims.authority
            )
            if plan.new_period:  # the provider cannot pin that instant: it starts at the commit
                now = self._clock.now()
                plan = plan_change(catalog, state, claims.request, now, authority=claims.authority)
            elif quotes.digest(plan.lines) != claims.lines_digest:
                raise QuoteStale("the quote does not hold any more")
            if plan.approval_required:
                raise ApprovalRequired("this is sold by our sales team: they have to approve it")
            await self._supersede_checkouts(session, row, plan.product_id)
            change = self._intent(row, plan, claims, caller, once)
            session.add(change)
            row.revision += 1
            await session.flush()
            await record(
                session,
                self._clock.now(),
                caller.actor,
                row,
                "change.requested",
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
        async with self._working_on(change.id):
            return await self._carry_out(change.id)

    @asynccontextmanager
    async def _working_on(self, change_id: str) -> AsyncIterator[None]:
        """Keep the lease of an intent for as long as the block runs."""

        done = asyncio.Event()

        async def renew() -> None:
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LEASE_RENEWED_AFTER_SECONDS):
                        await done.wait()
                if done.is_set():
                    return
                async with self._database.write() as session:
                    await session.execute(
                        update(ChangeRow)
                        .where(ChangeRow.id == change_id, ChangeRow.status.in_(UNSETTLED))
                        .values(leased_until=wall_now() + LEASE)
                    )

        renewing = asyncio.create_task(renew())
        try:
            yield
        finally:
            done.set()
            await renewing

    async def _supersede_checkouts(
        self, session: AsyncSession, row: CustomerRow, product_id: str
    ) -> None:
        """One open checkout per customer and product: a new change takes the place of another."""
        for waiting in await session.scalars(
            select(ChangeRow).where(
                ChangeRow.customer_id == row.id,
                ChangeRow.product_id == product_id,
                ChangeRow.status == "awaiting_checkout",
            )
        ):
            waiting.status, waiting.settled_at = "canceled", self._clock.now()
            await record(
                session,
                self._clock.now(),
                ledger.SYSTEM,
                row,
                "change.canceled",
                object_type="change",
                object_id=waiting.id,
                reason="another change took its place",
            )

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
            product_id=plan.product_id,
            subscription_id=plan.subscription_id,
            status="pending",
            direction=plan.direction.value,
            description=plan.description,
            mutation=once.mutation,
            idempotency_key=once.key,
            request_digest=once.request_digest,
            request=msgspec.to_builtins(claims.request),
            plan=msgspec.json.encode(plan).decode(),
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
            return await self._answer(change)
        async with self._working_on(change_id):
            return await self._go_on(change)

    async def _after_checkout(self, change: ChangeRow) -> Committed:
        """Go on once a card is saved: quoted anew, and only if it costs no more than was agreed."""
        assert change.checkout_id is not None
        checkout = await self._payments.finish_checkout(change.checkout_id)
        if checkout.status is CheckoutStatus.OPEN:
            return await self._answer(change)
        if checkout.status is CheckoutStatus.EXPIRED:
            return await self._refuse(change.id, "CHECKOUT_EXPIRED", "no payment method was saved")
        request = msgspec.convert(change.request, ChangeRequest)
        row, state = await self._loaded(change.customer_id)
        catalog = await self._catalog()
        try:
            quote = await self._quote(catalog, row, state, request, Authority(change.authority))
        except (ValidationFailed, Conflict) as error:
            return await self._refuse(change.id, error.code, error.message)
        if quote.due_now_minor > change.due_now_minor:
            return await self._refuse(change.id, "QUOTE_STALE", "it costs more than was agreed to")
        async with self._database.write() as session:
            row = await locked_customer(session, change.customer_id)
            change = await session.get_one(ChangeRow, change.id, with_for_update=True)
            if change.status == "awaiting_checkout" and row.revision == state.revision:
                await _refuse_while_unsettled(session, row.id)
                self._plan_anew(change, quote)
                row.revision += 1
        if change.status != "pending":
            return await self._answer(change)
        async with self._working_on(change.id):
            return await self._carry_out(change.id)

    def _plan_anew(self, change: ChangeRow, quote: Quote) -> None:
        plan = quote.plan
        change.status = "pending"
        change.plan = msgspec.json.encode(plan).decode()
        change.subscription_id = plan.subscription_id
        change.lines = msgspec.to_builtins(quote.lines)
        change.total_minor, change.mrr_delta_minor = plan.total_minor, plan.mrr_delta_minor
        change.effective_at = plan.effective_at
        change.started_at = wall_now()
        change.leased_until = change.started_at + LEASE

    async def _refuse(self, change_id: str, code: str, message: str) -> Committed:
        outcome = Outcome(kind=OutcomeKind.REFUSED, message=message, failure_code=code)
        return await self._settle(change_id, outcome)

    async def _go_on(self, change: ChangeRow) -> Committed:
        """Ask the provider how far it has come; send it again only where it never arrived."""
        order, plan = await self._order_of(change)
        if plan.direction is ChangeDirection.CANCELLATION:
            return await self._carry_out(change.id)  # the same keys: cancelled once
        outcome = await self._payments.progress(change.id, order)
        if outcome is not None:
            return await self._settle(change.id, outcome)
        if change.status == "pending" and wall_now() - change.started_at < KEY_AGE_LIMIT:
            return await self._carry_out(change.id)
        if change.status == "awaiting_payment":
            return await self._refuse(change.id, "PAYMENT_NOT_MADE", "it was not paid in time")
        message = "the provider never took it, and it is too old to be sent again"
        return await self._refuse(change.id, "PROVIDER_REFUSED", message)

    async def unfinished(self, limit: int = 100) -> Sequence[str]:
        """Changes that nobody works on: their process has died, or their checkout has expired."""
        now = wall_now()
        dead = and_(ChangeRow.status == "pending", ChangeRow.leased_until <= now)
        expired = and_(ChangeRow.status == "awaiting_checkout", ChangeRow.payment_expires_at <= now)
        query = select(ChangeRow.id).where(or_(dead, expired)).order_by(ChangeRow.id).limit(limit)
        async with self._database.read() as session:
            return (await session.scalars(query)).all()

    async def release_leases(self) -> None:
        """At the start of the only process: whoever held a lease is dead."""
        async with self._database.write() as session:
            for change in await session.scalars(
                select(ChangeRow).where(ChangeRow.status == "pending")
            ):
                change.leased_until = wall_now()

    async def _carry_out(self, change_id: str) -> Committed:
        """Call the provider, then settle. What may have arrived there stays pending here."""
        change = await self._change(change_id)
        order, plan = await self._order_of(change)
        try:
            if plan.direction is ChangeDirection.CANCELLATION:
                outcome = await self._cancel_at_provider(change, order, plan)
            else:
                provided = await self._payments.ensure_customer(order.customer)
                async with self._database.write() as session:
                    mirror_customer(await locked_customer(session, change.customer_id), provided)
                customer = msgspec.structs.replace(order.customer, provider_id=provided.id)
                order = msgspec.structs.replace(order, customer=customer)
                if provided.payment_method_id is None and self._is_due(plan, provided):
                    return await self._ask_for_a_card(change, provided)
                outcome = await self._payments.execute(change_id, order)
        except PaymentDeclined as error:
            outcome = Outcome(
                kind=OutcomeKind.DECLINED, message=error.message, decline_code=error.decline_code
            )
        except ValidationFailed as error:
            return await self._refuse(change_id, error.issues[0].code, error.message)
        except PaymentProviderUnavailable:
            await self._give_back_lease(change_id)
            raise
        return await self._settle(change_id, outcome)

    def _is_due(self, plan: ChangePlan, customer: ProviderCustomer) -> bool:
        """Whether something will have to be charged at once."""
        smallest_minor = smallest_charge_minor(plan.currency)
        due = quotes.due(plan.total_minor, -customer.balance_minor, smallest_minor)
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
        return await self._answer(change)

    async def _give_back_lease(self, change_id: str) -> None:
        async with self._database.write() as session:
            change = await session.get(ChangeRow, change_id, with_for_update=True)
            if change is not None and change.status == "pending":
                change.leased_until = wall_now() + timedelta(seconds=1)

    async def _cancel_at_provider(
        self, change: ChangeRow, order: BillingOrder, plan: ChangePlan
    ) -> Outcome:
        assert order.subscription_provider_id is not None
        return await self._payments.cancel(
            change.id,
            order.subscription_provider_id,
            at_end=True if plan.timing is ChangeTiming.PERIOD_END else None,
            invoice_now=plan.timing is ChangeTiming.NOW and not plan.void_open_invoices,
            prorate=plan.proration is not ProrationMode.NONE,
            void_open=plan.void_open_invoices,
        )

    async def _order_of(self, change: ChangeRow) -> tuple[BillingOrder, ChangePlan]:
        plan = msgspec.json.decode(change.plan, type=ChangePlan)
        async with self._database.read() as session:
            row = await session.get(CustomerRow, change.customer_id)
            assert row is not None
            state = await load_state(session, row)
        return _order(row, state, plan), plan

    async def _settle(self, change_id: str, outcome: Outcome) -> Committed:
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
        answer = await self._answer(change)
        return msgspec.structs.replace(answer, client_secret=outcome.client_secret)

    async def _apply(
        self, session: AsyncSession, row: CustomerRow, change: ChangeRow, outcome: Outcome
    ) -> None:
        plan = msgspec.json.decode(change.plan, type=ChangePlan)
        now = self._clock.now()
        subscription_id = change.subscription_id
        if outcome.kind is OutcomeKind.APPLIED:
            assert outcome.subscription is not None
            if plan.direction is ChangeDirection.CANCELLATION:
                subscription = await session.get_one(SubscriptionRow, subscription_id)
                mirror_subscription(subscription, outcome.subscription)
            else:
                subscription = await store_plan(session, row, change, plan, outcome.subscription)
            subscription_id = change.subscription_id = subscription.id
            later = plan.timing is ChangeTiming.PERIOD_END
            change.status = "scheduled" if later else "applied"
            action = "change.scheduled" if later else "change.applied"
        elif outcome.kind is OutcomeKind.ACTION_REQUIRED:
            if change.status == "awaiting_payment":
                return
            change.status, action = "awaiting_payment", "change.awaiting_payment"
            change.hosted_url = outcome.hosted_url
            change.payment_expires_at = outcome.expires_at
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
                    self._take_lines(change, plan, outcome.invoice)
        row.revision += 1
        applied = change.status == "applied"
        await record(
            session,
            now,
            ledger.SYSTEM if change.created_by == "system" else Actor(change.created_by),
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

    def _take_lines(self, change: ChangeRow, plan: ChangePlan, invoice: ProviderInvoice) -> None:
        """What was charged is what the provider says; where it is not ours, it is said aloud."""
        change.lines = msgspec.to_builtins(as_provided(plan.lines, invoice))
        change.total_minor = invoice.total_minor
        _tell_differences(plan.lines, invoice, change=change.id)

    async def abandon(
        self, caller: Caller, change_id: str, *, bound_to: str | None = None
    ) -> Committed:
        """Give up an unsettled change, or undo a cancellation that is scheduled."""
        change = await self._change(change_id)
        if bound_to not in (None, change.customer_id):
            raise NotFound("change", change_id)
        order, plan = await self._order_of(change)
        if change.status == "scheduled" and plan.direction is ChangeDirection.CANCELLATION:
            assert order.subscription_provider_id is not None
            outcome = await self._payments.cancel(
                f"{change_id}:undo",
                order.subscription_provider_id,
                at_end=False,
                invoice_now=False,
                prorate=False,
                void_open=False,
            )
        elif change.status == "awaiting_checkout":
            outcome = Outcome(kind=OutcomeKind.DECLINED)  # its page expires by itself
        elif change.status == "awaiting_payment":
            outcome = await self._payments.abandon(change_id, order)
            if outcome.kind is OutcomeKind.APPLIED:
                await self._settle(change_id, outcome)
                raise Conflict("it has been paid in the meantime", code="ALREADY_APPLIED")
        else:
            raise Conflict(
                f"the change is {change.status}: there is nothing to undo", code="SETTLED"
            )
        async with self._database.write() as session:
            row = await locked_customer(session, change.customer_id)
            change = await session.get_one(ChangeRow, change_id)
            if change.status in ("scheduled", *WAITING):
                change.status = "canceled"
                change.settled_at = self._clock.now()
                row.revision += 1
                if outcome.invoice is not None:
                    await mirror_invoice(session, row.id, change.subscription_id, outcome.invoice)
                if outcome.subscription is not None and change.subscription_id is not None:
                    subscription = await session.get_one(SubscriptionRow, change.subscription_id)
                    mirror_subscription(subscription, outcome.subscription)
                await record(
                    session,
                    self._clock.now(),
                    caller.actor,
                    row,
                    "change.canceled",
                    object_type="change",
                    object_id=change.id,
                )
        return Committed(change_id=change_id, customer_id=row.id, revision=row.revision)

    async def _answer(self, change: ChangeRow) -> Committed:
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

    # ── shared ───────────────────────────────────────────────────────────────

    async def _loaded(self, customer_id: str) -> tuple[CustomerRow, CustomerState]:
        async with self._database.read() as session:
            row = await session.get(CustomerRow, customer_id)
            if row is None:
                raise NotFound("customer", customer_id)
            return row, await load_state(session, row)

    async def _change(self, change_id: str) -> ChangeRow:
        async with self._database.read() as session:
            change = await session.get(ChangeRow, change_id)
        if change is None:
            raise NotFound("change", change_id)
        return change


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


def _tell_differences(engine: Sequence[Line], provided: ProviderInvoice, **about: str) -> None:
    """Where our engine and the provider do not agree, somebody has to look."""
    if provided.lines_complete:
        found = differences(engine, provided.lines)
    else:
        total = sum(line.amount_minor for line in engine)
        off = abs(total - provided.total_minor) > TOLERANCE_MINOR * len(engine)
        found = [LineDifference("total", total, provided.total_minor)] if off else []
    if found:
        DIFFERENCES.inc(len(found))
        log.error("provider_differs", differences=msgspec.to_builtins(found), **about)


async def _refuse_while_unsettled(session: AsyncSession, customer_id: str) -> None:
    unsettled = await session.scalar(
        select(ChangeRow.id).where(
            ChangeRow.customer_id == customer_id, ChangeRow.status.in_(UNSETTLED)
        )
    )
    if unsettled is not None:
        raise Conflict(
            f"the change {unsettled} is not settled yet: wait for it, continue or abandon it",
            code="CHANGE_IN_PROGRESS",
        )


def _order(row: CustomerRow, state: CustomerState, plan: ChangePlan) -> BillingOrder:
    held = next((s for s in state.subscriptions if s.id == plan.subscription_id), None)
    return BillingOrder(
        customer=BillingCustomer(
            id=row.id,
            name=row.name,
            email=row.email,
            provider_id=row.provider_id,
            sandbox_payment_method=row.sandbox_payment_method,
        ),
        subscription_provider_id=held.provider_id if held else None,
        currency=plan.currency,
        interval=plan.interval,
        before=tuple(_held_slots(held, plan)) if held else (),
        after=plan.after,
        at=plan.at,
        proration=plan.proration,
        new_period=plan.new_period,
        total_minor=plan.total_minor,
        replaces=plan.replaces,
    )


def _held_slots(held: Subscription, plan: ChangePlan) -> Sequence[HeldSlot]:
    items = {item.package_id: item for item in held.items}
    return [
        HeldSlot(slot, items[slot.package_id].charges[slot.charge_id].provider_item_id)
        for slot in plan.before
        if not slot.metered and slot.package_id in items
    ]


def _digest(request: object) -> str:
    return hashlib.sha256(msgspec.json.encode(request)).hexdigest()
