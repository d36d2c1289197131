"""Rows written out for other programs: JSON Lines, or CSV for a spreadsheet."""

import contextlib
import csv
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TextIO

import msgspec
import typer


class Format(StrEnum):
    JSONL = "jsonl"
    CSV = "csv"


As = Annotated[Format, typer.Option("--format", help="JSON Lines, or CSV for a spreadsheet.")]
Output = Annotated[Path | None, typer.Option(help="A file; otherwise the terminal.")]

Write = Callable[[Mapping[str, Any]], None]


@contextlib.contextmanager
def written(output: Path | None, format: Format, columns: Sequence[str]) -> Iterator[Write]:
    """How to write a row of these columns; a CSV begins with their names."""
    if output is None:
        yield _writer(sys.stdout, format, columns)
        return
    with output.open("w", newline="", encoding="utf-8") as file:
        yield _writer(file, format, columns)


def _writer(file: TextIO, format: Format, columns: Sequence[str]) -> Write:
    if format is Format.JSONL:
        return lambda row: print(
            msgspec.json.encode({name: row[name] for name in columns}).decode(), file=file
        )
    rows = csv.writer(file)
    rows.writerow(columns)
    return lambda row: rows.writerow([_cell(row[name]) for name in columns])


def _cell(value: Any) -> Any:
    """JSON data as JSON; text that a spreadsheet would take for a formula behind an apostrophe."""
    if isinstance(value, dict | list):
        return msgspec.json.encode(value).decode()
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return "'" + value
    return value
