"""`entitlements catalog migrations`: how far policies have moved holders, and deciding on it."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, TypeVar

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Column, Table
from rich.text import Text

from entitlements.cli.terminal import (
    COULD_NOT_RUN,
    FOUND_SOMETHING,
    As,
    actor_of,
    err,
    fail,
    out,
    told,
)
from entitlements.kernel.errors import Conflict, ServiceError
from entitlements.services import opened_migrations
from entitlements.settings import load_settings
from entitlements.subscriptions.migrations import Migration, Migrations, MigrationStatus

app = typer.Typer(
    help="How far policies have moved holders of older versions (the worker does); paused, "
    "resumed, rolled back.",
    no_args_is_help=True,
)

T = TypeVar("T")

FOLLOWED_EVERY_SECONDS = 1.0
GOING_ON = (MigrationStatus.SCHEDULED, MigrationStatus.RUNNING)

MigrationId = Annotated[str, typer.Argument(help="The migration's id, `mig_…`.")]
Reason = Annotated[str, typer.Option(help="Why: it is kept.")]


@app.command("list")
def print_all(
    status: Annotated[
        MigrationStatus | None, typer.Option(help="Only those that are so far.")
    ] = None,
) -> None:
    """List the newest 200 migrations. Ends with 0, or with 2 if it could not run."""
    found = _with_migrations(lambda migrations: migrations.every(status))
    table = Table(Column("id", no_wrap=True), "status", "package", "versions", "moved", "failed")
    for each in found:
        versions = f"{each.row.from_version} → {each.row.to_version}"
        moved = f"{each.moved} of {each.customers}"
        cells = (each.row.id, each.status, each.row.package_id, versions, moved, str(each.failed))
        table.add_row(*(Text(cell) for cell in cells))
    out.print(table)


@app.command()
def show(
    id: MigrationId,
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on until nobody is left to move, or it is stopped.")
    ] = False,
) -> None:
    """Show how far a migration is. Ends with 0, or with 2 if it could not run."""

    async def watch(migrations: Migrations) -> Migration:
        found = await migrations.migration(id)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, console=err, disable=not err.is_terminal) as progress:
            task = progress.add_task("moved", total=found.customers, completed=found.moved)
            while follow and found.status in GOING_ON:
                await asyncio.sleep(FOLLOWED_EVERY_SECONDS)
                found = await migrations.migration(id)
                progress.update(task, total=found.customers, completed=found.moved)
        return found

    _print(_with_migrations(watch))


@app.command()
def pause(id: MigrationId, reason: Reason, as_: As = None) -> None:
    """Move nobody for now. Ends with 0, 1 if it cannot be paused, 2 if it could not run."""
    _print(_with_migrations(lambda migrations: migrations.pause(actor_of(as_), id, reason)))


@app.command()
def resume(id: MigrationId, as_: As = None) -> None:
    """Go on with a paused one. Ends with 0, 1 if it is not paused, 2 if it could not run."""
    _print(_with_migrations(lambda migrations: migrations.resume(actor_of(as_), id)))


@app.command()
def rollback(id: MigrationId, reason: Reason, as_: As = None) -> None:
    """Let whoever was moved return at their next renewal, for good; nothing paid is credited.

    Ends with 0, 1 if it is rolled back already, 2 if it could not run.
    """
    _print(_with_migrations(lambda migrations: migrations.roll_back(actor_of(as_), id, reason)))


def _print(found: Migration) -> None:
    failed = f", {found.failed} failed" if found.failed else ""
    out.print(
        f"{found.row.id}: {found.from_version_id} to {found.to_version_id}, {found.status}, "
        f"{found.moved} of {found.customers} moved{failed}",
        highlight=False,
        soft_wrap=True,
    )


def _with_migrations(do: Callable[[Migrations], Awaitable[T]]) -> T:
    """What `do` answers; what it refuses ends with 1."""

    async def run() -> T:
        async with opened_migrations(load_settings()) as migrations:
            try:
                return await do(migrations)
            except ServiceError as error:
                fail(error, FOUND_SOMETHING if isinstance(error, Conflict) else COULD_NOT_RUN)

    with told():
        return asyncio.run(run())
