"""Trials: who may try what, what has become of a trial, and on which terms it is bought. PURE.

    catalog + CustomerState + package + at  →  the terms of a trial, or why there is none

A package is tried once by a customer: a bundle that was tried counts for each of its parts, and a
part for each bundle of it.
"""

from collections.abc import Mapping
from datetime import datetime

import msgspec

from entitlements.catalog.model import (
    AddOn,
    AnyPackage,
    Bundle,
    Catalog,
    ChangeTiming,
    Plan,
    ProrationMode,
    TrialEnd,
    TrialStep,
    TrialTerms,
)
from entitlements.kernel.errors import ValidationFailed
from entitlements.pricing.selection import parts_of
from entitlements.subscriptions.composition import parts_held
from entitlements.subscriptions.request import ChangeRequest
from entitlements.subscriptions.state import (
    IN_ARREARS,
    CustomerState,
    Subscription,
    Trial,
    TrialStatus,
)
from entitlements.subscriptions.target import Target


class NotOffered(msgspec.Struct, frozen=True):
    """Why something cannot be tried: a stable code, and words for people."""

    code: str
    message: str


def trial_available(
    catalog: Catalog, state: CustomerState, package_id: str, at: datetime, *, again: bool = False
) -> TrialTerms | NotOffered:
    """The terms on which a customer may try a package that is sold now, or why they may not.

    `state` is the customer at `at` (`queue.in_effect`); `again` allows what was tried before. The
    first that applies of: NO_TRIAL, CONTACT_SALES, ON_TRIAL, ALREADY_TRIED, ALREADY_HELD,
    SUBSCRIPTION_HELD (a plan, beside another), NO_SUBSCRIPTION (an add-on, without a plan),
    PAYMENT_PAST_DUE, then what `Target` says of it (DOES_NOT_FIT, REQUIRES, EXCLUDES, …).
    """
    package = catalog.current.get(package_id)
    if package is None or package.trial is None:
        return NotOffered("NO_TRIAL", f"there is no trial of {package_id}")
    if package.contact_sales:
        return NotOffered("CONTACT_SALES", f"{package.name} is sold by our sales team: ask them")
    names = _all_of(catalog, package)
    tried = [t for t in state.trials if names & _all_of(catalog, tried_package(catalog, t))]
    if any(trial.active for trial in tried):
        return NotOffered("ON_TRIAL", f"{package.name}, or a part of it, is being tried now")
    if tried and not again:
        words = f"{package.name}, or a part of it, has been tried before"
        return NotOffered("ALREADY_TRIED", words)
    held = state.live(package.product_id)
    if held is not None and _holds(catalog, held, package):
        return NotOffered("ALREADY_HELD", f"{package.name} is held already")
    product = catalog.products[package.product_id]
    if brings_plan(catalog, package):
        if held is not None:
            words = f"{product.name} is held already: change the plan instead"
            return NotOffered("SUBSCRIPTION_HELD", words)
    elif held is None or not held.has_access(product.policy, at):
        words = f"{package.name} is tried beside a plan of {product.name}: there is none"
        return NotOffered("NO_SUBSCRIPTION", words)
    elif held.status in IN_ARREARS:
        return NotOffered("PAYMENT_PAST_DUE", "an invoice is open: pay it first")
    try:
        trial_target(catalog, state, package, ChangeRequest(), {})
    except ValidationFailed as error:
        return NotOffered(error.issues[0].code, error.issues[0].message)
    return package.trial


def trial_target(
    catalog: Catalog,
    state: CustomerState,
    package: AnyPackage,
    request: ChangeRequest,
    levels_in_use: Mapping[str, int],
) -> Target:
    """What would be held if a package that is to be tried, and what is being tried beside it, were
    bought with the interval and the levels of `request`. `ValidationFailed` where it could not."""
    held = state.live(package.product_id)
    beside = [t for t in state.trials if t.active and not t.with_subscription]
    here = [tried_package(catalog, t) for t in beside if held and t.subscription_id == held.id]
    together = [*here, package]
    named = [_named(each) for each in together]
    wanted = ChangeRequest(
        plan_id=package.id if isinstance(package, Plan) else None,
        interval=request.interval if held is None else None,
        quantities=request.quantities,
        add_ons={k: n for add_ons, _ in named for k, n in add_ons.items()},
        bundles={k: n for _, bundles in named for k, n in bundles.items()},
        versions={each.id: each.version for each in together},
    )
    product = catalog.products[package.product_id]
    return Target(catalog, product, state, held, wanted, levels_in_use)


def _named(package: AnyPackage) -> tuple[dict[str, int], dict[str, int]]:
    add_ons = {package.id: 1} if isinstance(package, AddOn) else {}
    bundles = {package.id: 1} if isinstance(package, Bundle) else {}
    return add_ons, bundles


def conversion_request(catalog: Catalog, trial: Trial, *, by_itself: bool = False) -> ChangeRequest:
    """What buys what is tried, at the version and the levels fixed at its start.

    `by_itself`, at its end, it is settled on the next invoice; otherwise now.
    """
    reason = f"the trial {trial.id} converts"
    if trial.with_subscription:
        return ChangeRequest(product_id=trial.product_id, end_trial=True, reason=reason)
    add_ons, bundles = _named(tried_package(catalog, trial))
    return ChangeRequest(
        product_id=trial.product_id,
        add_ons=add_ons,
        bundles=bundles,
        quantities=trial.quantities,
        versions={trial.package_id: trial.version},
        timing=ChangeTiming.NOW,
        proration=ProrationMode.NEXT_INVOICE if by_itself else ProrationMode.INVOICE_NOW,
        reason=reason,
    )


def giving_up_request(catalog: Catalog, trial: Trial) -> ChangeRequest:
    """What gives up a trial that is held with its subscription, now: nothing was paid for it."""
    package = tried_package(catalog, trial)
    reason = f"the trial {trial.id} is given up"
    if brings_plan(catalog, package):
        return ChangeRequest(
            product_id=trial.product_id, cancel=True, timing=ChangeTiming.NOW, reason=reason
        )
    add_ons, bundles = _named(package)
    return ChangeRequest(
        product_id=trial.product_id,
        add_ons=dict.fromkeys(add_ons, 0),
        bundles=dict.fromkeys(bundles, 0),
        reason=reason,
    )


def converts_at_end(state: CustomerState, trial: Trial) -> bool:
    """Whether a trial of ours that is over is bought by itself: that is settled on an invoice to
    come, so nothing but the way of paying it is needed."""
    held = next((s for s in state.subscriptions if s.id == trial.subscription_id), None)
    can_pay = held is not None and held.live and held.status not in IN_ARREARS
    return trial.at_end is TrialEnd.CONVERT and state.has_payment_method and can_pay


def settled(catalog: Catalog, trial: Trial, held: Subscription | None) -> Trial:
    """What has become of an active trial by what is held of its subscription.

    It is converted once all of it is held and paid for. Held in a subscription that is on trial
    itself it joins that, and ends as it does. Either ends with its subscription.
    """
    if held is None or not held.live:
        over = held is None or held.ended_at is None or trial.ends_at <= held.ended_at
        return _as(trial, TrialStatus.EXPIRED if over else TrialStatus.CANCELED)
    if not _holds(catalog, held, tried_package(catalog, trial)):
        return _as(trial, TrialStatus.CANCELED) if trial.with_subscription else trial
    if not held.on_trial or held.trial_ends_at is None:
        return _as(trial, TrialStatus.CONVERTED)
    return msgspec.structs.replace(trial, with_subscription=True, ends_at=held.trial_ends_at)


def _as(trial: Trial, status: TrialStatus) -> Trial:
    return msgspec.structs.replace(trial, status=status)


def in_effect(catalog: Catalog, state: CustomerState, at: datetime) -> tuple[Trial, ...]:
    """The trials of a customer, of whom all else is as it is at an instant: what is over then has
    ended, unless it is about to be bought."""
    held = {s.id: s for s in state.subscriptions}
    return tuple(
        _then(catalog, state, trial, held.get(trial.subscription_id))
        if is_due(trial, at)
        else trial
        for trial in state.trials
    )


def _then(catalog: Catalog, state: CustomerState, trial: Trial, held: Subscription | None) -> Trial:
    then = settled(catalog, trial, held)
    if then.active and not then.with_subscription and not converts_at_end(state, then):
        return _as(then, TrialStatus.EXPIRED)
    return then


def on_its_terms(state: CustomerState, request: ChangeRequest) -> ChangeRequest:
    """A request that names what is being tried: it is bought at the version of the trial."""
    named = request.add_ons.keys() | request.bundles.keys()
    tried = {
        t.package_id: t.version
        for t in state.trials
        if t.active and not t.with_subscription and t.package_id in named
    }
    if not tried:
        return request
    return msgspec.structs.replace(request, versions={**tried, **request.versions})


def is_due(trial: Trial, at: datetime) -> bool:
    return trial.active and trial.ends_at <= at


def current_step(catalog: Catalog, trial: Trial, at: datetime) -> TrialStep | None:
    """Where the guide is, by weeks since the start, in the catalog's words of now.

    The last step whose week has come; None before the first, and once the trial is over.
    """
    if not trial.active or at >= trial.ends_at:
        return None
    week = (at - trial.started_at).days // 7 + 1
    package = catalog.current.get(trial.package_id) or tried_package(catalog, trial)
    steps = package.trial.guide if package.trial else ()
    come = [step for step in steps if step.week <= week]
    return max(come, key=lambda step: step.week, default=None)


def tried_package(catalog: Catalog, trial: Trial) -> AnyPackage:
    return catalog.version(trial.package_id, trial.version)


def brings_plan(catalog: Catalog, package: AnyPackage) -> bool:
    """Whether a package is a plan, or a bundle with one inside: it makes a subscription."""
    return any(isinstance(part.package, Plan) for part in parts_of(catalog, package))


def counted_by(package: AnyPackage, quantities: Mapping[str, int]) -> dict[str, int]:
    """Of levels bought those that a charge of the package counts."""
    counted = {charge.quantity_feature for charge in package.charges if not charge.metered}
    return {k: n for k, n in quantities.items() if k in counted}


def _all_of(catalog: Catalog, package: AnyPackage) -> frozenset[str]:
    """A package and what it is made of, by id."""
    return frozenset({package.id, *(p.package.id for p in parts_of(catalog, package))})


def _holds(catalog: Catalog, held: Subscription, package: AnyPackage) -> bool:
    """Whether all of a package is held, by itself or inside bundles."""
    there = {part.package.id for part in parts_held(catalog, held.items)}
    return there.issuperset(part.package.id for part in parts_of(catalog, package))
