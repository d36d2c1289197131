"""What staff grants or takes by hand, beside the packages held."""

from datetime import datetime

import msgspec

from entitlements.catalog.model import EntitlementValue, Feature, FeatureKind, GrantMode
from entitlements.kernel.errors import Issue


class Override(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One override, in force from `created_at` until `ends_at` (None: until it is ended).

    SET is one more source of the feature, ADD adds to a metered limit, REPLACE wins over
    everything else in either direction.
    """

    id: str
    feature_id: str
    mode: GrantMode
    value: EntitlementValue
    reason: str
    created_by: str
    created_at: datetime
    ends_at: datetime | None = None

    def in_force(self, at: datetime) -> bool:
        return self.created_at <= at and (self.ends_at is None or at < self.ends_at)


_FIELDS = {
    FeatureKind.BOOLEAN: ("enabled",),
    FeatureKind.NUMBER: ("number",),
    FeatureKind.ENUM: ("choice",),
    FeatureKind.METERED: ("limit", "unlimited", "overage"),
}


def override_issues(feature: Feature, mode: GrantMode, value: EntitlementValue) -> list[Issue]:
    """What is wrong with an override of a feature: paths are those of `SetOverrideInput`.

    >>> sso = Feature(id="sso", name="Single sign-on", kind=FeatureKind.BOOLEAN)
    >>> [i.code for i in override_issues(sso, GrantMode.ADD, EntitlementValue(limit=5))]
    ['ADD_NEEDS_METERED', 'NOT_FOR_KIND', 'MISSING']
    """
    issues = []
    own = _FIELDS[feature.kind]
    if mode is GrantMode.ADD and feature.kind is not FeatureKind.METERED:
        words = f"{feature.name} is {feature.kind}: nothing can be added to it"
        issues.append(Issue(("mode",), "ADD_NEEDS_METERED", words))
    for name in ("enabled", "number", "choice", "limit", "unlimited", "overage"):
        if getattr(value, name) is not None and name not in own:
            words = f"{feature.name} is {feature.kind}: it has no {name}"
            issues.append(Issue(("value", name), "NOT_FOR_KIND", words))
    if feature.kind is FeatureKind.METERED:
        issues += _limit_issues(mode, value)
    elif getattr(value, own[0]) is None:
        issues.append(Issue(("value", own[0]), "MISSING", f"{own[0]} is missing"))
    if value.choice is not None and own == ("choice",) and value.choice not in feature.values:
        words = f"{value.choice!r} is not among the values: {', '.join(feature.values)}"
        issues.append(Issue(("value", "choice"), "NOT_LISTED", words))
    return issues


def _limit_issues(mode: GrantMode, value: EntitlementValue) -> list[Issue]:
    if (value.limit is None) == (not value.unlimited):
        words = "either a limit or unlimited: true is expected"
        return [Issue(("value", "limit"), "ONE_OF", words)]
    if mode is GrantMode.ADD and not value.limit:
        words = "the units to add are expected, at least 1"
        return [Issue(("value", "limit"), "OUT_OF_RANGE", words)]
    if value.limit is not None and not 0 <= value.limit < 2**63:
        return [Issue(("value", "limit"), "OUT_OF_RANGE", "a limit is from 0 to 2⁶³ − 1")]
    return []
