"""What a customer may do, as another application remembers it, and the answer to one question."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Any, Final, Literal

How = Literal["memory", "api", "stale", "policy"]
"""From what is remembered, as the service says, from what was remembered while it could not be
reached, or by the policy for that case since nothing was."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """`reason` is None when allowed; else a DenialReason of the API, or `UNREACHABLE`."""

    allowed: bool
    reason: str | None
    revision: int
    how: How = "memory"


class Denied(Exception):
    """Raised by what requires a feature. GraphQL shows `extensions` to the client."""

    def __init__(self, feature_id: str, verdict: Verdict) -> None:
        super().__init__(f"{feature_id} is not open to this customer")
        self.feature_id = feature_id
        self.verdict = verdict
        self.extensions = {
            "code": "NOT_ENTITLED",
            "featureId": feature_id,
            "reason": verdict.reason,
        }


METERED: Final = "METERED"


@dataclass(frozen=True, slots=True)
class Granted:
    """One feature that a customer has, and the verdict where nothing more is asked."""

    kind: str
    verdict: Verdict
    number: Decimal | None = None
    higher_is_better: bool = True
    choice: str | None = None
    values: tuple[str, ...] = ()

    def reaches(self, at_least: str) -> bool:
        """Whether the value is at least this one, in the feature's own order.

        Raises `ValueError` where the feature has no order, or this is none of its values.

        >>> yes = Verdict(True, None, 1)
        >>> hours = Granted("NUMBER", yes, number=Decimal(24), higher_is_better=False)
        >>> hours.reaches("48"), hours.reaches("4")
        (True, False)
        """
        if self.kind == "ENUM":
            if at_least not in self.values:
                raise ValueError(f"{at_least!r} is none of {', '.join(self.values)}")
            if self.choice not in self.values:
                return False
            return self.values.index(self.choice) >= self.values.index(at_least)
        if self.kind != "NUMBER" or self.number is None:
            raise ValueError(f"{self.kind} has no order to be at least something in")
        try:
            wanted = Decimal(at_least)
        except InvalidOperation:
            raise ValueError(f"{at_least!r} is not a number") from None
        return self.number >= wanted if self.higher_is_better else self.number <= wanted


@dataclass(slots=True)
class Entitlements:
    """What one customer may do at one revision. `good_until` is in monotonic seconds."""

    revision: int
    granted: Mapping[str, Granted]
    read_at: float
    good_until: float
    refused: Verdict
    too_low: Verdict = field(init=False)

    def __post_init__(self) -> None:
        self.too_low = Verdict(False, "VALUE_TOO_LOW", self.revision)

    def verdict(self, feature_id: str, at_least: str | None) -> Verdict | None:
        """None for a METERED feature: only the service counts. Raises `ValueError` as `reaches`.

        A feature that there is not cannot be told from one that is not had: `NOT_ENTITLED`.
        """
        granted = self.granted.get(feature_id)
        if granted is None:
            return self.refused
        if at_least is not None and not granted.reaches(at_least):
            return self.too_low
        return None if granted.kind == METERED else granted.verdict


def read_entitlements(customer: Any, now: float, good_until: float) -> Entitlements:
    """From the API's answer: a `Customer` or an `EntitlementsChanged`; None: there is no such."""
    if customer is None:
        refused = Verdict(False, "CUSTOMER_NOT_FOUND", 0)
        return Entitlements(0, {}, now, good_until, refused)
    revision = int(customer["revision"])
    granted = {e["feature"]["id"]: _granted(e, revision) for e in customer["entitlements"]}
    refused = Verdict(False, "NOT_ENTITLED", revision)
    return Entitlements(revision, granted, now, good_until, refused)


def _granted(entitlement: Any, revision: int) -> Granted:
    feature, value = entitlement["feature"], entitlement["value"]
    allowed = feature["kind"] != "BOOLEAN" or bool(value["enabled"])
    number = value["number"]
    return Granted(
        kind=feature["kind"],
        verdict=Verdict(allowed, None if allowed else "NOT_ENTITLED", revision),
        number=None if number is None else Decimal(number),
        higher_is_better=feature["higherIsBetter"] is not False,
        choice=value["choice"],
        values=tuple(feature["values"] or ()),
    )
