"""What is behind a charge: the line, its sum, the change that made it, who agreed to the price."""

from collections.abc import AsyncIterator, Iterator, Sequence

import msgspec
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from entitlements.catalog.model import Catalog
from entitlements.catalog.tables import CatalogProposalRow, PackageVersionRow
from entitlements.finance.explanation import explain_line, held_then, planned
from entitlements.kernel.errors import ValidationFailed
from entitlements.kernel.period import format_instant
from entitlements.subscriptions.change import ChangePlan
from entitlements.subscriptions.invoice_line import Line, line_name
from entitlements.subscriptions.request import ChangeRequest
from entitlements.subscriptions.state import CustomerState, Subscription
from entitlements.subscriptions.tables import ChangeRow, CustomerRevisionRow, InvoiceRow

REVISIONS_AT_MOST = 5_000
CHANGES_AT_MOST = 1_000


class ExplainedCharge(msgspec.Struct, frozen=True, kw_only=True):
    """`steps` lead from the price to the amount, then to who changed, proposed and approved it."""

    line: Line
    currency: str
    version_id: str
    steps: tuple[str, ...]
    computed_minor: int | None
    proposal: CatalogProposalRow | None
    change: ChangeRow | None


async def explain_of_change(
    session: AsyncSession, catalog: Catalog, change_id: str, index: int
) -> ExplainedCharge | None:
    """None where there is no such change; `ValidationFailed` where it has no such line, or one that
    the payment provider wrote by itself."""
    change = await session.get(ChangeRow, change_id)
    if change is None:
        return None
    line = _line(msgspec.convert(change.lines, tuple[Line, ...]), index)
    return await _explained(session, catalog, change.customer_id, change.currency, line, change)


async def explain_of_invoice(
    session: AsyncSession, catalog: Catalog, invoice_id: str, index: int
) -> ExplainedCharge | None:
    """The same of an invoice."""
    invoice = await session.get(InvoiceRow, invoice_id)
    if invoice is None:
        return None
    line = _line(msgspec.convert(invoice.lines, tuple[Line, ...]), index)
    change = await _change_behind(session, invoice, line)
    return await _explained(session, catalog, invoice.customer_id, invoice.currency, line, change)


def _line(lines: Sequence[Line], index: int) -> Line:
    if not 0 <= index < len(lines):
        raise ValidationFailed.of("line", "OUT_OF_RANGE", f"there are {len(lines)} lines, from 0")
    line = lines[index]
    if line.package_id is None or line.version is None:
        words = "the payment provider wrote this line by itself: it is of no package"
        raise ValidationFailed.of("line", "NOT_OF_A_PACKAGE", words)
    return line


async def _explained(
    session: AsyncSession,
    catalog: Catalog,
    customer_id: str,
    currency: str,
    line: Line,
    change: ChangeRow | None,
) -> ExplainedCharge:
    held = [held_then(catalog, state) async for state in _held(session, customer_id)]
    if change is not None:
        held += planned(msgspec.json.decode(change.plan, type=ChangePlan))
    found = explain_line(catalog, line, currency, held)
    assert line.package_id is not None
    proposal = await session.scalar(
        select(CatalogProposalRow)
        .join(
            PackageVersionRow,
            PackageVersionRow.revision == CatalogProposalRow.published_revision,
        )
        .where(
            PackageVersionRow.package_id == line.package_id,
            PackageVersionRow.version == line.version,
        )
    )
    return ExplainedCharge(
        line=line,
        currency=currency,
        version_id=f"{line.package_id}@{line.version}",
        steps=(*found.steps, *_change_words(change), *_proposal_words(proposal)),
        computed_minor=found.computed_minor,
        proposal=proposal,
        change=change,
    )


async def _held(session: AsyncSession, customer_id: str) -> AsyncIterator[Subscription]:
    """Everything that a customer held, the latest first."""
    query = (
        select(CustomerRevisionRow.state)
        .where(CustomerRevisionRow.customer_id == customer_id)
        .order_by(CustomerRevisionRow.revision.desc())
        .limit(REVISIONS_AT_MOST)
    )
    async for state in await session.stream_scalars(query.execution_options(yield_per=50)):
        for held in msgspec.convert(state, CustomerState).subscriptions:
            yield held


async def _change_behind(
    session: AsyncSession, invoice: InvoiceRow, line: Line
) -> ChangeRow | None:
    """The change that this line settles; of a renewal the one that brought what is renewed."""
    query = (
        select(ChangeRow)
        .where(
            ChangeRow.customer_id == invoice.customer_id,
            ChangeRow.status == "applied",
            ChangeRow.created_at <= invoice.created_at,
        )
        .order_by(ChangeRow.id.desc())
        .limit(CHANGES_AT_MOST)
    )
    changes = (await session.scalars(query)).all()
    wanted = line_name(line), line.period
    for change in changes:
        own = msgspec.convert(change.lines, tuple[Line, ...])
        if wanted in [(line_name(each), each.period) for each in own]:
            return change
    for change in changes:
        if _brings(msgspec.json.decode(change.plan, type=ChangePlan), line):
            return change
    return None


def _brings(plan: ChangePlan, line: Line) -> bool:
    """Whether what the line is of is held, as it is, by this change."""
    after = [slot for slot in plan.after if (slot.key, slot.version) == (line.key, line.version)]
    return bool(after) and after[0] not in plan.before


def _change_words(change: ChangeRow | None) -> Iterator[str]:
    if change is None:
        return
    plan = msgspec.json.decode(change.plan, type=ChangePlan)
    request = msgspec.convert(change.request, ChangeRequest)
    if request.move is not None:
        by = "by the policy for those who hold an older version"
    elif request.timing is not None or request.proration is not None:
        by = "as was chosen for it"
    else:
        by = "by the product's policy"
    timing, proration = plan.timing.value, plan.proration.value
    yield f"Policy: {change.direction}, effective {timing}, proration {proration}, {by}."
    why = f", because: {change.reason}" if change.reason else ""
    yield (
        f"Change {change.id}: {change.description}, by {change.created_by} on "
        f"{format_instant(change.created_at)}{why}."
    )
    if change.decided_by is not None and change.decided_at is not None:
        note = f": {change.decision_note}" if change.decision_note else ""
        yield f"Approved by {change.decided_by} on {format_instant(change.decided_at)}{note}."


def _proposal_words(proposal: CatalogProposalRow | None) -> Iterator[str]:
    if proposal is None:
        return
    yield (
        f"Price: proposed by {proposal.proposed_by} on {format_instant(proposal.created_at)}, "
        f"because: {proposal.reason} ({proposal.id})."
    )
    if proposal.decided_by is not None and proposal.decided_at is not None:
        note = f": {proposal.decision_note}" if proposal.decision_note else ""
        yield (
            f"Price: approved by {proposal.decided_by} on "
            f"{format_instant(proposal.decided_at)}{note}."
        )
