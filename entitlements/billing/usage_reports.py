"""How far the provider has been told of what is used, and what is to be told next. PURE.

For each metered charge and billing window there is a report: how many units there are to be paid
for, and how many of them the provider has counted.

    OPEN ──▶ CLOSED  (the invoice is final: what comes now is late, and marked unbilled)  ──▶ DONE
      └────▶ DONE    (the charge was given up, or its window cut short)
"""

from datetime import datetime, timedelta
from enum import StrEnum

import msgspec

from entitlements.catalog.model import Charge
from entitlements.kernel.period import Period, to_second
from entitlements.pricing.charges import billable_quantity

REPORT_EVERY = timedelta(hours=1)
"""While a window runs. At its end, and before a change, the rest is told at once."""

TAKEN_FOR = timedelta(minutes=45)
"""After a window's end: the provider makes its invoice final an hour after it."""

TAIL_EVERY = timedelta(minutes=5)
LATE_EVERY = timedelta(days=1)
LATE_FOR = timedelta(days=36)
"""How long late use is looked for: older events are not taken."""

SECOND = timedelta(seconds=1)


class Status(StrEnum):
    OPEN = "open"
    CLOSED = "closed"
    DONE = "done"


class Unbilled(msgspec.Struct, frozen=True, kw_only=True):
    """Use of a window that is over, of which `billable - billed` units are on no invoice."""

    report_id: str
    subscription_id: str
    slot: str
    window: Period
    billable: int
    billed: int


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """How far a report has come. `counts_from`: where the provider begins to count.

    `reported` are the units that it has counted, `late` those that were put on an invoice later.
    """

    status: Status
    window: Period
    counts_from: datetime
    packages: int
    reported: int = 0
    late: int = 0


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """What is found of it at an instant.

    `used` is all use in the window, `elsewhere` the units of it that were reported for another
    charge. `packages` held now are None where the charge is not held any more or a new window has
    begun. `taken`: whether the provider still takes use of a window that is over.
    """

    at: datetime
    used: int
    elsewhere: int = 0
    packages: int | None
    taken: bool = True
    before_change: bool = False


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be done: `units` are told, as of `told_at`; looked at again at `due_at`."""

    status: Status
    packages: int
    billable: int
    units: int = 0
    told_at: datetime | None = None
    unbilled: int = 0
    due_at: datetime | None = None


def next_step(charge: Charge, report: Report, look: Look) -> Step:
    """What follows for a report from what is found. Units are paid once, whatever charge they were
    reported for; what was reported too much (more is included now) is told back.

    >>> from datetime import UTC
    >>> from entitlements.catalog.model import BillingTime, PricingModel
    >>> calls = Charge(id="calls", name="Calls", model=PricingModel.PER_UNIT, prices=(),
    ...     billing=BillingTime.IN_ARREARS, metered=True, included=100)
    >>> march = Period(datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 4, 1, tzinfo=UTC))
    >>> report = Report(status=Status.OPEN, window=march, counts_from=march.start, packages=1,
    ...     reported=30)
    >>> step = next_step(calls, report, Look(at=datetime(2026, 3, 9, tzinfo=UTC), used=150,
    ...     packages=1))
    >>> step.units, step.told_at.isoformat(), step.due_at.isoformat()
    (20, '2026-03-08T23:59:59+00:00', '2026-03-09T01:00:00+00:00')
    >>> late = next_step(calls, report, Look(at=datetime(2026, 4, 2, tzinfo=UTC), used=150,
    ...     packages=1))
    >>> late.status.value, late.units, late.unbilled
    ('closed', 0, 20)
    """
    over = report.window.end <= look.at
    running = report.status is Status.OPEN and not over
    packages = look.packages if running and look.packages is not None else report.packages
    billable = max(billable_quantity(charge, look.used, packages) - look.elsewhere, 0)
    step = Step(status=report.status, packages=packages, billable=billable)
    if running and look.packages is None:
        return msgspec.structs.replace(step, status=Status.DONE)
    told_at = _told_at(report, look)
    if running and told_at is not None:
        return msgspec.structs.replace(
            step,
            units=billable - report.reported,
            told_at=told_at,
            due_at=min(look.at + REPORT_EVERY, report.window.end),
        )
    if running:
        return msgspec.structs.replace(step, due_at=look.at + SECOND)
    if report.status is Status.OPEN and look.taken and look.at <= report.window.end + TAKEN_FOR:
        return msgspec.structs.replace(
            step, units=billable - report.reported, told_at=told_at, due_at=look.at + TAIL_EVERY
        )
    forgotten = look.at > report.window.end + LATE_FOR
    return msgspec.structs.replace(
        step,
        status=Status.DONE if forgotten else Status.CLOSED,
        unbilled=max(billable - report.reported - report.late, 0),
        due_at=None if forgotten else look.at + LATE_EVERY,
    )


def _told_at(report: Report, look: Look) -> datetime | None:
    """As of when use is told: before the present second, in which a change may take effect."""
    last = min(to_second(look.at), report.window.end) - SECOND
    if last >= report.counts_from:
        return last
    return None if look.before_change else report.counts_from
