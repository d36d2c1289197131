"""Reading one customer for a comparison: as we hold them, and as the provider has them."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from decimal import Decimal
from functools import partial
from typing import Any, TypeVar

import stripe
from sqlalchemy import select

from entitlements.billing.metering import Metering
from entitlements.billing.pace import Pace
from entitlements.billing.prices import ProviderPrices, lookup_key, name_held
from entitlements.billing.reconciliation import (
    InvoiceSide,
    ItemSide,
    OpenChange,
    Ours,
    PlannedSide,
    SubscriptionSide,
    Theirs,
)
from entitlements.billing.retrieval import licensed_first
from entitlements.billing.sdk import (
    BILLING,
    id_of,
    instant,
    metadata_of,
    optional_instant,
    provider_errors,
    status_of,
    what_ends,
)
from entitlements.billing.webhooks import HANDLED, StoredEvent, event_of
from entitlements.catalog.model import Catalog
from entitlements.kernel.errors import NotFound, ServiceError
from entitlements.kernel.period import Interval, Period
from entitlements.storage.unit_of_work import Database
from entitlements.subscriptions.lines import slots_of
from entitlements.subscriptions.orders import future_of
from entitlements.subscriptions.payments import Future
from entitlements.subscriptions.records import UNSETTLED, load_states
from entitlements.subscriptions.state import CustomerState, Subscription
from entitlements.subscriptions.tables import ChangeRow, CustomerRow, InvoiceRow

PAGE = 100
EVENT_TYPES_PER_CALL = 20

T = TypeVar("T")


# ── ours ─────────────────────────────────────────────────────────────────────


class OurSide:
    def __init__(
        self, database: Database, catalog: Callable[[], Awaitable[Catalog]], metering: Metering
    ) -> None:
        self._database = database
        self._catalog = catalog
        self._metering = metering

    async def customers(self, after: str | None, limit: int) -> Sequence[CustomerRow]:
        """The next customers in order of creation, after the cursor (`sequence`)."""
        query = select(CustomerRow).order_by(CustomerRow.sequence).limit(limit)
        if after is not None:
            query = query.where(CustomerRow.sequence > after)
        async with self._database.read() as session:
            return (await session.scalars(query)).all()

    async def customer(self, customer_id: str) -> Ours:
        """One customer with all that should stand at the provider, read at one instant."""
        catalog = await self._catalog()
        async with self._database.read() as session:
            row = await session.get(CustomerRow, customer_id)
            if row is None:
                raise NotFound("customer", customer_id)
            state = (await load_states(session, [row]))[row.id]
            changes = await session.scalars(
                select(ChangeRow).where(
                    ChangeRow.customer_id == row.id,
                    ChangeRow.status.in_((*UNSETTLED, "awaiting_checkout")),
                )
            )
            claims = await session.execute(
                select(ChangeRow.invoice_provider_id, ChangeRow.id).where(
                    ChangeRow.customer_id == row.id, ChangeRow.invoice_provider_id.is_not(None)
                )
            )
            invoices = await session.execute(
                select(
                    InvoiceRow.provider_id,
                    InvoiceRow.status,
                    InvoiceRow.currency,
                    InvoiceRow.total_minor,
                    InvoiceRow.amount_due_minor,
                    InvoiceRow.amount_paid_minor,
                    InvoiceRow.created_at,
                ).where(InvoiceRow.customer_id == row.id)
            )
            return Ours(
                id=row.id,
                revision=row.revision,
                provider_id=row.provider_id,
                name=row.name,
                email=row.email,
                payment_method=_method(
                    row.payment_method_id, row.card_brand, row.card_last4, row.card_expires
                ),
                credit_minor=row.credit_balance_minor,
                subscriptions=_held(catalog, state),
                changes=tuple(
                    OpenChange(
                        id=change.id,
                        status=change.status,
                        leased_until=change.leased_until,
                        expires_at=change.payment_expires_at,
                        abandoned=change.abandoned_by is not None,
                    )
                    for change in changes
                ),
                invoices={
                    invoice.provider_id: InvoiceSide(
                        status=invoice.status,
                        currency=invoice.currency,
                        total_minor=invoice.total_minor,
                        amount_due_minor=invoice.amount_due_minor,
                        amount_paid_minor=invoice.amount_paid_minor,
                        created_at=invoice.created_at,
                    )
                    for invoice in invoices
                },
                claims={invoice_id: change_id for invoice_id, change_id in claims if invoice_id},
                unbilled=await self._metering.unbilled(session, catalog, row.id),
            )


def _held(catalog: Catalog, state: CustomerState) -> tuple[SubscriptionSide, ...]:
    """What should stand at the provider; what is billed elsewhere is left out."""
    return tuple(
        _one_held(catalog, state, held) for held in state.subscriptions if held.provider_id
    )


def _one_held(catalog: Catalog, state: CustomerState, held: Subscription) -> SubscriptionSide:
    future = future_of(catalog, state, held) if held.live else None
    return SubscriptionSide(
        id=held.provider_id or "",
        our_id=held.id,
        status=held.status,
        currency=held.currency,
        interval=held.interval,
        period=held.period,
        anchor=held.anchor,
        cancel_at=held.cancel_at,
        billing_ends=future is not None and future.billing_ends,
        trial_ends_at=held.trial_ends_at,
        items=_items(catalog, held),
        planned=_planned(catalog, future) if future else None,
        unaligned=held.unaligned,
    )


def _planned(catalog: Catalog, future: Future) -> PlannedSide | None:
    if future.slots is None:
        return None
    items = (
        (
            name_held(catalog, slot, future.currency, future.interval).lookup_key,
            None if slot.metered else slot.billable,
        )
        for slot in future.slots
    )
    return PlannedSide(tuple(sorted(items)))


def _items(catalog: Catalog, held: Subscription) -> tuple[ItemSide, ...]:
    charges = {item.package_id: item.charges for item in held.items}
    items = []
    for slot in slots_of(catalog, held.items, held.quantities):
        charge = charges[slot.package_id].get(slot.charge_id)
        price = name_held(catalog, slot, held.currency, held.interval).lookup_key
        id = charge.provider_item_id if charge else ""
        quantity = None if slot.metered else slot.billable
        items.append(ItemSide(id, slot.key, price, quantity))
    return tuple(items)


def _method(id: str | None, *card: str | None) -> str | None:
    """A payment method in one line: `pm_1 visa 4242 12/2030`."""
    return " ".join(filter(None, (id, *card))) if id else None


# ── theirs ───────────────────────────────────────────────────────────────────


class TheirSide:
    """Reads, and nothing else. Every method may raise `PaymentProviderUnavailable`."""

    def __init__(self, client: stripe.StripeClient, prices: ProviderPrices, pace: Pace) -> None:
        self._client = client
        self._prices = prices
        self._pace = pace

    async def customer(self, provider_id: str) -> Theirs | None:
        """A customer with all subscriptions and invoices; None where the provider has none."""
        v1 = self._client.v1
        params: Any = {"expand": ["invoice_settings.default_payment_method"]}
        found = await self._call(lambda: v1.customers.retrieve_async(provider_id, params))
        if found is None:
            return None
        all_of_it: Any = {"customer": provider_id, "limit": PAGE}
        held = await self._call(
            lambda: v1.subscriptions.list_async(
                all_of_it | {"status": "all", "expand": ["data.schedule"]}
            )
        )
        sides = [await self._subscription(s) async for s in self._every(held) if s["items"].data]
        billed = await self._call(lambda: v1.invoices.list_async(all_of_it))
        invoices = {str(i.id): _invoice(i) async for i in self._every(billed)}
        deleted = bool(getattr(found, "deleted", False))
        settings = None if deleted else found.invoice_settings
        method: Any = settings.default_payment_method if settings else None
        card = getattr(method, "card", None)
        return Theirs(
            deleted=deleted,
            name=None if deleted else found.name,
            email=None if deleted else found.email,
            payment_method=_method(
                method.id if method else None,
                *((card.brand, card.last4, f"{card.exp_month:02}/{card.exp_year}") if card else ()),
            ),
            credit_minor=0 if deleted else -(found.balance or 0),
            subscriptions=tuple(sides),
            invoices=None if billed is None else invoices,
        )

    async def _subscription(self, found: stripe.Subscription) -> SubscriptionSide:
        items = list(found["items"].data)
        if found["items"].has_more:
            listed: Any = {"subscription": found.id, "limit": PAGE}
            first_page = await self._call(
                lambda: self._client.v1.subscription_items.list_async(listed)
            )
            items = [item async for item in self._every(first_page)]
        slots = await self._prices.slots(item.price.id for item in items)
        sides = []
        for item in items:
            slot = slots.get(item.price.id)
            every = item.price.recurring.interval if item.price.recurring else "once"
            price = item.price.id
            if slot is not None:
                price = lookup_key(slot, item.price.currency, Interval(every))
            quantity = getattr(item, "quantity", None)
            sides.append(ItemSide(item.id, slot.key if slot else None, price, quantity))
        first, pending = licensed_first(items)[0], found.pending_update
        schedule: Any = found.schedule  # expanded
        only_billing = what_ends(found) == BILLING
        return SubscriptionSide(
            id=found.id,
            status=status_of(found),
            currency=found.currency,
            interval=first.price.recurring.interval if first.price.recurring else "once",
            period=Period(instant(first.current_period_start), instant(first.current_period_end)),
            anchor=instant(found.billing_cycle_anchor),
            cancel_at=None if only_billing else optional_instant(found.cancel_at),
            billing_ends=only_billing and found.cancel_at is not None,
            trial_ends_at=optional_instant(found.trial_end),
            ended_at=optional_instant(found.ended_at),
            items=tuple(sides),
            change_id=metadata_of(found.metadata).get("change"),
            pending_update=pending is not None,
            pending_change_id=metadata_of(pending.metadata).get("change") if pending else None,
            planned=await self._phase_after(schedule, found.currency),
            schedule_id=id_of(schedule),
            schedule_is_ours=bool(schedule and "future" in metadata_of(schedule.metadata)),
            free=all(_is_free(item) for item in items),
        )

    async def _phase_after(self, schedule: Any, currency: str) -> PlannedSide | None:
        """What a schedule, shown whole, goes on to; None where it changes nothing more."""
        running: Any = schedule.current_phase if schedule else None
        phases = schedule.phases if running else ()
        following = next((p for p in phases if p.start_date >= running.end_date), None)
        if following is None:
            return None
        items = [
            (id_of(item.price) or "", getattr(item, "quantity", None))
            for item in following["items"]
        ]
        slots = await self._prices.slots(price for price, _ in items)
        keys = {price: lookup_key(slot, currency, slot.interval) for price, slot in slots.items()}
        return PlannedSide(tuple(sorted((keys.get(price, price), n) for price, n in items)))

    async def undelivered(self) -> AsyncIterator[list[StoredEvent]]:
        """Events that some endpoint has not taken, of the kinds we act on, page by page.

        The provider keeps them for 30 days.
        """
        types = sorted(HANDLED)
        for start in range(0, len(types), EVENT_TYPES_PER_CALL):
            params: Any = {
                "delivery_success": False,
                "types": types[start : start + EVENT_TYPES_PER_CALL],
                "limit": PAGE,
            }
            page = await self._call(partial(self._client.v1.events.list_async, params))
            while page is not None:
                yield [event_of(event.to_dict()) for event in page.data]
                page = await self._next(page)

    async def _every(self, page: stripe.ListObject[Any] | None) -> AsyncIterator[Any]:
        """Every object of a list from its first page on. Nothing where its owner is gone."""
        while page is not None:
            for each in page.data:
                yield each
            page = await self._next(page)

    async def _next(self, page: stripe.ListObject[Any]) -> stripe.ListObject[Any] | None:
        return await self._call(page.next_page_async) if page.has_more else None

    async def _call(self, do: Callable[[], Awaitable[T]]) -> T | None:
        """One paced call; None where there is no such object."""

        async def call() -> T:
            await self._pace.turn()
            async with provider_errors():
                return await do()

        try:
            return await self._pace.patiently(call)
        except stripe.InvalidRequestError as error:
            if error.code == "resource_missing":
                return None
            raise ServiceError(str(error), code="PROVIDER_REFUSED") from error


def _is_free(item: stripe.SubscriptionItem) -> bool:
    price = item.price
    if price.billing_scheme == "tiered":
        return False
    unit_amount = Decimal(str(price.unit_amount_decimal or 0))
    return not (unit_amount and getattr(item, "quantity", None))


def _invoice(found: stripe.Invoice) -> InvoiceSide:
    details = found.parent.subscription_details if found.parent else None
    return InvoiceSide(
        status=found.status or "draft",
        currency=found.currency,
        total_minor=found.total,
        amount_due_minor=found.amount_due,
        amount_paid_minor=found.amount_paid,
        by_change=found.billing_reason in ("subscription_create", "subscription_update"),
        created_at=instant(found.created),
        subscription_id=id_of(details.subscription) if details else None,
        change_id=metadata_of(details.metadata).get("change") if details else None,
    )
