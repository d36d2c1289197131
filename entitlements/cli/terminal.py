"""What all commands share: where they print, how they end, how they reach the services."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from datetime import datetime
from typing import NoReturn, TypeVar

import typer
from rich.console import Console
from sqlalchemy.exc import SQLAlchemyError

from entitlements.kernel.errors import ServiceError, ValidationFailed
from entitlements.kernel.period import parse_instant
from entitlements.services import Services, opened_services
from entitlements.settings import load_settings

out = Console()
err = Console(stderr=True)

FOUND_SOMETHING = 1
COULD_NOT_RUN = 2

T = TypeVar("T")


@contextlib.contextmanager
def told() -> Iterator[None]:
    """Say what is wrong in words, and exit with 2."""
    try:
        yield
    except ServiceError as error:
        fail(error)
    except (OSError, SQLAlchemyError) as error:
        err.print(f"[red]error[/]: {error}", soft_wrap=True)
        raise typer.Exit(COULD_NOT_RUN) from error


def fail(error: ServiceError, code: int = COULD_NOT_RUN) -> NoReturn:
    issues = error.issues if isinstance(error, ValidationFailed) else ()
    for issue in issues:
        where = ".".join(issue.path)
        err.print(f"[red]{issue.code}[/] {where}: {issue.message}", highlight=False, soft_wrap=True)
    if not issues:
        err.print(f"[red]{error.code}[/]: {error.message}", highlight=False, soft_wrap=True)
    raise typer.Exit(code)


def with_services(do: Callable[[Services], Awaitable[T]]) -> T:
    async def run() -> T:
        async with opened_services(load_settings()) as services:
            return await do(services)

    with told():
        return asyncio.run(run())


def instant(text: str) -> datetime:
    try:
        return parse_instant(text)
    except ValueError:
        raise typer.BadParameter("write RFC 3339, such as 2027-01-01T00:00:00Z") from None
