"""`entitlements portal`: links to the customer portal."""

import asyncio
from enum import StrEnum
from typing import Annotated

import typer

from entitlements.cli.terminal import told
from entitlements.server.portal.links import made_link
from entitlements.settings import load_settings

app = typer.Typer(help="Links to the customer portal.", no_args_is_help=True)


class Scope(StrEnum):
    READ = "read"
    USE = "use"
    BUY = "buy"


@app.callback()
def portal() -> None:
    """Links to the customer portal."""


@app.command("link")
def portal_link(
    customer_id: Annotated[str, typer.Argument(help="The customer who is let in.")],
    scope: Annotated[list[Scope] | None, typer.Option(help="What they may do.")] = None,
    subject: Annotated[
        str | None, typer.Option("--as", help="The person, for the ledger: an id of yours.")
    ] = None,
    ttl_minutes: Annotated[int, typer.Option(help="How long they stay signed in.")] = 60,
) -> None:
    """Print a link that signs in to the portal: good for five minutes, once.

    Without --scope they may read and buy.
    """
    scopes = [each.value for each in scope or (Scope.READ, Scope.BUY)]
    with told():
        url = asyncio.run(
            made_link(
                load_settings(),
                customer_id,
                scopes=scopes,
                ttl_seconds=ttl_minutes * 60,
                subject=subject,
            )
        )
    print(url)
