"""Quoting: what a change would do and cost, at the provider's own figures. Stores nothing."""

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime

import msgspec
from sqlalchemy.ext.asyncio import AsyncSession

from entitlements.catalog.model import AddOn, Catalog
from entitlements.kernel.clock import Clock
from entitlements.kernel.errors import (
    Conflict,
    NotFound,
    QuoteExpired,
    QuoteStale,
    ValidationFailed,
)
from entitlements.kernel.money import smallest_charge_minor
from entitlements.kernel.period import to_second
from entitlements.kernel.signing import Signer
from entitlements.storage.unit_of_work import Database
from entitlements.subscriptions import quote as quotes
from entitlements.subscriptions.change import Authority, ChangePlan, plan_change
from entitlements.subscriptions.composition import add_ons_held
from entitlements.subscriptions.holdings import entitlement_changes
from entitlements.subscriptions.orders import order_of, tell_differences
from entitlements.subscriptions.payments import (
    PaymentProvider,
    as_provided,
)
from entitlements.subscriptions.queue import in_effect
from entitlements.subscriptions.quote import Quote, QuoteClaims
from entitlements.subscriptions.records import (
    load_state,
    refuse_while_unsettled,
)
from entitlements.subscriptions.request import ChangeRequest
from entitlements.subscriptions.standing import given_up, held_for
from entitlements.subscriptions.state import CustomerState
from entitlements.subscriptions.tables import CustomerRow
from entitlements.subscriptions.violations import (
    Used,
    UsedNow,
    levels_in_use,
    refuse_over_limit,
    usage_violations,
)


class Quoting:
    def __init__(
        self,
        database: Database,
        catalog: Callable[[], Awaitable[Catalog]],
        clock: Clock,
        signer: Signer,
        payments: PaymentProvider,
        used: UsedNow,
        report_usage: Callable[[str], Awaitable[None]],
    ) -> None:
        self._database = database
        self._catalog = catalog
        self._clock = clock
        self._signer = signer
        self._payments = payments
        self._used = used
        self._report_usage = report_usage

    async def quote(self, customer_id: str, request: ChangeRequest, authority: Authority) -> Quote:
        """What a change would do and cost for a customer as they are now."""
        row, state = await self.loaded(customer_id)
        return await self.quote_state(row, state, request, authority)

    async def quote_state(
        self,
        row: CustomerRow,
        state: CustomerState,
        request: ChangeRequest,
        authority: Authority,
    ) -> Quote:
        """The same, for a customer that is loaded."""
        catalog = await self._catalog()
        now = to_second(self._clock.now())
        async with self._database.read() as session:
            used = await self.used(session, catalog, state)
        levels = levels_in_use(catalog, used)
        plan = plan_change(catalog, state, request, now, authority=authority, levels_in_use=levels)
        changes = entitlement_changes(catalog, state, plan)
        violations = usage_violations(changes, used)
        refuse_over_limit(catalog, request, plan, violations)
        lines = plan.invoice_lines
        total = plan.invoice_total_minor if plan.invoiced_now else 0
        provided = None
        if plan.invoiced_now:
            if not plan.exact and plan.subscription_id is not None:  # use so far is invoiced, too
                await self._report_usage(plan.subscription_id)
            provided = await self._payments.preview(order_of(row, state, plan))
        if provided is not None:
            total = provided.total_minor
            lines = as_provided(lines, provided)
            tell_differences(plan.invoice_lines, provided, customer=row.id)
        due = quotes.due(total, state.credit_balance_minor, smallest_charge_minor(plan.currency))
        expires_at = quotes.expiry(now)
        then = in_effect(catalog, state, now)
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
            lines_digest=quotes.digest(plan.invoice_lines),
        )
        return Quote(
            token=quotes.sign_quote(self._signer, claims),
            expires_at=expires_at,
            plan=plan,
            lines=lines,
            due_now_minor=due.due_now_minor,
            due_now_exact=plan.exact,
            credit_applied_minor=due.credit_applied_minor,
            credit_balance_after_minor=due.credit_after_minor,
            entitlement_changes=changes,
            usage_violations=violations,
            held=held_for(then, plan),
            given_up=given_up(catalog, then, plan),
        )

    async def quote_add_on(
        self, authority: Authority, customer_id: str, add_on_id: str, quantity: int
    ) -> Quote:
        if quantity < 1:
            raise ValidationFailed.of("quantity", "QUANTITY_OUT_OF_RANGE", "buy at least one")
        row, state = await self.loaded(customer_id)
        catalog = await self._catalog()
        add_on = catalog.current.get(add_on_id)
        if not isinstance(add_on, AddOn):
            raise ValidationFailed.of("addOnId", "UNKNOWN_PACKAGE", f"{add_on_id!r} is not sold")
        held = state.live(add_on.product_id)
        has = add_ons_held(catalog, held.items)[add_on_id] if held else 0
        request = ChangeRequest(product_id=add_on.product_id, add_ons={add_on_id: has + quantity})
        return await self.quote_state(row, state, request, authority)

    async def check_fresh(self, claims: QuoteClaims) -> None:
        """Refuse a quote that is past its time or no longer true, with a fresh one."""
        expired = claims.expires_at <= self._clock.now().timestamp()
        async with self._database.read() as session:
            row = await session.get(CustomerRow, claims.customer_id)
            if row is None:
                raise NotFound("customer", claims.customer_id)
            await refuse_while_unsettled(session, row.id)
            state = await load_state(session, row)
        catalog = await self._catalog()
        if not expired and claims.holds_for(state.revision, catalog.revision):
            return
        fresh = await self._fresh(row, state, claims)
        if expired:
            raise QuoteExpired("the quote is past its time", fresh)
        raise QuoteStale("the customer or the catalog has changed since the quote", fresh)

    async def _fresh(
        self, row: CustomerRow, state: CustomerState, claims: QuoteClaims
    ) -> Quote | None:
        """The same change quoted now, at the latest versions; None where it is not possible."""
        request = msgspec.structs.replace(claims.request, versions={})
        try:
            return await self.quote_state(row, state, request, claims.authority)
        except (ValidationFailed, Conflict):
            return None

    def offer(
        self, state: CustomerState, request: ChangeRequest, plan: ChangePlan
    ) -> tuple[str, datetime]:
        """A token for a customer's own change as our engine has it, and until when it is good.

        The provider is not asked. `request` pins the versions that `plan` brings.
        """
        expires_at = quotes.expiry(plan.at)
        claims = QuoteClaims(
            customer_id=state.id,
            customer_revision=state.revision,
            catalog_revision=None,
            request=request,
            authority=Authority.CUSTOMER,
            proration_date=int(plan.at.timestamp()),
            expires_at=int(expires_at.timestamp()),
            total_minor=plan.invoice_total_minor if plan.invoiced_now else 0,
            due_now_minor=quotes.due_by(plan, state.credit_balance_minor).due_now_minor,
            lines_digest=quotes.digest(plan.invoice_lines),
        )
        return quotes.sign_quote(self._signer, claims), expires_at

    async def check_offer(self, claims: QuoteClaims) -> None:
        """Ask the provider, for the first time, what an offer comes to at its instant.

        More than one minor unit between us on a line is `QuoteStale`, with the provider's figures.
        """
        row, state = await self.loaded(claims.customer_id)
        catalog = await self._catalog()
        async with self._database.read() as session:
            used = await self.used(session, catalog, state)
        levels = levels_in_use(catalog, used)
        plan = plan_change(
            catalog,
            state,
            claims.request,
            claims.at,
            authority=claims.authority,
            levels_in_use=levels,
        )
        if not plan.invoiced_now:
            return
        provided = await self._payments.preview(order_of(row, state, plan))
        if provided and tell_differences(plan.invoice_lines, provided, customer=row.id):
            fresh = await self._fresh(row, state, claims)
            raise QuoteStale("the payment provider's figures are others than the offer's", fresh)

    async def used(
        self, session: AsyncSession, catalog: Catalog, state: CustomerState
    ) -> Mapping[str, Used]:
        """What the customer uses now of every METERED feature, read in a transaction."""
        return await self._used(session, catalog, state, self._clock.now())

    def read(self, token: str) -> QuoteClaims:
        """The claims of a quote of ours."""
        return quotes.read_quote(self._signer, token)

    async def loaded(self, customer_id: str) -> tuple[CustomerRow, CustomerState]:
        async with self._database.read() as session:
            row = await session.get(CustomerRow, customer_id)
            if row is None:
                raise NotFound("customer", customer_id)
            return row, await load_state(session, row)
