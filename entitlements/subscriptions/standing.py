"""Where a package that is held stands: what is kept of an older version, and what moves it. PURE.

Subscription + Item + policies + at  →  Standing, and the moves that are due
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal

import msgspec

from entitlements.catalog.model import Catalog
from entitlements.catalog.proposals import GrandfatherPolicy
from entitlements.subscriptions.change import ChangePlan
from entitlements.subscriptions.grandfathering import (
    LIST,
    Calendar,
    Destination,
    Move,
    PublishedPolicy,
    at_once,
    destination,
    next_policy,
    renewals_after,
    rises,
    terms_of,
)
from entitlements.subscriptions.lines import Book, slots_of
from entitlements.subscriptions.state import CustomerState, Item, Subscription, SubscriptionStatus

Policies = Mapping[str, Sequence[PublishedPolicy]]
"""What was published for holders of older versions, by package id, in order."""

STILL = frozenset({SubscriptionStatus.INCOMPLETE, SubscriptionStatus.PAUSED})
"""Statuses in which nothing moves: nothing is renewed."""

HeldUp = Collection[tuple[str, str, int]]
"""Migrations that move nobody for now or any more: proposal, package, and the version held."""


def calendars_of(held: Subscription) -> tuple[Calendar, ...]:
    return (*held.past_calendars, Calendar(held.anchor, held.interval))


def policies_of(
    item: Item, policies: Policies, held_up: HeldUp, at: datetime
) -> list[PublishedPolicy]:
    """What is in force at an instant for those who hold what an item is."""
    return [
        one
        for one in policies.get(item.package_id, ())
        if one.published_at <= at
        and (one.proposal_id, item.package_id, item.version) not in held_up
    ]


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """What an item keeps of an older version or price, and until when (API: Grandfathering).

    `moves_at` None: never, as far as is known. `list_recurring_minor` is what the latest version
    costs per interval at the quantity held.
    """

    package_id: str
    held_version: int
    latest_version: int
    policy: GrandfatherPolicy
    moves_at: datetime | None
    entitlements_policy: GrandfatherPolicy
    entitlements_move_at: datetime | None
    notice_at: datetime | None
    cap_percent: Decimal | None
    recurring_minor: int
    list_recurring_minor: int


def is_at_list(catalog: Catalog, item: Item) -> bool:
    """Whether an item is on the latest version, at its own price."""
    latest = catalog.latest_versions[item.package_id]
    return item.version == item.entitlements_version == latest and item.price_factor == LIST


def held_for(state: CustomerState, plan: ChangePlan) -> Subscription | None:
    return next((s for s in state.subscriptions if s.id == plan.subscription_id), None)


def given_up(catalog: Catalog, state: CustomerState, plan: ChangePlan) -> tuple[Item, ...]:
    """What a change gives up of older terms: items that end, or go on at others. Not what a policy
    moves anyway, by the time that the change takes effect."""
    held = held_for(state, plan)
    after = {item.item_id: item for item in plan.items}
    lost = []
    for item in held.items if held else ():
        then = after.get(item.id)
        goes_on = then is not None and terms_of(then) == terms_of(item)
        moved = then is not None and then.migration_id not in (None, item.migration_id)
        if not (goes_on or moved or is_at_list(catalog, item)):
            lost.append(item)
    return tuple(lost)


def standing_of(
    catalog: Catalog,
    held: Subscription,
    item: Item,
    policies: Policies,
    held_up: HeldUp,
    at: datetime,
) -> Standing | None:
    """Where an item stands at an instant; None on the latest version at its own price."""
    if is_at_list(catalog, item):
        return None
    latest = catalog.latest_versions[item.package_id]
    known = policies_of(item, policies, held_up, at)
    calendars = calendars_of(held)
    price = next_policy(known, calendars, at, lambda policy: policy.price, version=item.version)
    features = next_policy(
        known,
        calendars,
        at,
        lambda policy: policy.entitlements,
        version=item.entitlements_version,
    )
    moves_at = price[0] if price else None
    policy = price[1].policy.price if price else GrandfatherPolicy.KEEP
    if rises(item):  # with every renewal
        rises_at = next(renewals_after(calendars, at))
        moves_at = min(moves_at or rises_at, rises_at)
        policy = policy if price else GrandfatherPolicy.AT_RENEWAL
    cap = item.cap_percent
    if cap is None and price is not None:
        cap = price[1].policy.max_increase_percent
    at_list = msgspec.structs.replace(item, version=latest, price_factor=LIST)
    return Standing(
        package_id=item.package_id,
        held_version=item.version,
        latest_version=latest,
        policy=policy,
        moves_at=moves_at,
        entitlements_policy=features[1].policy.entitlements if features else GrandfatherPolicy.KEEP,
        entitlements_move_at=features[0] if features else None,
        notice_at=price[1].published_at if price else None,
        cap_percent=cap,
        recurring_minor=_recurring_minor(catalog, held, item),
        list_recurring_minor=_recurring_minor(catalog, held, at_list),
    )


def _recurring_minor(catalog: Catalog, held: Subscription, item: Item) -> int:
    slots = slots_of(catalog, [item], held.quantities)
    return Book(catalog, held.currency).recurring(slots, held.interval)


class Due(msgspec.Struct, frozen=True):
    """Where a policy takes an item, at once or at the end of the period; the policy that says so is
    None where only a price below list rises."""

    to: Destination
    policy: PublishedPolicy | None


def due_now(
    item: Item, known: Sequence[PublishedPolicy], held: Subscription, at: datetime
) -> Due | None:
    """What a policy changes of an item within its period."""
    to, policy = destination(terms_of(item), at_once(known), calendars_of(held), at, renewal=False)
    return _unless_there(item, Due(to, policy))


def due_at_renewal(item: Item, known: Sequence[PublishedPolicy], held: Subscription) -> Due | None:
    """What changes of an item when the period ends that runs."""
    to, policy = destination(
        terms_of(item), known, calendars_of(held), held.period.end, renewal=True
    )
    return _unless_there(item, Due(to, policy))


def _unless_there(item: Item, due: Due) -> Due | None:
    to = due.to
    there = (to.version, to.entitlements_version) == (item.version, item.entitlements_version)
    return None if there and not to.rises else due


def way_back(item: Item, first: Move) -> Move:
    """What undoes a migration for an item, whose first move it is."""
    before = first.before
    return Move(
        package_id=item.package_id,
        before=terms_of(item),
        to=Destination(
            version=before.version,
            entitlements_version=before.entitlements_version,
            cap_percent=before.cap_percent,
            price_factor=before.price_factor,
        ),
        migration_id=item.migration_id,
        migration_before=first.migration_before,
    )


def notice_of(
    known: Iterable[PublishedPolicy], item: Item, notified_version: int
) -> PublishedPolicy | None:
    """The policy that a holder is still to be told of, as it will move the price; the highest
    version's."""
    untold = [
        one
        for one in known
        if one.policy.price is not GrandfatherPolicy.KEEP
        and one.version > max(item.version, notified_version)
    ]
    return max(untold, key=lambda one: one.version, default=None)
