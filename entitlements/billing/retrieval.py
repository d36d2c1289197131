"""What the provider has now, read back in our terms: subscriptions, their items, invoices."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import stripe

from entitlements.billing.meters import LATE_USAGE
from entitlements.billing.prices import PricedSlot, ProviderPrices
from entitlements.billing.sdk import (
    id_of,
    instant,
    metadata_of,
    optional_instant,
    provider_errors,
    status_of,
    what_ends,
)
from entitlements.catalog.model import Catalog
from entitlements.kernel.period import Interval, Period
from entitlements.subscriptions.grandfathering import LIST
from entitlements.subscriptions.invoice_line import Allocation, Line, LineKind
from entitlements.subscriptions.lines import allocations_of
from entitlements.subscriptions.payments import (
    ProviderInvoice,
    ProviderItem,
    ProviderSubscription,
)


class Retrieval:
    """Reads, and nothing else. `found` and the like are as the SDK has them."""

    def __init__(
        self,
        client: stripe.StripeClient,
        prices: ProviderPrices,
        catalog: Callable[[], Awaitable[Catalog]],
    ) -> None:
        self._client = client
        self._catalog = catalog
        self.prices = prices

    async def subscription(self, provider_id: str) -> ProviderSubscription | None:
        async with provider_errors():
            try:
                return await self.need_subscription(provider_id)
            except stripe.InvalidRequestError:
                return None

    async def need_subscription(self, provider_id: str) -> ProviderSubscription:
        found = await self._client.v1.subscriptions.retrieve_async(provider_id)
        return await self.as_subscription(found)

    async def as_subscription(self, found: stripe.Subscription) -> ProviderSubscription:
        items = await self.items_of(found)
        slots = await self.prices.slots(item.price.id for item in items)
        licensed = licensed_first(items)[0]
        recurring = licensed.price.recurring
        assert recurring is not None
        pending = found.pending_update
        return ProviderSubscription(
            id=found.id,
            customer_provider_id=id_of(found.customer) or "",
            status=status_of(found),
            interval=Interval(recurring.interval),
            period=Period(
                instant(licensed.current_period_start), instant(licensed.current_period_end)
            ),
            anchor=instant(found.billing_cycle_anchor),
            items=tuple(
                ProviderItem(
                    item.id,
                    slots[item.price.id].package_id if item.price.id in slots else None,
                    slots[item.price.id].version if item.price.id in slots else None,
                    slots[item.price.id].charge_id if item.price.id in slots else None,
                    getattr(item, "quantity", None),
                    _is_metered(item),
                    Interval(item.price.recurring.interval),
                    slots[item.price.id].price_factor if item.price.id in slots else LIST,
                )
                for item in items
            ),
            change_id=metadata_of(found.metadata).get("change"),
            pending_change_id=metadata_of(pending.metadata).get("change") if pending else None,
            cancel_at=None if what_ends(found) else optional_instant(found.cancel_at),
            trial_ends_at=optional_instant(found.trial_end),
            ended_at=optional_instant(found.ended_at),
            latest_invoice_id=id_of(found.latest_invoice),
        )

    async def items_of(self, found: stripe.Subscription) -> Sequence[Any]:
        """Every item, also where the subscription shows only the first of them."""
        if not found["items"].has_more:
            return list(found["items"].data)
        pages = await self._client.v1.subscription_items.list_async(
            {"subscription": found.id, "limit": 100}
        )
        return [item async for item in pages.auto_paging_iter()]

    async def invoice(self, provider_id: str) -> ProviderInvoice | None:
        async with provider_errors():
            try:
                return await self.need_invoice(provider_id)
            except stripe.InvalidRequestError:
                return None

    async def client_secret(self, invoice_provider_id: str) -> str | None:
        async with provider_errors():
            found = await self._client.v1.invoices.retrieve_async(
                invoice_provider_id, {"expand": ["confirmation_secret"]}
            )
            secret = found.confirmation_secret
            return secret.client_secret if secret else None

    async def invoices(
        self, customer_provider_id: str, since: datetime | None
    ) -> tuple[ProviderInvoice, ...]:
        async with provider_errors():
            created = {"gte": int(since.timestamp())} if since is not None else None
            try:
                pages = await self._client.v1.invoices.list_async(
                    {"customer": customer_provider_id, "limit": 100}  # type: ignore[arg-type]
                    | ({"created": created} if created else {})
                )
            except stripe.InvalidRequestError:  # the customer is not there, or not any more
                return ()
            return tuple([await self.as_invoice(found) async for found in pages.auto_paging_iter()])

    async def need_invoice(self, provider_id: str) -> ProviderInvoice:
        return await self.as_invoice(await self._client.v1.invoices.retrieve_async(provider_id))

    async def as_invoice(self, found: stripe.Invoice) -> ProviderInvoice:
        lines = list(found.lines.data)
        preview = found.status is None or (found.id or "").startswith("upcoming_in_")
        if found.lines.has_more and found.id and not preview:
            pages = await self._client.v1.invoices.line_items.list_async(found.id, {"limit": 100})
            lines = [line async for line in pages.auto_paging_iter()]
        slots = await self.prices.slots(filter(None, map(_price_id, lines)))
        catalog = await self._catalog()
        details = found.parent.subscription_details if found.parent else None
        return ProviderInvoice(
            id=None if preview else found.id,
            number=found.number,
            status=found.status or "draft",
            currency=found.currency,
            created_at=instant(found.created),
            subscription_provider_id=id_of(details.subscription) if details else None,
            total_minor=found.total,
            amount_due_minor=found.amount_due,
            amount_paid_minor=found.amount_paid,
            starting_balance_minor=found.starting_balance,
            ending_balance_minor=found.ending_balance,
            hosted_url=getattr(found, "hosted_invoice_url", None),
            lines=tuple(
                _line(catalog, line, slots) for line in lines if line.amount or line.quantity
            ),
            lines_complete=not (preview and found.lines.has_more),
        )


def licensed_first(items: Sequence[Any]) -> Sequence[Any]:
    """Items, those that are paid in advance first: their period is the subscription's."""
    return sorted(items, key=_is_metered)


def _is_metered(item: Any) -> bool:
    return bool(item.price.recurring and item.price.recurring.usage_type == "metered")


def _line(catalog: Catalog, line: stripe.InvoiceLineItem, slots: Mapping[str, PricedSlot]) -> Line:
    slot = slots.get(_price_id(line) or "") or _late_usage(line)
    allocations: tuple[Allocation, ...] = ()
    metered = False
    if slot is not None:
        package = catalog.version(slot.package_id, slot.version)
        charge = package.charge(slot.charge_id)
        metered = charge.metered
        quantity = line.quantity or 0
        allocations = allocations_of(
            catalog, package, charge, line.amount, quantity, line.currency, slot.interval
        )
    parent = line.parent.subscription_item_details if line.parent else None
    credited = bool(parent and parent.proration_details and parent.proration_details.credited_items)
    return Line(
        id=getattr(line, "id", None),
        kind=LineKind.CREDIT if credited or line.amount < 0 else LineKind.CHARGE,
        package_id=slot.package_id if slot else None,
        version=slot.version if slot else None,
        charge_id=slot.charge_id if slot else None,
        description=line.description or "",
        quantity=line.quantity,
        period=_period(line.period.start, line.period.end),
        amount_minor=line.amount,
        allocations=allocations,
        metered=metered,
    )


def _late_usage(line: stripe.InvoiceLineItem) -> PricedSlot | None:
    """The charge of a line that we had put there, for use that came too late."""
    said = metadata_of(line.metadata)
    if LATE_USAGE not in said:
        return None
    package_id, version = said["package"].split("@")
    return PricedSlot(package_id, int(version), said["charge"], Interval.MONTH)


def _price_id(line: stripe.InvoiceLineItem) -> str | None:
    details = line.pricing.price_details if line.pricing else None
    return id_of(details.price) if details else None


def _period(start: int, end: int) -> Period | None:
    return Period(instant(start), instant(end)) if start < end else None
