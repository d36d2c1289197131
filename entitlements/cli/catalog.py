"""`entitlements catalog`: write, check, compare, propose, decide, export.

Every command ends with 0, 1 or 2, and its help says what each means: 2 is always "could not run".
"""

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import msgspec
import typer
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Column, Table
from rich.text import Text

from entitlements.catalog import schema
from entitlements.catalog.advice import warnings
from entitlements.catalog.diff import Difference, diff, render
from entitlements.catalog.document import Source, write
from entitlements.catalog.model import Catalog
from entitlements.catalog.proposals import Policy, notes
from entitlements.catalog.service import CatalogService
from entitlements.catalog.tables import CatalogProposalRow
from entitlements.cli import migrations, rows
from entitlements.cli.files import draft_of, list_mistakes, print_issue, source_of
from entitlements.cli.impact import IMPACT_COLUMNS, impact_rows, print_impact
from entitlements.cli.policies import POLICY_HELP, policy_of
from entitlements.cli.terminal import (
    COULD_NOT_RUN,
    FOUND_SOMETHING,
    As,
    actor_of,
    err,
    fail,
    instant,
    out,
    told,
)
from entitlements.finance.impact import Impact
from entitlements.kernel.errors import (
    Conflict,
    Issue,
    NotFound,
    ServiceError,
    ValidationFailed,
)
from entitlements.kernel.period import format_instant
from entitlements.services import opened_catalog
from entitlements.settings import load_settings

app = typer.Typer(help="Check, compare and publish catalog files.", no_args_is_help=True)
app.add_typer(migrations.app, name="migrations")

T = TypeVar("T")

CatalogFile = Annotated[
    Path, typer.Argument(exists=True, dir_okay=False, readable=True, help="YAML or JSON.")
]
ProposalId = Annotated[str, typer.Argument(help="The proposal's id, `prp_…`.")]


# ── files ────────────────────────────────────────────────────────────────────


@app.command("schema")
def print_schema() -> None:
    """Print the JSON Schema of the catalog file: editors complete it."""
    print(json.dumps(schema.json_schema(), indent=2, ensure_ascii=False))


@app.command()
def check(file: CatalogFile) -> None:
    """List every mistake of a catalog file, with its line; warn of what is odd.

    Ends with 0 without a mistake (warnings are none), 1 with mistakes, 2 if it could not run.
    """
    with told(), _doing("Checking"):
        source = source_of(file)
        draft = draft_of(file, source)
        odd = warnings(draft)
    for warning in odd:
        print_issue(file, source, warning, "yellow", err)
    products, packages, features = len(draft.products), len(draft.packages), len(draft.features)
    out.print(
        f"{file}: {products} products, {packages} packages, {features} features, no mistakes"
        + (f", {len(odd)} warnings." if odd else "."),
        highlight=False,
        soft_wrap=True,
    )


@app.command("diff")
def show_diff(
    file: CatalogFile,
    against: Annotated[
        str,
        typer.Option(
            metavar="WHAT",
            help="`latest`: the latest approved catalog, which a proposal changes; `current`: what "
            "is sold now; or a revision's number.",
        ),
    ] = "latest",
    as_json: Annotated[
        bool, typer.Option("--json", help="For programs: base_revision, differences, notes.")
    ] = False,
) -> None:
    """Show what a catalog file would change in the published catalog: before beside after.

    Ends with 0 if nothing differs, 1 if something does, 2 if it could not run, the file has
    mistakes, or it takes a feature from customers who hold it.
    """
    with told(), _doing("Comparing"):
        source = source_of(file)
        draft = draft_of(file, source, COULD_NOT_RUN)

        async def look(catalog: CatalogService) -> tuple[Catalog, list[Issue]]:
            return await _base(catalog, against), await catalog.against_held(draft)

        base, held = _with_catalog(look)
        if held:
            list_mistakes(file, source, held, COULD_NOT_RUN)
        differences, found = diff(base, draft), notes(draft, base)
    if as_json:
        _print_json(base, differences, found)
    else:
        out.print(f"{file} against {_named(base)}", highlight=False, soft_wrap=True)
        _print_differences(differences, found)
    raise typer.Exit(FOUND_SOMETHING if differences else 0)


# ── proposals ────────────────────────────────────────────────────────────────


@app.command()
def propose(
    file: CatalogFile,
    reason: Annotated[str, typer.Option(help="Why. Finance reads it, and it is kept.")],
    effective_at: Annotated[
        str | None,
        typer.Option(metavar="INSTANT", help="From when on it is sold; without it, its approval."),
    ] = None,
    policy: Annotated[
        list[str] | None, typer.Option(metavar="PACKAGE=POLICY", help=POLICY_HELP)
    ] = None,
    base: Annotated[
        int | None,
        typer.Option(
            metavar="REVISION",
            help="The revision that the file was written on; refused if another came since.",
        ),
    ] = None,
    as_: As = None,
) -> None:
    """Propose a catalog file, and show what it changes. Somebody else has to approve it.

    The last word is the proposal's id. Ends with 0 if it is proposed, 1 if it is refused (mistakes
    in the file, a stale base), 2 if it could not run.
    """
    policies = [policy_of(text) for text in policy or ()]
    at = instant(effective_at) if effective_at else None
    with told(), _doing("Proposing"):
        source = source_of(file)

        async def do(catalog: CatalogService) -> _Shown:
            row = await catalog.propose(
                actor_of(as_),
                source.document,
                reason,
                effective_at=at,
                policies=policies,
                base_revision=base,
            )
            return await _shown(catalog, row)

        shown = _with_catalog(do, lambda error: _refused(file, source, error))
    _print_differences(shown.differences, shown.notes)
    print(f"Proposed on revision {shown.row.base_revision}: {shown.row.id}")


@app.command()
def proposals(
    id: Annotated[str | None, typer.Argument(help="One of them, with what it changes.")] = None,
    open_only: Annotated[bool, typer.Option("--open", help="Only those not decided yet.")] = False,
) -> None:
    """List the last 50 proposals, or show one with what it changes."""
    with told():
        if id is not None:
            shown = _with_catalog(lambda catalog: _proposal(catalog, id))
            _print_proposal(shown)
            return

        async def every(catalog: CatalogService) -> list[tuple[str, CatalogProposalRow]]:
            rows = await catalog.proposals("proposed" if open_only else None, first=50, after=None)
            return [(catalog.status_of(row), row) for row in rows]

        rows = _with_catalog(every)
    table = Table(Column("id", no_wrap=True), "status", "by", "effective", "reason")
    for status, row in rows:
        effective = f"{row.effective_at:%Y-%m-%d %H:%M}" if row.effective_at else "at approval"
        cells = (row.id, status, row.proposed_by, effective, row.reason)
        table.add_row(*(Text(cell) for cell in cells))
    out.print(table)


@app.command("impact")
def show_impact(
    id: ProposalId,
    format: Annotated[
        rows.Format | None, typer.Option(help="For other programs; a table if left out.")
    ] = None,
    output: rows.Output = None,
) -> None:
    """What a proposal is worth: the MRR now and after each day on which it moves somebody, who is
    moved and who stays, and the twenty most affected. As it was signed once it is decided.

    Amounts are in minor units where --format is given.
    """

    async def find(catalog: CatalogService) -> Impact:
        row = await catalog.proposal(id)
        if row is None:
            raise NotFound("proposal", id)
        return msgspec.convert(await catalog.impact_of(row), Impact)

    with told():
        with _doing("Adding up"):
            found = _with_catalog(find)
        if format is None:
            print_impact(found)
            return
        with rows.written(output, format, IMPACT_COLUMNS) as write:
            for row in impact_rows(found):
                write(row)


@app.command()
def approve(
    id: ProposalId,
    note: Annotated[str | None, typer.Option(help="For the record.")] = None,
    as_: As = None,
) -> None:
    """Approve a proposal: it is sold from its instant on, or at once if it has none.

    Nobody approves their own, unless ENTITLEMENTS_REQUIRE_SECOND_APPROVER=false. Ends with 0 if it
    is approved, 1 if it is refused, 2 if it could not run.
    """

    async def do(catalog: CatalogService) -> _Shown:
        return await _shown(catalog, await catalog.approve(actor_of(as_), id, note))

    with told(), _doing("Publishing"):
        shown = _with_catalog(do, _said)
    row = shown.row
    assert row.effective_at is not None
    when = "now" if shown.status == "published" else f"from {format_instant(row.effective_at)} on"
    out.print(f"Revision {row.published_revision} is sold {when}.", highlight=False)


@app.command()
def reject(
    id: ProposalId,
    note: Annotated[str, typer.Option(help="Why: it is kept.")],
    as_: As = None,
) -> None:
    """Reject a proposal. Ends with 0 if it is, 1 if it cannot be, 2 if it could not run."""
    with told():
        row = _with_catalog(lambda catalog: catalog.reject(actor_of(as_), id, note), _said)
    out.print(f"{row.id} is rejected.", highlight=False)


@app.command()
def export(
    revision: Annotated[
        int | None, typer.Option(min=1, help="Which; what is sold now if left out.")
    ] = None,
    as_of: Annotated[
        str | None, typer.Option(metavar="INSTANT", help="What was or will be sold at an instant.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of YAML.")] = False,
) -> None:
    """Print a published catalog document, as it was proposed (comments are not kept).

    Ends with 0, or with 2 if there is none or it could not run.
    """
    if revision is not None and as_of is not None:
        raise typer.BadParameter("--revision or --as-of, not both")
    at = instant(as_of) if as_of else None

    async def find(catalog: CatalogService) -> Any:
        if revision is not None:
            return await catalog.document(revision)
        sold = await (catalog.current() if at is None else catalog.as_of(at))
        if sold.revision == 0:
            words = "nothing was sold then" if at else "nothing is published yet"
            raise ServiceError(words, code="NOT_FOUND")
        return await catalog.document(sold.revision)

    with told():
        document = _with_catalog(find)
    if as_json:
        print(json.dumps(document, indent=2, ensure_ascii=False))
    else:
        print(write(document), end="")


# ── what they share ──────────────────────────────────────────────────────────


class _Shown(msgspec.Struct, frozen=True):
    """A proposal with what an approver looks at."""

    row: CatalogProposalRow
    status: str
    differences: list[Difference]
    notes: list[Issue]


async def _shown(catalog: CatalogService, row: CatalogProposalRow) -> _Shown:
    differences, found = await catalog.diff_of(row), await catalog.notes_of(row)
    return _Shown(row, catalog.status_of(row), differences, found)


async def _proposal(catalog: CatalogService, id: str) -> _Shown:
    row = await catalog.proposal(id)
    if row is None:
        raise NotFound("proposal", id)
    return await _shown(catalog, row)


def _with_catalog(
    do: Callable[[CatalogService], Awaitable[T]],
    refused: Callable[[ServiceError], NoReturn] | None = None,
) -> T:
    """What `do` answers. What it refuses is told by `refused`, apart from what could not run."""

    async def run() -> T:
        async with opened_catalog(load_settings()) as catalog:
            try:
                return await do(catalog)
            except ServiceError as error:
                if refused is None:
                    raise
                refused(error)

    return asyncio.run(run())


def _said(error: ServiceError) -> NoReturn:
    fail(error, FOUND_SOMETHING if isinstance(error, Conflict) else COULD_NOT_RUN)


def _refused(file: Path, source: Source, error: ServiceError) -> NoReturn:
    if isinstance(error, ValidationFailed):
        list_mistakes(file, source, error.issues)
    _said(error)


async def _base(catalog: CatalogService, against: str) -> Catalog:
    if against == "latest":
        return await catalog.latest()
    if against == "current":
        return await catalog.current()
    if not against.isdecimal():
        raise ValidationFailed.of("--against", "UNKNOWN", "latest, current or a revision's number")
    return await catalog.revision(int(against))


def _named(base: Catalog) -> str:
    return f"revision {base.revision}" if base.revision else "nothing: no catalog is published yet"


@contextlib.contextmanager
def _doing(what: str) -> Iterator[None]:
    """A sign of life where it takes long; nothing of it stays, nor goes to a pipe."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
        progress.add_task(what)
        yield


def _print_differences(differences: Sequence[Difference], found: Sequence[Issue]) -> None:
    out.print(render(differences))
    for note in found:
        said = f"! {note.code} {'.'.join(note.path)}: {note.message}"
        out.print(Text(said, style="yellow"), soft_wrap=True)


def _print_json(base: Catalog, differences: Sequence[Difference], found: Sequence[Issue]) -> None:
    answer = {"base_revision": base.revision, "differences": differences, "notes": found}
    print(msgspec.json.format(msgspec.json.encode(answer)).decode())


def _print_proposal(shown: _Shown) -> None:
    row = shown.row
    effective = format_instant(row.effective_at) if row.effective_at else "at its approval"
    lines = {
        row.id: shown.status,
        "reason": row.reason,
        "proposed": f"by {row.proposed_by}, {format_instant(row.created_at)}, "
        f"on revision {row.base_revision}",
        "effective": effective,
    }
    if row.decided_at is not None:
        note = f": {row.decision_note}" if row.decision_note else ""
        lines["decided"] = f"by {row.decided_by}, {format_instant(row.decided_at)}{note}"
    for policy in msgspec.convert(row.policies, list[Policy]):
        said = {k: v for k, v in msgspec.to_builtins(policy).items() if v is not None}
        name = f"policy of {said.pop('package_id')}"
        lines[name] = ", ".join(f"{key} {value}" for key, value in said.items())
    for name, text in lines.items():
        out.print(Text(f"{name}: {text}"), soft_wrap=True)
    _print_differences(shown.differences, shown.notes)
