"""Catalog files for the commands: read, and every mistake told with its line."""

from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import typer
from rich.console import Console
from rich.text import Text

from entitlements.catalog.document import Draft, Source, parse, read
from entitlements.cli.terminal import FOUND_SOMETHING, err
from entitlements.kernel.errors import Issue, ValidationFailed


def source_of(file: Path) -> Source:
    try:
        return read(file.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        issue = Issue((), "NOT_UTF8", f"byte {error.start} is not UTF-8 text")
        list_mistakes(file, None, [issue])
    except ValidationFailed as error:
        list_mistakes(file, None, error.issues)


def draft_of(file: Path, source: Source, code: int = FOUND_SOMETHING) -> Draft:
    try:
        return parse(source.document)
    except ValidationFailed as error:
        list_mistakes(file, source, error.issues, code)


def list_mistakes(
    file: Path, source: Source | None, issues: Sequence[Issue], code: int = FOUND_SOMETHING
) -> NoReturn:
    for issue in issues:
        print_issue(file, source, issue, "red", err)
    err.print(f"{len(issues)} {'mistake' if len(issues) == 1 else 'mistakes'}.")
    raise typer.Exit(code)


def print_issue(
    file: Path, source: Source | None, issue: Issue, colour: str, console: Console
) -> None:
    """`catalog.yaml:12: CODE products.0.plans.1.trial.days: between 14 and 30`.

    The service's paths begin with `document`, or name an option beside it (`policies`).
    """
    path, where = issue.path, str(file)
    beside = path[:1] in (("policies",), ("effectiveAt",), ("reason",))
    if path[:1] == ("document",):
        path = path[1:]
    if source is not None and not beside and (line := source.line(path)) is not None:
        where = f"{file}:{line}"
    said = f" {'.'.join(path)}: {issue.message}" if path else f": {issue.message}"
    console.print(Text.assemble(f"{where}: ", (issue.code, colour), said), soft_wrap=True)
