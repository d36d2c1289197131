"""May they do it? One answer with, if it is no, exactly one reason."""

from decimal import Decimal, InvalidOperation
from enum import StrEnum

import msgspec

from entitlements.catalog.model import EntitlementValue, Feature, FeatureKind
from entitlements.catalog.values import at_least as reaches
from entitlements.catalog.values import is_granted
from entitlements.grants.merge import FeatureGrants, Grants
from entitlements.grants.sources import GrantSource
from entitlements.kernel.errors import ValidationFailed

DIGITS_AT_MOST = 40
"""A number that is asked for is at most so long, written out."""


class DenialReason(StrEnum):
    """Why not, in order of precedence: the first that applies is given."""

    CUSTOMER_NOT_FOUND = "customer_not_found"
    FEATURE_NOT_FOUND = "feature_not_found"
    NO_ACTIVE_SUBSCRIPTION = "no_active_subscription"
    SUBSCRIPTION_UNPAID = "subscription_unpaid"
    TRIAL_ENDED = "trial_ended"
    REVOKED = "revoked"
    NOT_ENTITLED = "not_entitled"
    VALUE_TOO_LOW = "value_too_low"
    LIMIT_EXCEEDED = "limit_exceeded"


class Decision(msgspec.Struct, frozen=True, gc=False):
    """The answer to a check.

    `over_limit`: allowed only because the limit may be passed. `used` and `remaining` are for
    METERED; `remaining` is None where there is no limit, and never negative. `warning` is the
    highest of `warn_at_percent` that `used` has reached.
    """

    allowed: bool
    reason: DenialReason | None = None
    over_limit: bool = False
    value: EntitlementValue | None = None
    used: int | None = None
    remaining: int | None = None
    warning: int | None = None
    sources: tuple[GrantSource, ...] = ()


def decide(
    grants: Grants | None,
    feature: Feature | None,
    *,
    quantity: int = 1,
    at_least: str | None = None,
    used: int = 0,
) -> Decision:
    """Decide one check. `grants` is None for a customer that is not known, `feature` likewise.

    METERED: `quantity` more units than the `used` ones. ENUM and NUMBER: the value is at least
    `at_least`, in the feature's own order; without it, any value will do. BOOLEAN: it is true.
    Raises `ValidationFailed` for a quantity below 1, for `at_least` where the feature has no
    order, and where it is none of the feature's values.

    >>> from entitlements.grants.merge import FeatureGrants
    >>> seats = Feature(id="seats", name="Seats", kind=FeatureKind.METERED)
    >>> five = FeatureGrants(value=EntitlementValue(limit=5, unlimited=False, overage=False))
    >>> grants = Grants(features={"seats": five}, has_subscription=True, holds_until=None)
    >>> decide(grants, seats, used=4).allowed, decide(grants, seats, used=5).reason.name
    (True, 'LIMIT_EXCEEDED')
    """
    if quantity < 1:
        raise ValidationFailed.of("quantity", "OUT_OF_RANGE", "a quantity is at least 1")
    wanted = _wanted(feature, at_least) if feature and at_least is not None else None
    if grants is None:
        return Decision(False, DenialReason.CUSTOMER_NOT_FOUND)
    if feature is None:
        return Decision(False, DenialReason.FEATURE_NOT_FOUND)
    granted = grants.of(feature.id)
    value = granted.value
    if wanted is None and value is not None and value.enabled:  # what is asked most
        return Decision(True, None, False, value, None, None, None, granted.sources)
    allowed = _suffices(feature, value, quantity, wanted, used)
    reason = None
    if not allowed:
        reason = _reason(grants, granted, feature, quantity, wanted, used)
    if feature.kind is not FeatureKind.METERED:
        return Decision(allowed, reason, False, value, None, None, None, granted.sources)
    remaining, warning = standing(value, used)
    passed = remaining is not None and quantity > remaining
    return Decision(
        allowed, reason, allowed and passed, value, used, remaining, warning, granted.sources
    )


def standing(value: EntitlementValue | None, used: int) -> tuple[int | None, int | None]:
    """What is left of a METERED value, and the highest warning that has been reached.

    >>> standing(EntitlementValue(limit=100, unlimited=False, warn_at_percent=(80, 95)), 90)
    (10, 80)
    """
    if value is None or value.unlimited:
        return None, None
    limit = value.limit or 0
    reached = [p for p in value.warn_at_percent if used and used * 100 >= p * limit]
    return max(limit - used, 0), max(reached, default=None)


def _suffices(
    feature: Feature,
    value: EntitlementValue | None,
    quantity: int,
    wanted: EntitlementValue | None,
    used: int,
) -> bool:
    """Whether a value would be enough for what is asked."""
    if value is None:
        return False
    if feature.kind is FeatureKind.METERED:
        return bool(value.unlimited or value.overage or used + quantity <= (value.limit or 0))
    return is_granted(value) and (wanted is None or reaches(feature, value, wanted))


def _reason(
    grants: Grants,
    granted: FeatureGrants,
    feature: Feature,
    quantity: int,
    wanted: EntitlementValue | None,
    used: int,
) -> DenialReason:
    """The first reason that applies.

    REVOKED is given exactly when the answer without the override would be yes (DESIGN 15), which
    no earlier reason can explain, so it is asked first. A subscription or a trial "would grant
    it" if it made the answer yes, or brought the feature to somebody who has nothing of it.
    """

    def would_help(value: EntitlementValue | None) -> bool:
        return _suffices(feature, value, quantity, wanted, used) or (
            is_granted(value) and not is_granted(granted.value)
        )

    if any(_suffices(feature, value, quantity, wanted, used) for value in granted.overruled):
        return DenialReason.REVOKED
    trial_would_help = would_help(granted.trial)
    if not grants.has_subscription and not trial_would_help:
        return DenialReason.NO_ACTIVE_SUBSCRIPTION
    if would_help(granted.unpaid):
        return DenialReason.SUBSCRIPTION_UNPAID
    if trial_would_help:
        return DenialReason.TRIAL_ENDED
    if granted.value is None or granted.value.enabled is False:
        return DenialReason.NOT_ENTITLED
    if feature.kind is FeatureKind.METERED:
        return DenialReason.LIMIT_EXCEEDED
    return DenialReason.VALUE_TOO_LOW


def _wanted(feature: Feature, at_least: str) -> EntitlementValue:
    """The value that is asked for, as the feature's kind has it."""
    if feature.kind is FeatureKind.ENUM:
        if at_least not in feature.values:
            words = f"{at_least!r} is not among the values: {', '.join(feature.values)}"
            raise ValidationFailed.of("atLeast", "NOT_LISTED", words)
        return EntitlementValue(choice=at_least)
    if feature.kind is not FeatureKind.NUMBER:
        words = f"{feature.name} is {feature.kind}: it has no order to be at least something in"
        raise ValidationFailed.of("atLeast", "NOT_FOR_KIND", words)
    try:
        number = Decimal(at_least)
    except InvalidOperation:
        number = Decimal("NaN")
    if not number.is_finite() or abs(number.adjusted()) > DIGITS_AT_MOST:
        raise ValidationFailed.of("atLeast", "WRONG_KIND", f"{at_least!r} is not a number")
    return EntitlementValue(number=number)
