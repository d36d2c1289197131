"""One line of an invoice, whoever wrote it, and where two writers of the same invoice differ."""

from collections.abc import Iterable, Sequence
from enum import StrEnum

import msgspec

from entitlements.kernel.period import Period


class LineKind(StrEnum):
    CHARGE = "charge"
    CREDIT = "credit"
    DISCOUNT = "discount"
    TAX = "tax"


class Allocation(msgspec.Struct, frozen=True):
    """The part of a bundle's line that is one module's revenue."""

    package_id: str
    version: int
    amount_minor: int


class Line(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One invoice line, of our engine or of the provider. Credits and discounts are negative.

    `metered`: it is for use, which the provider alone adds up; our engine plans no such line. A
    line that the provider wrote by itself names no package, charge or period.
    """

    kind: LineKind
    description: str
    amount_minor: int
    id: str | None = None
    package_id: str | None = None
    version: int | None = None
    charge_id: str | None = None
    quantity: int | None = None
    period: Period | None = None
    allocations: tuple[Allocation, ...] = ()
    metered: bool = False

    @property
    def key(self) -> str:
        return f"{self.package_id}/{self.charge_id}"


class LineDifference(msgspec.Struct, frozen=True):
    """A line on which our engine and the provider do not agree."""

    line: str
    engine_minor: int
    provider_minor: int


TOLERANCE_MINOR = 1
"""How far a line of the provider may be from ours before the difference is recorded."""


def differences(engine: Sequence[Line], provider: Sequence[Line]) -> list[LineDifference]:
    """Where the two disagree by more than one minor unit on a line.

    >>> one = Line(kind=LineKind.CHARGE, description="Pro", amount_minor=541, package_id="pro")
    >>> two = Line(kind=LineKind.CHARGE, description="Pro", amount_minor=543, package_id="pro")
    >>> differences([one], [one]), differences([one], [two])[0].provider_minor
    ([], 543)
    """
    ours, theirs = _by_line(engine), _by_line(provider)
    return [
        LineDifference(name, ours.get(name, 0), theirs.get(name, 0))
        for name in sorted({*ours, *theirs})
        if abs(ours.get(name, 0) - theirs.get(name, 0)) > TOLERANCE_MINOR
    ]


def line_name(line: Line) -> str:
    return f"{line.kind} {line.package_id}@{line.version}/{line.charge_id}"


def _by_line(lines: Iterable[Line]) -> dict[str, int]:
    sums: dict[str, int] = {}
    for line in lines:
        sums[line_name(line)] = sums.get(line_name(line), 0) + line.amount_minor
    return sums
