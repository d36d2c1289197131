"""What moved the MRR: it adds up to the cent, in all, and by plan, add-on, cohort and month."""

import asyncio
import csv
from typing import Any

from typer.testing import CliRunner

from entitlements.cli import app
from entitlements.services import Services
from entitlements.settings import Settings
from tests.api import Api
from tests.conftest import ADMIN_KEY, on_sqlite, publish

AMOUNTS = ("opening", "new", "expansion", "contraction", "churn", "reactivation", "closing")
_MOVEMENTS = f"""currency nrrPercent grrPercent period {{ start end }}
  {" ".join(f"{name} {{ amountMinor }}" for name in AMOUNTS)}"""
MOVEMENTS = f"""query ($from: DateTime!, $to: DateTime!) {{
  mrrMovements(from: $from, to: $to, currency: "usd") {{ {_MOVEMENTS} }} }}"""
MOVEMENTS_BY = f"""query ($from: DateTime!, $to: DateTime!, $by: MrrDimension!) {{
  mrrMovementsBy(from: $from, to: $to, currency: "usd", by: $by) {{
    key movements {{ {_MOVEMENTS} }} }} }}"""

YEAR = {"from": "2026-01-01T00:00:00Z", "to": "2027-01-01T00:00:00Z"}


def catalog(seat: str = "500.00", base: str = "100.00") -> dict[str, Any]:
    """Seats at $500 a year, a report at $30 a month, and less takes effect at once."""
    month = {"usd": {"month": "30.00", "year": "360.00"}}
    now = {"timing": "now", "proration": "none"}
    return {
        "currencies": ["usd"],
        "features": [
            {"id": "seats", "name": "Seats", "kind": "metered", "unit": "seat",
             "aggregation": "level", "reset": "never"},
            {"id": "reports", "name": "Reports", "kind": "boolean"},
        ],
        "products": [{
            "id": "desk", "name": "Desk", "policy": {"downgrade": now, "cancellation": now},
            "plans": [
                {"id": "team", "name": "Team", "entitlements": {"seats": {"limit": 100}},
                 "trial": {"days": 14, "at_end": "convert"},
                 "charges": [{"id": "seats", "name": "Seats", "model": "per_unit",
                              "quantity": "seats",
                              "prices": {"usd": {"month": "50.00", "year": seat}}}]},
                {"id": "firm", "name": "Firm", "entitlements": {"seats": {"limit": 500}},
                 "charges": [{"id": "base", "name": "Firm", "model": "flat",
                              "prices": {"usd": {"month": base, "year": "1200.00"}}}]},
            ],
            "add_ons": [{"id": "report", "name": "Report", "kind": "feature",
                         "entitlements": {"reports": True},
                         "charges": [{"id": "fee", "name": "Report", "model": "flat",
                                      "prices": month}]}],
        }],
    }  # fmt: skip


async def moved(api: Api, **period: str) -> dict[str, Any]:
    found = (await api.ask(MOVEMENTS, **(YEAR | period)))["mrrMovements"]
    return read(found)


def read(found: dict[str, Any]) -> dict[str, Any]:
    """Amounts that are not 0, and the rates; they add up."""
    sums = {name: int(found[name]["amountMinor"]) for name in AMOUNTS}
    came = sums["new"] + sums["expansion"] + sums["reactivation"]
    assert sums["closing"] == sums["opening"] + came - sums["contraction"] - sums["churn"]
    rates = {name: found[f"{name}Percent"] for name in ("nrr", "grr")}
    return {name: value for name, value in (sums | rates).items() if value}


async def by(api: Api, dimension: str, **period: str) -> dict[str, dict[str, Any]]:
    found = await api.ask(MOVEMENTS_BY, by=dimension, **(YEAR | period))
    return {group["key"]: read(group["movements"]) for group in found["mrrMovementsBy"]}


async def ledger_delta(api: Api) -> int:
    entries = await api.audit()
    return sum(int(e["mrrDelta"]["amountMinor"]) for e in entries if e["mrrDelta"])


async def test_seats_by_the_year_are_new_by_the_twelfth_and_what_joins_and_goes_is_told(
    api: Api, services: Services
) -> None:
    await publish(services, catalog())
    await api.create_customer("acme")
    wanted = {"customerId": "acme", "interval": "YEAR"}
    await api.change("1", planId="team", quantities=[{"featureId": "seats", "quantity": 4}],
                     **wanted)  # fmt: skip
    assert await moved(api) == {"new": 16667, "closing": 16667}

    await api.advance("2026-04-01T12:00:00Z")
    await api.change("2", addOns=[{"id": "report", "quantity": 2}], **wanted)
    told = {"new": 16667, "expansion": 6000, "closing": 22667}
    assert await moved(api) == told
    assert await by(api, "PLAN") == {"team": told}
    assert await by(api, "ADD_ON") == {"report": {"expansion": 6000, "closing": 6000}}
    assert await by(api, "COHORT") == {"2026-03": told}

    await api.advance("2026-05-01T12:00:00Z")
    await api.change("3", addOns=[{"id": "report", "quantity": 0}], **wanted)
    spring = {"from": "2026-03-15T00:00:00Z", "to": "2026-06-01T00:00:00Z"}
    assert await moved(api, **spring) == {
        "opening": 16667, "expansion": 6000, "contraction": 6000, "closing": 16667,
        "nrr": "100", "grr": "64",
    }  # fmt: skip
    assert await by(api, "MONTH", **spring) == {
        "2026-03": {"opening": 16667, "closing": 16667, "nrr": "100", "grr": "100"},
        "2026-04": {"opening": 16667, "expansion": 6000, "closing": 22667, "nrr": "136",
                    "grr": "100"},
        "2026-05": {"opening": 22667, "contraction": 6000, "closing": 16667, "nrr": "73.53",
                    "grr": "73.53"},
    }  # fmt: skip
    assert await ledger_delta(api) == 16667


@on_sqlite
async def test_who_comes_goes_returns_and_moves_is_told_apart(api: Api, services: Services) -> None:
    await publish(services, catalog())
    for id, seats in (("stays", 10), ("shrinks", 10), ("leaves", 4), ("moves", 1)):
        await api.create_customer(id)
        quantities = [{"featureId": "seats", "quantity": seats}]
        await api.change("start", customerId=id, planId="team", quantities=quantities)
    assert await moved(api) == {"new": 125000, "closing": 125000}
    await api.advance("2026-03-10T12:00:00Z")
    quantities = [{"featureId": "seats", "quantity": 12}]
    await api.change("more", customerId="stays", quantities=quantities)
    quantities = [{"featureId": "seats", "quantity": 9}]
    await api.change("less", customerId="shrinks", quantities=quantities)
    await api.cancel("end", customerId="leaves", productId="desk")
    await api.change("up", customerId="moves", planId="firm", interval="YEAR")  # 1,200 a year: 100
    since = {"from": "2026-03-02T00:00:00Z"}
    assert await moved(api, **since) == {
        "opening": 125000, "expansion": 15000, "contraction": 5000, "churn": 20000,
        "closing": 115000, "nrr": "92", "grr": "80",
    }  # fmt: skip
    assert await by(api, "PLAN", **since) == {
        "firm": {"expansion": 10000, "closing": 10000},
        "team": {"opening": 125000, "expansion": 10000, "contraction": 10000, "churn": 20000,
                 "closing": 105000, "nrr": "84", "grr": "76"},
    }  # fmt: skip

    await api.advance("2026-04-10T12:00:00Z")
    quantities = [{"featureId": "seats", "quantity": 1}]
    await api.change("again", customerId="leaves", planId="team", quantities=quantities)
    await api.create_customer("tries")
    await api.start_trial("try", customerId="tries", packageId="team")
    found = await moved(api, **since)
    assert (found["reactivation"], found["closing"]) == (5000, 120000)  # what is tried is not paid
    assert (found["nrr"], found["grr"]) == ("92", "80")
    assert await ledger_delta(api) == 120000
    await api.advance("2026-05-01T12:00:00Z")
    assert (await moved(api, **since))["new"] == 5000
    cohorts = await by(api, "COHORT")
    assert {key: group["closing"] for key, group in cohorts.items()} == {
        "2026-03": 120000, "2026-04": 5000,
    }  # fmt: skip
    assert await ledger_delta(api) == 125000


@on_sqlite
async def test_a_period_without_length_and_an_unknown_currency_are_refused(api: Api) -> None:
    backwards = {"from": YEAR["to"], "to": YEAR["from"]}
    assert await api.refused(MOVEMENTS, **backwards) == "BAD_USER_INPUT"
    ages = YEAR | {"to": "2099-01-01T00:00:00Z"}
    assert await api.refused(MOVEMENTS, **ages) == "BAD_USER_INPUT"
    assert await api.refused(MOVEMENTS.replace('"usd"', '"zzz"'), **YEAR) == "BAD_USER_INPUT"
    assert await moved(api) == {}


async def exported(settings: Settings, *arguments: str) -> list[dict[str, str]]:
    """What `entitlements finance export` writes."""
    environment = {
        "ENTITLEMENTS_DATABASE_URL": settings.database_url,
        "ENTITLEMENTS_STRIPE_API_KEY": settings.stripe_api_key.get_secret_value(),
        "ENTITLEMENTS_STRIPE_API_BASE": settings.stripe_api_base,
        "ENTITLEMENTS_ADMIN_KEY": ADMIN_KEY,
        "ENTITLEMENTS_SANDBOX": "true",
    }
    command = ["finance", "export", *arguments, "--from", YEAR["from"], "--to", YEAR["to"]]
    done = await asyncio.to_thread(CliRunner().invoke, app, command, env=environment)
    assert done.exit_code == 0, done.output
    return list(csv.DictReader(done.stdout.splitlines()))


@on_sqlite
async def test_finance_takes_sums_movements_and_the_revenue_of_each_module(
    api: Api, example: Any, settings: Settings
) -> None:
    await api.create_customer("acme")
    await api.change("1", customerId="acme", planId="professional",
                     bundles=[{"id": "growth-pack"}])  # fmt: skip
    [whole] = await exported(settings, "mrr")
    assert whole["new_minor"] == whole["closing_minor"]
    assert (whole["nrr_percent"], whole["currency"]) == ("", "usd")
    by_plan = await exported(settings, "mrr", "--by", "plan")
    assert [(row["key"], row["closing_minor"]) for row in by_plan] == [
        ("professional", whole["closing_minor"])
    ]
    moved = await exported(settings, "movements")
    assert {row["package_id"]: row["kind"] for row in moved} == {
        "professional": "new", "growth-pack": "new",
    }  # fmt: skip
    assert sum(int(row["delta_minor"]) for row in moved) == int(whole["closing_minor"])

    parts = await exported(settings, "allocations")
    [invoice] = (await api.customer("acme"))["invoices"]["nodes"]
    assert sum(int(row["amount_minor"]) for row in parts) == int(invoice["total"]["amountMinor"])
    modules = {row["package"] for row in parts if row["line_package"] == "growth-pack@1"}
    assert "growth-pack@1" not in modules
    assert "advanced-analytics@1" in modules
    assert ("professional@1", "professional@1") in {
        (r["line_package"], r["package"]) for r in parts
    }
