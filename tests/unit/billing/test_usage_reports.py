"""What a report of use comes to: told on time, once, and marked where it comes too late."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from entitlements.billing.usage_reports import Look, Report, Status, next_step
from entitlements.catalog.model import BillingTime, Charge, PricingModel
from entitlements.kernel.period import Period

START, END = datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 4, 1, tzinfo=UTC)
CALLS = Charge(
    id="calls",
    name="Calls",
    model=PricingModel.PER_UNIT,
    prices=(),
    billing=BillingTime.IN_ARREARS,
    metered=True,
    included=100,
)


def report(reported: int = 0, **more: Any) -> Report:
    about: Any = {"status": Status.OPEN, "window": Period(START, END), "counts_from": START}
    return Report(reported=reported, **(about | {"packages": 1} | more))


def look(at: datetime, used: int, **more: Any) -> Look:
    return Look(at=at, used=used, **({"packages": 1} | more))


@pytest.mark.parametrize(
    ("at", "told_at", "due_at"),
    [
        (START + timedelta(hours=5), START + timedelta(hours=5, seconds=-1), 6),
        (END - timedelta(minutes=9), END - timedelta(minutes=9, seconds=1), None),
        (START, START, 1),  # the first second of the window has none before it
    ],
)
def test_it_is_told_every_hour_and_at_the_end(
    at: datetime, told_at: datetime, due_at: int | None
) -> None:
    step = next_step(CALLS, report(20), look(at, 150))
    assert (step.units, step.told_at) == (30, told_at)
    assert step.due_at == (END if due_at is None else START + timedelta(hours=due_at))


def test_nothing_is_told_in_the_very_second_in_which_a_change_takes_effect() -> None:
    step = next_step(CALLS, report(), look(START, 150, before_change=True))
    assert (step.units, step.status) == (0, Status.OPEN)


def test_what_comes_after_the_end_is_told_as_of_the_period_while_its_invoice_is_a_draft() -> None:
    at = END + timedelta(minutes=44)
    step = next_step(CALLS, report(20), look(at, 150, packages=None))
    assert (step.units, step.told_at) == (30, END - timedelta(seconds=1))
    final = next_step(CALLS, report(20), look(at, 150, packages=None, taken=False))
    too_late = next_step(CALLS, report(20), look(END + timedelta(minutes=46), 150, packages=None))
    for closed in (final, too_late):
        assert (closed.status, closed.units, closed.unbilled) == (Status.CLOSED, 0, 30)


def test_more_packages_include_more_and_what_was_told_too_much_is_told_back() -> None:
    step = next_step(CALLS, report(60), look(START + timedelta(days=9), 160, packages=2))
    assert (step.units, step.packages) == (-60, 2)


def test_what_was_told_for_another_charge_is_not_paid_for_twice() -> None:
    step = next_step(CALLS, report(), look(START + timedelta(days=9), 350, elsewhere=200))
    assert step.units == 50
    none = next_step(CALLS, report(), look(START + timedelta(days=9), 250, elsewhere=200))
    assert none.units == 0


def test_what_is_given_up_is_looked_at_no_more_and_late_use_for_as_long_as_it_may_come() -> None:
    given_up = next_step(CALLS, report(), look(START + timedelta(days=9), 350, packages=None))
    assert (given_up.status, given_up.units, given_up.due_at) == (Status.DONE, 0, None)
    closed = report(20, status=Status.CLOSED, late=5)
    last = next_step(CALLS, closed, look(END + timedelta(days=35), 150, packages=None))
    assert (last.status, last.unbilled) == (Status.CLOSED, 25)
    over = next_step(CALLS, closed, look(END + timedelta(days=37), 150, packages=None))
    assert (over.status, over.unbilled, over.due_at) == (Status.DONE, 25, None)
