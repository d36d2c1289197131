"""`entitlements reconcile`: what differs from the payment provider, told and, if asked, mended."""

import json
from collections import Counter
from collections.abc import AsyncIterator
from typing import Annotated, Any

import msgspec
import structlog
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text

from entitlements.audit.ledger import Actor
from entitlements.billing.reconciler import Checked, Finding
from entitlements.cli.terminal import (
    COULD_NOT_RUN,
    FOUND_SOMETHING,
    As,
    actor_of,
    err,
    out,
    with_services,
)
from entitlements.services import Services

log = structlog.get_logger()


class _Report:
    """What was found so far: lines of JSON at once, or a table at the end."""

    def __init__(self, *, as_json: bool, repair: bool) -> None:
        self._as_json = as_json
        self._repair = repair
        self._findings: list[Finding] = []
        self.counts: Counter[str] = Counter()

    def checked(self, checked: Checked) -> None:
        self.counts["customers"] += 1
        self.counts["busy"] += checked.busy
        for finding in checked.findings:
            self.found(finding)

    def found(self, finding: Finding) -> None:
        self.counts["drifts"] += 1
        self.counts["repaired"] += finding.mended
        if self._as_json:
            self._print({"type": "drift", **_plain(finding)})
        else:
            self._findings.append(finding)

    def end(self, *, complete: bool) -> None:
        summary = {n: self.counts[n] for n in ("customers", "drifts", "repaired", "busy")}
        if self._as_json:
            self._print({"type": "summary", **summary, "complete": complete})
            return
        if self._findings:
            out.print(self._table())
        said = f"{summary['customers']} customers compared, {summary['drifts']} differences"
        said += f", {summary['repaired']} repaired" if self._repair else ""
        said += f", {summary['busy']} customers never stood still" if summary["busy"] else ""
        out.print(f"{said}{'' if complete else '; not all was looked at'}.", highlight=False)

    def _table(self) -> Table:
        table = Table(
            "customer", "what", Column("where", overflow="fold"), "ours", "theirs",
            Column("repair", no_wrap=self._plain_outcomes()),
        )  # fmt: skip
        for finding in self._findings:
            drift = finding.drift
            cells = (
                drift.customer,
                drift.kind.value.replace("_", " "),
                "\n".join(filter(None, (drift.subscription, drift.path))),
                _cell(drift.ours),
                _cell(drift.theirs),
                self._outcome(finding),
            )
            table.add_row(*(Text(cell, overflow="fold") for cell in cells))
        return table

    def _plain_outcomes(self) -> bool:
        return all(finding.note is None for finding in self._findings)

    def _outcome(self, finding: Finding) -> str:
        if finding.mended:
            return "repaired"
        if finding.drift.repair is None:
            return "by hand"
        if not self._repair:
            return "--repair"
        return f"not repaired{': ' + finding.note if finding.note else ''}"

    @staticmethod
    def _print(line: dict[str, Any]) -> None:
        print(json.dumps(line, ensure_ascii=False), flush=True)


def _plain(finding: Finding) -> dict[str, Any]:
    """A finding as one flat object, every field always there."""
    drift = {name: getattr(finding.drift, name) for name in finding.drift.__struct_fields__}
    plain: dict[str, Any] = msgspec.to_builtins(drift)
    return plain | {"repaired": finding.mended, "note": finding.note}


def _cell(value: str | int | None) -> str:
    return "–" if value is None else str(value)


def reconcile(
    customer: Annotated[
        str | None, typer.Option(metavar="ID", help="Look at one customer only.")
    ] = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Mend what is ours to mend; the ledger says what.")
    ] = False,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="For programs: a line for each difference, then a summary."),
    ] = False,
    calls_per_second: Annotated[
        int,
        typer.Option(
            min=1,
            max=100,
            help="How fast to read; Stripe takes 100 a second live, 25 in a test.",
        ),
    ] = 20,
    as_: As = None,
) -> None:
    """Compare every customer with the payment provider, and show each difference.

    Customers, subscriptions, items, quantities, prices, status, period, pending changes, invoices
    and events.

    Ends with 0 if nothing differs, 1 if something did (also where all of it was repaired), 2 if it
    could not run to its end; what it found until then is shown.
    """
    report = _Report(as_json=as_json, repair=repair)

    async def run(services: Services) -> None:
        actor = actor_of(as_) if repair else None
        services.reconciler.pace.calls_per_second = calls_per_second
        if customer is not None:
            report.checked(await services.reconciler.customer(customer, repair_as=actor))
        else:
            await _walk(services, report, actor)
        async for finding in services.reconciler.events(customer_id=customer, repair_as=actor):
            report.found(finding)

    try:
        with_services(run)
    except typer.Exit:
        report.end(complete=False)
        raise
    except Exception as error:  # 1 would say that it ran
        log.exception("reconcile_failed")
        err.print(f"[red]{type(error).__name__}[/]: {error}", highlight=False, soft_wrap=True)
        report.end(complete=False)
        raise typer.Exit(COULD_NOT_RUN) from error
    report.end(complete=True)
    if report.counts["drifts"]:
        raise typer.Exit(FOUND_SOMETHING)


async def _walk(services: Services, report: _Report, actor: Actor | None) -> None:
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
        task = progress.add_task("Comparing", total=await services.reconciler.count())
        every: AsyncIterator[Checked] = services.reconciler.customers(repair_as=actor)
        async for checked in every:
            report.checked(checked)
            progress.advance(task)
