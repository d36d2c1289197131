"""Changes that wait for the end of the period: what they come to, in order. PURE.

    Subscription (its queue) + Catalog + at  →  Subscription as it is then

Every change in a queue takes effect at the end of the running period, one after the other.
Access, the next plan, the database and the provider's schedule are all derived from here, so that
they agree.
"""

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime

import msgspec

from entitlements.catalog.model import Catalog
from entitlements.kernel.errors import ValidationFailed
from entitlements.kernel.period import Interval, Period
from entitlements.subscriptions import trials
from entitlements.subscriptions.composition import TargetItem
from entitlements.subscriptions.grandfathering import Move, terms_of
from entitlements.subscriptions.request import ChangeRequest, Queued
from entitlements.subscriptions.state import (
    CustomerState,
    HeldCharge,
    Item,
    Subscription,
    SubscriptionStatus,
)
from entitlements.subscriptions.target import Target

RENEWING = frozenset(
    {
        SubscriptionStatus.TRIALING,
        SubscriptionStatus.ACTIVE,
        SubscriptionStatus.PAST_DUE,
        SubscriptionStatus.UNPAID,
    }
)
"""Statuses in which one period follows another, whether or not they are paid."""


class Dropped(msgspec.Struct, frozen=True):
    """A change that does not wait any more, and why: `REPLACED`, `SUBSCRIPTION_ENDS` or
    `NO_LONGER_APPLIES`."""

    change_id: str
    description: str
    code: str
    reason: str


class Applied(msgspec.Struct, frozen=True):
    """A change that has waited, with what was held before and after it."""

    entry: Queued
    before: Subscription
    after: Subscription


class Rolled(msgspec.Struct, frozen=True):
    """What a queue comes to. `held` has none any more, and is in its old period still."""

    held: Subscription
    applied: tuple[Applied, ...]
    dropped: tuple[Dropped, ...]


def kept_beside(
    queue: Iterable[Queued], request: ChangeRequest
) -> tuple[tuple[Queued, ...], tuple[Dropped, ...]]:
    """What stays of a queue when something new is asked for, and what that takes the place of."""
    kept: list[Queued] = []
    dropped: list[Dropped] = []
    for entry in queue:
        if entry.request.touches & request.touches:
            reason = "a later change of the same thing takes its place"
            dropped.append(Dropped(entry.change_id, entry.description, "REPLACED", reason))
        else:
            kept.append(entry)
    return tuple(kept), tuple(dropped)


def roll(
    catalog: Catalog, state: CustomerState, held: Subscription, queue: Iterable[Queued]
) -> Rolled:
    """Let changes take effect in order; what does not apply any more is dropped, with a reason."""
    now = msgspec.structs.replace(held, queue=())
    applied: list[Applied] = []
    dropped: list[Dropped] = []
    for entry in queue:
        try:
            then = _entered(catalog, state, now, entry)
        except ValidationFailed as error:
            name = entry.description
            dropped.append(Dropped(entry.change_id, name, "NO_LONGER_APPLIES", error.message))
            continue
        applied.append(Applied(entry, now, then))
        now = then
    return Rolled(now, tuple(applied), tuple(dropped))


def _entered(
    catalog: Catalog, state: CustomerState, held: Subscription, entry: Queued
) -> Subscription:
    """What is held once an entry has taken effect; `ValidationFailed` where it no longer can."""
    request = entry.request
    there = {item.package_id for item in held.items} | request.versions.keys()
    named = {request.plan_id} | {b for b, quantity in request.bundles.items() if quantity}
    _refuse_what_is_gone(named - there - {None})
    if request.move is not None:
        _refuse_other_terms(held, request.move)
    product = catalog.products[held.product_id]
    target = Target(catalog, product, state, held, request, entry.levels)
    brought = {item.package_id for item in target.items if item.item_id is None}
    _refuse_what_is_gone(brought - request.versions.keys())
    at = entry.effective_at
    items = tuple(
        msgspec.structs.replace(item, id=item.id or _item_id(entry, n))
        for n, item in enumerate(items_held(catalog, held, target.items, at))
    )
    then = msgspec.structs.replace(
        held,
        items=items,
        quantities=target.quantities,
        interval=target.interval,
        anchor=held.anchor if target.interval is held.interval else at,
    )
    if _terms(then) == _terms(held):
        raise ValidationFailed.of("input", "NOTHING_TO_CHANGE", "nothing would change any more")
    return then


def _refuse_what_is_gone(package_ids: Collection[str | None]) -> None:
    """What was held when it was asked for, and is not any more, is not bought again."""
    if package_ids:
        words = ", ".join(sorted(filter(None, package_ids)))
        raise ValidationFailed.of("input", "NOT_HELD", f"not held any more: {words}")


def _refuse_other_terms(held: Subscription, move: Move) -> None:
    """A policy moves only what is still held on the terms that it was told to move."""
    terms = {item.package_id: terms_of(item) for item in held.items}
    if terms.get(move.package_id) != move.before:
        words = f"{move.package_id} is not held on those terms any more"
        raise ValidationFailed.of("input", "NOT_HELD", words)


def _item_id(entry: Queued, position: int) -> str:
    """An item's id is the same whoever lets the change take effect, and however often."""
    return f"itm_{entry.change_id.removeprefix('chg_')}_{position}"


def _terms(held: Subscription) -> object:
    items = {(i.package_id, terms_of(i), i.quantity) for i in held.items}
    return items, dict(held.quantities), held.interval


def items_held(
    catalog: Catalog, held: Subscription | None, targets: Iterable[TargetItem], at: datetime
) -> tuple[Item, ...]:
    """Items as they are to be held; those that are new have no id yet, nor one at the provider."""
    there = {item.id: item for item in held.items} if held else {}
    found = []
    for target in targets:
        old = there.get(target.item_id or "")
        charges: Mapping[str, HeldCharge] = old.charges if old else {}
        package = catalog.version(target.package_id, target.version)
        found.append(
            Item(
                id=target.item_id or "",
                package_id=target.package_id,
                version=target.version,
                entitlements_version=target.entitlements_version,
                quantity=target.quantity,
                started_at=old.started_at if old else at,
                charges={c.id: charges.get(c.id, HeldCharge("")) for c in package.charges},
                price_factor=target.price_factor,
                cap_percent=target.cap_percent,
                migration_id=target.migration_id,
            )
        )
    return tuple(found)


def is_due(held: Subscription, at: datetime) -> bool:
    """Whether something has happened to a subscription by itself at an instant."""
    renewed = held.status in RENEWING and held.period.end <= at
    return held.live and (renewed or (held.cancel_at is not None and held.cancel_at <= at))


def is_renewing(state: CustomerState, at: datetime) -> bool:
    """Whether a period has ended that the provider has to renew first."""
    return any(held.provider_id and is_due(held, at) for held in state.subscriptions)


def in_effect(catalog: Catalog, state: CustomerState, at: datetime) -> CustomerState:
    """The customer at an instant, whether or not anybody has written down what was due by then:
    cancellations that have taken effect, queues, trials that are over, and the period that runs."""
    due = any(is_due(held, at) for held in state.subscriptions)
    if not due and not any(trials.is_due(trial, at) for trial in state.trials):
        return state
    then = tuple(
        _then(catalog, state, held, at) if is_due(held, at) else held
        for held in state.subscriptions
    )
    state = msgspec.structs.replace(state, subscriptions=then)
    return msgspec.structs.replace(state, trials=trials.in_effect(catalog, state, at))


def next_due_at(state: CustomerState) -> datetime | None:
    """When what somebody holds changes next by itself, besides renewals that change nothing."""
    instants = [
        held.cancel_at if held.cancel_at is not None else held.period.end
        for held in state.subscriptions
        if held.live and (held.cancel_at is not None or held.queue)
    ]
    return min(instants, default=None)


def _then(catalog: Catalog, state: CustomerState, held: Subscription, at: datetime) -> Subscription:
    if held.cancel_at is not None and held.cancel_at <= at:
        return msgspec.structs.replace(
            held, status=SubscriptionStatus.CANCELED, ended_at=held.cancel_at, queue=()
        )
    if held.on_trial and not state.has_payment_method:
        return msgspec.structs.replace(
            held, status=SubscriptionStatus.CANCELED, ended_at=held.trial_ends_at, queue=()
        )
    if held.on_trial:
        held = msgspec.structs.replace(held, status=SubscriptionStatus.ACTIVE)
    return in_period(roll(catalog, state, held, held.queue).held, at)


def in_period(held: Subscription, at: datetime) -> Subscription:
    """A subscription once it has been renewed up to an instant: every charge was charged at its
    price, and what waited for an invoice with it."""
    if at < held.period.end:
        return held
    return msgspec.structs.replace(
        held,
        period=Period.containing(held.anchor, held.interval, at),
        pending_lines=(),
        items=tuple(
            msgspec.structs.replace(
                item,
                charges={
                    charge_id: HeldCharge(charge.provider_item_id)
                    for charge_id, charge in item.charges.items()
                },
            )
            for item in held.items
        ),
    )


def next_period(held: Subscription, interval: Interval) -> Period:
    """The period that begins where the running one ends; of another interval, anchored there.

    >>> from datetime import UTC
    >>> start, end = datetime(2026, 1, 31, tzinfo=UTC), datetime(2026, 2, 28, tzinfo=UTC)
    >>> held = Subscription(id="sub", product_id="app", status=SubscriptionStatus.ACTIVE,
    ...     interval=Interval.MONTH, currency="usd", period=Period(start, end), anchor=start,
    ...     started_at=start, items=())
    >>> [next_period(held, interval).end.date().isoformat() for interval in Interval]
    ['2026-03-31', '2027-02-28']
    """
    end = held.period.end
    anchor = held.anchor if interval is held.interval else end
    return Period.containing(anchor, interval, end)
