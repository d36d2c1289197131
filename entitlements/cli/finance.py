"""`entitlements finance`: what finance takes into its own systems."""

from collections.abc import AsyncIterator, Mapping
from enum import StrEnum
from typing import Annotated, Any

import typer
from sqlalchemy.ext.asyncio import AsyncSession

from entitlements.cli import rows
from entitlements.cli.terminal import instant, told, with_services
from entitlements.finance import movements
from entitlements.finance.allocations import allocations
from entitlements.finance.movements import MrrDimension, checked_period, every_movement
from entitlements.kernel.period import Period, format_instant
from entitlements.pricing.mrr import MrrMovements
from entitlements.services import Services

app = typer.Typer(help="Export what finance needs.", no_args_is_help=True)


@app.callback()
def _finance() -> None:
    """Export what finance needs."""


class What(StrEnum):
    MRR = "mrr"
    MOVEMENTS = "movements"
    ALLOCATIONS = "allocations"


_SUMS = ("opening", "new", "expansion", "contraction", "churn", "reactivation", "closing")
_COLUMNS = {
    What.MRR: (
        "key", "from", "to", "currency", *(f"{name}_minor" for name in _SUMS), "nrr_percent",
        "grr_percent",
    ),
    What.MOVEMENTS: (
        "at", "customer_id", "revision", "subscription_id", "plan_id", "package_id", "kind",
        "cohort", "currency", "delta_minor",
    ),
    What.ALLOCATIONS: (
        "invoice_id", "invoice_provider_id", "number", "status", "customer_id", "invoiced_at",
        "line", "line_package", "package", "from", "to", "currency", "amount_minor",
    ),
}  # fmt: skip


@app.command("export")
def finance_export(
    what: Annotated[
        What,
        typer.Argument(
            help="mrr: what became of the MRR, as sums. movements: each movement by itself. "
            "allocations: every invoice line over the modules whose revenue it is."
        ),
    ],
    from_: Annotated[str, typer.Option("--from", help="At or after this instant.")],
    to: Annotated[str, typer.Option(help="Before this instant.")],
    currency: Annotated[str, typer.Option(help="ISO 4217: of mrr and movements.")] = "usd",
    by: Annotated[MrrDimension | None, typer.Option(help="Groups of mrr.")] = None,
    format: rows.As = rows.Format.CSV,
    output: rows.Output = None,
) -> None:
    """Write out what happened within a period, with amounts in minor units."""
    with told():
        period = checked_period(instant(from_), instant(to), currency)

    async def export(services: Services) -> None:
        async with services.database.read(streaming=True) as session:
            with rows.written(output, format, _COLUMNS[what]) as write:
                match what:
                    case What.MRR:
                        found = _sums(session, period, currency, by)
                    case What.MOVEMENTS:
                        found = _movements(session, period, currency)
                    case What.ALLOCATIONS:
                        found = _allocations(session, period)
                async for row in found:
                    write(row)

    with_services(export)


async def _sums(
    session: AsyncSession, period: Period, currency: str, by: MrrDimension | None
) -> AsyncIterator[Mapping[str, Any]]:
    if by is None:
        yield _sum("", period, currency, await movements.mrr_movements(session, period, currency))
        return
    for group in await movements.mrr_movements_by(session, period, currency, by):
        yield _sum(group.key, group.period, currency, group.movements)


def _sum(key: str, period: Period, currency: str, found: MrrMovements) -> Mapping[str, Any]:
    rates = {"nrr_percent": found.nrr_percent, "grr_percent": found.grr_percent}
    return {
        "key": key,
        "from": format_instant(period.start),
        "to": format_instant(period.end),
        "currency": currency,
        **{f"{name}_minor": getattr(found, f"{name}_minor") for name in _SUMS},
        **{name: None if rate is None else str(rate) for name, rate in rates.items()},
    }


async def _movements(
    session: AsyncSession, period: Period, currency: str
) -> AsyncIterator[Mapping[str, Any]]:
    async for row in every_movement(session, period, currency):
        fields = {name: getattr(row, name) for name in _COLUMNS[What.MOVEMENTS]}
        yield fields | {"at": format_instant(row.at)}


async def _allocations(session: AsyncSession, period: Period) -> AsyncIterator[Mapping[str, Any]]:
    async for part in allocations(session, period):
        fields = {name: getattr(part, name) for name in part.__struct_fields__}
        yield fields | {
            "invoiced_at": format_instant(part.invoiced_at),
            "from": format_instant(part.period.start) if part.period else None,
            "to": format_instant(part.period.end) if part.period else None,
        }
