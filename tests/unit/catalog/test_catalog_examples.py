"""The examples that are shipped are right, and made of the figures that they are known for."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from entitlements.catalog import examples
from entitlements.catalog.document import parse, read
from entitlements.catalog.model import Catalog, EntitlementValue, Plan
from entitlements.catalog.schema import json_schema
from entitlements.catalog.versions import publish
from entitlements.kernel.period import Interval

FOLDER = Path(examples.__file__).parent
DRAFT = parse(read(examples.text("workspace")).document)


def test_the_examples_are_published_one_after_the_other() -> None:
    catalog = Catalog.EMPTY
    for revision, name in enumerate(examples.NAMES, 1):
        draft = parse(read(examples.text(name)).document)
        at = catalog.effective_at
        publication = publish(draft, catalog, revision=revision, effective_at=at, published_at=at)
        catalog = publication.catalog
    assert [p.version_id for p in publication.new_versions] == ["professional@2"]


def granted(package_id: str) -> dict[str, EntitlementValue]:
    return {e.feature_id: e.value for e in DRAFT.packages[package_id].entitlements}


def usd(package_id: str, interval: Interval = Interval.MONTH) -> Any:
    (charge,) = DRAFT.packages[package_id].charges
    price = charge.price("usd", interval)
    return price and price.flat_amount


@pytest.mark.parametrize(
    ("plan", "seats", "storage", "calls", "channel", "hours"),
    [
        ("starter", 5, 10, 10_000, "email", 48),
        ("professional", 25, 100, 100_000, "chat", 24),
        ("enterprise", None, None, None, "phone", 4),
    ],
)
def test_the_tiers_have_the_limits_and_the_support_of_their_table(
    plan: str, seats: int | None, storage: int | None, calls: int | None, channel: str, hours: int
) -> None:
    has = granted(plan)
    limits = [has[id].limit for id in ("seats", "storage", "api-calls")]
    assert limits == [seats, storage, calls]
    assert all(has[id].unlimited is (seats is None) for id in ("seats", "storage", "api-calls"))
    assert has["support-channel"].choice == channel
    assert has["support-hours"].number == hours


def test_analytics_cost_200_a_month_or_2000_a_year() -> None:
    months, year = usd("advanced-analytics"), usd("advanced-analytics", Interval.YEAR)
    assert (months, year) == (200, 2000)
    works_with = getattr(DRAFT.packages["advanced-analytics"], "works_with", None)
    assert works_with == ("starter", "professional")


def test_marketing_automation_costs_150_instead_of_175() -> None:
    parts = [
        c.package_id for c in getattr(DRAFT.packages["marketing-automation"], "components", ())
    ]
    assert [usd(id) for id in parts] == [50, 75, 50]
    assert usd("marketing-automation") == 150


def test_extra_users_cost_10_then_8_then_6() -> None:
    price = DRAFT.packages["extra-seats"].charges[0].price("usd", Interval.MONTH)
    assert price is not None
    assert [(t.up_to, t.unit) for t in price.tiers] == [
        (10, Decimal(10)),
        (50, Decimal(8)),
        (None, Decimal(6)),
    ]


@pytest.mark.parametrize(
    ("package", "least", "most"),
    [
        *(("advanced-analytics", 50, 500), ("integration-pack", 100, 1000)),
        *(("workflow-automation", 75, 400), ("api-access", 200, 2000)),
        *(("security-pack", 150, 1000), ("premium-support", 100, 500)),
    ],
)
def test_add_ons_lie_in_the_ranges_of_their_kind(package: str, least: int, most: int) -> None:
    assert least <= usd(package) <= most
    saved = 1 - usd(package, Interval.YEAR) / (12 * usd(package))
    assert Decimal("0.15") <= saved <= Decimal("0.20")


def test_the_lowest_tier_is_one_flat_price_and_the_highest_is_contact_sales() -> None:
    starter, *_, enterprise = DRAFT.products["workspace"].plans
    assert [charge.model.value for charge in starter.charges] == ["flat"]
    assert enterprise.contact_sales
    assert isinstance(starter, Plan)


def test_the_schema_beside_the_examples_is_the_present_one() -> None:
    stored = json.loads((FOLDER / "catalog.schema.json").read_text(encoding="utf-8"))
    assert stored == json_schema(), "entitlements catalog schema > that file"
    for name in examples.NAMES:
        first = examples.text(name).splitlines()[0]
        assert first == "# yaml-language-server: $schema=./catalog.schema.json"


def test_an_editor_can_explain_every_key() -> None:
    schema = json_schema()
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    objects = [schema, *(d for d in schema["$defs"].values() if d["type"] == "object")]
    for definition in objects:
        assert definition["additionalProperties"] is False
        for key, field in definition["properties"].items():
            explained = field.get("description") or _definition(schema, field).get("description")
            assert explained, key


def _definition(schema: Any, field: Any) -> Any:
    name = field.get("$ref", "").removeprefix("#/$defs/")
    return schema["$defs"].get(name, {})


def test_text_of_no_example_is_not_found() -> None:
    with pytest.raises(FileNotFoundError):
        examples.text("nothing")
