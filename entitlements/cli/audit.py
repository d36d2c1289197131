"""`entitlements audit`: the ledger proved, sealed, written out."""

import contextlib
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.progress import Progress

from entitlements.audit import ledger, seals
from entitlements.audit.ledger import AuditFilter
from entitlements.cli import rows
from entitlements.cli.terminal import FOUND_SOMETHING, err, instant, out, told, with_services
from entitlements.kernel.errors import ValidationFailed
from entitlements.kernel.period import format_instant
from entitlements.services import Services

app = typer.Typer(help="Prove, seal and export the ledger.", no_args_is_help=True)


@contextlib.contextmanager
def _progress(words: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal's error stream; nothing in a pipe."""
    with Progress(console=err, transient=True, disable=not err.is_terminal) as progress:
        task = progress.add_task(words, total=total)
        yield lambda done: progress.update(task, completed=done)


@app.command("verify")
def audit_verify(
    stream: Annotated[str | None, typer.Option(help="Only this stream.")] = None,
    seal: Annotated[
        Path | None,
        typer.Option(help="Seals that were kept elsewhere, a line each: `audit seal --print`."),
    ] = None,
) -> None:
    """Prove every chain and seal of the ledger, or name what does not add up.

    Without --seal it says `consistent`: whoever owns the database might have cut off its end. With
    a seal that was kept elsewhere it says `unaltered`, up to that seal.
    """
    with told():
        kept = _kept(seal)

    async def verify(services: Services) -> seals.Verification:
        async with services.database.read(streaming=True) as session:
            total = await ledger.count(session, AuditFilter(stream=stream))
            if stream is not None and not total:
                raise ValidationFailed.of("stream", "UNKNOWN", f"there is no stream {stream!r}")
            with _progress("entries", total) as progress:
                return await seals.verify(
                    session, services.signer, stream, kept=kept, progress=progress
                )

    found = with_services(verify)
    if found.ok:
        until = f", unaltered up to {format_instant(kept[-1].at)}" if kept else ""
        out.print(f"consistent: {found.entries} entries, {found.seals} seal(s){until}")
        return
    where = f" ({found.first_broken.id})" if found.first_broken else ""
    err.print(f"[red]broken[/]: {found.problem}{where}", soft_wrap=True)
    raise typer.Exit(FOUND_SOMETHING)


def _kept(path: Path | None) -> list[seals.Seal]:
    if path is None:
        return []
    lines = [line for line in path.read_text().splitlines() if line.strip()]
    try:
        kept = [msgspec.json.decode(line, type=seals.Seal) for line in lines]
    except msgspec.DecodeError as error:
        raise ValidationFailed.of("seal", "NOT_A_SEAL", f"{path}: {error}") from error
    if not kept:
        raise ValidationFailed.of("seal", "NOT_A_SEAL", f"{path} has no seal in it")
    return sorted(kept, key=lambda one: one.sequence)


@app.command("seal")
def audit_seal(
    print_: Annotated[
        bool, typer.Option("--print", help="The newest seal as a line of JSON, to keep elsewhere.")
    ] = False,
) -> None:
    """Seal the heads of all streams now. The worker does so every hour."""

    async def seal(services: Services) -> tuple[seals.Seal | None, bool]:
        async with services.database.write() as session:
            return await seals.seal(session, services.signer)

    newest, is_new = with_services(seal)
    if newest is None:
        out.print("nothing to seal: the ledger is empty")
    elif print_:
        print(msgspec.json.encode(newest).decode())
    else:
        words = "sealed" if is_new else "nothing has moved since"
        out.print(f"{words}: seal {newest.sequence} of {format_instant(newest.at)}")


@app.command("export")
def audit_export(
    format: rows.As = rows.Format.JSONL,
    output: rows.Output = None,
    stream: Annotated[str | None, typer.Option(help="Only this stream.")] = None,
    actor: Annotated[str | None, typer.Option(help="Only what this actor did.")] = None,
    action: Annotated[str | None, typer.Option(help="Only this action.")] = None,
    object_type: Annotated[str | None, typer.Option(help="Only this kind of object.")] = None,
    object_id: Annotated[str | None, typer.Option(help="Only this object.")] = None,
    from_: Annotated[str | None, typer.Option("--from", help="At or after this instant.")] = None,
    to: Annotated[str | None, typer.Option(help="Before this instant.")] = None,
) -> None:
    """Write the ledger's entries out, oldest first, as many as there are."""
    filter = AuditFilter(
        stream=stream,
        actor=actor,
        action=action,
        object_type=object_type,
        object_id=object_id,
        from_=_instant(from_),
        to=_instant(to),
    )

    async def export(services: Services) -> None:
        async with services.database.read(streaming=True) as session:
            total = await ledger.count(session, filter)
            with (
                rows.written(output, format, _COLUMNS) as write,
                _progress("entries", total) as progress,
            ):
                done = 0
                async for entry in ledger.every(session, filter):
                    fields = {name: getattr(entry, name) for name in _COLUMNS}
                    write(fields | {"at": format_instant(entry.at)})
                    done += 1
                    progress(done)

    with_services(export)


def _instant(text: str | None) -> datetime | None:
    return None if text is None else instant(text)


_COLUMNS = (
    "id", "stream", "sequence", "at", "actor", "action", "object_type", "object_id", "before",
    "after", "reason", "request_id", "mrr_delta_minor", "currency", "previous_hash", "hash",
)  # fmt: skip
