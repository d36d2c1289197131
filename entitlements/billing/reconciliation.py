"""What we hold beside what the provider has: every difference, and how it may be mended. Pure.

Both sides are plain descriptions of one customer: ours says how it should stand at the provider,
theirs how it does. Who reads them, and when, is not of interest here.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TypeAlias

import msgspec

from entitlements.billing.usage_reports import Unbilled
from entitlements.kernel.period import Period, format_instant
from entitlements.subscriptions.state import SubscriptionStatus

STUCK_AFTER = timedelta(minutes=5)
"""How long past its lease, or its page's end, a change is left to the worker."""

LAST_INVOICE_WITHIN = timedelta(minutes=1)
"""The invoice that settles what is left is written when its subscription ends."""

Value: TypeAlias = str | int | None
"""One side of a difference: text, a number, or None where that side has nothing."""


class Kind(StrEnum):
    """What differs. The first word is the object."""

    CUSTOMER_MISSING = "customer_missing"
    CUSTOMER_DELETED = "customer_deleted"
    CUSTOMER_DIFFERS = "customer_differs"
    SUBSCRIPTION_MISSING = "subscription_missing"
    SUBSCRIPTION_UNKNOWN = "subscription_unknown"
    SUBSCRIPTION_DIFFERS = "subscription_differs"
    ITEM_MISSING = "item_missing"
    ITEM_UNKNOWN = "item_unknown"
    ITEM_DIFFERS = "item_differs"
    ITEM_EMPTIED = "item_emptied"
    PENDING_UPDATE_UNKNOWN = "pending_update_unknown"
    SCHEDULE_MISSING = "schedule_missing"
    SCHEDULE_UNKNOWN = "schedule_unknown"
    SCHEDULE_DIFFERS = "schedule_differs"
    CHANGE_STUCK = "change_stuck"
    INVOICE_MISSING = "invoice_missing"
    INVOICE_UNKNOWN = "invoice_unknown"
    INVOICE_DIFFERS = "invoice_differs"
    CHARGED_TWICE = "charged_twice"
    CHARGE_UNEXPLAINED = "charge_unexplained"
    USAGE_UNBILLED = "usage_unbilled"
    EVENT_FAILED = "event_failed"
    EVENT_UNDELIVERED = "event_undelivered"


class Repair(StrEnum):
    """How a difference is mended. None of them cancels, or charges for what nobody has used or
    asked for."""

    MIRROR = "mirror"  # the provider is right: take it over
    FINISH = "finish"  # a change that was asked for is brought to its end
    PUSH = "push"  # we are right, and it costs nothing: put it there
    ALIGN = "align"  # we are right about what happens at the period's end: say it there again
    SWEEP = "sweep"  # an item left over at quantity 0 is deleted there
    INVOICE = "invoice"  # use that came too late for its invoice stands on the next one
    REPLAY = "replay"  # an event is applied (again)


class Drift(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One difference. `repair` is None where a person has to decide.

    `customer` is our id; `subscription` ours, or the provider's where we have none. `path` names
    the field within it: `status`, `items.starter/base.quantity`, `invoices.in_1.amount_paid_minor`.
    """

    kind: Kind
    customer: str
    subscription: str | None = None
    path: str
    ours: Value = None
    theirs: Value = None
    repair: Repair | None = None

    @property
    def place(self) -> tuple[str, str, str | None, str]:
        """What it is about, whatever the two sides say."""
        return self.kind, self.customer, self.subscription, self.path


# ── the two sides ────────────────────────────────────────────────────────────


class ItemSide(msgspec.Struct, frozen=True):
    """An item. `slot` is `package/charge`, None if its price is not one of ours.

    `price` is our lookup key (`pro@3/base/usd/month`), or the provider's id of a price of others.
    `quantity` is the one that is paid for; None where the provider meters it.
    """

    id: str
    slot: str | None
    price: str
    quantity: int | None


class PlannedSide(msgspec.Struct, frozen=True):
    """What a subscription is to go on as at the end of its period: price and quantity, in order."""

    items: tuple[tuple[str, int | None], ...]

    def __str__(self) -> str:
        return ", ".join(_counted(quantity, price) for price, quantity in self.items)


class SubscriptionSide(msgspec.Struct, frozen=True, kw_only=True):
    """A subscription. `id` is the provider's; `our_id` is None on the provider's side."""

    id: str
    our_id: str | None = None
    status: SubscriptionStatus
    currency: str
    interval: str
    period: Period
    anchor: datetime
    cancel_at: datetime | None
    billing_ends: bool = False  # with the period, while what is held lives on without a charge
    trial_ends_at: datetime | None
    ended_at: datetime | None = None
    items: tuple[ItemSide, ...]
    change_id: str | None = None  # theirs: the last change that it took
    pending_update: bool = False  # theirs
    pending_change_id: str | None = None  # theirs: whose it is, if it is ours
    planned: PlannedSide | None = None
    unaligned: bool = False  # ours: the provider may not have been told yet what is planned
    schedule_id: str | None = None  # theirs
    schedule_is_ours: bool = False  # theirs: we made it
    free: bool = False  # theirs: it costs nothing now, so that a change could begin to charge

    @property
    def live(self) -> bool:
        return self.status is not SubscriptionStatus.CANCELED


class InvoiceSide(msgspec.Struct, frozen=True, kw_only=True):
    """An invoice's figures. `by_change`: theirs, that a change of the items made it."""

    status: str
    currency: str
    total_minor: int
    amount_due_minor: int
    amount_paid_minor: int
    by_change: bool = False
    created_at: datetime
    subscription_id: str | None = None  # the provider's
    change_id: str | None = None  # theirs: the last change that the subscription had taken


class OpenChange(msgspec.Struct, frozen=True, kw_only=True):
    """A change of ours that is not settled. Instants are the wall's, as leases are."""

    id: str
    status: str
    leased_until: datetime
    expires_at: datetime | None
    abandoned: bool


class Ours(msgspec.Struct, frozen=True, kw_only=True):
    """A customer as we hold them. `claims` is the change of each invoice that a change made.

    `name` and `email` are None where we know none: then the provider may say what it likes.
    """

    id: str
    revision: int
    provider_id: str | None
    name: str | None
    email: str | None
    payment_method: str | None
    credit_minor: int
    subscriptions: tuple[SubscriptionSide, ...]
    changes: tuple[OpenChange, ...]
    invoices: Mapping[str, InvoiceSide]
    claims: Mapping[str, str]
    unbilled: tuple[Unbilled, ...] = ()


class Theirs(msgspec.Struct, frozen=True, kw_only=True):
    """A customer as the provider has them. `invoices` is None where it shows none any more."""

    deleted: bool
    name: str | None
    email: str | None
    payment_method: str | None
    credit_minor: int
    subscriptions: tuple[SubscriptionSide, ...]
    invoices: Mapping[str, InvoiceSide] | None


# ── comparing ────────────────────────────────────────────────────────────────


def in_motion(ours: Ours, at: datetime) -> bool:
    """Whether a change is under way (wall time): what is read then is soon old."""
    return any(c.status == "pending" and at < c.leased_until + STUCK_AFTER for c in ours.changes)


def compare(ours: Ours, theirs: Theirs | None, at: datetime) -> tuple[Drift, ...]:
    """Every difference of one customer at an instant of the wall; none is `()`.

    `theirs` None: the provider does not know the customer.
    """
    if ours.provider_id is None:  # never billed yet: there is nothing to be there
        return tuple(_stuck(ours, (), at))
    if theirs is None:
        missing = Drift(
            kind=Kind.CUSTOMER_MISSING, customer=ours.id, path="provider_id", ours=ours.provider_id
        )
        return (missing, *_stuck(ours, (), at))
    return (
        *_customer(ours, theirs),
        *_subscriptions(ours, theirs),
        *_stuck(ours, theirs.subscriptions, at),
        *_invoices(ours, theirs),
        *_charges(ours, theirs),
        *_unbilled(ours, theirs),
    )


def unbilled_path(use: Unbilled) -> str:
    """Where use is that is on no invoice: `usage.pro/calls.2026-03-01T00:00:00Z`."""
    return f"usage.{use.slot}.{format_instant(use.window.start)}"


def _unbilled(ours: Ours, theirs: Theirs) -> Iterable[Drift]:
    """Use that came when its invoice was final: units to be paid for, beside those invoiced."""
    there = {s.id for s in theirs.subscriptions if s.live}
    going_on = {s.our_id for s in ours.subscriptions if s.live and s.id in there}
    for use in ours.unbilled:
        yield Drift(
            kind=Kind.USAGE_UNBILLED,
            customer=ours.id,
            subscription=use.subscription_id,
            path=unbilled_path(use),
            ours=use.billable,
            theirs=use.billed,
            repair=Repair.INVOICE if use.subscription_id in going_on else None,
        )


def _customer(ours: Ours, theirs: Theirs) -> Iterable[Drift]:
    if theirs.deleted:
        yield Drift(
            kind=Kind.CUSTOMER_DELETED,
            customer=ours.id,
            path="provider_id",
            ours=ours.provider_id,
            theirs="deleted",
        )
    for path, mine, there, repair in (
        ("name", ours.name, theirs.name, Repair.PUSH),
        ("email", ours.email, theirs.email, Repair.PUSH),
        ("payment_method", ours.payment_method, theirs.payment_method, Repair.MIRROR),
        ("credit_minor", ours.credit_minor, theirs.credit_minor, Repair.MIRROR),
    ):
        pushed = repair is Repair.PUSH
        if mine == there or (pushed and (mine is None or theirs.deleted)):
            continue
        yield Drift(
            kind=Kind.CUSTOMER_DIFFERS,
            customer=ours.id,
            path=path,
            ours=mine,
            theirs=there,
            repair=repair,
        )


def _subscriptions(ours: Ours, theirs: Theirs) -> Iterable[Drift]:
    there = {subscription.id: subscription for subscription in theirs.subscriptions}
    open_ids = {change.id for change in ours.changes}
    for held in ours.subscriptions:
        found = there.pop(held.id, None)
        if found is not None:
            yield from _subscription(ours, held, found)
        elif held.live:
            yield Drift(
                kind=Kind.SUBSCRIPTION_MISSING,
                customer=ours.id,
                subscription=held.our_id,
                path="provider_id",
                ours=held.id,
            )
    for found in there.values():
        # The first payment of a new one may wait for the customer: that is not a lost one.
        begun = found.status is SubscriptionStatus.INCOMPLETE and found.change_id in open_ids
        if found.live and not begun:
            stuck = found.change_id in open_ids
            yield Drift(
                kind=Kind.SUBSCRIPTION_UNKNOWN,
                customer=ours.id,
                subscription=found.id,
                path="status",
                theirs=found.status.value,
                repair=Repair.FINISH if stuck else None,
            )


def _subscription(ours: Ours, held: SubscriptionSide, found: SubscriptionSide) -> Iterable[Drift]:
    if not held.live and not found.live:
        return
    mirrored = Repair.MIRROR if held.live else None  # an ended one is not brought back to life
    ends = Repair.ALIGN if held.live and held.unaligned else mirrored
    fields: tuple[tuple[str, Value, Value, Repair | None], ...] = (
        ("status", held.status.value, found.status.value, mirrored),
        ("period_start", _text(held.period.start), _text(found.period.start), mirrored),
        ("period_end", _text(held.period.end), _text(found.period.end), mirrored),
        ("anchor", _text(held.anchor), _text(found.anchor), mirrored),
        ("cancel_at", _text(held.cancel_at), _text(found.cancel_at), ends),
        ("billing_ends", _end_of_billing(held), _end_of_billing(found), Repair.ALIGN),
        ("trial_ends_at", _text(held.trial_ends_at), _text(found.trial_ends_at), mirrored),
        ("currency", held.currency, found.currency, None),
        ("interval", held.interval, found.interval, None),
    )
    for path, mine, theirs, repair in fields:
        if mine != theirs and (path == "status" or (held.live and found.live)):
            yield Drift(
                kind=Kind.SUBSCRIPTION_DIFFERS,
                customer=ours.id,
                subscription=held.our_id,
                path=path,
                ours=mine,
                theirs=theirs,
                repair=repair,
            )
    if held.live and found.live:
        yield from _items(ours, held, found)
        yield from _future(ours, held, found)


def _end_of_billing(side: SubscriptionSide) -> str | None:
    return _text(side.period.end) if side.billing_ends else None


def _items(ours: Ours, held: SubscriptionSide, found: SubscriptionSide) -> Iterable[Drift]:
    free_to_push = may_push(ours, held, found)
    push = Repair.PUSH if free_to_push else None

    def drift(kind: Kind, path: str, mine: Value, theirs: Value, repair: Repair | None) -> Drift:
        return Drift(
            kind=kind,
            customer=ours.id,
            subscription=held.our_id,
            path=f"items.{path}",
            ours=mine,
            theirs=theirs,
            repair=repair,
        )

    pairs, left = matched(held.items, found.items)
    for mine, theirs in pairs:
        if theirs is None:
            told = _counted(mine.quantity, mine.price)
            yield drift(Kind.ITEM_MISSING, mine.slot or mine.id, told, None, push)
            continue
        slot = mine.slot or mine.id
        for path, here, there, repair in (
            (f"{slot}.price", mine.price, theirs.price, push),
            (f"{slot}.quantity", mine.quantity, theirs.quantity, push),
            (f"{slot}.id", mine.id, theirs.id, Repair.MIRROR),
        ):
            if here != there:
                yield drift(Kind.ITEM_DIFFERS, path, here, there, repair)
    for theirs in left:
        emptied = theirs.quantity == 0
        yield drift(
            Kind.ITEM_EMPTIED if emptied else Kind.ITEM_UNKNOWN,
            theirs.id,
            None,
            _counted(theirs.quantity, theirs.price),
            Repair.SWEEP if emptied and free_to_push else None,
        )


def matched(
    ours: Iterable[ItemSide], theirs: Iterable[ItemSide]
) -> tuple[list[tuple[ItemSide, ItemSide | None]], list[ItemSide]]:
    """Each item of ours with theirs, and those of theirs that are left over.

    The same item first, then one of the same package and charge.
    """
    mine, left = list(ours), {item.id: item for item in theirs}
    pairs: dict[int, ItemSide] = {}
    for n, item in enumerate(mine):
        if item.id in left:
            pairs[n] = left.pop(item.id)
    for n, item in enumerate(mine):
        if n not in pairs:
            same = next((i for i in left.values() if i.slot == item.slot), None)
            if same is not None:
                pairs[n] = left.pop(same.id)
    return [(item, pairs.get(n)) for n, item in enumerate(mine)], list(left.values())


def may_push(ours: Ours, held: SubscriptionSide, found: SubscriptionSide) -> bool:
    """Whether items can be put right at the provider without anything being invoiced for it.

    Not while something is owed, waits or is planned there, nor where one of us is in another period
    (that is mended first), nor where a subscription that is free would begin to cost: the provider
    charges that at once.
    """
    return (
        (held.status, held.period) == (found.status, found.period)
        and held.status in (SubscriptionStatus.ACTIVE, SubscriptionStatus.TRIALING)
        and (held.currency, held.interval) == (found.currency, found.interval)
        and not (found.pending_update or found.schedule_id or found.free)
        and not any(change.status in ("pending", "awaiting_payment") for change in ours.changes)
    )


def _future(ours: Ours, held: SubscriptionSide, found: SubscriptionSide) -> Iterable[Drift]:
    """What waits there to happen without our knowing of it."""
    open_ids = {change.id for change in ours.changes}
    if found.pending_update and found.pending_change_id not in open_ids:
        yield Drift(
            kind=Kind.PENDING_UPDATE_UNKNOWN,
            customer=ours.id,
            subscription=held.our_id,
            path="pending_update",
            theirs=found.pending_change_id or "not of ours",
        )
    if held.planned == found.planned and (held.planned is None) is (found.schedule_id is None):
        return
    if found.pending_change_id in open_ids and found.schedule_id is None:
        return  # it made room for a change that waits for its payment, and is put back after it
    kind = Kind.SCHEDULE_DIFFERS
    if held.planned is None:
        kind = Kind.SCHEDULE_UNKNOWN
    elif found.schedule_id is None:
        kind = Kind.SCHEDULE_MISSING
    # Telling the provider anew would also settle items that differ, and charge for it. What
    # somebody has planned by hand is not thrown away.
    free_to = _same_items(held, found) and (found.schedule_id is None or found.schedule_is_ours)
    yield Drift(
        kind=kind,
        customer=ours.id,
        subscription=held.our_id,
        path="schedule",
        ours=str(held.planned) if held.planned else None,
        theirs=str(found.planned) if found.planned else found.schedule_id,
        repair=Repair.ALIGN if free_to and found.status is SubscriptionStatus.ACTIVE else None,
    )


def _same_items(held: SubscriptionSide, found: SubscriptionSide) -> bool:
    ours = sorted((item.price, item.quantity or 0) for item in held.items)
    return ours == sorted((item.price, item.quantity or 0) for item in found.items)


def _stuck(ours: Ours, there: Iterable[SubscriptionSide], at: datetime) -> Iterable[Drift]:
    """Changes that somebody should have brought to their end long ago."""
    waiting_there = {s.pending_change_id for s in there if s.pending_update} | {
        s.change_id for s in there if s.status is SubscriptionStatus.INCOMPLETE
    }
    for change in ours.changes:
        said = ""
        if change.status == "pending" and change.leased_until + STUCK_AFTER <= at:
            said = f"nobody works on it since {_text(change.leased_until)}"
        elif change.status == "awaiting_checkout":
            if change.expires_at is not None and change.expires_at + STUCK_AFTER <= at:
                said = f"its page ended {_text(change.expires_at)}"
        elif change.status == "awaiting_payment":
            if change.id not in waiting_there:
                said = "nothing waits for a payment"
            elif change.abandoned and change.leased_until + STUCK_AFTER <= at:
                said = "it still waits, though given up"
        if said:
            yield Drift(
                kind=Kind.CHANGE_STUCK,
                customer=ours.id,
                path=f"changes.{change.id}",
                ours=change.status,
                theirs=said,
                repair=Repair.FINISH,
            )


def _invoices(ours: Ours, theirs: Theirs) -> Iterable[Drift]:
    if theirs.invoices is None:
        return
    own_ids = {s.id: s.our_id for s in ours.subscriptions}
    for id, there in theirs.invoices.items():
        mine = ours.invoices.get(id)
        subscription = own_ids.get(there.subscription_id or "", there.subscription_id)
        if mine is None:
            yield Drift(
                kind=Kind.INVOICE_UNKNOWN,
                customer=ours.id,
                subscription=subscription,
                path=f"invoices.{id}",
                theirs=f"{there.status}, {there.total_minor} {there.currency}",
                repair=Repair.MIRROR,
            )
            continue
        for field in ("status", "currency", "total_minor", "amount_due_minor", "amount_paid_minor"):
            here, other = getattr(mine, field), getattr(there, field)
            if here != other:
                yield Drift(
                    kind=Kind.INVOICE_DIFFERS,
                    customer=ours.id,
                    subscription=subscription,
                    path=f"invoices.{id}.{field}",
                    ours=here,
                    theirs=other,
                    repair=Repair.MIRROR,
                )
    for id in ours.invoices.keys() - theirs.invoices.keys():
        yield Drift(
            kind=Kind.INVOICE_MISSING,
            customer=ours.id,
            path=f"invoices.{id}",
            ours=ours.invoices[id].status,
        )


def _charges(ours: Ours, theirs: Theirs) -> Iterable[Drift]:
    """Money taken for a change of the items that no change of ours asked for.

    Each change claims the one invoice that it made. What is paid, was made by a change and is
    claimed by none was taken twice, where the change that the subscription had then has been paid
    with the same amount already; otherwise nobody here can say what for. A subscription's last
    invoice, made as it ended, is claimed by none and settles what was pending.
    """
    if theirs.invoices is None:
        return
    ended_at = {s.id: s.ended_at for s in theirs.subscriptions if s.ended_at}
    paid = Counter(
        (ours.claims[id], invoice.amount_paid_minor)
        for id, invoice in theirs.invoices.items()
        if id in ours.claims and invoice.amount_paid_minor > 0
    )
    own_ids = {s.id: s.our_id for s in ours.subscriptions}
    open_ids = {change.id for change in ours.changes}
    for id, invoice in theirs.invoices.items():
        ended = ended_at.get(invoice.subscription_id or "")
        last = ended is not None and invoice.created_at + LAST_INVOICE_WITHIN >= ended
        taken = invoice.by_change and invoice.amount_paid_minor > 0 and invoice.status == "paid"
        if not taken or id in ours.claims or last or invoice.change_id in open_ids:
            continue
        twice = (invoice.change_id, invoice.amount_paid_minor) in paid
        yield Drift(
            kind=Kind.CHARGED_TWICE if twice else Kind.CHARGE_UNEXPLAINED,
            customer=ours.id,
            subscription=own_ids.get(invoice.subscription_id or "", invoice.subscription_id),
            path=f"invoices.{id}",
            ours=invoice.change_id if twice else None,
            theirs=f"{invoice.amount_paid_minor} {invoice.currency}",
        )


def _counted(quantity: int | None, price: str) -> str:
    return price if quantity is None else f"{quantity} × {price}"


def _text(at: datetime | None) -> str | None:
    return None if at is None else format_instant(at)
