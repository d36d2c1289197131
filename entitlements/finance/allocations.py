"""Each invoice line over the modules that it is revenue of, as it was charged."""

from collections.abc import AsyncIterator
from datetime import datetime

import msgspec
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from entitlements.kernel.period import Period
from entitlements.subscriptions.invoice_line import Allocation, Line
from entitlements.subscriptions.tables import InvoiceRow


class AllocatedLine(msgspec.Struct, frozen=True, kw_only=True):
    """The part of one invoice line that is one package's revenue, over the line's `period`.

    `line` counts from 0. A line that names no package has none here either.
    """

    invoice_id: str
    invoice_provider_id: str
    number: str | None
    status: str
    customer_id: str
    invoiced_at: datetime
    line: int
    line_package: str | None
    package: str | None
    period: Period | None
    currency: str
    amount_minor: int


def allocated(line: Line) -> tuple[Allocation, ...]:
    """Whose revenue a line is: a bundle's that of its modules, any other its own package's.

    >>> from entitlements.subscriptions.invoice_line import LineKind
    >>> pro = Line(kind=LineKind.CHARGE, description="Pro", amount_minor=9900, package_id="pro",
    ...     version=3)
    >>> allocated(pro)
    (Allocation(package_id='pro', version=3, amount_minor=9900),)
    """
    if line.allocations or line.package_id is None or line.version is None:
        return line.allocations
    return (Allocation(line.package_id, line.version, line.amount_minor),)


async def allocations(session: AsyncSession, period: Period) -> AsyncIterator[AllocatedLine]:
    """Of every invoice written within a period, oldest first; the parts sum to each line."""
    query = (
        select(InvoiceRow)
        .where(InvoiceRow.created_at >= period.start, InvoiceRow.created_at < period.end)
        .order_by(InvoiceRow.created_at, InvoiceRow.id)
    )
    async for row in await session.stream_scalars(query.execution_options(yield_per=200)):
        for index, line in enumerate(msgspec.convert(row.lines, tuple[Line, ...])):
            for part in allocated(line) or (None,):
                yield AllocatedLine(
                    invoice_id=row.id,
                    invoice_provider_id=row.provider_id,
                    number=row.number,
                    status=row.status,
                    customer_id=row.customer_id,
                    invoiced_at=row.created_at,
                    line=index,
                    line_package=_version_id(line.package_id, line.version),
                    package=_version_id(part.package_id, part.version) if part else None,
                    period=line.period,
                    currency=row.currency,
                    amount_minor=part.amount_minor if part else line.amount_minor,
                )
        session.expunge(row)


def _version_id(package_id: str | None, version: int | None) -> str | None:
    return None if package_id is None else f"{package_id}@{version}"
