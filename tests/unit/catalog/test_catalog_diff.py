"""A difference names one field, before and after, and what a price rises by."""

import copy
from decimal import Decimal
from typing import Any

from rich.console import Console

from entitlements.catalog import examples
from entitlements.catalog.diff import DifferenceKind, diff, probable_renames, render
from entitlements.catalog.document import parse, read
from entitlements.catalog.model import Catalog
from entitlements.catalog.versions import publish

OLD, NEW = (read(examples.text(name)).document for name in examples.NAMES)
PROFESSIONAL = "products.workspace.plans.professional"


def edited(change: Any) -> Any:
    document = copy.deepcopy(NEW)
    change(document["products"][0], document)
    return document


def differences(change: Any) -> list[tuple[str, Any, Any, bool]]:
    found = diff(parse(NEW), parse(edited(change)))
    return [(d.path, d.before, d.after, d.wording) for d in found]


def test_nothing_differs_from_itself() -> None:
    assert diff(parse(NEW), parse(NEW)) == []


def test_the_two_examples_differ_in_one_price_and_one_limit() -> None:
    found = diff(parse(OLD), parse(NEW))
    assert {d.package_id for d in found} == {"professional"}
    assert {d.kind for d in found} == {DifferenceKind.CHANGED}
    assert [(d.path.removeprefix(PROFESSIONAL), d.before, d.after, d.percent) for d in found] == [
        (".entitlements.api-calls.limit", 50_000, 100_000, Decimal("100.00")),
        (".charges.base.prices.usd.month", "79.00", "99.00", Decimal("25.32")),
        (".charges.base.prices.usd.year", "790.00", "990.00", Decimal("25.32")),
        (".charges.base.prices.eur.month", "74.00", "92.00", Decimal("24.32")),
        (".charges.base.prices.eur.year", "740.00", "920.00", Decimal("24.32")),
    ]


def test_one_amount_written_in_two_ways_is_no_difference() -> None:
    def change(workspace: Any, document: Any) -> None:
        workspace["plans"][0]["charges"][0]["prices"]["usd"]["month"] = 29

    assert differences(change) == []


def test_wording_is_marked() -> None:
    def change(workspace: Any, document: Any) -> None:
        workspace["name"] = "Work"
        workspace["plans"][0]["description"] = "For one"
        workspace["plans"][0]["charges"][0]["name"] = "Fee"
        document["features"][0]["unit"] = "person"

    assert differences(change) == [
        ("features.seats.unit", "user", "person", True),
        ("products.workspace.name", "Workspace", "Work", True),
        *(
            ("products.workspace.plans.starter." + path, before, after, True)
            for path, before, after in (
                ("description", "For teams starting out", "For one"),
                ("charges.base.name", "Starter", "Fee"),
            )
        ),
    ]


def test_a_tier_is_known_by_its_bound() -> None:
    def change(workspace: Any, document: Any) -> None:
        tiers = workspace["add_ons"][6]["charges"][0]["prices"]["usd"]["month"]
        tiers[1]["unit"] = "8.50"
        tiers.insert(2, {"up_to": 100, "unit": "7.00"})

    path = "products.workspace.add_ons.extra-seats.charges.fee.prices.usd.month"
    assert differences(change) == [
        (f"{path}.50.unit", "8.00", "8.50", False),
        (f"{path}.100", None, {"unit": "7.00", "flat": "0"}, False),
    ]


def test_policies_and_references_are_fields_too() -> None:
    def change(workspace: Any, document: Any) -> None:
        workspace["policy"]["upgrade"]["timing"] = "period_end"
        workspace["policy"]["downgrade"]["over_limit"] = "refuse"
        workspace["add_ons"][0]["works_with"] = ["starter"]
        workspace["bundles"][0]["components"][1]["quantity"] = 3

    found = differences(change)
    assert ("products.workspace.policy.upgrade.timing", "now", "period_end", False) in found
    assert ("products.workspace.policy.downgrade.over_limit", "allow", "refuse", False) in found
    analytics = "products.workspace.add_ons.advanced-analytics.works_with"
    assert (analytics, ["professional", "starter"], ["starter"], False) in found
    growth = "products.workspace.bundles.growth-pack"
    assert (f"{growth}.components.extra-calls", 2, 3, False) in found
    assert (f"{growth}.entitlements.api-calls.add", 200_000, 300_000, False) in found


def rename_analytics(workspace: Any, document: Any) -> None:
    workspace["add_ons"][0]["id"] = "analytics-plus"
    workspace["bundles"][0]["components"][0]["id"] = "analytics-plus"


def test_a_new_and_a_retired_package_are_whole_and_look_like_a_rename() -> None:
    before, after = parse(NEW), parse(edited(rename_analytics))
    kinds = {d.path: d.kind for d in diff(before, after) if "growth-pack" not in d.path}
    assert kinds == {
        "products.workspace.add_ons.advanced-analytics": DifferenceKind.REMOVED,
        "products.workspace.add_ons.analytics-plus": DifferenceKind.ADDED,
    }
    (warning,) = probable_renames(before, after)
    assert warning.path == ("products", "workspace", "add_ons", "analytics-plus")
    assert warning.message.startswith("'advanced-analytics' goes and 'analytics-plus' comes")


def test_a_package_that_replaces_another_is_no_rename() -> None:
    def change(workspace: Any, document: Any) -> None:
        workspace["add_ons"][5] |= {
            **{"id": "success-plan", "name": "Success plan", "works_with": ["starter"]},
            "entitlements": {"named-manager": True},
            "charges": [
                {
                    **{"id": "monthly", "name": "Success", "model": "per_unit"},
                    "prices": {
                        "usd": {"month": 500, "year": 5000},
                        "eur": {"month": 460, "year": 4600},
                    },
                }
            ],
        }

    assert probable_renames(parse(NEW), parse(edited(change))) == []


def test_an_add_on_of_the_same_price_that_grants_something_else_is_no_rename() -> None:
    def change(workspace: Any, document: Any) -> None:
        document["features"].append({"id": "surveys", "name": "Surveys", "kind": "boolean"})
        pages = workspace["add_ons"][11]
        assert pages["id"] == "landing-pages"
        pages |= {"id": "surveys", "name": "Surveys", "entitlements": {"surveys": True}}
        workspace["bundles"][1]["components"][2]["id"] = "surveys"
        document["features"] = [f for f in document["features"] if f["id"] != "landing-pages"]

    assert probable_renames(parse(NEW), parse(edited(change))) == []


def test_a_renamed_feature_is_warned_of() -> None:
    def change(workspace: Any, document: Any) -> None:
        document["features"][12]["id"] = "audit-trail"
        workspace["plans"][2]["entitlements"]["audit-trail"] = True
        del workspace["plans"][2]["entitlements"]["audit-log"]
        workspace["add_ons"][4]["entitlements"] = {"sso": True, "audit-trail": True}

    (warning,) = probable_renames(parse(NEW), parse(edited(change)))
    assert warning.path == ("features", "audit-trail")


def test_a_catalog_is_compared_with_a_draft_and_a_retired_product_only_once() -> None:
    document = copy.deepcopy(NEW)
    del document["products"][1]
    now = Catalog.EMPTY.effective_at
    first = publish(parse(NEW), Catalog.EMPTY, revision=1, effective_at=now, published_at=now)
    draft = parse(document)
    assert diff(first.catalog, parse(NEW)) == []
    assert [d.path for d in diff(first.catalog, draft)] == [
        "products.help-desk",
        "products.help-desk.plans.help-desk-team",
    ]
    second = publish(draft, first.catalog, revision=2, effective_at=now, published_at=now)
    assert diff(second.catalog, draft) == []


def test_a_terminal_shows_prices_side_by_side_with_percent() -> None:
    console = Console(width=100, color_system=None)
    before, after = parse(OLD), parse(edited(rename_analytics))
    with console.capture() as captured:
        console.print(render(diff(before, after), probable_renames(before, after)))
    text = captured.get()
    (row,) = (line for line in text.splitlines() if "charges.base.prices.usd.month" in line)
    assert [cell.strip() for cell in row.strip("│").split("│")] == [
        *("charges.base.prices.usd.month", "79.00", "99.00", "+25.32")
    ]
    assert "! 'advanced-analytics' goes and 'analytics-plus' comes" in text
    with console.capture() as captured:
        console.print(render([]))
    assert captured.get() == "No difference.\n"
