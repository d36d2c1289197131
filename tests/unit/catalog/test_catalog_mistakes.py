"""Every mistake is reported with its path, its code and its words, and all of them at once."""

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import entitlements.catalog
from entitlements.catalog.document import parse, read
from entitlements.kernel.errors import Issue, ValidationFailed

GOLDEN = Path(__file__).parents[2] / "golden"
ROOM = Path(entitlements.catalog.__file__).parent
CASES = yaml.safe_load((GOLDEN / "catalog_mistakes.yaml").read_text(encoding="utf-8"))
FORMAT = read((GOLDEN / "catalog_format.yaml").read_text(encoding="utf-8")).document


def edited(edits: dict[str, Any]) -> Any:
    """The example of the format with some places set, or taken away with `~delete`."""
    document = copy.deepcopy(FORMAT)
    for path, value in edits.items():
        *keys, last = path.split(".")
        node = document
        for key in keys:
            node = node[int(key)] if isinstance(node, list) else node.setdefault(key, {})
        if isinstance(node, list):
            node[int(last) : int(last) + 1] = [value]
        elif value == "~delete":
            del node[last]
        else:
            node[last] = value
    return document


def mistakes(document: Any) -> tuple[Issue, ...]:
    with pytest.raises(ValidationFailed) as failed:
        parse(document)
    return failed.value.issues


def test_the_example_of_the_format_is_right() -> None:
    assert list(parse(FORMAT).packages) == [
        *("starter", "professional", "enterprise"),
        *("advanced-analytics", "extra-calls", "growth-pack"),
    ]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["says"])
def test_a_mistake_is_named_with_its_path(case: dict[str, Any]) -> None:
    found = mistakes(edited(case["set"]))
    places = {f"{'.'.join(issue.path)} {issue.code}" for issue in found}
    assert places == {f"{case['path']} {case['code']}", *case.get("also", [])}
    words = {i.message for i in found if ".".join(i.path) == case["path"]}
    assert case["message"] in words


def test_ten_mistakes_of_form_and_meaning_are_ten_answers_at_once() -> None:
    by_itself = {
        "A feature's kind": "features.0.kind",
        "A trial": "products.0.plans.0.trial.days",
        "An unknown key": "products.0.plans.0.chargse",
        "A missing price": "products.0.plans.0.charges.0.prices.eur",
        "A wrong limit": "products.0.plans.1.entitlements.seats",
        "Tiers": "products.0.plans.1.charges.1.prices.usd.month.1.up_to",
        "A minimum": "products.0.plans.1.charges.2.minimum",
        "A base": "products.0.plans.2.extends",
        "A requirement": "products.0.add_ons.0.requires.0",
        "A component": "products.0.bundles.0.components.1.id",
    }
    document = edited(
        {
            "features.0.kind": "flag",
            "products.0.plans.0.trial.days": 7,
            "products.0.plans.0.chargse": [],
            "products.0.plans.0.charges.0.prices.eur": "~delete",
            "products.0.plans.1.entitlements.seats": {"limit": 5, "unlimited": True},
            "products.0.plans.1.charges.1.prices.usd.month.1.up_to": 10,
            "products.0.plans.1.charges.2.minimum": 1,
            "products.0.plans.2.extends": "nobody",
            "products.0.add_ons.0.requires": ["nothing"],
            "products.0.bundles.0.components.1.id": "nothing",
        }
    )
    assert [".".join(issue.path) for issue in mistakes(document)] == [
        *("features.0.kind", "products.0.add_ons.0.requires.0"),
        "products.0.bundles.0.components.1.id",
        *sorted(path for path in by_itself.values() if path.startswith("products.0.plans")),
    ]


def test_one_document_with_every_mistake_of_a_plan_still_answers_for_each() -> None:
    document = edited(
        {
            "currencies": "usd",
            "features": 5,
            "products.0.plans.0": None,
            "products.0.plans.1.trial": {"days": 13},
        }
    )
    assert {(".".join(i.path), i.code) for i in mistakes(document)} == {
        ("currencies", "WRONG_TYPE"),
        ("features", "WRONG_TYPE"),
        ("products.0.plans.0", "WRONG_TYPE"),
        ("products.0.plans.1.trial.days", "OUT_OF_RANGE"),
        ("products.0.plans.1.trial.at_end", "MISSING"),
        ("products.0.plans.1.extends", "NOT_FOUND"),
        ("products.0.add_ons.0.works_with.0", "NOT_FOUND"),
    }


@pytest.mark.parametrize("nothing", [None, [], "catalog", 3, True, {}])
def test_what_is_no_catalog_at_all_is_refused(nothing: Any) -> None:
    assert mistakes(nothing)


@pytest.mark.parametrize(
    "strange",
    [
        {"currencies": [float("nan")]},
        {"currencies": float("inf")},
        {5: "a key"},
        {"currencies": b"usd"},
        {"a\ud800": 1},
        {"a": "\ud800"},
        {"currencies": object()},
    ],
)
def test_what_json_cannot_hold_is_refused(strange: Any) -> None:
    assert mistakes(strange)


def test_a_document_that_is_wrong_from_end_to_end_is_answered_in_bounds() -> None:
    document = {"currencies": ["usd"], "features": [5] * 5000, "products": []}
    with pytest.raises(
        ValidationFailed, match="5,000 mistakes, of which the first 1,000"
    ) as failed:
        parse(document)
    assert len(failed.value.issues) == 1000


def test_a_document_without_end_is_refused() -> None:
    nested: Any = []
    for _ in range(100_000):
        nested = [nested]
    assert [issue.code for issue in mistakes(nested)] == ["TOO_DEEP"]


def test_more_than_500_packages_are_refused() -> None:
    add_on = FORMAT["products"][0]["add_ons"][1]
    add_ons = [add_on | {"id": f"calls-{i}"} for i in range(497)]
    document = edited({"products.0.add_ons": add_ons, "products.0.bundles": []})
    assert len(parse(document).packages) == 500
    document["products"][0]["add_ons"].append(add_on | {"id": "one-more"})
    assert [issue.code for issue in mistakes(document)] == ["TOO_MANY"]


PARSING = ["bundles", "prices", "relations", "report", "resolution", "rules"]
PARSING += ["schema", "structure"]


def codes_of(modules: list[str]) -> set[str]:
    text = "".join((ROOM / f"{module}.py").read_text(encoding="utf-8") for module in modules)
    return set(re.findall(r'"([A-Z]{2,}(?:_[A-Z]+)+|[A-Z]{5,})"', text))


def test_every_code_has_a_case() -> None:
    of_size = {"TOO_DEEP", "TOO_LARGE"}  # tested above
    assert codes_of(PARSING) - of_size == {case["code"] for case in CASES}


def test_every_code_is_in_the_readme() -> None:
    readme = (ROOM / "README.md").read_text(encoding="utf-8")
    codes = codes_of([*PARSING, "source", "versions", "diff", "advice"])
    assert {code for code in codes if f"`{code}`" not in readme} == set()
