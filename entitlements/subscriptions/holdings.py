"""From what a customer holds to what the grants room reads, now and after a change."""

from collections.abc import Iterable, Sequence
from datetime import datetime

import msgspec

from entitlements.catalog.model import Catalog, EntitlementValue, Feature
from entitlements.catalog.values import at_least
from entitlements.grants.merge import Grants, resolve
from entitlements.grants.sources import HeldPackage, Holding
from entitlements.subscriptions.change import ChangePlan, PlannedTrial
from entitlements.subscriptions.queue import in_effect, next_due_at
from entitlements.subscriptions.state import (
    CustomerState,
    Item,
    Subscription,
    SubscriptionStatus,
    Trial,
    TrialStatus,
    held_package,
)
from entitlements.subscriptions.trials import settled, tried_package


def holdings_of(catalog: Catalog, state: CustomerState, at: datetime) -> tuple[Holding, ...]:
    """Every subscription, live and ended, as the grants room wants it, with what is tried beside
    it; and every trial that ended without being bought."""
    tried: dict[str, list[Trial]] = {}
    for trial in state.trials:
        if trial.active and not trial.with_subscription:
            tried.setdefault(trial.subscription_id, []).append(trial)
    held = [_holding(catalog, s, tried.get(s.id, ()), at) for s in state.subscriptions]
    over = [_ended(catalog, trial) for trial in state.trials if trial.status in _UNCONVERTED]
    return (*held, *over)


_UNCONVERTED = (TrialStatus.EXPIRED, TrialStatus.CANCELED)


def _holding(
    catalog: Catalog, subscription: Subscription, tried: Iterable[Trial], at: datetime
) -> Holding:
    policy = catalog.products[subscription.product_id].policy
    bought = dict(subscription.quantities)
    for trial in tried:
        bought |= {k: max(n, bought.get(k, 0)) for k, n in trial.quantities.items()}
    items = tuple(
        HeldPackage(
            package=held_package(catalog, item),
            quantity=item.quantity,
            granting=catalog.version(item.package_id, item.entitlements_version),
            trial=subscription.on_trial,
            ends_at=subscription.trial_ends_at if subscription.on_trial else None,
        )
        for item in subscription.items
    )
    return Holding(
        product_id=subscription.product_id,
        has_access=subscription.has_access(policy, at),
        ended=not subscription.live,
        items=(*items, *(_tried(catalog, trial, at) for trial in tried)),
        bought=bought,
    )


def _tried(catalog: Catalog, trial: Trial, at: datetime) -> HeldPackage:
    """What is over and still active is about to be bought (`trials.in_effect`): it has no end."""
    ends_at = trial.ends_at if at < trial.ends_at else None
    return HeldPackage(package=tried_package(catalog, trial), trial=True, ends_at=ends_at)


def _ended(catalog: Catalog, trial: Trial) -> Holding:
    package = tried_package(catalog, trial)
    return Holding(
        product_id=trial.product_id,
        has_access=False,
        ended=True,
        unconverted_trial=True,
        items=(HeldPackage(package=package, trial=True, ends_at=trial.ends_at),),
        bought=trial.quantities,
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
    afterwards = after_change(catalog, then, plan)
    before, after = grants_of(catalog, then, at), grants_of(catalog, afterwards, at)
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


def after_change(catalog: Catalog, state: CustomerState, plan: ChangePlan) -> CustomerState:
    """The customer as they will be once the change has taken effect."""
    held = next((s for s in state.subscriptions if s.id == plan.subscription_id), None)
    ended = not plan.items
    status = SubscriptionStatus.TRIALING if plan.trial_ends_at else SubscriptionStatus.ACTIVE
    changed = Subscription(
        id=plan.subscription_id or "",
        product_id=plan.product_id,
        status=SubscriptionStatus.CANCELED if ended else status,
        trial_ends_at=plan.trial_ends_at,
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
                price_factor=item.price_factor,
                cap_percent=item.cap_percent,
                migration_id=item.migration_id,
            )
            for item in plan.items
        ),
        quantities=plan.quantities,
    )
    others = tuple(s for s in state.subscriptions if s is not held)
    begun = tuple(as_trial("", changed.id, plan, tried) for tried in plan.trials)
    then = msgspec.structs.replace(
        state, subscriptions=(*others, changed), trials=(*state.trials, *begun)
    )
    trials = tuple(
        settled(catalog, trial, changed)
        if trial.active and trial.subscription_id == changed.id
        else trial
        for trial in then.trials
    )
    return msgspec.structs.replace(then, trials=trials)


def as_trial(id: str, subscription_id: str, plan: ChangePlan, tried: PlannedTrial) -> Trial:
    """A trial as it stands once the plan that begins it has taken effect."""
    return Trial(
        id=id,
        product_id=plan.product_id,
        subscription_id=subscription_id,
        package_id=tried.package_id,
        version=tried.version,
        status=TrialStatus.ACTIVE,
        started_at=plan.effective_at,
        ends_at=tried.ends_at,
        at_end=tried.at_end,
        with_subscription=tried.with_subscription,
        quantities=tried.quantities,
        success_criteria=tried.success_criteria,
    )
