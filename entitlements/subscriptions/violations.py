"""Use today against the limits after a change: shown with every quote, and refused by policy.

What is used is counted elsewhere (`access`); it is given, as `Used` by feature id.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime

import msgspec
from sqlalchemy.ext.asyncio import AsyncSession

from entitlements.catalog.model import Aggregation, Catalog, Feature, OverLimit
from entitlements.kernel.errors import Issue, ValidationFailed
from entitlements.subscriptions.change import ChangeDirection, ChangePlan
from entitlements.subscriptions.holdings import EntitlementChange
from entitlements.subscriptions.request import ChangeRequest
from entitlements.subscriptions.state import CustomerState


class Used(msgspec.Struct, frozen=True, gc=False):
    """What is used of a feature now, and when counting begins at 0 again (None: never)."""

    quantity: int
    resets_at: datetime | None


UsedNow = Callable[[AsyncSession, Catalog, CustomerState, datetime], Awaitable[Mapping[str, Used]]]
"""What a customer uses of every METERED feature at an instant, read in the caller's transaction."""


class UsageViolation(msgspec.Struct, frozen=True):
    """More is used today than will be granted. `passable`: the limit may be passed (overage)."""

    feature: Feature
    used: int
    limit_after: int
    resets_at: datetime | None
    passable: bool

    @property
    def words(self) -> str:
        return f"{self.feature.name}: {self.used} are in use, and the limit will be " + str(
            self.limit_after
        )


def levels_in_use(catalog: Catalog, used: Mapping[str, Used]) -> dict[str, int]:
    """Of what is used, the levels: what is there now, such as seats."""
    return {
        feature_id: found.quantity
        for feature_id, found in used.items()
        if catalog.feature(feature_id).aggregation is Aggregation.LEVEL
    }


def usage_violations(
    changes: Sequence[EntitlementChange], used: Mapping[str, Used]
) -> tuple[UsageViolation, ...]:
    """Where a change grants less than is used today; in the order of the changes.

    >>> from entitlements.catalog.model import EntitlementValue, FeatureKind
    >>> seats = Feature(id="seats", name="Seats", kind=FeatureKind.METERED)
    >>> of = lambda limit: EntitlementValue(limit=limit, unlimited=False, overage=False)
    >>> lower = EntitlementChange(seats, before=of(25), after=of(5), better=False)
    >>> [(v.used, v.limit_after) for v in usage_violations([lower], {"seats": Used(9, None)})]
    [(9, 5)]
    """
    found = []
    for change in changes:
        now, after = used.get(change.feature.id), change.after
        limit = 0 if after is None else after.limit or 0
        unlimited = after is not None and after.unlimited
        if now is not None and not change.better and not unlimited and now.quantity > limit:
            passable = bool(after is not None and after.overage)
            violation = UsageViolation(change.feature, now.quantity, limit, now.resets_at, passable)
            found.append(violation)
    return tuple(found)


def refuse_over_limit(
    catalog: Catalog,
    request: ChangeRequest,
    plan: ChangePlan,
    violations: Sequence[UsageViolation],
) -> None:
    """Refuse a change that grants less than is used, where the product's policy is to refuse.

    What may be passed, and what counts from 0 again by the time the change takes effect, is not in
    the way; nor is anything in the way of cancelling, or of a policy.
    """
    refuses = catalog.products[plan.product_id].policy.over_limit is OverLimit.REFUSE
    if not refuses or request.move or plan.direction is ChangeDirection.CANCELLATION:
        return
    issues = [
        Issue(_path(request, violation.feature.id), "OVER_LIMIT", violation.words)
        for violation in violations
        if not violation.passable
        and (violation.resets_at is None or violation.resets_at > plan.effective_at)
    ]
    if issues:
        raise ValidationFailed(issues)


def _path(request: ChangeRequest, feature_id: str) -> tuple[str, ...]:
    """What of the request lowers the limit, as far as that can be said."""
    if feature_id in request.quantities:
        return "quantities", feature_id, "quantity"
    if request.plan_id is not None:
        return ("planId",)
    for field, named in (("addOns", request.add_ons), ("bundles", request.bundles)):
        if named:
            return field, next(iter(named))
    return ("input",)
