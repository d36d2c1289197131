"""Everything on one machine without an account: the sandbox, the service, examples to play with.

All of it lives in one directory. Starting again goes on where it stopped.
"""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
import stripe
import uvicorn
from starlette.types import ASGIApp

from entitlements.audit.ledger import Actor
from entitlements.catalog import examples
from entitlements.catalog.document import read
from entitlements.kernel.clock import SettableClock, wall_now
from entitlements.kernel.errors import NotFound
from entitlements.kernel.ids import random_token
from entitlements.kernel.period import Interval, to_second
from entitlements.sandbox.app import create_app as create_sandbox
from entitlements.server import keys
from entitlements.server.app import create_app
from entitlements.server.migrations import migrate
from entitlements.server.portal.links import made_link
from entitlements.server.protocol import Protocol
from entitlements.server.tracing import traced_application
from entitlements.services import Services, opened_services
from entitlements.settings import Settings, load_settings
from entitlements.storage.engine import create_engine
from entitlements.subscriptions.change import Authority
from entitlements.subscriptions.request import ChangeRequest
from entitlements.subscriptions.service import Caller

SANDBOX_KEY = "sk_test_entitlements_demo"
SHUTDOWN_SECONDS = 3
LINK_SECONDS = 8 * 3600
"""How long who comes to the portal by the demo's link stays signed in."""
DEMO_ROLES = ("publishable", "service", "support", "pricing", "finance")
_DEMO = Caller(Actor("demo"), Authority.SERVICE)


class DemoState(msgspec.Struct, omit_defaults=True):
    """What one start leaves for the next, in `DIR/demo.json`, readable by its owner only."""

    admin_key: str
    sandbox_port: int = 0
    webhook_url: str = ""
    webhook_id: str = ""
    webhook_secret: str = ""
    keys: dict[str, str] = {}
    loaded: bool = False


class _StateFile:
    def __init__(self, directory: Path) -> None:
        self._path = directory / "demo.json"
        if self._path.exists():
            self.state = msgspec.json.decode(self._path.read_bytes(), type=DemoState)
        else:
            self.state = DemoState(admin_key=f"{keys.PREFIX}admin_{random_token(30)}")

    def save(self) -> None:
        """Written whole or not at all, whatever dies."""
        new = self._path.with_suffix(".new")
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(self.state)))
        new.replace(self._path)


class Server(uvicorn.Server):
    """A server beside another in one process, that leaves signals alone.

    uvicorn's own would raise them again at its end, in the midst of closing the other.
    """

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def listen(host: str, port: int) -> socket.socket:
    """A socket bound to the port, or to any free one if it is 0. `OSError` where it is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Said to be TCP, or asyncio leaves Nagle's algorithm on: each answer would wait 40 ms.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError:
        bound.close()
        raise
    return bound


def server_config(
    app: object, *, lifespan: str = "on", message_bytes: int = 100_000
) -> uvicorn.Config:
    """How every process of ours serves: no access log (it costs more than the answers)."""
    return uvicorn.Config(
        app,  # type: ignore[arg-type]
        loop="uvloop",
        http=Protocol,
        log_level="warning",
        access_log=False,
        lifespan=lifespan,  # type: ignore[arg-type]
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        ws_max_size=message_bytes,
    )


@asynccontextmanager
async def serving_sandbox(
    data_file: Path | None,
    bound: socket.socket,
    *,
    watch: Callable[[ASGIApp], ASGIApp] = lambda app: app,
) -> AsyncIterator[str]:
    """The sandbox, served on a bound socket while the block runs; its URL.

    `watch` may put something around the application that sees all that passes.
    """
    host, port = bound.getsockname()[:2]
    url = f"http://{host}:{port}"
    server = Server(server_config(watch(create_sandbox(data_file, public_url=url))))
    task = asyncio.create_task(server.serve(sockets=[bound]))
    while not server.started:
        if task.done():
            await task
        await asyncio.sleep(0.01)
    try:
        yield url
    finally:
        server.should_exit = True
        await task


async def run_demo(
    directory: Path,
    host: str,
    port: int,
    *,
    empty: bool,
    announce: Callable[[str, Settings, DemoState, str | None], None],
) -> None:
    """Serve the demo until it is told to stop."""
    directory.mkdir(parents=True, exist_ok=True)
    file = _StateFile(directory)
    bound = listen(host, port)
    url = f"http://{host}:{bound.getsockname()[1]}"
    async with contextlib.AsyncExitStack() as stack:
        api_base = load_settings().stripe_api_base
        if not api_base:
            sandbox_socket = _sandbox_socket(file.state.sandbox_port, bound.getsockname()[1])
            file.state.sandbox_port = sandbox_socket.getsockname()[1]
            sandbox = serving_sandbox(directory / "sandbox.db", sandbox_socket)
            api_base = await stack.enter_async_context(sandbox)
        await _register_webhook(file.state, api_base, f"{url}/webhooks/stripe")
        file.save()
        settings = _settings(directory, file.state, api_base)
        engine = create_engine(settings.database_url)
        await migrate(engine, mode="sandbox")
        await engine.dispose()
        async with opened_services(settings) as services:
            await services.settlement.release_leases()
            await _make_keys(services, file)
        linked = settings.model_copy(update={"public_url": settings.public_url or url})
        if not empty and not file.state.loaded:
            await _load_examples(settings)
            file.state.loaded = True
            file.save()
        app = traced_application(create_app(lambda: opened_services(settings), inbox_only=False))
        server = Server(server_config(app, message_bytes=settings.request_bytes_at_most))
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, server.handle_exit, number, None)
        portal_url = await _link(linked) if file.state.loaded else None
        announcing = asyncio.create_task(
            _when_started(server, lambda: announce(url, linked, file.state, portal_url))
        )
        await server.serve(sockets=[bound])
        announcing.cancel()


async def _when_started(server: uvicorn.Server, announce: Callable[[], None]) -> None:
    while not server.started:
        await asyncio.sleep(0.01)
    announce()


async def _link(settings: Settings) -> str | None:
    """Into the portal as the example customer; None where there is none any more."""
    with contextlib.suppress(NotFound):
        return await made_link(
            settings, "acme", scopes=("read", "buy"), ttl_seconds=LINK_SECONDS, subject=None
        )
    return None


def _sandbox_socket(last_port: int, port: int) -> socket.socket:
    """Where it was before, else beside the service, else anywhere."""
    for wanted in (last_port, port + 1):
        if 0 < wanted < 65536:
            with contextlib.suppress(OSError):
                return listen("127.0.0.1", wanted)
    return listen("127.0.0.1", 0)


def _settings(directory: Path, state: DemoState, api_base: str) -> Settings:
    """The environment's, with what a demo needs where it says nothing."""
    given = load_settings()
    defaults = {
        "database_url": f"sqlite+aiosqlite:///{(directory / 'entitlements.db').resolve()}",
        "stripe_api_key": SANDBOX_KEY,
        "admin_key": state.admin_key,
    }
    wanted = {
        name: value for name, value in defaults.items() if not _text(getattr(given, name))
    } | {
        "stripe_api_base": api_base,
        "stripe_webhook_secret": state.webhook_secret,
        "sandbox": True,
    }
    return load_settings(**wanted)


def _text(value: object) -> str:
    reveal = getattr(value, "get_secret_value", None)
    return str(reveal() if reveal else value)


async def _register_webhook(state: DemoState, api_base: str, url: str) -> None:
    """One endpoint at the sandbox for this service, whose secret only the two know."""
    http_client = stripe.HTTPXClient(timeout=10, allow_sync_methods=False)
    client = stripe.StripeClient(
        SANDBOX_KEY, base_addresses={"api": api_base}, http_client=http_client
    )
    endpoints = client.v1.webhook_endpoints
    there = {e.id for e in (await endpoints.list_async({"limit": 100})).data}
    if state.webhook_id not in there:
        created = await endpoints.create_async({"url": url, "enabled_events": ["*"]})
        assert created.secret is not None
        state.webhook_id, state.webhook_secret = created.id, created.secret
    elif state.webhook_url != url:
        await endpoints.update_async(state.webhook_id, {"url": url})
    state.webhook_url = url
    await http_client.close_async()  # type: ignore[no-untyped-call]


async def _make_keys(services: Services, file: _StateFile) -> None:
    """A key a role, to try the API with."""
    for role in DEMO_ROLES:
        if role not in file.state.keys:
            _, key = await keys.create(
                services.database, _DEMO.actor, role=role, name=f"demo-{role}"
            )
            file.state.keys[role] = key
            file.save()


# ── examples ─────────────────────────────────────────────────────────────────


async def _load_examples(settings: Settings) -> None:
    """The example catalog with a past, and three customers at different points of their life.

    The clock runs through the last seven weeks while they are made, and is the wall's afterwards.
    """
    now = to_second(wall_now())
    clock = SettableClock(now - timedelta(days=50))
    async with opened_services(settings, clock=clock) as services:
        await _publish(services, "workspace-2025", "The prices of 2025")
        await _customer(services, "legacy-labs", "Legacy Labs", "professional")
        await _at(services, now - timedelta(days=25))
        await _publish(services, "workspace", "Prices and limits of 2026")
        await _at(services, now - timedelta(days=12))
        await _customer(services, "acme", "Acme", "starter")
        await _at(services, now - timedelta(days=8))
        await services.changes.purchase_add_on(
            _DEMO, "acme", "advanced-analytics", quantity=1, max_due_now_minor=None, key="demo"
        )
        await _at(services, now)
        await services.customers.create_customer(
            _DEMO, "new-co", name="New Co", sandbox_payment_method="pm_card_visa"
        )


async def _publish(services: Services, name: str, reason: str) -> None:
    document = read(examples.text(name)).document
    proposal = await services.catalog.propose(Actor("demo:pricing"), document, reason)
    await services.catalog.approve(Actor("demo:finance"), proposal.id, "For the demo")


async def _customer(services: Services, customer_id: str, name: str, plan_id: str) -> None:
    await services.customers.create_customer(
        _DEMO, customer_id, name=name, sandbox_payment_method="pm_card_visa"
    )
    quote = await services.changes.preview(
        _DEMO, customer_id, ChangeRequest(plan_id=plan_id, interval=Interval.MONTH)
    )
    await services.changes.commit(_DEMO, quote.token, "demo")


async def _at(services: Services, at: datetime) -> None:
    """Let the time pass, at the provider too."""
    assert isinstance(services.clock, SettableClock)
    await services.sandbox_clock.pass_until(at, stays=False)
