"""Commands that run something: `demo`, `serve`, `worker`, `sandbox`, and `migrate`."""

import asyncio
import shlex
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
import uvicorn
from rich.console import Console

from entitlements.cli.terminal import out, told
from entitlements.sandbox.app import create_app as create_sandbox
from entitlements.server import demo as demos
from entitlements.server.migrations import migrate as run_migrations
from entitlements.server.migrations import refuse_if_behind
from entitlements.server.oidc import issuer_of
from entitlements.server.protocol import Protocol
from entitlements.server.tracing import tracing
from entitlements.services import opened_services
from entitlements.settings import Settings, load_settings
from entitlements.storage.engine import create_engine
from entitlements.worker import work, work_once

Host = Annotated[str, typer.Option(help="The address to listen on.")]
Port = Annotated[int, typer.Option(help="The port to listen on; 0 takes any free one.")]


def demo(
    host: Host = "127.0.0.1",
    port: Port = 8000,
    data: Annotated[Path, typer.Option(help="Where every file of the demo is kept.")] = Path("var"),
    empty: Annotated[bool, typer.Option(help="Without the example catalog and customers.")] = False,
) -> None:
    """Serve everything on this machine, with a sandbox instead of Stripe."""
    with told():
        asyncio.run(demos.run_demo(data, host, port, empty=empty, announce=_announce(empty=empty)))


def _announce(*, empty: bool) -> Callable[[str, Settings, demos.DemoState, str | None], None]:
    def announce(
        url: str, settings: Settings, state: demos.DemoState, portal_url: str | None
    ) -> None:
        admin_key = settings.admin_key.get_secret_value()
        rows = {
            "GraphQL": f"{url}/graphql",
            "Sandbox": settings.stripe_api_base,
            "Portal": portal_url or f"{url}/portal",
            "Console": f"{url}/console",
            "admin key": admin_key,
        }
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
            f"    -H 'Content-Type: application/json' -d '{query}'\n\n"
            "The portal's link is good for five minutes, once. Another one:\n"
            f"  {_another_link(settings)}\n\nCtrl-C stops it."
        )
        sys.stdout.flush()

    return announce


def _another_link(settings: Settings) -> str:
    """The command that makes one for the running demo."""
    secrets = [key.get_secret_value() for key in settings.signing_keys]
    signing = {"SIGNING_KEYS": ",".join(secrets)} if secrets else {}
    environment = {
        "DATABASE_URL": settings.database_url,
        "PUBLIC_URL": settings.public_url,
        **(signing or {"ADMIN_KEY": settings.admin_key.get_secret_value()}),
    }
    given = " ".join(f"ENTITLEMENTS_{k}={shlex.quote(v)}" for k, v in environment.items())
    started = Path(sys.argv[0])
    command = started if started.name == "entitlements" else f"{sys.executable} -m entitlements"
    return f"{given} {command} portal link acme"


def serve(
    host: Host = "127.0.0.1",
    port: Port = 8000,
    workers: Annotated[int, typer.Option(min=1, help="How many processes.")] = 1,
) -> None:
    """Serve the API. Settings come from ENTITLEMENTS_… variables."""
    with told():
        settings = load_settings()
        settings.check()
        issuer_of(settings)
        asyncio.run(_can_start())
    uvicorn.run(
        "entitlements.server.app:app_from_environment",
        factory=True,
        host=host,
        port=port,
        workers=workers,
        loop="uvloop",
        http=Protocol,
        log_level="warning",
        access_log=False,
        lifespan="on",
        timeout_keep_alive=75,  # longer than a load balancer's 60, which else asks as one closes
        timeout_graceful_shutdown=30,
        timeout_worker_healthcheck=60,  # a start takes seconds; SIGHUP waits for it
        ws_max_size=settings.request_bytes_at_most,
    )


async def _can_start() -> None:
    """Open and close everything once, so that a wrong setting is said in words."""
    async with opened_services(load_settings()) as services:
        await refuse_if_behind(services.database.engine)


def worker(
    once: Annotated[bool, typer.Option(help="Do what is due now, and end: for cron.")] = False,
) -> None:
    """Do what is due: webhooks, changes whose process died, notices. Any number may run."""
    with told(), tracing():
        asyncio.run(_work(once=once))


async def _work(*, once: bool) -> None:
    async with opened_services(load_settings()) as services:
        await refuse_if_behind(services.database.engine)
        if once:
            while await work_once(services):
                await services.deliveries.finished()
            return
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        await work(services, stop)


def migrate() -> None:
    """Bring the database to the newest shape. The first time stamps it sandbox or live."""
    with told():
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


def sandbox(
    host: Host = "127.0.0.1",
    port: Port = 8001,
    data: Annotated[
        Path | None, typer.Option(help="Where it keeps its file; without it nothing is kept.")
    ] = None,
) -> None:
    """Serve a local Stripe. Point the SDK at it with ENTITLEMENTS_STRIPE_API_BASE."""
    with told():
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
