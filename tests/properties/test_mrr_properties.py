"""Whatever customers do, opening and movements come to the closing: as counted by hand."""

import asyncio
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from entitlements.finance.movements import MrrDimension, mrr_movements, mrr_movements_by
from entitlements.kernel.period import Period
from entitlements.pricing.mrr import MrrMovements
from entitlements.storage.engine import create_engine
from entitlements.storage.unit_of_work import Database
from entitlements.subscriptions.history import Held, record_movements
from entitlements.subscriptions.state import CustomerState
from entitlements.subscriptions.tables import CustomerRow

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


class Step(NamedTuple):
    """On some day a customer comes to hold this."""

    customer: str
    day: int
    plan: str
    plan_minor: int
    add_on_minor: int

    @property
    def held(self) -> dict[Held, int]:
        held = {("sub", self.plan, self.plan): self.plan_minor}
        return held | {("sub", self.plan, "extra"): self.add_on_minor}


STEPS = st.lists(
    st.builds(
        Step,
        st.sampled_from(["ann", "bob"]),
        st.integers(0, 60),
        st.sampled_from(["basic", "pro"]),
        st.sampled_from([0, 0, 1000, 1667]),
        st.sampled_from([0, 500]),
    ),
    max_size=9,
).map(lambda steps: sorted(steps, key=lambda step: step.day))


def by_hand(steps: list[Step], first_day: int, last_day: int) -> MrrMovements:
    """The customers' totals, one step after the other."""
    sums = dict.fromkeys(MrrMovements.__struct_fields__, 0)
    for customer in ("ann", "bob"):
        now, ever, opening = 0, False, 0
        for step in (step for step in steps if step.customer == customer):
            then = sum(step.held.values())
            names = []
            if now == 0 and then:
                names = ["reactivation" if ever else "new"]
            elif now and not then:
                names = ["churn", "retained_churn"]
            elif then != now:
                name = "expansion" if then > now else "contraction"
                names = [name, f"retained_{name}"]
            if step.day < first_day:
                opening = then
            elif step.day < last_day:
                for name in names:
                    if opening or not name.startswith("retained"):
                        sums[f"{name}_minor"] += abs(then - now)
            now, ever = then, ever or then > 0
        sums["opening_minor"] += opening
    return MrrMovements(**sums)


async def recorded(
    path: Path, steps: list[Step], period: Period
) -> tuple[MrrMovements, dict[MrrDimension, list[MrrMovements]]]:
    database = Database(create_engine(f"sqlite+aiosqlite:///{path}"))
    async with database.write() as session:
        for id in ("ann", "bob"):
            session.add(
                CustomerRow(id=id, sequence=id, currency="usd", created_at=BEGIN, revision=1)
            )
        for revision, step in enumerate(steps):
            state = CustomerState(id=step.customer, currency="usd", revision=revision)
            at = BEGIN + timedelta(days=step.day)
            await session.flush()
            await record_movements(session, state, step.held, at)
    async with database.read(streaming=True) as session:
        whole = await mrr_movements(session, period, "usd")
        groups = {
            by: [g.movements for g in await mrr_movements_by(session, period, "usd", by)]
            for by in MrrDimension
        }
    await database.close()
    return whole, groups


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS, st.integers(0, 40), st.integers(1, 30))
def test_movements_are_what_they_are_by_hand_and_their_groups_add_up(
    tmp_path: Path, sqlite_template: Path, steps: list[Step], first_day: int, days: int
) -> None:
    path = tmp_path / "lives.db"
    for old in tmp_path.glob("lives.db*"):
        old.unlink()
    shutil.copy(sqlite_template, path)
    start = BEGIN + timedelta(days=first_day)
    period = Period(start, start + timedelta(days=days))
    whole, groups = asyncio.run(recorded(path, steps, period))
    assert whole == by_hand(steps, first_day, first_day + days)
    for by in (MrrDimension.PLAN, MrrDimension.COHORT):
        found = groups[by]
        for name in ("opening_minor", "new_minor", "churn_minor", "closing_minor"):
            assert sum(getattr(group, name) for group in found) == getattr(whole, name)
        net = sum(g.expansion_minor - g.contraction_minor for g in found)
        assert net == whole.expansion_minor - whole.contraction_minor
    months = groups[MrrDimension.MONTH]
    closings = [month.closing_minor for month in months]
    assert [month.opening_minor for month in months] == [whole.opening_minor, *closings[:-1]]
    assert closings[-1] == whole.closing_minor
