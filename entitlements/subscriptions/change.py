"""What a change does: one pure function, `plan_change`, that preview and commit share.

    CustomerState + ChangeRequest + Catalog + at  →  ChangePlan

It resolves what is wanted into target items, decides direction, time and proration by the
product's policy, and writes the invoice lines to the minor unit. It reads no clock and no session.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from fractions import Fraction

import msgspec

from entitlements.catalog.model import (
    AddOn,
    Bundle,
    Catalog,
    ChangeRule,
    ChangeTiming,
    Plan,
    Policy,
    Product,
    ProrationMode,
    TrialEnd,
)
from entitlements.kernel.errors import Conflict, Issue, TrialNotAvailable, ValidationFailed
from entitlements.kernel.period import Interval, Period, to_second
from entitlements.subscriptions.composition import (
    TargetItem,
    add_ons_held,
    continued,
    parts_held,
)
from entitlements.subscriptions.grandfathering import Move, terms_of
from entitlements.subscriptions.invoice_line import Line
from entitlements.subscriptions.lines import Book, HeldPackage, Slot, replacements, slots_of
from entitlements.subscriptions.queue import (
    Dropped,
    in_effect,
    items_held,
    kept_beside,
    next_period,
    roll,
)
from entitlements.subscriptions.request import (
    REASON_LENGTH_AT_MOST,
    ChangeRequest,
    Queued,
)
from entitlements.subscriptions.state import (
    IN_ARREARS,
    CustomerState,
    Subscription,
    billed_outside,
    held_package,
    held_plan,
)
from entitlements.subscriptions.target import Target, product_of
from entitlements.subscriptions.trials import (
    NotOffered,
    brings_plan,
    counted_by,
    on_its_terms,
    trial_available,
    trial_target,
)


class Authority(StrEnum):
    """How freely the one who asks may choose when a change happens and how it is prorated."""

    CUSTOMER = "customer"  # bound to one customer: `customer_may_choose`, never proration
    SERVICE = "service"  # any customer, within the policy
    STAFF = "staff"  # beyond the policy, with a reason


class ChangeDirection(StrEnum):
    NEW = "new"
    UPGRADE = "upgrade"
    DOWNGRADE = "downgrade"
    SIDEGRADE = "sidegrade"
    ADDITION = "addition"
    REMOVAL = "removal"
    CANCELLATION = "cancellation"
    NONE = "none"


class PlannedTrial(msgspec.Struct, frozen=True, kw_only=True):
    """A trial that a change begins, on terms fixed with it (`state.Trial`)."""

    package_id: str
    version: int
    ends_at: datetime
    at_end: TrialEnd
    with_subscription: bool
    quantities: Mapping[str, int] = {}
    success_criteria: tuple[str, ...] = ()


class ChangePlan(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a change will do. `lines` are due now or on the next invoice, by `proration`;
    `swept` are earlier ones that waited for an invoice and stand on the one that this change makes.

    `period` is the billing period after the change; `new_period` says that it starts with it.
    `replaces` names the slot whose item at the provider each new one takes over. `charged_at` is
    what slots were charged at in that period where it is not their price (`HeldCharge`). Both go
    by `package/charge`.

    What waits for the end of the period is planned against what will be held then: `before`,
    `after`, `mrr_before_minor` and `period` are of that time. `dropped` are queued changes that do
    not wait any more once this one is made; `versions` are of the packages that it brings.

    `on_trial` says that all that is held before is free until its trial ends, `trial_ends_at` that
    it is afterwards, and until when. `trials` are those that it begins.
    """

    product_id: str
    subscription_id: str | None
    direction: ChangeDirection
    description: str
    timing: ChangeTiming
    proration: ProrationMode
    at: datetime
    effective_at: datetime
    interval: Interval
    currency: str
    items: tuple[TargetItem, ...]
    quantities: Mapping[str, int]
    before: tuple[Slot, ...]
    after: tuple[Slot, ...]
    period: Period
    new_period: bool
    lines: tuple[Line, ...]
    swept: tuple[Line, ...]
    replaces: Mapping[str, str]
    charged_at: Mapping[str, str]
    pending_after: tuple[Line, ...]  # prorations that wait for the next invoice
    next_lines: tuple[Line, ...]
    next_invoice_at: datetime | None
    recurring_before_minor: int
    recurring_after_minor: int
    mrr_before_minor: int
    mrr_after_minor: int
    removed_add_ons: tuple[AddOn, ...] = ()
    approval_required: bool = False
    void_open_invoices: bool = False  # what is cancelled in arrears is not collected any more
    warnings: tuple[str, ...] = ()
    dropped: tuple[Dropped, ...] = ()
    versions: Mapping[str, int] = {}
    on_trial: bool = False
    trial_ends_at: datetime | None = None
    trials: tuple[PlannedTrial, ...] = ()
    needs_payment_method: bool = False  # although nothing is due now

    @property
    def ends_trial(self) -> bool:
        """Whether what was free until now is paid for from now on."""
        return self.on_trial and self.trial_ends_at is None and bool(self.after)

    @property
    def ours_alone(self) -> bool:
        """Whether nothing happens but that a trial of ours begins beside what is held."""
        return any(not trial.with_subscription for trial in self.trials)

    @property
    def waits(self) -> bool:
        """Whether it takes effect at the end of the period."""
        return self.timing is ChangeTiming.PERIOD_END

    @property
    def total_minor(self) -> int:
        return sum(line.amount_minor for line in self.lines)

    @property
    def invoice_lines(self) -> tuple[Line, ...]:
        """What stands on the invoice that this change makes."""
        return (*self.swept, *self.lines)

    @property
    def invoice_total_minor(self) -> int:
        return sum(line.amount_minor for line in self.invoice_lines)

    @property
    def ends_billing(self) -> bool:
        """Whether the last charge goes now, while the subscription lives on, billed outside."""
        now = self.direction is not ChangeDirection.CANCELLATION and not self.waits
        return now and bool(self.before) and not self.after

    @property
    def exact(self) -> bool:
        """Whether the provider counts from `at`: it cannot where billing begins, or ends now."""
        return not (self.new_period or self.ends_billing)

    @property
    def invoiced_now(self) -> bool:
        """Whether an invoice is written at once: what the lines say is then due now."""
        if self.waits or self.direction is ChangeDirection.CANCELLATION:
            return False
        if self.trial_ends_at is not None or self.ours_alone:
            return False
        billed = bool(self.before or self.after)
        return billed and (not self.exact or self.proration is ProrationMode.INVOICE_NOW)

    @property
    def mrr_delta_minor(self) -> int:
        return self.mrr_after_minor - self.mrr_before_minor


def plan_change(
    catalog: Catalog,
    state: CustomerState,
    request: ChangeRequest,
    at: datetime,
    *,
    authority: Authority,
    levels_in_use: Mapping[str, int] | None = None,
) -> ChangePlan:
    """Decide what `request` does to `state` at an instant (cut to the second).

    Raises `ValidationFailed` naming the field of the request, `Conflict` while in arrears, or
    `TrialNotAvailable`.
    """
    at = to_second(at)
    if len(request.reason or "") > REASON_LENGTH_AT_MOST:
        words = f"a reason has at most {REASON_LENGTH_AT_MOST} characters"
        raise ValidationFailed.of("reason", "LENGTH", words)
    state = in_effect(catalog, state, at)
    if request.trial is not None:
        return _plan_trial(catalog, state, request, at, levels_in_use or {})
    request = on_its_terms(state, request)
    product = product_of(catalog, state, request)
    held = state.live(product.id)
    if request.cancel:
        return _plan_cancellation(catalog, product, held, request, at, authority)
    waits_by_policy = request.move is not None and request.timing is ChangeTiming.PERIOD_END
    if held is not None and held.status in IN_ARREARS and not waits_by_policy:
        raise Conflict(
            "an invoice is open: until it is paid only paying, changing the card and cancelling "
            "are possible",
            code="PAYMENT_PAST_DUE",
        )
    levels = levels_in_use or {}
    # Where nothing was paid for here there is no end of a period to wait for.
    on_trial = held is not None and held.on_trial
    if request.end_trial and not on_trial:
        raise ValidationFailed.of("input", "NOTHING_TO_CHANGE", "it is not on trial")
    at_once = held is None or on_trial or billed_outside(catalog, held)
    at_once = at_once and not waits_by_policy
    if at_once and request.timing is ChangeTiming.PERIOD_END:
        message = "nothing is paid for here yet that it could wait for the end of"
        raise ValidationFailed.of("timing", "NO_PAID_PERIOD", message)
    target = None
    if at_once or request.timing is not ChangeTiming.PERIOD_END:
        target = Target(catalog, product, state, held, request, levels)
        direction, rules = _direction(catalog, product, held, target)
        if direction is ChangeDirection.NONE and request.end_trial:
            direction, rules = ChangeDirection.NEW, [product.policy.upgrade]
        if direction is ChangeDirection.NONE:
            raise _nothing_to_change(held, request)
        timing, mode = _when_and_how(product.policy, direction, rules, request, authority)
        if at_once:
            timing, mode = ChangeTiming.NOW, ProrationMode.INVOICE_NOW
        if timing is ChangeTiming.NOW:
            joining = None
            if held is not None and on_trial and not request.end_trial:
                joining = _joining(catalog, state, held, target, at)
            return _plan_now(catalog, product, state, held, target, direction, mode, at, joining)
    assert held is not None
    return _plan_at_end(catalog, product, state, held, request, at, authority, levels)


def _nothing_to_change(held: Subscription | None, request: ChangeRequest) -> ValidationFailed:
    waiting = [
        f"“{entry.description}” waits for the end of the period: cancel it to keep what is held"
        for entry in (held.queue if held else ())
        if entry.request.touches & request.touches
    ]
    words = "; ".join(["nothing would change", *waiting])
    return ValidationFailed.of("input", "NOTHING_TO_CHANGE", words)


def _direction(
    catalog: Catalog, product: Product, held: Subscription | None, target: Target
) -> tuple[ChangeDirection, list[ChangeRule]]:
    """What kind of change it is, and the policy's rules that apply to its parts.

    By plan rank first; within a plan by quantity, then by what is added and removed, whether by
    itself or inside a bundle.
    """
    policy = product.policy
    if held is None:
        return ChangeDirection.NEW, [policy.upgrade]
    found = held_plan(catalog, held)
    rank_before = found[1].rank if found else -1
    if found and found[1].id in catalog.current:
        current = catalog.current[found[1].id]
        rank_before = current.rank if isinstance(current, Plan) else rank_before
    current_target = catalog.current.get(target.plan.id, target.plan)
    rank_after = current_target.rank if isinstance(current_target, Plan) else target.plan.rank
    rules: list[ChangeRule] = []
    if target.interval is not held.interval:
        longer = target.interval.months > held.interval.months
        rules.append(policy.longer_interval if longer else policy.shorter_interval)
    if found is None or found[1].id != target.plan.id:
        upgrade = rank_after > rank_before
        rules.append(policy.upgrade if upgrade else policy.downgrade)
        return (ChangeDirection.UPGRADE if upgrade else ChangeDirection.DOWNGRADE), rules
    seats = _compare(held.quantities, target.quantities)
    packages = _compare(add_ons_held(catalog, held.items), add_ons_held(catalog, target.items))
    terms = {i.package_id: terms_of(i) for i in held.items}
    moved = any(terms.get(i.package_id, terms_of(i)) != terms_of(i) for i in target.items)
    regrouped = terms.keys() != {i.package_id for i in target.items}  # bundles from or to parts
    more, less = seats[0] or packages[0], seats[1] or packages[1]
    if more or moved or (regrouped and not less):
        rules.append(policy.upgrade)
    if less and not more:
        rules.append(policy.downgrade)
    if more and not less:
        return (ChangeDirection.ADDITION if packages[0] else ChangeDirection.UPGRADE), rules
    if less and not more:
        return (ChangeDirection.REMOVAL if packages[1] else ChangeDirection.DOWNGRADE), rules
    return (ChangeDirection.SIDEGRADE if rules else ChangeDirection.NONE), rules


def _compare(before: Mapping[str, int], after: Mapping[str, int]) -> tuple[bool, bool]:
    """Whether anything is more afterwards, and whether anything is less."""
    keys = {*before, *after}
    more = any(after.get(k, 0) > before.get(k, 0) for k in keys)
    less = any(after.get(k, 0) < before.get(k, 0) for k in keys)
    return more, less


def _when_and_how(
    policy: Policy,
    direction: ChangeDirection,
    rules: list[ChangeRule],
    request: ChangeRequest,
    authority: Authority,
) -> tuple[ChangeTiming, ProrationMode]:
    """By the policy; a change of several parts waits for the latest of them."""
    late = [r for r in rules if r.timing is ChangeTiming.PERIOD_END]
    rule = (late or rules)[0]
    timing, mode = request.timing or rule.timing, request.proration or rule.proration
    if timing is ChangeTiming.NOW and rule.timing is ChangeTiming.PERIOD_END:
        mode = request.proration or ProrationMode.INVOICE_NOW
    beyond: list[str] = []
    if request.timing not in (None, rule.timing, *policy.customer_may_choose):
        beyond.append("timing")
    if request.proration is not None and (
        authority is Authority.CUSTOMER or request.proration is not rule.proration
    ):
        beyond.append("proration")
    if beyond and authority is not Authority.STAFF:
        raise ValidationFailed(
            [
                Issue((field,), "NOT_YOURS_TO_CHOOSE", f"{field} follows the product's policy")
                for field in beyond
            ]
        )
    if beyond and not (request.reason or "").strip():
        raise ValidationFailed.of("reason", "REASON_REQUIRED", "going beyond policy needs a reason")
    return timing, mode


# ── trials ───────────────────────────────────────────────────────────────────


def _plan_trial(
    catalog: Catalog,
    state: CustomerState,
    request: ChangeRequest,
    at: datetime,
    levels_in_use: Mapping[str, int],
) -> ChangePlan:
    """A trial begins: of a plan a subscription that is free until its end, of anything else a grant
    of ours beside what is held."""
    assert request.trial is not None
    package = catalog.current.get(request.trial.package_id)
    if package is None:
        words = f"{request.trial.package_id!r} is not sold"
        raise ValidationFailed.of("packageId", "UNKNOWN_PACKAGE", words)
    terms = trial_available(catalog, state, package.id, at, again=request.trial.again)
    if isinstance(terms, NotOffered):
        raise TrialNotAvailable(terms.message, code=terms.code)
    product = catalog.products[package.product_id]
    held = state.live(product.id)
    if held is not None and request.interval not in (None, Interval.MONTH, held.interval):
        words = f"it is billed with the subscription, by the {held.interval}"
        raise ValidationFailed.of("interval", "OTHER_INTERVAL", words)
    target = trial_target(catalog, state, package, request, levels_in_use)
    unknown = request.quantities.keys() - counted_by(package, target.quantities).keys()
    if held is not None and unknown:
        path = ("quantities", min(unknown))
        raise ValidationFailed.of(path, "NOT_SOLD_BY_QUANTITY", f"{package.name} does not count it")
    ends_at = at + timedelta(days=terms.days)
    begun = PlannedTrial(
        package_id=package.id,
        version=package.version,
        ends_at=ends_at,
        at_end=terms.at_end,
        with_subscription=brings_plan(catalog, package),
        quantities=counted_by(package, target.quantities),
        success_criteria=request.trial.success_criteria,
    )
    book = Book(catalog, target.currency)
    before = tuple(slots_of(catalog, held.items, held.quantities)) if held else ()
    after = before if held else tuple(slots_of(catalog, target.items, target.quantities))
    first_paid = Period.containing(ends_at, target.interval, ends_at)
    renews = held is None and terms.at_end is TrialEnd.CONVERT
    renewal = book.charges(after, target.interval, first_paid, ends_at) if renews else ()
    mrr_minor = book.mrr(before, held.interval) if held and not held.on_trial else 0
    return ChangePlan(
        product_id=product.id,
        subscription_id=held.id if held else None,
        direction=ChangeDirection.ADDITION if held else ChangeDirection.NEW,
        description=f"Try {package.name} for {terms.days} days",
        timing=ChangeTiming.NOW,
        proration=ProrationMode.NONE,
        at=at,
        effective_at=at,
        interval=target.interval,
        currency=target.currency,
        items=_continued(held) if held else tuple(target.items),
        quantities=held.quantities if held else target.quantities,
        before=before,
        after=after,
        period=held.period if held else Period(at, ends_at),
        new_period=held is None,
        lines=(),
        swept=(),
        replaces={},
        charged_at={},
        pending_after=held.pending_lines if held else (),
        next_lines=tuple(renewal),
        next_invoice_at=ends_at if renews else None,
        recurring_before_minor=book.recurring(before, held.interval) if held else 0,
        recurring_after_minor=book.recurring(after, target.interval),
        mrr_before_minor=mrr_minor,
        mrr_after_minor=mrr_minor,
        on_trial=held is not None and held.on_trial,
        trial_ends_at=held.trial_ends_at if held and held.on_trial else None if held else ends_at,
        trials=(begun,),
        needs_payment_method=terms.requires_payment_method,
    )


def _continued(held: Subscription) -> tuple[TargetItem, ...]:
    return tuple(map(continued, held.items))


def _joining(
    catalog: Catalog, state: CustomerState, held: Subscription, target: Target, at: datetime
) -> tuple[PlannedTrial, ...] | None:
    """What a change brings into the trial that a subscription is on, as it is free to: less of what
    is held, and what has a trial open to this customer (or is being tried). None where it brings
    anything else: that is bought, and ends the trial."""
    there = {item.id: item for item in held.items}
    found = held_plan(catalog, held)
    same_plan = found is not None and found[1].version_id == target.plan.version_id
    more = any(target.quantities.get(k, 0) > n for k, n in held.quantities.items())
    if not same_plan or more or target.interval is not held.interval:
        return None
    assert held.trial_ends_at is not None
    ends_with = TrialEnd.CONVERT if held.cancel_at is None else TrialEnd.EXPIRE
    had = add_ons_held(catalog, held.items)
    being_tried = {t.package_id for t in state.trials if t.active and not t.with_subscription}
    joining = []
    for item in target.items:
        old = there.get(item.item_id or "")
        if old is not None:
            if item.version != old.version or item.quantity > old.quantity:
                return None
            continue
        if item.quantity <= had[item.package_id] or (
            item.package_id in being_tried and item.quantity == 1
        ):
            continue
        terms = trial_available(catalog, state, item.package_id, at)
        if isinstance(terms, NotOffered) or item.quantity > 1:
            return None
        if terms.requires_payment_method and not state.has_payment_method:
            return None
        joining.append(
            PlannedTrial(
                package_id=item.package_id,
                version=item.version,
                ends_at=held.trial_ends_at,
                at_end=ends_with,
                with_subscription=True,
                quantities=counted_by(target.package(item), target.quantities),
            )
        )
    return tuple(joining)


# ── cancelling ────────────────────────────────────────────────────────────────


def _plan_cancellation(
    catalog: Catalog,
    product: Product,
    held: Subscription | None,
    request: ChangeRequest,
    at: datetime,
    authority: Authority,
) -> ChangePlan:
    """Everything of a product ends, at the period's end or now. In arrears nothing is credited."""
    if request.touches:
        words = "everything ends: nothing else can be changed with it"
        raise ValidationFailed.of("cancel", "NOTHING_ELSE", words)
    if held is None:
        raise ValidationFailed.of(
            "productId", "NOTHING_TO_CHANGE", f"{product.name} is not held: nothing to cancel"
        )
    if held.cancel_at is not None and request.timing is not ChangeTiming.NOW:
        raise ValidationFailed.of("productId", "NOTHING_TO_CHANGE", "it is being cancelled already")
    policy = product.policy
    timing, mode = _when_and_how(
        policy, ChangeDirection.CANCELLATION, [policy.cancellation], request, authority
    )
    if held.status in IN_ARREARS:  # the running period was never paid: there is nothing to end
        timing = ChangeTiming.NOW
    now = timing is ChangeTiming.NOW
    if not now or held.status in IN_ARREARS or held.on_trial:
        mode = ProrationMode.NONE
    elif request.proration is None:
        mode = policy.cancellation.proration
    before = tuple(slots_of(catalog, held.items, held.quantities))
    book = Book(catalog, held.currency)
    lines = tuple(book.credits(before, held, at)) if now and mode is not ProrationMode.NONE else ()
    swept = held.pending_lines if now and held.status not in IN_ARREARS else ()
    dropped = tuple(
        Dropped(entry.change_id, entry.description, "SUBSCRIPTION_ENDS", "the subscription ends")
        for entry in held.queue
    )
    return ChangePlan(
        product_id=product.id,
        subscription_id=held.id,
        direction=ChangeDirection.CANCELLATION,
        description=f"Cancel {product.name}" + ("" if now else " at the end of the period"),
        timing=timing,
        proration=mode,
        at=at,
        effective_at=at if now else held.period.end,
        interval=held.interval,
        currency=held.currency,
        items=(),
        quantities={},
        before=before,
        after=(),
        period=held.period,
        new_period=False,
        lines=lines,
        swept=swept,
        replaces={},
        charged_at={},
        pending_after=(),
        next_lines=(),
        next_invoice_at=None,
        recurring_before_minor=book.recurring(before, held.interval),
        recurring_after_minor=0,
        mrr_before_minor=0 if held.on_trial else book.mrr(before, held.interval),
        mrr_after_minor=0,
        void_open_invoices=held.status in IN_ARREARS,
        on_trial=held.on_trial,
        dropped=dropped,
        warnings=_warnings(catalog, dropped),
    )


# ── waiting for the end of the period ─────────────────────────────────────────


def _plan_at_end(
    catalog: Catalog,
    product: Product,
    state: CustomerState,
    held: Subscription,
    request: ChangeRequest,
    at: datetime,
    authority: Authority,
    levels_in_use: Mapping[str, int],
) -> ChangePlan:
    """What takes effect with the renewal, after everything that waits for it already.

    Nothing of the period is left by then: there is nothing to prorate.
    """
    if held.cancel_at is not None:
        raise Conflict(
            "it ends at the end of the period: take the cancellation back first",
            code="CANCELLATION_SCHEDULED",
        )
    kept, replaced = kept_beside(held.queue, request)
    rolled = roll(catalog, state, held, kept)
    base = rolled.held
    target = Target(catalog, product, state, base, request, levels_in_use)
    direction, rules = _direction(catalog, product, base, target)
    if direction is ChangeDirection.NONE:
        raise _nothing_to_change(held, request)
    _when_and_how(product.policy, direction, rules, request, authority)
    dropped = (*replaced, *rolled.dropped)
    end = held.period.end
    period = next_period(held, target.interval)
    book = Book(catalog, held.currency)
    now = tuple(slots_of(catalog, held.items, held.quantities))
    versions = {item.id: item.version for item in base.items}
    before = tuple(slots_of(catalog, base.items, base.quantities))
    after = tuple(slots_of(catalog, target.items, target.quantities))
    return ChangePlan(
        product_id=product.id,
        subscription_id=held.id,
        direction=direction,
        description=_describe(catalog, product, base, target, direction),
        timing=ChangeTiming.PERIOD_END,
        proration=ProrationMode.NONE,
        at=at,
        effective_at=end,
        interval=target.interval,
        currency=held.currency,
        items=tuple(target.items),
        quantities=target.quantities,
        before=before,
        after=after,
        period=period,
        new_period=False,
        lines=(),
        swept=(),
        replaces={},
        charged_at={},
        pending_after=held.pending_lines,
        next_lines=(*held.pending_lines, *book.charges(after, target.interval, period, end)),
        next_invoice_at=end if after or held.pending_lines else None,
        recurring_before_minor=book.recurring(now, held.interval),
        recurring_after_minor=book.recurring(after, target.interval),
        mrr_before_minor=book.mrr(before, base.interval),
        mrr_after_minor=book.mrr(after, target.interval),
        removed_add_ons=tuple(target.removed_add_ons.values()),
        approval_required=_approval_required(catalog, base, target),
        warnings=_warnings(catalog, dropped, target),
        dropped=dropped,
        versions={
            i.package_id: i.version
            for i in target.items
            if i.item_id is None or request.to_latest_versions or i.version != versions[i.item_id]
        },
    )


def pinned(plan: ChangePlan, request: ChangeRequest) -> ChangeRequest:
    """A request that waits, with the versions that it was quoted at."""
    return msgspec.structs.replace(request, versions=plan.versions) if plan.waits else request


def as_queued(plan: ChangePlan, change_id: str, request: ChangeRequest) -> Queued:
    """A plan that waits, as it stands in the queue: on the terms that were quoted."""
    return Queued(
        change_id=change_id,
        description=plan.description,
        effective_at=plan.effective_at,
        request=pinned(plan, request),
        levels=plan.quantities,
    )


def once_scheduled(state: CustomerState, plan: ChangePlan, entry: Queued) -> Subscription:
    """A subscription once a plan that waits for the end of the period is part of its queue."""
    held = next(s for s in state.subscriptions if s.id == plan.subscription_id)
    gone = {dropped.change_id for dropped in plan.dropped}
    queue = tuple(entry for entry in held.queue if entry.change_id not in gone)
    if plan.direction is ChangeDirection.CANCELLATION:
        return msgspec.structs.replace(held, queue=(), cancel_at=plan.effective_at)
    return msgspec.structs.replace(held, queue=(*queue, entry))


def _approval_required(catalog: Catalog, held: Subscription | None, target: Target) -> bool:
    """Whether more is wanted of what sales sells, by itself or in a bundle, than is held of it."""
    more = _counted(catalog, target.items) - _counted(catalog, held.items if held else ())
    return any(catalog.versions[version_id].contact_sales for version_id in more)


def _counted(catalog: Catalog, items: Iterable[HeldPackage]) -> Counter[str]:
    """How many are held of each package version, bundles and their parts alike."""
    items = tuple(items)
    counted: Counter[str] = Counter()
    for part in parts_held(catalog, items):
        counted[part.package.version_id] += part.quantity
    for item in items:
        package = catalog.version(item.package_id, item.version)
        if isinstance(package, Bundle):
            counted[package.version_id] += item.quantity
    return counted


def _warnings(
    catalog: Catalog, dropped: tuple[Dropped, ...], target: Target | None = None
) -> tuple[str, ...]:
    """What a reader should know of a plan, in sentences."""
    words = []
    for package_id in target.removed_add_ons if target else ():
        assert target is not None
        package = catalog.current.get(package_id)
        name = package.name if package else package_id
        words.append(f"{name} does not fit {target.plan.name} and is removed")
    words += [f"The scheduled change “{d.description}” is dropped: {d.reason}" for d in dropped]
    return tuple(words)


# ── lines ─────────────────────────────────────────────────────────────────────


def _plan_now(
    catalog: Catalog,
    product: Product,
    state: CustomerState,
    held: Subscription | None,
    target: Target,
    direction: ChangeDirection,
    mode: ProrationMode,
    at: datetime,
    joining: tuple[PlannedTrial, ...] | None,
) -> ChangePlan:
    """`joining`, in a trial of all that is held: what joins it, free. None: it is paid for now."""
    before = tuple(slots_of(catalog, held.items, held.quantities)) if held else ()
    after = tuple(slots_of(catalog, target.items, target.quantities))
    begins_billing = bool(after) and not before
    on_trial = held is not None and held.on_trial
    stays_on_trial = on_trial and joining is not None
    ends_trial = on_trial and not stays_on_trial
    new_period = held is None or held.interval is not target.interval or begins_billing
    new_period = new_period or ends_trial
    if stays_on_trial:
        mode = ProrationMode.NONE
    if not after and mode is ProrationMode.NEXT_INVOICE:
        mode = ProrationMode.INVOICE_NOW  # there is no next one
    period = Period.containing(at, target.interval, at) if new_period or not held else held.period
    book = Book(catalog, target.currency)
    lines: list[Line] = []
    if held is not None and not on_trial and mode is not ProrationMode.NONE:
        leaving = before if new_period else _unlike(before, after)
        lines += book.credits(leaving, held, at)
    entering = after if new_period else _unlike(after, before)
    if mode is not ProrationMode.NONE or new_period:
        lines += book.charges(entering, target.interval, period, at)
    interval_before = held.interval if held else target.interval
    replaces = replacements(catalog, before, after, target.currency, interval_before)
    charged_at = {}
    if held is not None and not new_period:
        charged_at = _charged_at(book, held, before, after, replaces, mode)
    anchor = at if new_period or held is None else held.anchor
    following = Period.containing(anchor, target.interval, period.end)
    renewal = book.charges(after, target.interval, following, following.start)
    dropped: tuple[Dropped, ...] = ()
    if held is not None and held.queue:
        kept, replaced = kept_beside(held.queue, target.request)
        changed = msgspec.structs.replace(
            held,
            items=items_held(catalog, held, target.items, at),
            quantities=target.quantities,
            interval=target.interval,
            period=period,
            anchor=anchor,
            queue=_moved(kept, period.end),
        )
        rolled = roll(catalog, state, changed, changed.queue)
        then = rolled.held
        following = next_period(changed, then.interval)
        slots = slots_of(catalog, then.items, then.quantities)
        renewal = book.charges(slots, then.interval, following, following.start)
        dropped = (*replaced, *rolled.dropped)
    pending = held.pending_lines if held else ()
    swept: tuple[Line, ...] = ()
    if new_period or mode is ProrationMode.INVOICE_NOW or not after:
        swept, pending = pending, ()
    elif mode is ProrationMode.NEXT_INVOICE:
        pending = (*pending, *lines)
    cancelled = held is not None and held.cancel_at is not None and held.cancel_at <= period.end
    cancelled = cancelled and not ends_trial  # what is bought now goes on
    last = cancelled or not after  # no invoice follows
    recurring = book.recurring(after, target.interval)
    return ChangePlan(
        product_id=product.id,
        subscription_id=held.id if held else None,
        direction=direction,
        description=_describe(catalog, product, held, target, direction),
        timing=ChangeTiming.NOW,
        proration=mode,
        at=at,
        effective_at=at,
        interval=target.interval,
        currency=target.currency,
        items=tuple(target.items),
        quantities=target.quantities,
        before=before,
        after=after,
        period=period,
        new_period=new_period,
        lines=tuple(lines),
        swept=swept,
        replaces=replaces,
        charged_at=charged_at,
        pending_after=pending,
        next_lines=() if last else (*pending, *renewal),
        next_invoice_at=None if last else period.end,
        recurring_before_minor=book.recurring(before, interval_before),
        recurring_after_minor=recurring,
        mrr_before_minor=0 if on_trial else book.mrr(before, interval_before),
        mrr_after_minor=0 if stays_on_trial else book.mrr(after, target.interval),
        removed_add_ons=tuple(target.removed_add_ons.values()),
        approval_required=_approval_required(catalog, held, target),
        warnings=_warnings(catalog, dropped, target),
        dropped=dropped,
        on_trial=on_trial,
        trial_ends_at=held.trial_ends_at if held is not None and stays_on_trial else None,
        trials=joining or (),
    )


def _moved(queue: tuple[Queued, ...], to: datetime) -> tuple[Queued, ...]:
    return tuple(msgspec.structs.replace(entry, effective_at=to) for entry in queue)


def _unlike(slots: tuple[Slot, ...], others: tuple[Slot, ...]) -> tuple[Slot, ...]:
    """Those that are not paid for alike among the others."""
    return tuple(s for s in slots if not any(s.costs_as(other) for other in others))


def _charged_at(
    book: Book,
    held: Subscription,
    before: tuple[Slot, ...],
    after: tuple[Slot, ...],
    replaces: Mapping[str, str],
    mode: ProrationMode,
) -> dict[str, str]:
    """What slots were charged at, where it will not be their price.

    What stays keeps what it has. Without proration, what is new was charged at what it takes the
    place of, or not at all: a later credit gives no more than that back.
    """
    old = {slot.key: slot for slot in before}
    found: dict[str, str] = {}
    for slot in after:
        same = old.get(slot.key)
        source = same or old.get(replaces.get(slot.key, ""))
        unchanged = same is not None and slot.costs_as(same)
        if slot.metered or (mode is not ProrationMode.NONE and not unchanged):
            continue
        charged = book.charged_at(source, held) if source else Fraction(0)
        if charged != book.amount(slot, held.interval):
            found[slot.key] = str(charged)
    return found


def _describe(
    catalog: Catalog,
    product: Product,
    held: Subscription | None,
    target: Target,
    direction: ChangeDirection,
) -> str:
    """One sentence for people: "Professional instead of Starter, Advanced Analytics added"."""
    if direction is ChangeDirection.NEW or held is None:
        extra = [target.package(i).name for i in target.items if i.package_id != target.plan.id]
        return " with ".join([f"Start {product.name} {target.plan.name}", *extra[:1]]) + "".join(
            f", {name}" for name in extra[1:]
        )
    parts = []
    found = held_plan(catalog, held)
    if found and found[1].id != target.plan.id:
        parts.append(f"{target.plan.name} instead of {found[1].name}")
    if held.interval is not target.interval:
        parts.append(f"billed by the {target.interval} instead of the {held.interval}")
    before = {i.package_id: i.quantity for i in held.items}
    after = {i.package_id: i.quantity for i in target.items}
    names = {i.package_id: held_package(catalog, i).name for i in held.items}
    names |= {i.package_id: target.package(i).name for i in target.items}
    plans = {target.plan.id, found[1].id if found else ""}
    for package_id in sorted({*before, *after} - plans):
        was, now = before.get(package_id, 0), after.get(package_id, 0)
        if was != now:
            change = "added" if not was else "removed" if not now else f"{was} → {now}"
            parts.append(f"{names[package_id]} {change}")
    for feature_id in sorted({*held.quantities, *target.quantities}):
        was, now = held.quantities.get(feature_id, 0), target.quantities.get(feature_id, 0)
        if was != now:
            parts.append(f"{catalog.features[feature_id].name} {was} → {now}")
    if not parts and target.request.move is not None:
        return _describe_move(target, target.request.move)
    return ", ".join(parts) or "Latest versions and prices"


def _describe_move(target: Target, move: Move) -> str:
    """ "Professional at the price of version 3": what a policy does."""
    item = next(item for item in target.items if item.package_id == move.package_id)
    name = target.package(item).name
    if item.version != move.before.version:
        return f"{name} at the price of version {item.version}"
    if item.price_factor != move.before.price_factor:
        return f"{name} nearer to its list price"
    return f"{name} with what version {item.entitlements_version} gives"
