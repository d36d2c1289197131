"""What a change does: one pure function, `plan_change`, that preview and commit share.

    CustomerState + ChangeRequest + Catalog + at  →  ChangePlan

It resolves what is wanted into target items, decides direction, time and proration by the
product's policy, and writes the invoice lines to the minor unit. It reads no clock and no session.
"""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from fractions import Fraction

import msgspec

from entitlements.catalog.model import (
    Catalog,
    ChangeRule,
    ChangeTiming,
    Plan,
    Policy,
    Product,
    ProrationMode,
)
from entitlements.kernel.errors import Conflict, Issue, ValidationFailed
from entitlements.kernel.period import Interval, Period, to_second
from entitlements.subscriptions.composition import TargetItem, add_ons_held
from entitlements.subscriptions.invoice_line import Line
from entitlements.subscriptions.lines import Book, Slot, replacements, slots_of
from entitlements.subscriptions.request import ChangeRequest
from entitlements.subscriptions.state import (
    IN_ARREARS,
    CustomerState,
    Subscription,
    held_package,
    held_plan,
)
from entitlements.subscriptions.target import Target, product_of


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


class ChangePlan(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a change will do. `lines` are due now or on the next invoice, by `proration`;
    `swept` are earlier ones that waited for an invoice and stand on the one that this change makes.

    `period` is the billing period after the change; `new_period` says that it starts with it.
    `replaces` names the slot whose item at the provider each new one takes over. `charged_at` is
    what slots were charged at in that period where it is not their price (`HeldCharge`). Both go
    by `package/charge`.
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
    removed_add_ons: tuple[str, ...] = ()
    approval_required: bool = False
    void_open_invoices: bool = False  # what is cancelled in arrears is not collected any more
    warnings: tuple[str, ...] = ()

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
    def invoiced_now(self) -> bool:
        """Whether an invoice is written at once: what the lines say is then due now."""
        now = self.timing is ChangeTiming.NOW and self.direction is not ChangeDirection.CANCELLATION
        return now and (self.new_period or self.proration is ProrationMode.INVOICE_NOW)

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

    Raises `ValidationFailed` naming the field of the request, or `Conflict` while in arrears.
    """
    at = to_second(at)
    product = product_of(catalog, state, request)
    held = state.live(product.id)
    if request.cancel:
        return _plan_cancellation(catalog, product, held, request, at, authority)
    if held is not None and held.status in IN_ARREARS:
        raise Conflict(
            "an invoice is open: until it is paid only paying, changing the card and cancelling "
            "are possible",
            code="PAYMENT_PAST_DUE",
        )
    target = Target(catalog, product, state, held, request, levels_in_use or {})
    direction, rules = _direction(catalog, product, held, target)
    if direction is ChangeDirection.NONE:
        raise ValidationFailed.of("input", "NOTHING_TO_CHANGE", "nothing would change")
    timing, mode = _when_and_how(product.policy, direction, rules, request, authority)
    if held is None:
        timing, mode = ChangeTiming.NOW, ProrationMode.INVOICE_NOW
    if timing is ChangeTiming.PERIOD_END:
        raise ValidationFailed.of(
            "timing", "NOT_SUPPORTED", "changes at the end of the period cannot be queued yet"
        )
    return _plan_now(catalog, product, held, target, direction, mode, at)


# ── direction, time, proration ────────────────────────────────────────────────


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
    versions = {i.package_id: i.version for i in held.items}
    moved = any(versions.get(i.package_id, i.version) != i.version for i in target.items)
    regrouped = versions.keys() != {i.package_id for i in target.items}  # bundles from or to parts
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
    if request.timing not in (None, rule.timing) and not (
        authority is Authority.CUSTOMER and request.timing in policy.customer_may_choose
    ):
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
    if not now or held.status in IN_ARREARS:
        mode = ProrationMode.NONE
    elif request.proration is None:
        mode = policy.cancellation.proration
    before = tuple(slots_of(catalog, held.items, held.quantities))
    book = Book(catalog, held.currency)
    lines = tuple(book.credits(before, held, at)) if now and mode is not ProrationMode.NONE else ()
    swept = held.pending_lines if now and held.status not in IN_ARREARS else ()
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
        mrr_before_minor=book.mrr(before, held.interval),
        mrr_after_minor=0,
        void_open_invoices=held.status in IN_ARREARS,
    )


# ── lines ─────────────────────────────────────────────────────────────────────


def _plan_now(
    catalog: Catalog,
    product: Product,
    held: Subscription | None,
    target: Target,
    direction: ChangeDirection,
    mode: ProrationMode,
    at: datetime,
) -> ChangePlan:
    before = tuple(slots_of(catalog, held.items, held.quantities)) if held else ()
    after = tuple(slots_of(catalog, target.items, target.quantities))
    new_period = held is None or held.interval is not target.interval
    period = Period.containing(at, target.interval, at) if new_period or not held else held.period
    book = Book(catalog, target.currency)
    lines: list[Line] = []
    if held is not None and mode is not ProrationMode.NONE:
        changed = before if new_period else _unlike(before, after)
        lines += book.credits(changed, held, at)
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
    pending = held.pending_lines if held else ()
    swept: tuple[Line, ...] = ()
    if new_period or mode is ProrationMode.INVOICE_NOW:
        swept, pending = pending, ()
    elif mode is ProrationMode.NEXT_INVOICE:
        pending = (*pending, *lines)
    ending = held is not None and held.cancel_at is not None and held.cancel_at <= period.end
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
        next_lines=() if ending else (*pending, *renewal),
        next_invoice_at=None if ending else period.end,
        recurring_before_minor=book.recurring(before, interval_before),
        recurring_after_minor=recurring,
        mrr_before_minor=book.mrr(before, interval_before),
        mrr_after_minor=book.mrr(after, target.interval),
        removed_add_ons=tuple(target.removed_add_ons),
        approval_required=any(
            target.package(i).contact_sales for i in target.items if i.item_id is None
        ),
        warnings=tuple(
            f"{catalog.current[i].name if i in catalog.current else i} does not fit "
            f"{target.plan.name} and is removed"
            for i in target.removed_add_ons
        ),
    )


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
    return ", ".join(parts) or "Latest versions and prices"
