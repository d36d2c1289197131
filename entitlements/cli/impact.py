"""A proposal's impact in money: for people, and as rows for other programs."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Column, Table

from entitlements.cli.terminal import out
from entitlements.finance.impact import Impact
from entitlements.kernel.money import Money
from entitlements.kernel.period import format_instant

IMPACT_COLUMNS = (
    "kind", "at", "package", "to", "policy", "customer", "customers", "currency", "mrr_minor",
    "delta_minor", "uncapped_delta_minor",
)  # fmt: skip


def impact_rows(found: Impact) -> Iterator[Mapping[str, Any]]:
    """Of each kind: `now`, `step`, `version`, `package` and `customer`, one a currency."""
    for currency, minor in sorted(found.mrr_now.items()):
        at = format_instant(found.computed_at)
        yield _row("now", at=at, currency=currency, mrr_minor=minor)
    for step in found.mrr_steps:
        for currency, minor in sorted(step.mrr.items()):
            at, delta = format_instant(step.at), minor - found.mrr_now.get(currency, 0)
            yield _row("step", at=at, currency=currency, mrr_minor=minor, delta_minor=delta)
    for version in found.versions:
        base = _row(
            "version",
            package=f"{version.package_id}@{version.version}",
            to=f"{version.package_id}@{version.to_version}",
            policy=version.price.value,
            customers=version.customers,
        )
        nobody = {"delta_minor": 0, "uncapped_delta_minor": 0}
        if not version.mrr_delta:
            yield base | nobody
        for currency, delta in sorted(version.mrr_delta.items()):
            uncapped = version.uncapped_mrr_delta[currency]
            yield base | {
                "currency": currency,
                "delta_minor": delta,
                "uncapped_delta_minor": uncapped,
            }
    for package in found.packages:
        for currency, minor in sorted(package.mrr_now.items()):
            delta = package.mrr_after.get(currency, 0) - minor
            yield _row(
                "package",
                package=package.package_id,
                currency=currency,
                mrr_minor=minor,
                delta_minor=delta,
            )
    for each in found.most_affected:
        yield _row(
            "customer",
            at=format_instant(each.moves_at) if each.moves_at else None,
            customer=each.customer_id,
            currency=each.currency,
            mrr_minor=each.mrr_before_minor,
            delta_minor=each.mrr_after_minor - each.mrr_before_minor,
        )


def _row(kind: str, **fields: Any) -> dict[str, Any]:
    return dict.fromkeys(IMPACT_COLUMNS) | {"kind": kind} | fields


def print_impact(found: Impact) -> None:
    out.print(
        f"{found.customers_affected} customer(s) hold what changes, {found.stays_grandfathered} "
        "keep an older price",
        highlight=False,
    )
    steps = Table("MRR", _right(""), _right("change"))
    versions = Table(
        "version", "to", "policy", _right("customers"), _right("first move"), _right("uncapped")
    )
    customers = Table("most affected", "from", _right("before"), _right("change"))
    for row in impact_rows(found):
        currency, minor, delta = row["currency"], row["mrr_minor"], row["delta_minor"]
        day = (row["at"] or "")[:10]
        match row["kind"]:
            case "now":
                steps.add_row("now", _money(minor, currency), "")
            case "step":
                steps.add_row(day, _money(minor, currency), _money(delta, currency))
            case "version":
                uncapped = _money(row["uncapped_delta_minor"], currency)
                cells = (row["policy"], str(row["customers"]), _money(delta, currency), uncapped)
                versions.add_row(row["package"], row["to"], *cells)
            case "customer":
                before, change = _money(minor, currency), _money(delta, currency)
                customers.add_row(row["customer"], day, before, change)
    for table in (steps, versions, customers):
        if table.row_count:
            out.print(table)


def _right(name: str) -> Column:
    return Column(name, justify="right")


def _money(minor: int, currency: str | None) -> str:
    return Money(minor, currency).formatted() if currency else "–"
