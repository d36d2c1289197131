"""What all commands share: where they print, how they end, how they reach the services."""

import asyncio
import contextlib
import getpass
from collections.abc import Awaitable, Callable, Iterator
from datetime import datetime
from typing import Annotated, NoReturn, TypeVar

import typer
from rich.console import Console
from sqlalchemy.exc import SQLAlchemyError

from entitlements.audit.ledger import Actor
from entitlements.kernel.errors import ServiceError, ValidationFailed
from entitlements.kernel.period import parse_instant
from entitlements.server.migrations import refuse_if_behind
from entitlements.services import Services, opened_services
from entitlements.settings import load_settings

out = Console()
err = Console(stderr=True)

FOUND_SOMETHING = 1
COULD_NOT_RUN = 2

T = TypeVar("T")

As = Annotated[
    str | None,
    typer.Option(
        "--as",
        metavar="NAME",
        help="Who acts, for the ledger: `cli:NAME`. Without it, the user of this system.",
    ),
]


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
            await refuse_if_behind(services.database.engine)
            return await do(services)

    with told():
        return asyncio.run(run())


def instant(text: str) -> datetime:
    try:
        return parse_instant(text)
    except ValueError:
        raise typer.BadParameter("write RFC 3339, such as 2027-01-01T00:00:00Z") from None


def actor_of(name: str | None) -> Actor:
    """Who acts, for the ledger; without a name the user of this system."""
    name = getpass.getuser() if name is None else name.strip()
    if not 1 <= len(name) <= 100 or not name.isprintable():
        raise ValidationFailed.of("--as", "NAME", "a name has 1 to 100 printable characters")
    return Actor(f"cli:{name}")
