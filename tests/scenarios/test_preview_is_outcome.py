"""Whatever a customer changes, what was previewed is what is charged, and our engine agrees."""

import random
from datetime import timedelta
from typing import Any

import pytest

from entitlements.kernel.period import format_instant
from entitlements.services import Services
from entitlements.subscriptions.orders import DIFFERENCES
from tests.api import Api
from tests.conftest import on_sqlite, publish


def _prices(model: str, amount: int) -> dict[str, Any]:
    """A price in every currency and interval, its year ten months; with odd fractions of a cent."""
    if model == "flat":
        usd = {"month": f"{amount}.99", "year": f"{amount * 10}.90"}
        return {"usd": usd, "jpy": {"month": f"{amount}00", "year": f"{amount}000"}}
    if model in ("per_unit", "package"):
        usd = {"month": f"{amount}.333333", "year": f"{amount * 10}.123456789"}
        return {"usd": usd, "jpy": {"month": f"{amount}0.5", "year": f"{amount}00.25"}}

    def tiers(scale: int) -> list[dict[str, Any]]:
        return [
            {"up_to": 5, "unit": f"{amount * scale}.50", "flat": f"{3 * scale}"},
            {"up_to": 20, "unit": f"{amount * scale}.255"},
            {"up_to": None, "unit": f"{amount * scale}", "flat": f"{scale}.10"},
        ]

    prices = {"month": tiers(1), "year": tiers(10)}
    return {"usd": prices, "jpy": {k: _whole(v) for k, v in prices.items()}}


def _whole(tiers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v.split(".")[0] if isinstance(v, str) else v for k, v in t.items()} for t in tiers]


def _charge(id: str, model: str, amount: int, **more: Any) -> dict[str, Any]:
    size = {"package_size": 4} if model == "package" else {}
    return {"id": id, "name": id, "model": model, "prices": _prices(model, amount), **size, **more}


MODELS = ("flat", "per_unit", "volume", "graduated", "package")
CATALOG: dict[str, Any] = {
    "currencies": ["usd", "jpy"],
    "features": [
        {"id": "seats", "name": "Seats", "kind": "metered", "unit": "seat", "aggregation": "level",
         "reset": "never"},
        *({"id": f"f-{model}", "name": model, "kind": "boolean"} for model in MODELS),
    ],
    "products": [
        {
            "id": "all", "name": "All",
            "policy": {"downgrade": {"timing": "now", "proration": "invoice_now"},
                       "shorter_interval": {"timing": "now", "proration": "invoice_now"}},
            "plans": [
                {"id": f"plan-{n}", "name": f"Plan {n}",
                 "entitlements": {"seats": {"unlimited": True}},
                 "charges": [_charge("base", "flat", 9 + 20 * n),
                             _charge("seats", model, 3 + n, quantity="seats", included=n,
                                     minimum=2)]}
                for n, model in enumerate(("volume", "graduated", "per_unit"))
            ],
            "add_ons": [
                {"id": f"add-{model.replace('_', '-')}", "name": model, "kind": "module",
                 "entitlements": {f"f-{model}": True},
                 "charges": [_charge("fee", model, 7,
                                     **({} if model == "flat" else {"included": 1}))]}
                for model in MODELS
            ],
        }
    ],
}  # fmt: skip
for feature in CATALOG["features"]:
    feature["id"] = feature["id"].replace("_", "-")
for add_on in CATALOG["products"][0]["add_ons"]:
    add_on["entitlements"] = {k.replace("_", "-"): v for k, v in add_on["entitlements"].items()}


def _wish(random: random.Random) -> dict[str, Any]:
    """Something that a customer may want next."""
    wish: dict[str, Any] = {}
    if random.random() < 0.4:
        wish["planId"] = f"plan-{random.randrange(3)}"
    if random.random() < 0.2:
        wish["interval"] = random.choice(["MONTH", "YEAR"])
    if random.random() < 0.5:
        wish["quantities"] = [{"featureId": "seats", "quantity": random.randrange(40)}]
    if random.random() < 0.6:
        named = random.sample(MODELS, random.randrange(1, 4))
        wish["addOns"] = [
            {"id": f"add-{m.replace('_', '-')}", "quantity": random.choice([0, 1, 2, 3, 7])}
            for m in named
        ]
    if "interval" not in wish and random.random() < 0.3:
        wish |= {"proration": random.choice(["NONE", "NEXT_INVOICE"]), "reason": "goodwill"}
    return wish or {"planId": "plan-1"}


def _amounts(lines: list[Any]) -> list[Any]:
    return sorted((x["kind"], str(x["chargeId"]), x["amount"]["amountMinor"]) for x in lines)


@on_sqlite
@pytest.mark.parametrize(("seed", "currency"), [(1, "usd"), (2, "jpy"), (3, "usd")])
async def test_a_random_life_is_charged_as_previewed(
    api: Api, services: Services, currency: str, seed: int
) -> None:
    await publish(services, CATALOG)
    chance = random.Random(seed)
    created = await api.ask(
        """mutation ($input: CreateCustomerInput!) {
             createCustomer(input: $input) { __typename } }""",
        input={"id": "acme", "currency": currency, "sandboxPaymentMethod": "pm_card_visa"},
    )
    assert created["createCustomer"]["__typename"] == "CustomerPayload"
    await api.change("start", customerId="acme", planId="plan-0")
    disagreements = DIFFERENCES._value.get()
    done, expected, waiting = 0, {}, []
    for step in range(12):
        pause = timedelta(seconds=chance.choice([0, 1, 86_399, 400_000, 2_000_000]))
        await api.advance(format_instant(services.clock.now() + pause))
        wish = _wish(chance)
        quote = await api.preview(customerId="acme", **wish)
        if quote["__typename"] != "Quote":
            assert quote["issues"][0]["code"] == "NOTHING_TO_CHANGE", quote
            continue
        committed = await api.commit(quote["token"], f"step-{step}")
        assert committed["__typename"] == "ChangeCommitted", committed
        change = committed["change"]
        own = _amounts(change["lines"])
        if wish.get("proration") == "NEXT_INVOICE":
            assert _amounts(quote["lines"]) == own
            waiting = sorted([*waiting, *own])
        elif wish.get("proration") != "NONE" or own:
            assert _amounts(quote["lines"]) == sorted([*waiting, *own])
            waiting = []
        total = sum(int(line["amount"]["amountMinor"]) for line in change["lines"])
        assert int(change["total"]["amountMinor"]) == total
        customer = await api.customer("acme")
        [held] = customer["subscriptions"]
        assert held["recurring"] == quote["recurringAfter"]
        assert customer["creditBalance"] == quote["creditBalanceAfter"]
        if quote["dueNow"]["amountMinor"] != "0":
            assert customer["invoices"]["nodes"][0]["amountPaid"] == quote["dueNow"]
        expected = quote["nextInvoice"]
        done += 1
    assert done >= 6
    await api.advance(expected["at"])
    renewal = (await api.customer("acme"))["invoices"]["nodes"][0]
    assert renewal["total"] == expected["total"]
    assert DIFFERENCES._value.get() == disagreements
