"""What a large catalog costs: 5,000 features, 200 packages, 3 currencies; and how it grows.

`make bench` prints it, and writes it to the README. A ratio is against `json.loads` of the same
document, measured beside it, so that it means the same on any machine. What is promised is
checked: the last line says so, and the end is 1 where a promise is broken.
"""

import asyncio
import copy
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table
from sqlalchemy import func, select

from entitlements.audit.ledger import Actor
from entitlements.catalog.advice import warnings
from entitlements.catalog.diff import diff
from entitlements.catalog.document import parse, read
from entitlements.catalog.model import Catalog
from entitlements.catalog.proposals import notes
from entitlements.catalog.service import CatalogService
from entitlements.catalog.tables import CatalogRevisionRow, PackageVersionRow
from entitlements.catalog.versions import encode_revision, publish
from entitlements.grants.comparison import CELLS_MAX, compare
from entitlements.kernel.clock import wall_now
from entitlements.kernel.period import Interval
from entitlements.pricing.estimate import EstimateRequest, FeatureQuantity, PackageQuantity
from entitlements.pricing.estimate import estimate as price
from entitlements.server.migrations import migrate
from entitlements.services import opened_catalog
from entitlements.settings import Settings, load_settings
from entitlements.storage.engine import create_engine
from entitlements.storage.unit_of_work import Database
from tests.bench.readme import write_table

out = Console(width=110)

CURRENCIES = ("usd", "eur", "gbp")
SIZES = ((1_250, 50), (2_500, 100), (5_000, 200))
"""Features and packages."""
REVISIONS = 50
NOW = wall_now()

# What is promised, in seconds, with room for a slow machine.
PUBLISHED_WITHIN_SECONDS = 10.0
COMPARED_WITHIN_SECONDS = 2.0
ESTIMATED_WITHIN_SECONDS = 2.0


# ── a catalog ────────────────────────────────────────────────────────────────


def catalog_document(features: int, packages: int) -> dict[str, Any]:
    """A tenth of the packages are plans that build on each other, some bundles, else add-ons.

    Most features are switches; every tenth has a limit, a number or a level. Each package grants
    its share of the features, so that the whole has about as many grants as features.
    """
    plans, bundles = packages // 10, packages // 20
    add_ons = packages - plans - bundles
    shares = [list(range(n, features, plans + add_ons)) for n in range(plans + add_ons)]
    return {
        "currencies": list(CURRENCIES),
        "features": [_feature(n) for n in range(features)],
        "products": [
            {
                "id": "app",
                "name": "App",
                "plans": [_plan(n, shares[n]) for n in range(plans)],
                "add_ons": [_add_on(n, shares[plans + n]) for n in range(add_ons)],
                "bundles": [_bundle(n) for n in range(bundles)],
            }
        ],
    }


def _feature(n: int) -> dict[str, Any]:
    feature: dict[str, Any] = {"id": f"feature-{n}", "name": f"Feature {n}"}
    if n % 10 == 1:
        return feature | {"kind": "metered", "aggregation": "level", "unit": "thing"}
    if n % 10 == 2:
        return feature | {"kind": "number", "higher_is_better": True}
    if n % 10 == 3:
        return feature | {"kind": "enum", "values": ["low", "middle", "high"]}
    return feature | {"kind": "boolean"}


def _grants(share: list[int], *, adds: bool) -> dict[str, Any]:
    limit = {"add": 10} if adds else {"limit": 10}
    values: dict[int, Any] = {1: limit, 2: "5", 3: "middle"}
    return {f"feature-{n}": values.get(n % 10, True) for n in share}


def _prices(amount: int) -> dict[str, Any]:
    return {c: {"month": f"{amount}.00", "year": f"{amount * 10}.00"} for c in CURRENCIES}


def _plan(n: int, share: list[int]) -> dict[str, Any]:
    base = {"extends": f"plan-{n - 1}"} if n else {}
    fee = {"id": "fee", "name": "Fee", "model": "flat", "prices": _prices(20 + 10 * n)}
    grants = _grants(share, adds=False)
    return {
        "id": f"plan-{n}",
        "name": f"Plan {n}",
        **base,
        "entitlements": grants,
        "charges": [fee],
    }


def _add_on(n: int, share: list[int]) -> dict[str, Any]:
    steps = [{"up_to": 10, "unit": "5.00"}, {"up_to": None, "unit": "4.00"}]
    tiers = {c: {"month": steps, "year": [{"up_to": None, "unit": "40.00"}]} for c in CURRENCIES}
    model = {"model": "graduated", "prices": tiers} if n % 4 == 3 else {}
    fee = {"id": "fee", "name": "Fee", "model": "flat", "prices": _prices(10 + n % 40)} | model
    return {
        "id": f"add-on-{n}",
        "name": f"Add-on {n}",
        "kind": "module",
        "entitlements": _grants(share, adds=True),
        "charges": [fee],
    }


def _bundle(n: int) -> dict[str, Any]:
    components = [{"id": f"add-on-{4 * n + part}"} for part in range(3)]
    return {
        "id": f"bundle-{n}",
        "name": f"Bundle {n}",
        "components": components,
        "discount_percent": "15",
    }


def request(extra: int) -> EstimateRequest:
    """A plan with some add-ons beside it."""
    return EstimateRequest(
        plan_id="plan-1",
        add_ons=tuple(PackageQuantity(f"add-on-{n}") for n in range(extra)),
        currency="eur",
        interval=Interval.YEAR,
        quantities=(FeatureQuantity("feature-1", 5),),
    )


# ── measuring ────────────────────────────────────────────────────────────────


def seconds(work: Callable[[], Any], times: int = 3) -> float:
    """The median of a few runs."""
    found = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        found.append(time.perf_counter() - start)
    return statistics.median(found)


def measured(features: int, packages: int) -> dict[str, float]:
    document = catalog_document(features, packages)
    as_json, as_yaml = json.dumps(document), yaml.dump(document, Dumper=yaml.CSafeDumper)
    draft = parse(document)
    base = published(document, Catalog.EMPTY)
    changed = copy.deepcopy(document)
    changed["products"][0]["plans"][0]["charges"][0]["prices"] = _prices(21)
    changed_draft = parse(changed)
    plans = ["plan-0", "plan-1", "plan-2"]
    most = [plan.id for plan in base.products["app"].plans][: CELLS_MAX // features]
    return {
        "json.loads": seconds(lambda: json.loads(as_json), 9),
        "yaml, libyaml alone": seconds(lambda: yaml.load(as_yaml, yaml.CSafeLoader), 1),
        "read YAML, with lines": seconds(lambda: read(as_yaml)),
        "read JSON, with lines": seconds(lambda: read(as_json)),
        "check every rule": seconds(lambda: parse(document)),
        "warnings": seconds(lambda: warnings(draft)),
        "versions of a first publication": seconds(
            lambda: published(document, Catalog.EMPTY, draft)
        ),
        "diff after one price changed": seconds(lambda: diff(base, changed_draft)),
        "notes on it": seconds(lambda: notes(changed_draft, base)),
        "compare three plans": seconds(lambda: compare(base, "app", plans)),
        "compare 25,000 cells": seconds(lambda: compare(base, "app", most)),
        "estimate, 5 add-ons": seconds(lambda: price(base, request(5), with_cheaper=False)),
        "… with cheaper": seconds(lambda: price(base, request(5))),
        "estimate, 40 add-ons, with cheaper": seconds(lambda: price(base, request(40))),
    }


def published(document: Any, base: Catalog, draft: Any = None) -> Catalog:
    return publish(
        draft or parse(document),
        base,
        revision=base.revision + 1,
        effective_at=NOW,
        published_at=NOW,
    ).catalog


# ── stored ───────────────────────────────────────────────────────────────────


async def released(catalog: CatalogService, document: Any) -> float:
    """The seconds from a document to what is sold."""
    start = time.perf_counter()
    proposal = await catalog.propose(Actor("bench:ann"), document, "to measure")
    await catalog.approve(Actor("bench:bob"), proposal.id, None)
    return time.perf_counter() - start


async def new_database(directory: str, name: str) -> Settings:
    url = f"sqlite+aiosqlite:///{Path(directory) / name}.db"
    engine = create_engine(url)
    await migrate(engine, mode="sandbox")
    await engine.dispose()
    return load_settings(database_url=url, sandbox=True)


async def measured_stored(features: int, packages: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as directory:
        settings = await new_database(directory, "one")
        async with opened_catalog(settings) as catalog:
            first = await released(catalog, catalog_document(features, packages))
        async with opened_catalog(settings) as catalog:
            start = time.perf_counter()
            await catalog.current()
            return {"propose and approve": first, "load at a start": time.perf_counter() - start}


async def history(*, every: bool) -> list[tuple[int, float, int, float]]:
    """Revisions of 200 packages, one price changed in each, or every price.

    Gives revision, seconds to publish, bytes stored so far, seconds to load at a start.
    """
    document = catalog_document(1_000, 200)
    found = []
    with tempfile.TemporaryDirectory() as directory:
        settings = await new_database(directory, "history")
        async with opened_catalog(settings) as catalog:
            for revision in range(1, REVISIONS + 1):
                product = document["products"][0]
                changing = (
                    [*product["plans"], *product["add_ons"]] if every else product["plans"][:1]
                )
                for package in changing:
                    if package["charges"][0]["model"] == "flat":
                        package["charges"][0]["prices"] = _prices(100 + revision)
                took = await released(catalog, copy.deepcopy(document))
                if revision in (1, 10, 20, 30, 40, REVISIONS):
                    found.append((revision, took, *await stored(settings)))
    return found


async def stored(settings: Settings) -> tuple[int, float]:
    """Bytes of the published catalogs, and the seconds that a process takes to load them."""
    database = Database(create_engine(settings.database_url))
    async with database.read() as session:
        revisions = await session.scalar(select(func.sum(func.length(CatalogRevisionRow.resolved))))
        versions = await session.scalar(select(func.sum(func.length(PackageVersionRow.content))))
    await database.close()
    async with opened_catalog(settings) as catalog:
        start = time.perf_counter()
        await catalog.current()
        return (revisions or 0) + (versions or 0), time.perf_counter() - start


# ── the report ───────────────────────────────────────────────────────────────


def report_growth(found: list[dict[str, float]]) -> None:
    table = Table(
        title="One catalog in 3 currencies: milliseconds, and how it grows", title_justify="left"
    )
    table.add_column("")
    for features, packages in SIZES:
        table.add_column(f"{features:,} × {packages}", justify="right")
    table.add_column("÷ json.loads", justify="right")
    table.add_column("twice as much takes", justify="right")
    rows = []
    for name in found[0]:
        values = [measures[name] for measures in found]
        growth = (values[-1] / values[0]) ** (1 / (len(SIZES) - 1))
        ratio = values[-1] / found[-1]["json.loads"]
        cells = [f"{1000 * value:,.1f}" for value in values]
        rows.append([name, *cells, f"{ratio:,.1f}", f"{growth:.1f} ×"])
        table.add_row(*rows[-1])
    out.print(table)
    write_table("catalog", ["milliseconds", *(str(c.header) for c in table.columns[1:])], rows)


def report_history(name: str, found: list[tuple[int, float, int, float]]) -> None:
    whole = len(encode_revision(published(catalog_document(1_000, 200), Catalog.EMPTY)))
    table = Table(title=f"{REVISIONS} revisions of 200 packages, {name}", title_justify="left")
    for heading in (
        "revision",
        "publish, ms",
        "stored, MB",
        "÷ one catalog",
        "load at a start, ms",
    ):
        table.add_column(heading, justify="right")
    for revision, publishing, size, loading in found:
        cells = (1000 * publishing, size / 1e6, size / whole, 1000 * loading)
        table.add_row(str(revision), *(f"{cell:,.1f}" for cell in cells))
    out.print(table)


def broken_promises(large: dict[str, float], publishing: list[float]) -> list[str]:
    promises = {
        "checked and published in seconds": (
            large["read YAML, with lines"] + large["propose and approve"],
            PUBLISHED_WITHIN_SECONDS,
        ),
        "compared": (large["compare 25,000 cells"], COMPARED_WITHIN_SECONDS),
        "estimated": (large["estimate, 40 add-ons, with cheaper"], ESTIMATED_WITHIN_SECONDS),
        "the last of 50 revisions takes at most twice the tenth": (
            publishing[-1],
            2 * publishing[1],
        ),
    }
    return [
        f"{name}: {took:.2f} s, not {most:.2f}"
        for name, (took, most) in promises.items()
        if took > most
    ]


async def main() -> int:
    found = []
    for size in SIZES:
        out.print(f"… {size[0]:,} features, {size[1]} packages", style="dim")
        found.append(measured(*size) | await measured_stored(*size))
    report_growth(found)
    one = await history(every=False)
    report_history("one price changed in each", one)
    report_history("every price changed in each", await history(every=True))
    broken = broken_promises(found[-1], [publishing for _, publishing, _, _ in one])
    out.print("\n".join(broken) or "Every promise is kept.", style="red" if broken else "green")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
