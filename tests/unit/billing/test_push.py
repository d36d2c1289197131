"""What a push does, by what it finds: one table for all that may be there."""

from typing import Any

import msgspec
import pytest

from entitlements.billing.prices import PriceName, params_of, price_metadata
from entitlements.billing.push import Found, FoundPrice, FoundProduct, plan
from entitlements.catalog.model import Catalog, Plan
from entitlements.kernel.period import Interval
from tests.unit.pricing import catalogs


def _pro(version: int, month: str) -> Plan:
    charge = catalogs.flat(month)
    monthly = tuple(p for p in charge.prices if p.interval is Interval.MONTH)
    sold = catalogs.plan("pro", msgspec.structs.replace(charge, prices=monthly))
    return msgspec.structs.replace(sold, version=version)


OLD = catalogs.catalog(_pro(1, "29.00"))
_NEW = _pro(2, "31.00")
NEW = msgspec.structs.replace(
    OLD,
    current={"pro": _NEW},
    versions=OLD.versions | {"pro@2": _NEW},
    latest_versions={"pro": 2},
)
GONE = msgspec.structs.replace(OLD, current={})
KEY, KEY_2 = "pro@1/fee/usd/month", "pro@2/fee/usd/month"


def product(name: str = "Pro", said: str = "Pro", **more: Any) -> FoundProduct:
    metadata = {"package": "pro", "name": said} | more.pop("metadata", {})
    return FoundProduct("package_pro", name, more.get("active", True), metadata)


def price(version: int = 1, **more: Any) -> FoundPrice:
    name = PriceName("pro", version, "fee", "usd", Interval.MONTH)
    metadata = price_metadata(name, params_of(NEW, name)) | more.pop("metadata", {})
    given = {"id": f"price_{version}", "active": True, "lookup_key": name.lookup_key} | more
    return FoundPrice(currency="usd", interval=Interval.MONTH, metadata=metadata, **given)


BY_US = {"archived": "by us"}
ELSEWHERE = {"terms": "of another database"}


@pytest.mark.parametrize(
    ("catalog", "held", "products", "prices", "does"),
    [
        (OLD, (), [], [], ["create_product package_pro", f"create_price {KEY}"]),
        (OLD, (), [product()], [price()], []),
        (OLD, (), [product()], [price(metadata=ELSEWHERE)], [f"create_price {KEY}"]),
        (OLD, (), [product()], [price(lookup_key=None)], [f"move_lookup_key {KEY} drift"]),
        (OLD, (), [product()], [price(active=False)], [f"restore_price {KEY} drift"]),
        (
            OLD, (), [product()], [price(active=False, metadata=BY_US)],
            [f"restore_price {KEY}"],
        ),
        (OLD, (), [product("Pro", said="Lite")], [price()], []),
        (OLD, (), [product("Lite", said="Lite")], [price()], ["rename_product package_pro"]),
        (OLD, (), [product("Mine")], [price()], ["rename_product package_pro drift"]),
        (OLD, (), [product(active=False)], [price()], ["restore_product package_pro drift"]),
        (NEW, (), [product()], [price()], [f"create_price {KEY_2}", f"archive_price {KEY}"]),
        (NEW, ("pro@1",), [product()], [price()], [f"create_price {KEY_2}"]),
        (NEW, (), [product()], [price(2), price(active=False, metadata=BY_US)], []),
        (
            NEW, ("pro@1",), [product()], [price(2), price(active=False, metadata=BY_US)],
            [f"restore_price {KEY}"],
        ),
        (NEW, (), [product()], [price(2), price(metadata=ELSEWHERE)], []),
        (GONE, (), [product()], [price()], [f"archive_price {KEY}", "archive_product package_pro"]),
        (GONE, ("pro@1",), [product()], [price()], []),
        (GONE, (), [], [], []),
    ],
)  # fmt: skip
def test_only_what_differs_is_done_and_only_what_was_edited_there_is_drift(
    catalog: Catalog,
    held: tuple[str, ...],
    products: list[FoundProduct],
    prices: list[FoundPrice],
    does: list[str],
) -> None:
    found = Found({p.id: p for p in products}, prices)
    planned = plan(catalog, held, ["pro"], found)
    said = [f"{a.kind} {a.name}{' drift' if a.drift else ''}" for a in planned.actions]
    assert said == does


def test_a_remembered_price_is_ours_whatever_became_of_its_metadata() -> None:
    edited = price(metadata={"terms": "", "package": "x"})
    found = Found({"package_pro": product()}, [edited], {KEY: "price_1"})
    [action] = plan(OLD, (), ["pro"], found).actions
    assert (action.kind, action.provider_id, action.drift) == ("restore_price", "price_1", True)


def test_a_price_that_is_remembered_under_another_name_is_left_alone() -> None:
    """One made for a single customer, such as a capped rise, is on no list of what is sold."""
    capped = price(id="price_capped", lookup_key=f"{KEY}/capped")
    found = Found({"package_pro": product()}, [capped, price()], {f"{KEY}/capped": "price_capped"})
    assert plan(OLD, (), ["pro"], found).actions == ()
    assert plan(GONE, ("pro@1",), ["pro"], found).actions == ()
