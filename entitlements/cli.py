"""The operator's commands: `entitlements --help` lists them."""

import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import typer
import uvicorn
from rich.console import Console
from rich.table import Table

from entitlements.audit import ledger
from entitlements.audit.ledger import Actor
from entitlements.catalog import document, schema
from entitlements.catalog.advice import warnings
from entitlements.kernel.errors import Issue, ServiceError, ValidationFailed
from entitlements.kernel.period import parse_instant
from entitlements.sandbox.app import create_app as create_sandbox
from entitlements.server import demo as demos
from entitlements.server import keys as api_keys
from entitlements.server.logging import configure_logging
from entitlements.server.migrations import migrate as run_migrations
from entitlements.services import Services, opened_services
from entitlements.settings import load_settings
from entitlements.storage.engine import create_engine
from entitlements.worker import work, work_once

app = typer.Typer(
    help="Pricing, packaging and entitlements: serve the API, operate it, publish catalogs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
catalog_app = typer.Typer(help="Check, compare and publish catalog files.", no_args_is_help=True)
keys_app = typer.Typer(help="Make, list and revoke API keys.", no_args_is_help=True)
audit_app = typer.Typer(help="Verify the ledger.", no_args_is_help=True)
app.add_typer(catalog_app, name="catalog")
app.add_typer(keys_app, name="keys")
app.add_typer(audit_app, name="audit")

out = Console()
err = Console(stderr=True)

Host = Annotated[str, typer.Option(help="The address to listen on.")]
Port = Annotated[int, typer.Option(help="The port to listen on; 0 takes any free one.")]

T = TypeVar("T")

FOUND_SOMETHING = 1
COULD_NOT_RUN = 2


def main() -> None:
    configure_logging()
    app()


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Say what is wrong in words, and exit with 2."""
    try:
        yield
    except ServiceError as error:
        _fail(error)
    except OSError as error:
        err.print(f"[red]error[/]: {error}")
        raise typer.Exit(COULD_NOT_RUN) from error


def _fail(error: ServiceError) -> NoReturn:
    issues = error.issues if isinstance(error, ValidationFailed) else ()
    for issue in issues:
        where = ".".join(issue.path)
        err.print(f"[red]{issue.code}[/] {where}: {issue.message}", highlight=False)
    if not issues:
        err.print(f"[red]{error.code}[/]: {error.message}", highlight=False)
    raise typer.Exit(COULD_NOT_RUN)


# ── running ──────────────────────────────────────────────────────────────────


@app.command()
def demo(
    host: Host = "127.0.0.1",
    port: Port = 8000,
    data: Annotated[Path, typer.Option(help="Where every file of the demo is kept.")] = Path("var"),
    empty: Annotated[bool, typer.Option(help="Without the example catalog and customers.")] = False,
) -> None:
    """Serve everything on this machine, with a sandbox instead of Stripe."""
    with _told():
        asyncio.run(demos.run_demo(data, host, port, empty=empty, announce=_announce(empty=empty)))


def _announce(*, empty: bool) -> Callable[[str, str, demos.DemoState], None]:
    def announce(url: str, sandbox_url: str, state: demos.DemoState) -> None:
        settings = load_settings()
        admin_key = settings.admin_key.get_secret_value() or state.admin_key
        rows = {"GraphQL": f"{url}/graphql", "Sandbox": sandbox_url, "admin key": admin_key}
        rows |= {f"{role} key": key for role, key in state.keys.items()}
        plain = Console(soft_wrap=True, highlight=False)
        for name, value in rows.items():
            plain.print(f"{name:16} {value}")
        query = (
            '{"query": "{ catalog { revision } }"}'
            if empty
            else '{"query": "{ access(customerId: \\"acme\\", featureId: \\"dashboards\\") '
            '{ allowed reason } }"}'
        )
        plain.print(
            f"\nTry it:\n  curl -s {url}/graphql -H 'Authorization: Bearer {admin_key}' \\\n"
            f"    -H 'Content-Type: application/json' -d '{query}'\n\nCtrl-C stops it."
        )
        sys.stdout.flush()

    return announce


@app.command()
def serve(
    host: Host = "127.0.0.1",
    port: Port = 8000,
    workers: Annotated[int, typer.Option(min=1, help="How many processes.")] = 1,
) -> None:
    """Serve the API. Settings come from ENTITLEMENTS_… variables."""
    with _told():
        load_settings().check()
        asyncio.run(_can_start())
    uvicorn.run(
        "entitlements.server.app:app_from_environment",
        factory=True,
        host=host,
        port=port,
        workers=workers,
        loop="uvloop",
        http="httptools",
        log_level="warning",
        access_log=False,
        lifespan="on",
        timeout_graceful_shutdown=30,
    )


async def _can_start() -> None:
    """Open and close everything once, so that a wrong setting is said in words."""
    async with opened_services(load_settings()):
        pass


@app.command()
def worker(
    once: Annotated[bool, typer.Option(help="Do what is due now, and end: for cron.")] = False,
) -> None:
    """Do what is due: webhooks, changes whose process died. Any number may run."""
    with _told():
        asyncio.run(_work(once=once))


async def _work(*, once: bool) -> None:
    async with opened_services(load_settings()) as services:
        if once:
            while await work_once(services):
                pass
            return
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        await work(services, stop)


@app.command()
def migrate() -> None:
    """Bring the database to the newest shape. The first time stamps it sandbox or live."""
    with _told():
        settings = load_settings()
        settings.check()
        asyncio.run(_migrate(settings.database_url, sandbox=settings.sandbox))
        out.print("The database is up to date.")


async def _migrate(url: str, *, sandbox: bool) -> None:
    engine = create_engine(url)
    try:
        await run_migrations(engine, mode="sandbox" if sandbox else "live")
    finally:
        await engine.dispose()


@app.command()
def sandbox(
    host: Host = "127.0.0.1",
    port: Port = 8001,
    data: Annotated[
        Path | None, typer.Option(help="Where it keeps its file; without it nothing is kept.")
    ] = None,
) -> None:
    """Serve a local Stripe. Point the SDK at it with ENTITLEMENTS_STRIPE_API_BASE."""
    with _told():
        asyncio.run(_serve_sandbox(host, port, data))


async def _serve_sandbox(host: str, port: int, data: Path | None) -> None:
    if data is not None:
        data.mkdir(parents=True, exist_ok=True)
    bound = demos.listen(host, port)
    url = f"http://{host}:{bound.getsockname()[1]}"
    sandbox_app = create_sandbox(data / "sandbox.db" if data else None, public_url=url)
    out.print(f"The sandbox listens on {url}; any sk_test_… key will do.", soft_wrap=True)
    sys.stdout.flush()
    await uvicorn.Server(demos.server_config(sandbox_app)).serve(sockets=[bound])


# ── catalog ──────────────────────────────────────────────────────────────────

CatalogFile = Annotated[
    Path, typer.Argument(exists=True, dir_okay=False, readable=True, help="YAML or JSON.")
]


@catalog_app.command("schema")
def catalog_schema() -> None:
    """Print the JSON Schema of the catalog file: editors complete it."""
    print(json.dumps(schema.json_schema(), indent=2))


@catalog_app.command("check")
def catalog_check(file: CatalogFile) -> None:
    """List every mistake of a catalog file, with its line; warn of what is odd."""
    draft = _read_catalog(file)[1]
    for warning in warnings(draft):
        out.print(f"[yellow]warning[/] {'.'.join(warning.path)}: {warning.message}", soft_wrap=True)
    packages = len(draft.packages)
    out.print(f"{file}: {len(draft.products)} products, {packages} packages, no mistakes.")


def _read_catalog(file: Path) -> tuple[Any, document.Draft]:
    """The document and its draft; every mistake is listed and ends the command with 1."""
    try:
        source = document.read(file.read_text(encoding="utf-8"))
    except ValidationFailed as error:
        _list_mistakes(file, [(None, issue) for issue in error.issues])
    try:
        return source.document, document.parse(source.document)
    except ValidationFailed as error:
        _list_mistakes(file, [(source.line(issue.path), issue) for issue in error.issues])


def _list_mistakes(file: Path, mistakes: list[tuple[int | None, Issue]]) -> NoReturn:
    for line, issue in mistakes:
        where = f"{file}:{line}" if line else str(file)
        path = ".".join(issue.path)
        err.print(
            f"{where}: [red]{issue.code}[/] {path}: {issue.message}",
            highlight=False,
            soft_wrap=True,
        )
    err.print(f"{len(mistakes)} mistakes.")
    raise typer.Exit(FOUND_SOMETHING)


# ── keys ─────────────────────────────────────────────────────────────────────


def _with_services(do: Callable[[Services], Awaitable[T]]) -> T:
    async def run() -> T:
        async with opened_services(load_settings()) as services:
            return await do(services)

    try:
        return asyncio.run(run())
    except ServiceError as error:
        _fail(error)


@keys_app.command("create")
def keys_create(
    role: Annotated[str, typer.Option(help=f"One of {', '.join(api_keys.ROLES)}.")],
    name: Annotated[str, typer.Option(help="Who or what it is for; the ledger shows it.")],
    expires: Annotated[str | None, typer.Option(help="When it ends: 2027-01-01T00:00:00Z.")] = None,
) -> None:
    """Make an API key. It is printed this once, as the last word."""
    expires_at = _instant(expires) if expires else None
    row, key = _with_services(
        lambda services: api_keys.create(
            services.database, Actor("cli"), role=role, name=name, expires_at=expires_at
        )
    )
    print(f"{row.id} {row.role} {row.name}: {key}")


def _instant(text: str) -> datetime:
    try:
        return parse_instant(text)
    except ValueError:
        raise typer.BadParameter("write RFC 3339, such as 2027-01-01T00:00:00Z") from None


@keys_app.command("list")
def keys_list() -> None:
    """List the keys, without the keys."""
    rows = _with_services(lambda services: api_keys.every(services.database))
    table = Table("id", "role", "name", "created", "expires", "revoked")
    for row in rows:
        times = (row.created_at, row.expires_at, row.revoked_at)
        table.add_row(
            row.id, row.role, row.name, *(f"{t:%Y-%m-%d %H:%M}" if t else "" for t in times)
        )
    out.print(table)


@keys_app.command("revoke")
def keys_revoke(id: Annotated[str, typer.Argument(help="The key's id, `key_…`.")]) -> None:
    """Make a key useless, at once."""
    row = _with_services(lambda services: api_keys.revoke(services.database, Actor("cli"), id))
    out.print(f"{row.id} ({row.name}) is revoked.")


# ── audit ────────────────────────────────────────────────────────────────────


@audit_app.command("verify")
def audit_verify(
    stream: Annotated[str | None, typer.Option(help="Only this stream.")] = None,
) -> None:
    """Prove every chain of the ledger, or name the first entry that does not add up."""

    async def verify(services: Services) -> ledger.Verification:
        async with services.database.read() as session:
            return await ledger.verify(session, stream)

    found = _with_services(verify)
    if found.ok:
        out.print(f"consistent: {found.entries} entries")
        return
    broken = found.first_broken
    assert broken is not None
    err.print(f"[red]broken[/] at {broken.stream} {broken.sequence} ({broken.id})")
    raise typer.Exit(FOUND_SOMETHING)
