"""`entitlements audit`: the ledger."""

from typing import Annotated

import typer

from entitlements.audit import ledger
from entitlements.cli.terminal import FOUND_SOMETHING, err, out, with_services
from entitlements.services import Services

app = typer.Typer(help="Verify the ledger.", no_args_is_help=True)


@app.command("verify")
def audit_verify(
    stream: Annotated[str | None, typer.Option(help="Only this stream.")] = None,
) -> None:
    """Prove every chain of the ledger, or name the first entry that does not add up."""

    async def verify(services: Services) -> ledger.Verification:
        async with services.database.read() as session:
            return await ledger.verify(session, stream)

    found = with_services(verify)
    if found.ok:
        out.print(f"consistent: {found.entries} entries")
        return
    broken = found.first_broken
    assert broken is not None
    err.print(f"[red]broken[/] at {broken.stream} {broken.sequence} ({broken.id})")
    raise typer.Exit(FOUND_SOMETHING)
