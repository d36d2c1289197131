"""What makes a version and what does not; what a draft may not take from those who hold one."""

import copy
from datetime import UTC, datetime
from typing import Any

import pytest

from entitlements.catalog import examples
from entitlements.catalog.document import parse, read
from entitlements.catalog.model import Bundle, Catalog, Plan
from entitlements.catalog.versions import (
    Publication,
    check_against,
    content,
    decode_draft,
    decode_package,
    decode_revision,
    encode,
    encode_revision,
    publish,
)

WORKSPACE = read(examples.text("workspace")).document


def at(year: int) -> datetime:
    return datetime(year, 1, 1, tzinfo=UTC)


def published(document: Any, base: Catalog = Catalog.EMPTY) -> Publication:
    revision = base.revision + 1
    when = at(2020 + revision)
    draft = parse(document)
    return publish(draft, base, revision=revision, effective_at=when, published_at=when)


def changed(document: Any = WORKSPACE, **edits: Any) -> Any:
    """The document with places set; a path is written `products__0__name`."""
    document = copy.deepcopy(document)
    for path, value in edits.items():
        *keys, last = [int(k) if k.isdecimal() else k for k in path.split("__")]
        node = document
        for key in keys:
            node = node[key]
        node[last] = value
    return document


FIRST = published(WORKSPACE)
FEE = "products__0__add_ons__7__charges__0__prices__usd__month"  # of extra-calls


def new_versions(publication: Publication) -> list[str]:
    return [package.version_id for package in publication.new_versions]


def test_the_first_publication_gives_every_package_its_first_version() -> None:
    catalog = FIRST.catalog
    assert {p.version for p in FIRST.new_versions} == {1}
    assert set(catalog.current) == set(parse(WORKSPACE).packages)
    assert catalog.version("starter", 1).published_at == at(2021)
    assert catalog.products["workspace"].plans[0] is catalog.current["starter"]
    assert (catalog.revision, catalog.effective_at) == (1, at(2021))


def test_a_bundle_pins_the_versions_of_its_components() -> None:
    second = published(changed(**{FEE: "16.00"}), FIRST.catalog)
    assert new_versions(second) == ["extra-calls@2", "growth-pack@2"]
    pinned = {c.package_id: c.version for c in _bundle(second.catalog, "growth-pack").components}
    assert pinned == {"advanced-analytics": 1, "extra-calls": 2}
    held = second.catalog.version("growth-pack", 1)
    assert isinstance(held, Bundle)
    assert {c.version for c in held.components} == {1}


def _bundle(catalog: Catalog, id: str) -> Bundle:
    found = catalog.current[id]
    assert isinstance(found, Bundle)
    return found


def test_a_component_that_changes_only_its_terms_changes_the_bundle_too() -> None:
    longer = changed(products__0__add_ons__0__trial__days=21)
    assert new_versions(published(longer, FIRST.catalog)) == [
        "advanced-analytics@2",
        "growth-pack@2",
    ]


def test_an_inherited_entitlement_changes_the_heirs() -> None:
    document = changed(products__0__plans__0__entitlements__exports=True)
    second = published(document, FIRST.catalog)
    assert new_versions(second) == ["starter@2"]  # professional has it of its own already
    document = changed(products__0__plans__0__entitlements__workflows=True)
    heirs = ["starter@2", "professional@2", "enterprise@2"]
    assert new_versions(published(document, FIRST.catalog)) == heirs


def test_a_base_that_changes_its_price_alone_leaves_its_heirs_alone() -> None:
    document = changed(products__0__plans__0__charges__0__prices__usd__month="31.00")
    assert new_versions(published(document, FIRST.catalog)) == ["starter@2"]


@pytest.mark.parametrize(
    "edits",
    [
        {"products__0__plans__0__name": "Solo"},
        {"products__0__plans__0__description": "For one"},
        {"products__0__plans__0__charges__0__name": "Starter fee"},
        {"products__0__plans__1__trial__guide": []},
        {"products__0__add_ons__0__problem": "Guessing"},
        {"products__0__add_ons__0__audience": "Everybody"},
        {"products__0__bundles__0__use_case": "Grow"},
        {"features__0__name": "People"},
        {"products__0__policy__past_due_grace_days": 3},
        {"products__0__plans__0__charges__0__prices__usd__month": 29},
        {"products__0__add_ons__0__works_with": ["professional", "starter"]},
    ],
    ids=lambda edits: next(iter(edits)),
)
def test_wording_policy_and_ways_of_writing_make_no_version(edits: dict[str, Any]) -> None:
    second = published(changed(**edits), FIRST.catalog)
    assert new_versions(second) == []
    assert second.catalog.versions.keys() == FIRST.catalog.versions.keys()


def test_the_wording_of_what_is_sold_is_the_latest() -> None:
    second = published(changed(products__0__plans__0__name="Solo"), FIRST.catalog).catalog
    assert second.current["starter"].name == second.version("starter", 1).name == "Solo"
    assert second.current["starter"].published_at == at(2021)


@pytest.mark.parametrize(
    "edits",
    [
        {"products__0__plans__0__self_serve": False},
        {"products__0__plans__0__trial": None},
        {"products__0__plans__0__trial__at_end": "convert"},
        {"products__0__plans__0__trial__requires_payment_method": True},
        {"products__0__plans__0__entitlements__seats__limit": 6},
        {"products__0__plans__0__entitlements__seats__warn_at_percent": [90]},
        {"products__0__plans__0__charges__0__prices__eur__year": "271.00"},
        {"products__0__plans__0__charges__0__id": "fee"},
        {"products__0__add_ons__2__kind": "module"},
        {"products__0__add_ons__2__works_with": ["starter"]},
        {"products__0__add_ons__2__max_quantity": 2},
        {"products__0__add_ons__2__requires": ["security-pack"]},
        {"products__0__add_ons__2__excludes": ["security-pack"]},
        {"products__0__bundles__1__components": [{"id": "email-campaigns"}, {"id": "api-access"}]},
        {"products__0__bundles__1__charges__0__prices__usd__month": "149.00"},
        {"products__0__bundles__0__discount_percent": "20"},
    ],
    ids=lambda edits: next(iter(edits)).removeprefix("products__0__"),
)
def test_whatever_commits_the_company_makes_a_version(edits: dict[str, Any]) -> None:
    ((path, _),) = edits.items()
    group, index = path.split("__")[2:4]
    id = WORKSPACE["products"][0][group][int(index)]["id"]
    assert f"{id}@2" in new_versions(published(changed(**edits), FIRST.catalog))


def test_a_new_currency_is_a_new_price_of_everything_priced() -> None:
    document = copy.deepcopy(WORKSPACE)
    document["currencies"] = ["usd"]
    for product in document["products"]:
        for package in [
            *product["plans"],
            *product.get("add_ons", []),
            *product.get("bundles", []),
        ]:
            for charge in package.get("charges", []):
                del charge["prices"]["eur"]
    second = published(document, FIRST.catalog)
    unpriced = {"enterprise"}
    assert {p.id for p in second.new_versions} == set(FIRST.catalog.current) - unpriced


def test_a_plan_between_two_others_moves_ranks_and_makes_no_version_of_them() -> None:
    document = copy.deepcopy(WORKSPACE)
    plans = document["products"][0]["plans"]
    plans.insert(1, plans[0] | {"id": "team", "name": "Team"})
    second = published(document, FIRST.catalog)
    assert new_versions(second) == ["team@1"]
    ranks = {id: p.rank for id, p in second.catalog.versions.items() if isinstance(p, Plan)}
    assert ranks == {
        **{"starter@1": 0, "team@1": 1, "professional@1": 2, "enterprise@1": 3},
        "help-desk-team@1": 0,
    }


def test_a_plan_that_is_held_at_an_old_version_stands_where_the_plan_stands_now() -> None:
    second = published(
        changed(products__0__plans__1__charges__0__prices__usd__month="109.00"), FIRST.catalog
    )
    document = copy.deepcopy(WORKSPACE)
    plans = document["products"][0]["plans"]
    plans.insert(0, plans[0] | {"id": "solo", "name": "Solo"})
    third = published(document, second.catalog).catalog
    old, new = third.version("professional", 1), third.version("professional", 3)
    assert isinstance(old, Plan)
    assert isinstance(new, Plan)
    assert (old.rank, new.rank) == (2, 2)


def test_what_is_left_out_is_retired_and_stays_for_those_who_hold_it() -> None:
    document = copy.deepcopy(WORKSPACE)
    del document["products"][0]["add_ons"][2]
    second = published(document, FIRST.catalog)
    assert second.retired == ("integration-pack",)
    assert [(note.path, note.code) for note in second.notes] == [(("integration-pack",), "RETIRED")]
    assert "integration-pack" not in second.catalog.current
    assert (
        second.catalog.version("integration-pack", 1) == FIRST.catalog.current["integration-pack"]
    )
    assert second.catalog.latest_versions["integration-pack"] == 1

    third = published(WORKSPACE, second.catalog)
    assert new_versions(third) == ["integration-pack@2"]
    assert [note.code for note in third.notes] == ["RETURNED", "SAME_AS_BEFORE"]


def test_old_content_published_again_is_a_new_version_and_says_so() -> None:
    second = published(changed(**{FEE: "16.00"}), FIRST.catalog)
    third = published(WORKSPACE, second.catalog)
    assert new_versions(third) == ["extra-calls@3", "growth-pack@3"]
    assert [note.message for note in third.notes] == [
        "extra-calls@3 has the same content as extra-calls@1"
    ]
    assert third.catalog.latest_versions["extra-calls"] == 3


def test_a_product_that_is_left_out_keeps_its_policy_and_sells_nothing() -> None:
    document = copy.deepcopy(WORKSPACE)
    del document["products"][1]
    second = published(document, FIRST.catalog)
    left = second.catalog.products["help-desk"]
    assert (left.packages, left.policy.past_due_grace_days) == ((), 7)
    assert second.retired == ("help-desk-team",)
    assert published(document, second.catalog).retired == ()


def test_a_feature_that_is_left_out_can_still_be_named_by_old_versions() -> None:
    document = copy.deepcopy(WORKSPACE)
    del document["products"][1]
    document["features"] = [f for f in document["features"] if f["id"] != "agents"]
    catalog = published(document, published(document, FIRST.catalog).catalog).catalog
    assert "agents" not in catalog.features
    assert catalog.feature("agents").name == "Agents"
    assert published(WORKSPACE, catalog).catalog.retired_features == {}


def test_a_package_that_changes_its_kind_gets_the_next_version() -> None:
    document = copy.deepcopy(WORKSPACE)
    product = document["products"][0]
    product["bundles"] = []
    moved = {k: product["add_ons"][2][k] for k in ("id", "name", "entitlements", "charges")}
    del product["add_ons"][2]
    product["plans"].append(moved)
    assert "integration-pack@2" in new_versions(published(document, FIRST.catalog))


# What is held


def codes(document: Any, held: set[str]) -> list[tuple[str, str]]:
    found = check_against(parse(document), FIRST.catalog, held)
    return [(".".join(issue.path), issue.code) for issue in found]


def without_help_desk() -> Any:
    document = copy.deepcopy(WORKSPACE)
    del document["products"][1]
    return document


def test_a_feature_that_is_held_may_not_be_left_out() -> None:
    document = without_help_desk()
    document["features"] = [f for f in document["features"] if f["id"] != "conversations"]
    assert codes(document, {"starter@1"}) == []
    assert codes(document, {"starter@1", "help-desk-team@1"}) == [
        ("features.conversations", "FEATURE_HELD")
    ]


@pytest.mark.parametrize(
    ("feature_id", "edit", "path"),
    [
        ("agents", {"aggregation": "sum", "reset": "month"}, "aggregation"),
        ("conversations", {"reset": "month"}, "reset"),
        ("conversations", {"kind": "boolean", "aggregation": None, "reset": None}, "kind"),
    ],
)
def test_a_feature_that_is_held_stays_what_it_is(
    feature_id: str, edit: dict[str, Any], path: str
) -> None:
    document = without_help_desk()
    feature = next(f for f in document["features"] if f["id"] == feature_id)
    feature |= edit
    assert codes(document, set()) == []
    found = codes(document, {"help-desk-team@1"})
    assert (f"features.{feature_id}.{path}", "FEATURE_CHANGED") in found


@pytest.mark.parametrize(
    ("values", "allowed"),
    [
        (["email", "chat", "phone", "visit"], True),
        (["forum", "email", "chat", "phone"], True),
        (["email", "sms", "chat", "phone"], True),
        (["chat", "email", "phone"], False),
    ],
)
def test_an_enum_may_grow_but_not_turn_round(values: list[str], allowed: bool) -> None:
    document = changed(features__13__values=values)
    found = codes(document, {"starter@1", "professional@1"})
    assert found == ([] if allowed else [("features.support-channel.values", "FEATURE_CHANGED")])


def test_an_enum_value_goes_only_when_nobody_holds_it() -> None:
    document = copy.deepcopy(WORKSPACE)
    document["features"][13]["values"] = ["email", "chat"]
    product = document["products"][0]
    product["plans"][2]["entitlements"]["support-channel"] = "chat"
    product["add_ons"][5]["entitlements"]["support-channel"] = "chat"
    assert codes(document, {"starter@1"}) == []
    found = codes(document, {"starter@1", "premium-support@1"})
    assert found == [("features.support-channel.values", "FEATURE_CHANGED")]


def test_a_metered_feature_that_is_held_does_not_move_to_another_product() -> None:
    document = copy.deepcopy(WORKSPACE)
    document["products"][1]["plans"][0]["entitlements"] = {"agents": {"limit": 200}}
    document["products"][1]["plans"][0]["charges"].pop()
    document["products"][0]["plans"][2]["entitlements"]["conversations"] = {"unlimited": True}
    assert codes(document, {"help-desk-team@1"}) == [
        ("features.conversations", "METERED_IN_TWO_PRODUCTS")
    ]


# Storing


def test_everything_survives_being_stored() -> None:
    catalog = published(changed(**{FEE: "16.00"}), FIRST.catalog).catalog
    assert decode_revision(encode_revision(catalog), FIRST.catalog.versions.values()) == catalog
    assert decode_draft(encode(parse(WORKSPACE))) == parse(WORKSPACE)
    for package in catalog.versions.values():
        stored = decode_package(encode(package))
        assert stored == package
        assert content(stored) == content(package)
