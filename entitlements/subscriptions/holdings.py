"""From what a customer holds to what the grants room reads, now and after a change."""

from collections.abc import Sequence
from datetime import datetime

import msgspec

from entitlements.catalog.model import Catalog, EntitlementValue, Feature
from entitlements.catalog.values import at_least
from entitlements.grants.merge import Grants, resolve
from entitlements.grants.sources import HeldPackage, Holding
from entitlements.subscriptions.change import ChangePlan
from entitlements.subscriptions.queue import in_effect, next_due_at
from entitlements.subscriptions.state import (
    CustomerState,
    Item,
    Subscription,
    SubscriptionStatus,
    held_package,
)


def holdings_of(catalog: Catalog, state: CustomerState, at: datetime) -> tuple[Holding, ...]:
    """Every subscription, live and ended, as the grants room wants it."""
    return tuple(_holding(catalog, subscription, at) for subscription in state.subscriptions)


def _holding(catalog: Catalog, subscription: Subscription, at: datetime) -> Holding:
    policy = catalog.products[subscription.product_id].policy
    return Holding(
        product_id=subscription.product_id,
        has_access=subscription.has_access(policy, at),
        ended=not subscription.live,
        items=tuple(
            HeldPackage(
                package=held_package(catalog, item),
                quantity=item.quantity,
                granting=catalog.version(item.package_id, item.entitlements_version),
            )
            for item in subscription.items
        ),
        bought=subscription.quantities,
    )


def grants_of(catalog: Catalog, state: CustomerState, at: datetime) -> Grants:
    """Everything a customer may do at an instant, and until when at most that holds."""
    then = in_effect(catalog, state, at)
    grants = resolve(catalog, holdings_of(catalog, then, at), state.overrides, at)
    ends = [grants.holds_until, next_due_at(then)]
    for held in then.subscriptions:
        grace_ends_at = held.grace_ends_at(catalog.products[held.product_id].policy)
        ends.append(grace_ends_at if grace_ends_at and grace_ends_at > at else None)
    holds_until = min((end for end in ends if end is not None), default=None)
    return msgspec.structs.replace(grants, holds_until=holds_until)


class EntitlementChange(msgspec.Struct, frozen=True):
    """What a change does to one feature; None where nothing was, or will be, granted of it."""

    feature: Feature
    before: EntitlementValue | None
    after: EntitlementValue | None
    better: bool


def entitlement_changes(
    catalog: Catalog, state: CustomerState, plan: ChangePlan
) -> tuple[EntitlementChange, ...]:
    """What is gained, lost, raised and lowered by a change when it takes effect, against what would
    be held then without it; in the catalog's order of features."""
    at = plan.effective_at
    gone = {dropped.change_id for dropped in plan.dropped}
    without = msgspec.structs.replace(
        state,
        subscriptions=tuple(
            msgspec.structs.replace(s, queue=tuple(e for e in s.queue if e.change_id not in gone))
            for s in state.subscriptions
        ),
    )
    then = in_effect(catalog, without, at)
    before, after = grants_of(catalog, then, at), grants_of(catalog, after_change(then, plan), at)
    return tuple(_changes(catalog, before, after))


def _changes(catalog: Catalog, before: Grants, after: Grants) -> Sequence[EntitlementChange]:
    return [
        EntitlementChange(
            feature=feature,
            before=was,
            after=will,
            better=will is not None and (was is None or at_least(feature, will, was)),
        )
        for feature in catalog.features.values()
        if (was := before.of(feature.id).value) != (will := after.of(feature.id).value)
    ]


def after_change(state: CustomerState, plan: ChangePlan) -> CustomerState:
    """The customer as they will be once the change has taken effect."""
    held = next((s for s in state.subscriptions if s.id == plan.subscription_id), None)
    ended = not plan.items
    changed = Subscription(
        id=plan.subscription_id or "",
        product_id=plan.product_id,
        status=SubscriptionStatus.CANCELED if ended else SubscriptionStatus.ACTIVE,
        interval=plan.interval,
        currency=plan.currency,
        period=plan.period,
        anchor=held.anchor if held else plan.at,
        started_at=held.started_at if held else plan.at,
        items=tuple(
            Item(
                id=item.item_id or "",
                package_id=item.package_id,
                version=item.version,
                entitlements_version=item.entitlements_version,
                quantity=item.quantity,
                started_at=plan.effective_at,
            )
            for item in plan.items
        ),
        quantities=plan.quantities,
    )
    others = tuple(s for s in state.subscriptions if s is not held)
    return msgspec.structs.replace(state, subscriptions=(*others, changed))
