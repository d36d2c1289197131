"""The ✓ and ✗ of a pricing page."""

import pytest

from entitlements.grants import comparison
from entitlements.grants.comparison import ComparisonCell, compare
from entitlements.kernel.errors import NotFound, ValidationFailed
from tests.unit.pricing.catalogs import CALLS, PRODUCT, WORKSPACE, limit


def cells(feature_id: str, plan_ids: list[str] | None = None) -> list[ComparisonCell]:
    rows = {row.feature.id: row for row in compare(WORKSPACE, PRODUCT, plan_ids).rows}
    return list(rows[feature_id].cells)


def test_every_plan_has_a_cell_in_each_row_lowest_tier_first() -> None:
    answer = compare(WORKSPACE, PRODUCT)
    assert [p.id for p in answer.plans] == ["starter", "professional", "enterprise"]
    assert all(len(row.cells) == 3 for row in answer.rows)
    assert [row.feature.id for row in answer.rows] == [
        "dashboards",
        "sso",
        "channel",
        "seats",
        "calls",
    ]


def test_a_cell_says_what_the_plan_includes() -> None:
    assert [c.included for c in cells("sso")] == [False, True, False]
    assert [c.value and c.value.choice for c in cells("channel")] == ["email", "chat", None]
    assert [c.value for c in cells("calls")][:2] == [limit(10_000), limit(100_000, overage=True)]


def test_what_a_plan_lacks_points_to_the_add_ons_that_work_with_it() -> None:
    via = [[a.id for a in c.via_add_ons] for c in cells("dashboards")]
    assert via == [["analytics"], ["analytics"], []]  # analytics does not work with enterprise
    assert [c.via_add_ons for c in cells("calls")] == [(CALLS,)] * 3


def test_plans_are_compared_in_the_order_they_are_named() -> None:
    answer = [c.plan.id for c in cells("sso", ["professional", "starter", "professional"])]
    assert answer == ["professional", "starter"]


def test_what_is_not_sold_cannot_be_compared() -> None:
    with pytest.raises(NotFound):
        compare(WORKSPACE, "gone")
    with pytest.raises(ValidationFailed) as failure:
        compare(WORKSPACE, PRODUCT, ["starter", "gold"])
    assert failure.value.issues[0].path == ("planIds", "1")


def test_a_comparison_that_nobody_could_read_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "CELLS_MAX", 10)  # of 5 features
    assert len(compare(WORKSPACE, PRODUCT, ["starter", "professional"]).plans) == 2
    with pytest.raises(ValidationFailed, match="name at most 2 plans") as failure:
        compare(WORKSPACE, PRODUCT)
    assert [(i.path, i.code) for i in failure.value.issues] == [(("planIds",), "TOO_LARGE")]
