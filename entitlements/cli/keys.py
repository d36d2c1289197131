"""`entitlements keys`: API keys."""

from typing import Annotated

import typer
from rich.table import Column, Table

from entitlements.audit.ledger import Actor
from entitlements.cli.terminal import instant, out, with_services
from entitlements.server import keys as api_keys

app = typer.Typer(help="Make, list and revoke API keys.", no_args_is_help=True)


@app.command("create")
def keys_create(
    role: Annotated[str, typer.Option(help=f"One of {', '.join(api_keys.ROLES)}.")],
    name: Annotated[str, typer.Option(help="Who or what it is for; the ledger shows it.")],
    expires: Annotated[str | None, typer.Option(help="When it ends: 2027-01-01T00:00:00Z.")] = None,
) -> None:
    """Make an API key. It is printed this once, as the last word."""
    expires_at = instant(expires) if expires else None
    row, key = with_services(
        lambda services: api_keys.create(
            services.database, Actor("cli"), role=role, name=name, expires_at=expires_at
        )
    )
    print(f"{row.id} {row.role} {row.name}: {key}")


@app.command("list")
def keys_list() -> None:
    """List the keys, without the keys."""
    rows = with_services(lambda services: api_keys.every(services.database))
    whole = Column("id", min_width=max((len(row.id) for row in rows), default=0))
    table = Table(whole, "role", "name", "created", "expires", "revoked")
    for row in rows:
        times = (row.created_at, row.expires_at, row.revoked_at)
        table.add_row(
            row.id, row.role, row.name, *(f"{t:%Y-%m-%d %H:%M}" if t else "" for t in times)
        )
    out.print(table)


@app.command("revoke")
def keys_revoke(id: Annotated[str, typer.Argument(help="The key's id, `key_…`.")]) -> None:
    """Make a key useless, at once."""
    row = with_services(lambda services: api_keys.revoke(services.database, Actor("cli"), id))
    out.print(f"{row.id} ({row.name}) is revoked.")
