"""What is legal but odd is pointed out, and what is not odd is left in peace."""

import copy
from typing import Any

import pytest

from entitlements.catalog import examples
from entitlements.catalog.advice import warnings
from entitlements.catalog.document import parse, read

WORKSPACE = read(examples.text("workspace")).document


def found(change: Any) -> list[tuple[str, str]]:
    """What is odd after a change, beside what is odd before it."""
    document = copy.deepcopy(WORKSPACE)
    change(document["products"][0], document)
    before = set(warnings(parse(WORKSPACE)))
    return [(".".join(i.path), i.code) for i in warnings(parse(document)) if i not in before]


def test_the_example_has_only_the_falling_totals_of_volume_prices() -> None:
    assert [issue.message for issue in warnings(parse(WORKSPACE))] == [
        "11 cost less in all than 10: usd 88 instead of 100",
        "11 cost less in all than 10: usd 132 instead of 150",
    ]


def _unused_feature(workspace: Any, document: Any) -> None:
    document["features"].append({"id": "new", "name": "New", "kind": "boolean"})


def _dear_year(workspace: Any, document: Any) -> None:
    workspace["plans"][0]["charges"][0]["prices"]["usd"]["year"] = "348.01"


def _twelve_months(workspace: Any, document: Any) -> None:
    workspace["plans"][0]["charges"][0]["prices"]["usd"]["year"] = "348.00"


def _free_overage(workspace: Any, document: Any) -> None:
    workspace["plans"][0]["entitlements"]["api-calls"]["overage"] = True


def _never_due(workspace: Any, document: Any) -> None:
    document["products"][1]["plans"][0]["entitlements"]["conversations"]["overage"] = False


def _never_bought(workspace: Any, document: Any) -> None:
    document["products"][1]["plans"][0]["entitlements"]["agents"]["limit"] = 1


def _not_granted(workspace: Any, document: Any) -> None:
    del document["products"][1]["plans"][0]["entitlements"]["agents"]


def _counts_one(workspace: Any, document: Any) -> None:
    workspace["plans"][0]["charges"][0]["model"] = "per_unit"


def _adds_nothing(workspace: Any, document: Any) -> None:
    workspace["add_ons"][8]["entitlements"]["storage"] = {"add": 0}


def _nobody_fits(workspace: Any, document: Any) -> None:
    workspace["add_ons"][0]["works_with"] = ["starter"]
    workspace["add_ons"][7]["works_with"] = ["professional"]


def _no_plans(workspace: Any, document: Any) -> None:
    document["products"][1]["plans"] = []


def _meters_what_the_plan_meters(workspace: Any, document: Any) -> None:
    charge = copy.deepcopy(document["products"][1]["plans"][0]["charges"][1])
    document["products"][1]["add_ons"] = [
        {
            **{"id": "more", "name": "More", "kind": "capacity", "charges": [charge]},
            "entitlements": {"conversations": {"add": 100, "overage": True}},
        }
    ]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (_unused_feature, [("features.18", "NEVER_GRANTED")]),
        (_dear_year, [("products.0.plans.0.charges.0.prices.usd.year", "YEAR_DEARER")]),
        (_twelve_months, []),
        (_free_overage, [("products.0.plans.0.entitlements.api-calls", "OVERAGE_FREE")]),
        (_never_due, [("products.1.plans.0.charges.1", "NEVER_DUE")]),
        (_never_bought, [("products.1.plans.0.charges.0.minimum", "NEVER_BOUGHT")]),
        (
            _not_granted,
            [
                ("features.16", "NEVER_GRANTED"),
                ("products.1.plans.0.charges.0.quantity", "NOT_GRANTED"),
            ],
        ),
        (_counts_one, [("products.0.plans.0.charges.0.model", "COUNTS_ONE")]),
        (_adds_nothing, [("products.0.add_ons.8.entitlements.storage", "ADDS_NOTHING")]),
        (_nobody_fits, [("products.0.bundles.0", "NOBODY_CAN_BUY")]),
        (
            _no_plans,
            [
                ("features.16", "NEVER_GRANTED"),
                ("features.17", "NEVER_GRANTED"),
                ("products.1.plans", "NO_PLANS"),
            ],
        ),
        (_meters_what_the_plan_meters, [("products.1.add_ons.0", "NOBODY_CAN_BUY")]),
    ],
)
def test_what_is_odd_is_said(change: Any, expected: list[tuple[str, str]]) -> None:
    assert found(change) == expected
