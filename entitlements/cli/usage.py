"""`entitlements usage`: bringing in use that was counted elsewhere."""

import csv
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, TextIO

import msgspec
import typer
from rich.progress import Progress

from entitlements.access.counters import Event
from entitlements.access.counting import EVENTS_AT_ONCE
from entitlements.cli.terminal import FOUND_SOMETHING, err, out, with_services
from entitlements.kernel.errors import ValidationFailed
from entitlements.kernel.period import parse_instant
from entitlements.services import Services

app = typer.Typer(help="Bring in use that was counted elsewhere.", no_args_is_help=True)

SHOWN_AT_MOST = 20
_NAMES = ("id", "customerId", "featureId", "quantity", "at")

Line = tuple[int, Event | str]
"""Its number, and the event or what is wrong with it."""


@app.command("import")
def usage_import(
    file: Annotated[
        Path, typer.Argument(help="CSV with a header, or JSON Lines (.jsonl).", dir_okay=False)
    ],
) -> None:
    """Count the events of a file: id, customerId, featureId, quantity and, if not now, at.

    Each counts once by its customer and id: after a break, import the file again.
    """

    async def run(services: Services) -> tuple[int, int, list[tuple[int, str]]]:
        accepted = duplicates = 0
        mistakes: list[tuple[int, str]] = []
        with file.open(encoding="utf-8", newline="") as text, Progress(console=err) as progress:
            task = progress.add_task(file.name, total=file.stat().st_size)
            lines = _lines(file, text, lambda read: progress.update(task, completed=read))
            while batch := list(islice(lines, EVENTS_AT_ONCE)):
                good = [(number, event) for number, event in batch if isinstance(event, Event)]
                mistakes += [(number, words) for number, words in batch if isinstance(words, str)]
                if good:
                    recorded = await services.usage.record([event for _, event in good])
                    accepted += recorded.accepted
                    duplicates += recorded.duplicates
                    mistakes += [
                        (good[found.index][0], f"{found.code} {found.message}")
                        for found in recorded.rejected
                    ]
        return accepted, duplicates, mistakes

    accepted, duplicates, mistakes = with_services(run)
    for number, words in mistakes[:SHOWN_AT_MOST]:
        err.print(f"{file}:{number}: {words}", highlight=False, soft_wrap=True, markup=False)
    if len(mistakes) > SHOWN_AT_MOST:
        err.print(f"… and {len(mistakes) - SHOWN_AT_MOST} more")
    out.print(f"{accepted} counted, {duplicates} known already, {len(mistakes)} refused")
    if mistakes:
        raise typer.Exit(FOUND_SOMETHING)


def _lines(file: Path, text: TextIO, progress: Callable[[int], None]) -> Iterator[Line]:
    """The file's events, a line at a time, however long it is; `progress` is told bytes read."""

    def counted() -> Iterator[str]:
        read = 0
        for line in text:
            read += len(line.encode())
            progress(read)
            yield line

    if file.suffix in (".jsonl", ".ndjson", ".json"):
        for number, line in enumerate(counted(), start=1):
            if line.strip():
                yield number, _of_json(line)
        return
    reader = csv.DictReader(counted())
    if missing := set(_NAMES[:4]) - set(reader.fieldnames or ()):
        words = f"the first line names the columns; missing: {', '.join(sorted(missing))}"
        raise ValidationFailed.of("file", "COLUMNS", words)
    for row in reader:
        yield reader.line_num, _of(row)


def _of_json(line: str) -> Event | str:
    try:
        row = msgspec.json.decode(line)
    except msgspec.DecodeError as error:
        return f"JSON {error}"
    return _of(row) if isinstance(row, dict) else "JSON a line is an object"


def _of(row: Mapping[str, Any]) -> Event | str:
    missing = [name for name in _NAMES[:4] if row.get(name) in (None, "")]
    if missing:
        return f"MISSING {', '.join(missing)}"
    try:
        quantity = int(str(row["quantity"]))
        at = parse_instant(str(row["at"])) if row.get("at") else None
    except ValueError as error:
        return f"VALUE {error}"
    return Event(
        id=str(row["id"]),
        customer_id=str(row["customerId"]),
        feature_id=str(row["featureId"]),
        quantity=quantity,
        at=at,
    )
