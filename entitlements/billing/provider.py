"""Stripe behind the port of `subscriptions.payments`: the only module that changes subscriptions.

It does not know whether it talks to Stripe or to the sandbox. Every effect carries a key derived
from our change's id; the change's id is also written into the subscription's metadata, so that a
later look tells whether the change arrived.
"""

import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, TypeVar

import msgspec
import stripe
import structlog

from entitlements.billing.meters import Meters
from entitlements.billing.payers import Payers
from entitlements.billing.prices import ProviderPrices, name_held
from entitlements.billing.provider_clock import ProviderClock
from entitlements.billing.push import CatalogPush
from entitlements.billing.retrieval import Retrieval, licensed_first
from entitlements.billing.sdk import (
    BILLING,
    decline_of,
    id_of,
    instant,
    metadata_of,
    optional_instant,
    provider_errors,
    refusals,
    status_of,
    what_ends,
)
from entitlements.billing.transport import Transport, is_replayed
from entitlements.catalog.model import Catalog, ProrationMode
from entitlements.kernel.clock import Clock
from entitlements.kernel.errors import (
    Conflict,
    IdempotencyConflict,
)
from entitlements.kernel.period import Interval
from entitlements.storage.unit_of_work import Database
from entitlements.subscriptions.lines import Slot, bills_at_zero
from entitlements.subscriptions.payments import (
    BillingOrder,
    Future,
    HeldSlot,
    Outcome,
    OutcomeKind,
    ProviderInvoice,
    ProviderSubscription,
)
from entitlements.subscriptions.state import SubscriptionStatus

log = structlog.get_logger()

_Effect = TypeVar("_Effect")

KEYS_AT_MOST = 3
"""Of one step: the first, and one more for each 500 that the provider has kept under a key."""

_BEHAVIOR = {
    ProrationMode.INVOICE_NOW: "always_invoice",
    ProrationMode.NEXT_INVOICE: "create_prorations",
    ProrationMode.NONE: "none",
}


class StripeProvider:
    """The adapter. `api_base` empty means Stripe itself.

    `test_clock`, in a sandbox, gives the id of the test clock that customers live under. It follows
    the service's clock before anything is priced or charged, so that both count the same seconds.
    """

    def __init__(
        self,
        database: Database,
        api_key: str,
        api_base: str,
        catalog: Callable[[], Awaitable[Catalog]],
        *,
        clock: Clock,
        test_clock: Callable[[], Awaitable[str]] | None,
    ) -> None:
        self._http_client = Transport()
        self._client = stripe.StripeClient(
            api_key,
            base_addresses={"api": api_base.rstrip("/")} if api_base else {},
            max_network_retries=0,  # the transport's
            http_client=self._http_client,
        )
        self._catalog = catalog
        self.meters = Meters(self._client)
        self.prices = ProviderPrices(database, self._client, self.meters)
        self.catalog_push = CatalogPush(database, self._client, self.prices, catalog)
        self._clock = ProviderClock(self._client, clock, test_clock)
        self._payers = Payers(self._client, test_clock)
        self._there = Retrieval(self._client, self.prices, catalog)

        # What of the port others do.
        self.advance_clock = self._clock.advance
        self.create_test_clock = self._clock.create
        self.ensure_customer = self._payers.ensure_customer
        self.put_customer = self._payers.put_customer
        self.forget_customer = self._payers.forget_customer
        self.customer = self._payers.customer
        self.start_checkout = self._payers.start_checkout
        self.finish_checkout = self._payers.finish_checkout
        self.subscription = self._there.subscription
        self.invoice = self._there.invoice
        self.invoices = self._there.invoices
        self.client_secret = self._there.client_secret

    @property
    def client(self) -> stripe.StripeClient:
        """For those who only read."""
        return self._client

    # ── orders ───────────────────────────────────────────────────────────────

    async def preview(self, order: BillingOrder) -> ProviderInvoice | None:
        async with provider_errors():
            await self._clock.follow()
            items = (await self._items(order)).items if order.after else []
            if order.after and not items and not order.ends_trial:
                return None
            details: dict[str, Any] = {"items": items} if items else {}
            if not order.after:
                details = {"cancel_now": True}
            params: dict[str, Any] = {"subscription_details": details}
            if order.customer.provider_id:
                params["customer"] = order.customer.provider_id
            if order.subscription_provider_id is None:
                params["currency"] = order.currency
            else:
                params["subscription"] = order.subscription_provider_id
                details |= self._proration(order)
                if order.ends_trial:
                    details["trial_end"] = "now"
                elif order.new_period and items:
                    details["billing_cycle_anchor"] = {"type": "now"}
            try:
                invoice = await self._client.v1.invoices.create_preview_async(params)  # type: ignore[arg-type]
            except stripe.InvalidRequestError as error:
                log.warning("preview_refused", param=error.param, error=str(error))
                raise Conflict(
                    "the subscription has changed meanwhile: ask again", code="CHANGED_MEANWHILE"
                ) from error
            return await self._there.as_invoice(invoice)

    async def execute(self, change_id: str, order: BillingOrder) -> Outcome:
        async with provider_errors():
            await self._clock.follow()
            try:
                if order.subscription_provider_id is None:
                    return await self._subscribe(change_id, order)
                if not order.after:
                    prorate = order.proration is not ProrationMode.NONE
                    return await self._end(change_id, order.subscription_provider_id, prorate)
                return await self._update(change_id, order, order.subscription_provider_id)
            except stripe.InvalidRequestError as error:
                log.error("stripe_refused", change=change_id, param=error.param, code=error.code)
                return Outcome(kind=OutcomeKind.REFUSED, message=str(error.user_message or error))

    async def _subscribe(self, change_id: str, order: BillingOrder) -> Outcome:
        """A new subscription is incomplete until its first invoice is paid with the saved card."""
        changes = await self._items(order)
        params: dict[str, Any] = {
            "customer": order.customer.provider_id,
            "currency": order.currency,
            "items": [*changes.items, *changes.joining],
            "payment_behavior": "default_incomplete",
            "billing_mode": {"type": "flexible"},
            "metadata": {"change": change_id},
        }
        if order.trial_ends_at is not None:
            params |= _trial(order.trial_ends_at, expires=order.trial_expires)

        async def create(key: str) -> str:
            created = await self._client.v1.subscriptions.create_async(
                params,  # type: ignore[arg-type]
                {"idempotency_key": key},
            )
            return created.id

        async def created() -> str | None:
            found = await self._subscription_of(change_id, order)
            return found.id if found else None

        subscription_id = await self._once(f"{change_id}:create", create, created)
        return await self._pay_first_invoice(change_id, subscription_id)

    async def _once(
        self,
        key: str,
        send: Callable[[str], Awaitable[_Effect]],
        effect: Callable[[], Awaitable[_Effect | None]],
    ) -> _Effect:
        """Send what must happen once, under a key.

        Stripe keeps a 500 under its key for a day, too: then `effect` reads what came of it, and
        only where that is nothing it is sent under the next key.
        """
        number = 1
        while True:
            try:
                return await send(key if number == 1 else f"{key}:{number}")
            except stripe.APIError as error:
                if not is_replayed(error.headers):
                    raise
                log.warning("stripe_kept_an_error", key=key, number=number)
                if (there := await effect()) is not None:
                    return there
                if number == KEYS_AT_MOST:
                    raise
            number += 1

    async def _pay_first_invoice(self, change_id: str, subscription_id: str) -> Outcome:
        subscription = await self._there.need_subscription(subscription_id)
        invoice_id = subscription.latest_invoice_id
        if subscription.status is SubscriptionStatus.INCOMPLETE and invoice_id:

            async def pay(key: str) -> stripe.Invoice:
                return await self._client.v1.invoices.pay_async(
                    invoice_id, {"off_session": False}, {"idempotency_key": key}
                )

            async def paid() -> stripe.Invoice | None:
                found = await self._client.v1.invoices.retrieve_async(invoice_id)
                return found if found.status == "paid" else None

            try:
                await self._once(f"{change_id}:pay", pay, paid)
            except stripe.CardError:
                return await self._unpaid(change_id, subscription)
            subscription = await self._there.need_subscription(subscription_id)
        return await self._applied(subscription)

    async def _update(self, change_id: str, order: BillingOrder, subscription_id: str) -> Outcome:
        if order.release:
            found = await self._client.v1.subscriptions.retrieve_async(subscription_id)
            if (schedule_id := id_of(found.schedule)) is not None:
                await self._release(schedule_id)
        changes = await self._items(order)
        items = [*changes.items, *changes.joining]
        params: dict[str, Any] = {"metadata": {"change": change_id}}
        if items or order.ends_trial:
            params |= {"payment_behavior": changes.payment_behavior, **self._proration(order)}
        if items:
            params["items"] = items
        if order.ends_trial:  # which begins a period
            params["trial_end"] = "now"
        elif order.new_period:
            params["billing_cycle_anchor"] = {"type": "now"}

        async def update(key: str) -> stripe.Subscription:
            return await self._client.v1.subscriptions.update_async(
                subscription_id,
                params,  # type: ignore[arg-type]
                {"idempotency_key": key},
            )

        async def changed() -> stripe.Subscription | None:
            found = await self._client.v1.subscriptions.retrieve_async(subscription_id)
            pending = found.pending_update
            carried = [metadata_of(s.metadata).get("change") for s in (found, pending) if s]
            return found if change_id in carried else None

        try:
            updated = await self._once(f"{change_id}:update", update, changed)
        except stripe.CardError as error:  # error_if_incomplete: nothing has changed
            declined = decline_of(error)
            return Outcome(
                kind=OutcomeKind.DECLINED,
                subscription=await self._there.need_subscription(subscription_id),
                message=declined.message,
                decline_code=declined.decline_code,
            )
        subscription = await self._there.need_subscription(subscription_id)
        if subscription.pending_change_id == change_id:
            return await self._unpaid(change_id, subscription)
        if subscription.change_id != change_id:  # an earlier try was taken, and has been undone
            return await self._undone(subscription, id_of(updated.latest_invoice))
        return await self._sweep(change_id, order, subscription, changes.emptied)

    async def _end(self, change_id: str, subscription_id: str, prorate: bool) -> Outcome:
        """Its last charge goes: what waits and what is left of the period are invoiced now."""
        return await self.cancel(
            change_id, subscription_id, invoice_now=True, prorate=prorate, void_open=False
        )

    def _proration(self, order: BillingOrder) -> dict[str, Any]:
        """The instant is pinned except where a new period starts: the provider refuses both."""
        params: dict[str, Any] = {"proration_behavior": _BEHAVIOR[order.proration]}
        if not order.new_period and order.proration is not ProrationMode.NONE:
            params["proration_date"] = int(order.at.timestamp())
        return params

    async def _items(self, order: BillingOrder) -> "_ItemChanges":
        """What to send of the items. What stays is not sent; what leaves is reused by changing its
        price (`replacements`).

        What is left over is deleted, if nothing can be due. Otherwise it is set to quantity 0 and
        deleted once that is paid, since a pending update may not delete; a flat fee left over even
        so is deleted in an update that fails as a whole where the card is not charged at once.

        What is metered joins with the rest, as it costs nothing by that; what becomes of that which
        is there waits until the rest has been applied (`_metered_left`).
        """
        catalog = await self._catalog()
        after = [slot for slot in order.after if not slot.metered]
        known = await self._known(order)
        held = {h.slot.key: h for h in known if not h.slot.metered}
        metered = {h.slot.key for h in known if h.slot.metered}
        joining = [s for s in order.after if s.metered and s.key not in metered]
        staying = {slot.key for slot in after}
        changing, repriced = [], []
        repriced_all = order.new_period and not order.ends_trial
        for slot in after:
            old = held.get(slot.key)
            if old is None or repriced_all or not old.slot.priced_as(slot):
                repriced.append(slot)
            if old is None or repriced_all or not old.slot.costs_as(slot):
                changing.append((slot, old or held.get(order.replaces.get(slot.key, ""))))
        wanted = [*repriced, *joining]
        prices = await self.prices.ensure(catalog, wanted, order.currency, order.interval)
        items: list[dict[str, Any]] = []
        for slot, old in changing:
            item: dict[str, Any] = {"id": old.provider_item_id} if old else {}
            if slot in prices:  # one that stays is not named: it may be archived by now
                item["price"] = prices[slot]
            items.append(item | {"quantity": slot.billable})
        reused = set(order.replaces.values())
        left = [h for key, h in held.items() if key not in staying and key not in reused]
        gone = [old.provider_item_id for old in left]
        join = [{"price": prices[slot]} for slot in joining]
        flat = any(bills_at_zero(catalog, h.slot, order.currency, order.interval) for h in left)
        if gone and (flat or order.total_minor <= 0):
            items += [{"id": item_id, "deleted": True} for item_id in gone]
            return _ItemChanges(items, join, [], "error_if_incomplete")
        items += [{"id": item_id, "quantity": 0} for item_id in gone]
        return _ItemChanges(items, join, gone, "pending_if_incomplete")

    async def _known(self, order: BillingOrder) -> list[HeldSlot]:
        """What is held, under the item ids that the provider has for it now."""
        held = list(order.before)
        if order.subscription_provider_id is None or all(h.provider_item_id for h in held):
            return held
        there = (await self._there.need_subscription(order.subscription_provider_id)).items
        ids = {item.key: item.id for item in there}
        return [
            HeldSlot(h.slot, ids.get(h.slot.key, h.provider_item_id))
            for h in held
            if h.provider_item_id or h.slot.key in ids
        ]

    async def _sweep(
        self,
        change_id: str,
        order: BillingOrder,
        subscription: ProviderSubscription,
        emptied: list[str],
    ) -> Outcome:
        """Delete what an applied update has emptied, and settle what is metered."""
        there = {item.id for item in subscription.items}
        gone = [item_id for item_id in emptied if item_id in there]
        items: list[dict[str, Any]] = [{"id": item_id, "deleted": True} for item_id in gone]
        items += await self._metered_left(order, subscription)
        if items:
            params: Any = {"items": items, "proration_behavior": "none"}
            await self._client.v1.subscriptions.update_async(
                subscription.id, params, {"idempotency_key": f"{change_id}:sweep"}
            )
            subscription = await self._there.need_subscription(subscription.id)
        return await self._applied(subscription)

    async def _metered_left(
        self, order: BillingOrder, subscription: ProviderSubscription
    ) -> list[dict[str, Any]]:
        """Metered items that are to go, or to have another price, now that all else is done.

        The provider puts what was used until now on the next invoice, at the price that was held.
        """
        wanted = {slot.key: slot for slot in order.after if slot.metered}
        metered = [item for item in subscription.items if item.metered and item.package_id]
        if not metered:
            return []
        catalog = await self._catalog()
        items: list[dict[str, Any]] = []
        for item in metered:
            slot = wanted.get(item.key)
            if slot is None:
                items.append({"id": item.id, "deleted": True})
                continue
            name = name_held(catalog, slot, order.currency, order.interval)
            there = item.version, item.price_factor, item.interval
            if (name.version, name.factor, name.interval) != there:
                price = await self.prices.ensure(catalog, [slot], order.currency, order.interval)
                items.append({"id": item.id, "price": price[slot]})
        return items

    async def _applied(self, subscription: ProviderSubscription) -> Outcome:
        invoice = None
        if subscription.latest_invoice_id:
            invoice = await self._there.need_invoice(subscription.latest_invoice_id)
        return Outcome(kind=OutcomeKind.APPLIED, subscription=subscription, invoice=invoice)

    async def _unpaid(self, change_id: str, subscription: ProviderSubscription) -> Outcome:
        """The invoice is open: the customer must act, or the card was declined: all is undone."""
        assert subscription.latest_invoice_id
        found = await self._with_payment(subscription.latest_invoice_id)
        if (waiting := await self._waiting(found, subscription)) is not None:
            return waiting
        await self._void(change_id, subscription.latest_invoice_id)
        invoice = await self._there.need_invoice(subscription.latest_invoice_id)
        return _unpaid_outcome(found, await self._there.need_subscription(subscription.id), invoice)

    async def _undone(self, subscription: ProviderSubscription, invoice_id: str | None) -> Outcome:
        """An order whose invoice was voided: its card was declined, or nobody paid in time."""
        if invoice_id is not None:
            found = await self._with_payment(invoice_id)
            intent = _payment_intent(found)
            if intent is not None and intent.last_payment_error is not None:
                return _unpaid_outcome(found, subscription, await self._there.as_invoice(found))
        return Outcome(
            kind=OutcomeKind.REFUSED,
            subscription=subscription,
            message="it was not paid in time",
            failure_code="PAYMENT_NOT_MADE",
        )

    async def _with_payment(self, invoice_id: str) -> stripe.Invoice:
        return await self._client.v1.invoices.retrieve_async(
            invoice_id, {"expand": ["confirmation_secret", "payments.data.payment.payment_intent"]}
        )

    async def _waiting(
        self, found: stripe.Invoice, subscription: ProviderSubscription | None
    ) -> Outcome | None:
        """What the customer needs to authenticate the payment of an invoice, if that is asked."""
        intent = _payment_intent(found)
        if intent is None or intent.status != "requires_action":
            return None
        expires = None
        if subscription is not None:
            raw = await self._client.v1.subscriptions.retrieve_async(subscription.id)
            expires = raw.pending_update.expires_at if raw.pending_update else None
        secret = found.confirmation_secret
        return Outcome(
            kind=OutcomeKind.ACTION_REQUIRED,
            subscription=subscription,
            invoice=await self._there.as_invoice(found),
            client_secret=secret.client_secret if secret else None,
            hosted_url=found.hosted_invoice_url,
            expires_at=instant(expires or found.created + 23 * 3600),
        )

    async def _void(self, change_id: str, invoice_id: str) -> None:
        """Voiding the invoice of a pending update drops it; that of a new subscription ends it.

        The provider voids it too, once its time is over: then that is done.
        """
        try:
            await self._client.v1.invoices.void_invoice_async(
                invoice_id, {}, {"idempotency_key": f"{change_id}:void"}
            )
        except stripe.InvalidRequestError:
            if (await self._there.need_invoice(invoice_id)).status != "void":
                raise

    async def progress(
        self, change_id: str, order: BillingOrder, invoice_provider_id: str | None
    ) -> Outcome | None:
        async with provider_errors():
            subscription = await self._subscription_of(change_id, order)
            if subscription is None:
                return None
            if subscription.pending_change_id == change_id:
                return await self._unpaid(change_id, subscription)
            if not order.after:
                ended = subscription.status is SubscriptionStatus.CANCELED
                return await self._applied(subscription) if ended else None
            if subscription.change_id != change_id:
                taken = invoice_provider_id is not None
                return await self._undone(subscription, invoice_provider_id) if taken else None
            if order.subscription_provider_id is None:
                return await self._progress_of_new(change_id, subscription)
            kept = {h.provider_item_id for h in order.before}
            wanted = {slot.key for slot in order.after}
            emptied = [
                item.id
                for item in subscription.items
                if item.id in kept and item.quantity == 0 and item.key not in wanted
            ]
            return await self._sweep(change_id, order, subscription, emptied)

    async def _progress_of_new(self, change_id: str, subscription: ProviderSubscription) -> Outcome:
        if subscription.status is SubscriptionStatus.INCOMPLETE:
            return await self._pay_first_invoice(change_id, subscription.id)
        if subscription.status is SubscriptionStatus.CANCELED:
            return await self._undone(subscription, subscription.latest_invoice_id)
        return await self._applied(subscription)

    async def _subscription_of(
        self, change_id: str, order: BillingOrder
    ) -> ProviderSubscription | None:
        if order.subscription_provider_id is not None:
            return await self._there.need_subscription(order.subscription_provider_id)
        if order.customer.provider_id is None:
            return None
        listed = await self._client.v1.subscriptions.list_async(
            {"customer": order.customer.provider_id, "status": "all", "limit": 100}
        )
        for found in listed.data:
            if (found.metadata.to_dict() if found.metadata else {}).get("change") == change_id:
                return await self._there.as_subscription(found)
        return None

    async def abandon(self, change_id: str, order: BillingOrder) -> Outcome:
        async with provider_errors():
            subscription = await self._subscription_of(change_id, order)
            waiting = subscription is not None and (
                subscription.pending_change_id == change_id
                or subscription.status is SubscriptionStatus.INCOMPLETE
            )
            if subscription is not None and waiting and subscription.latest_invoice_id:
                invoice_id = subscription.latest_invoice_id
                await self._void(change_id, invoice_id)
                return Outcome(
                    kind=OutcomeKind.DECLINED,
                    subscription=await self._there.need_subscription(subscription.id),
                    invoice=await self._there.need_invoice(invoice_id),
                )
            if subscription is not None and subscription.change_id == change_id:
                applied = await self._applied(subscription)
                if applied.invoice is None or applied.invoice.status != "void":
                    return applied  # it was paid in the meantime
                return msgspec.structs.replace(applied, kind=OutcomeKind.DECLINED)
            return Outcome(kind=OutcomeKind.DECLINED, subscription=subscription)

    async def cancel(
        self,
        change_id: str,
        subscription_provider_id: str,
        *,
        invoice_now: bool,
        prorate: bool,
        void_open: bool,
    ) -> Outcome:
        async with provider_errors():
            await self._clock.follow()
            try:
                await self._end_now(subscription_provider_id, invoice_now, prorate)
                if void_open:
                    await self._void_open(change_id, subscription_provider_id)
            except stripe.InvalidRequestError as error:
                return Outcome(kind=OutcomeKind.REFUSED, message=str(error.user_message or error))
            return await self._applied(
                await self._there.need_subscription(subscription_provider_id)
            )

    async def _end_now(self, subscription_id: str, invoice_now: bool, prorate: bool) -> None:
        """Once: keys mean nothing to a DELETE, which is refused where it has taken effect."""
        try:
            await self._client.v1.subscriptions.cancel_async(
                subscription_id, {"invoice_now": invoice_now, "prorate": prorate}
            )
        except stripe.InvalidRequestError:
            ended = (await self._there.need_subscription(subscription_id)).status
            if ended is not SubscriptionStatus.CANCELED:
                raise

    async def _void_open(self, change_id: str, subscription_id: str) -> None:
        open_ones = await self._client.v1.invoices.list_async(
            {"subscription": subscription_id, "status": "open", "limit": 100}
        )
        for invoice in open_ones.data:
            await self._client.v1.invoices.void_invoice_async(
                invoice.id, {}, {"idempotency_key": f"{change_id}:void:{invoice.id}"}
            )

    # ── what happens at the period's end ─────────────────────────────────────

    async def set_future(
        self, key: str, subscription_provider_id: str, future: Future
    ) -> ProviderSubscription:
        async with provider_errors():
            await self._clock.follow()
            try:
                await self._set_future(key, subscription_provider_id, future)
            except stripe.InvalidRequestError as error:
                log.error("stripe_refused", future=key, param=error.param, code=error.code)
                raise Conflict(str(error.user_message or error), code="PROVIDER_REFUSED") from error
            return await self._there.need_subscription(subscription_provider_id)

    async def _set_future(self, key: str, subscription_id: str, future: Future) -> None:
        """Read what is planned, and change what is not as wanted: any number of times.

        A schedule says in its metadata what it was made for. One with a single phase does nothing:
        somebody died before writing the second.
        """
        subscriptions = self._client.v1.subscriptions
        found = await subscriptions.retrieve_async(subscription_id, {"expand": ["schedule"]})
        if status_of(found) is SubscriptionStatus.CANCELED:
            return
        phase = await self._next_phase(future)
        wanted = _digest(phase) if phase else None
        schedule: Any = found.schedule
        if phase and schedule and metadata_of(schedule.metadata).get("future") == wanted:
            return
        if schedule is not None and (phase is None or len(schedule.phases) > 1):
            await self._release(schedule.id)
            schedule = None
        if future.trial_ends_at is not None and status_of(found) is SubscriptionStatus.TRIALING:
            await self._move_trial_end(subscription_id, found, future.trial_ends_at)
        ends = future.cancel_at is not None or future.billing_ends
        what = BILLING if future.billing_ends else ""
        if (found.cancel_at is not None, what_ends(found)) != (ends, what):
            at_end = ends or found.cancel_at_period_end
            params: Any = {"cancel_at_period_end": ends} if at_end else {"cancel_at": ""}
            await subscriptions.update_async(
                subscription_id,
                params | {"metadata": {"ends": what}},
                {"idempotency_key": f"{key}:ends:{ends}:{what}"},
            )
        if phase is not None:
            ends_at = licensed_first(await self._there.items_of(found))[0].current_period_end
            await self._plan_phase(f"{key}:{wanted}", subscription_id, schedule, phase, ends_at)

    async def _move_trial_end(
        self, subscription_id: str, found: stripe.Subscription, ends_at: datetime
    ) -> None:
        """A longer trial, free as it was; a subscription that ends with it ends later, too."""
        if optional_instant(found.trial_end) == ends_at:
            return
        params: Any = {"trial_end": int(ends_at.timestamp()), "proration_behavior": "none"}
        if found.cancel_at is not None:
            params["cancel_at"] = int(ends_at.timestamp())
        key = f"{subscription_id}:trial_end:{found.trial_end}:{params['trial_end']}"
        await self._client.v1.subscriptions.update_async(
            subscription_id, params, {"idempotency_key": key}
        )

    async def _next_phase(self, future: Future) -> dict[str, Any] | None:
        """What a subscription goes on as, in the provider's terms; its first period is enough."""
        if future.slots is None:
            return None
        slots = future.slots
        catalog = await self._catalog()
        prices = await self.prices.ensure(catalog, slots, future.currency, future.interval)
        phase: dict[str, Any] = {
            "items": [{"price": prices[slot], **_quantity(slot)} for slot in slots],
            "duration": {"interval": future.interval.value, "interval_count": 1},
            "proration_behavior": "none",
        }
        return phase | ({"billing_cycle_anchor": "phase_start"} if future.new_anchor else {})

    async def _plan_phase(
        self, key: str, subscription_id: str, schedule: Any, phase: dict[str, Any], ends_at: int
    ) -> None:
        """One schedule of two phases: the running period as it is, then the next; then released.

        `ends_at` is the end of what is paid in advance: what is metered may be billed more often.
        """
        schedules = self._client.v1.subscription_schedules
        if schedule is None:
            schedule = await schedules.create_async(
                {"from_subscription": subscription_id}, {"idempotency_key": f"{key}:schedule"}
            )
        running = schedule.phases[0]
        present: dict[str, Any] = {
            "items": [
                {"price": id_of(item.price)}
                | ({} if item.quantity is None else {"quantity": item.quantity})
                for item in running["items"]
            ],
            "start_date": running.start_date,
            "end_date": ends_at,
            "proration_behavior": "none",
        }
        present |= {"trial_end": running.trial_end} if running.trial_end else {}
        params: Any = {
            "phases": [present, phase],
            "end_behavior": "release",
            "metadata": {"future": _digest(phase)},
        }
        await schedules.update_async(
            schedule.id, params, {"idempotency_key": f"{key}:phases:{schedule.id}"}
        )

    async def _release(self, schedule_id: str) -> None:
        """Let a subscription go on without its schedule; a schedule is released once."""
        await self._client.v1.subscription_schedules.release_async(
            schedule_id, {}, {"idempotency_key": f"{schedule_id}:release"}
        )

    async def put_items(
        self,
        key: str,
        subscription_provider_id: str,
        currency: str,
        interval: Interval,
        *,
        put: Sequence[tuple[str | None, Slot]],
        delete: Sequence[str],
    ) -> None:
        """Make items what they should be, without proration: nothing is invoiced for it.

        `put` gives each its item id, None for one that has to be made; `delete` are item ids. The
        caller has seen to it that nothing could be due (`reconciliation.may_push`).
        """
        async with provider_errors(), refusals():
            await self._clock.follow()
            slots = [slot for _, slot in put]
            prices = await self.prices.ensure(await self._catalog(), slots, currency, interval)
            items: list[dict[str, Any]] = [
                ({"id": item_id} if item_id else {}) | {"price": prices[slot], **_quantity(slot)}
                for item_id, slot in put
            ]
            items += [{"id": item_id, "deleted": True} for item_id in delete]
            params: dict[str, Any] = {"items": items, "proration_behavior": "none"}
            await self._client.v1.subscriptions.update_async(
                subscription_provider_id,
                params,  # type: ignore[arg-type]
                {"idempotency_key": key},
            )

    # ── open invoices ────────────────────────────────────────────────────────

    async def pay(self, invoice_provider_id: str, key: str) -> Outcome:
        async with provider_errors():
            await self._clock.follow()
            try:
                await self._client.v1.invoices.pay_async(
                    invoice_provider_id, {"off_session": False}, {"idempotency_key": key}
                )
            except stripe.CardError as error:
                found = await self._with_payment(invoice_provider_id)
                if (waiting := await self._waiting(found, None)) is not None:
                    return waiting
                declined = decline_of(error)
                return Outcome(
                    kind=OutcomeKind.DECLINED,
                    message=declined.message,
                    decline_code=declined.decline_code,
                )
            except stripe.IdempotencyError as error:
                raise IdempotencyConflict("this key was used for another invoice") from error
            except stripe.InvalidRequestError as error:
                return Outcome(kind=OutcomeKind.REFUSED, message=str(error.user_message or error))
            invoice = await self._there.need_invoice(invoice_provider_id)
            return Outcome(kind=OutcomeKind.APPLIED, invoice=invoice)

    async def close(self) -> None:
        await self._http_client.close_async()  # type: ignore[no-untyped-call]


class _ItemChanges(NamedTuple):
    """Items to send, those that are metered and join for nothing, the ids of those that are
    emptied, and what happens if it is not paid."""

    items: list[dict[str, Any]]
    joining: list[dict[str, Any]]
    emptied: list[str]
    payment_behavior: str


def _trial(ends_at: datetime, *, expires: bool) -> dict[str, Any]:
    """A subscription that begins on trial. Without a way to pay it ends with the trial, too."""
    end = int(ends_at.timestamp())
    params: dict[str, Any] = {
        "trial_end": end,
        "trial_settings": {"end_behavior": {"missing_payment_method": "cancel"}},
    }
    return params | ({"cancel_at": end} if expires else {})


def _quantity(slot: Slot) -> dict[str, int]:
    return {} if slot.metered else {"quantity": slot.billable}


def _digest(phase: Mapping[str, Any]) -> str:
    """What a schedule's phase says, in short."""
    return hashlib.sha256(msgspec.json.encode(phase, order="sorted")).hexdigest()[:32]


def _payment_intent(invoice: stripe.Invoice) -> Any:
    for payment in invoice.payments.data if invoice.payments else ():
        intent = payment.payment.payment_intent
        if intent is not None and not isinstance(intent, str):
            return intent
    return None


def _unpaid_outcome(
    found: stripe.Invoice, subscription: ProviderSubscription, invoice: ProviderInvoice
) -> Outcome:
    """An order whose card was declined, in the words of its payment."""
    intent = _payment_intent(found)
    error = intent.last_payment_error if intent is not None else None
    return Outcome(
        kind=OutcomeKind.DECLINED,
        subscription=subscription,
        invoice=invoice,
        message=(error.message if error else None) or "the payment was declined",
        decline_code=(error.decline_code or error.code) if error else None,
    )
