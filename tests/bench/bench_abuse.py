"""What an ordinary client notices while others ask for too much: `entitlements serve`, one process.

The ordinary client checks access with a back end's key, one request after another. Beside it others
send what is refused, as fast as four connections do, or connect ten thousand times and say nothing.
`make bench` prints it, and writes it to the README.
"""

import asyncio
import contextlib
import json
import os
import resource
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
from rich.console import Console
from rich.table import Table

from entitlements.server.demo import DemoState
from tests.bench.readme import write_table

out = Console(width=110)

SECONDS = 6.0
ABUSERS = 4
SILENT = 10_000
CHECK = '{ access(customerId: "acme", featureId: "sso") { allowed reason } }'
P99_MS_AT_MOST = 250.0
"""What is promised, with room for a slow machine that all of them share."""

Beside = Callable[[str, str, asyncio.Event, Counter[str]], Awaitable[None]]
"""What others do at a URL with a key until the event, counting what they were answered."""


async def main() -> int:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    silent = min(SILENT, most - 500)
    rows: list[tuple[str, ...]] = []
    slowest = 0.0
    with tempfile.TemporaryDirectory() as name:
        async with demo(Path(name)) as (url, key, pid):
            for what, abuse in (
                ("nothing", None),
                ("documents of 200 kB", posting(lambda n: "{ viewer { role } } #" + "x" * 200_000)),
                ("depth 100, each another", posting(_deep)),
                ("1,000 aliases, each another", posting(_aliases)),
                (f"{silent:,} silent connections", silence(silent)),
            ):
                latencies, answers = await beside(url, key, abuse)
                p99 = statistics.quantiles(latencies, n=100)[98]
                slowest = max(slowest, p99)
                told = ", ".join(f"{count:,} × {told}" for told, count in answers.most_common(2))
                mb = _resident_mb(pid)
                figures = (
                    f"{len(latencies):,}",
                    f"{statistics.median(latencies):.1f}",
                    f"{p99:.1f}",
                )
                rows.append((what, *figures, f"{mb:.0f}", told or "–"))
    headings = ("beside", "checks", "median, ms", "p99, ms", "memory, MB", "answered")
    table = Table(*headings, title="An ordinary client")
    for row in rows:
        table.add_row(*row)
    out.print(table)
    write_table("abuse", headings, rows)
    return 0 if slowest <= P99_MS_AT_MOST else 1


def _deep(number: int) -> str:
    return f"query d{number} " + "{ catalog " * 100 + "}" * 100


def _aliases(number: int) -> str:
    return (
        f"query a{number} {{ " + " ".join(f"r{n}: viewer {{ role }}" for n in range(1_000)) + " }"
    )


@asynccontextmanager
async def demo(data: Path) -> AsyncIterator[tuple[str, str, int]]:
    """The demo's URL, a back end's key, and its process."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "entitlements", "demo", "--port", "0", "--data", str(data),
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout
        url = ""
        while "Ctrl-C" not in (line := (await process.stdout.readline()).decode()):
            assert line, "it ended"
            if line.startswith("GraphQL"):
                url = line.split()[1].removesuffix("/graphql")
        state = DemoState(**json.loads((data / "demo.json").read_text()))
        yield url, state.keys["service"], process.pid
    finally:
        process.terminate()
        await process.wait()


async def beside(url: str, key: str, abuse: Beside | None) -> tuple[list[float], Counter[str]]:
    """The ordinary client's latencies in milliseconds, and what the others were answered."""
    stop, answers = asyncio.Event(), Counter[str]()
    abusing = asyncio.create_task(abuse(url, key, stop, answers)) if abuse else None
    latencies: list[float] = []
    async with httpx.AsyncClient(base_url=url, timeout=30) as client:
        began = time.monotonic()
        while time.monotonic() < began + SECONDS:
            asked = time.perf_counter()
            answer = await client.post("/graphql", json={"query": CHECK}, headers=_bearer(key))
            latencies.append((time.perf_counter() - asked) * 1000)
            assert answer.json()["data"]["access"] is not None
            await asyncio.sleep(0.002)
    stop.set()
    if abusing:
        await abusing
    return latencies, answers


def posting(document: Callable[[int], str]) -> Beside:
    """A few connections that post one document after another."""

    async def abuse(url: str, key: str, stop: asyncio.Event, answers: Counter[str]) -> None:
        async def post(first: int) -> None:
            async with httpx.AsyncClient(base_url=url, timeout=30) as client:
                number = first
                while not stop.is_set():
                    number += ABUSERS
                    body = {"query": document(number)}
                    try:
                        answer = await client.post("/graphql", json=body, headers=_bearer(key))
                        [error] = answer.json()["errors"]
                        answers[f"{answer.status_code} {error['extensions']['code']}"] += 1
                    except httpx.HTTPError as error:
                        answers[type(error).__name__] += 1

        await asyncio.gather(*(post(first) for first in range(ABUSERS)))

    return abuse


def silence(connections: int) -> Beside:
    """Connections that say nothing, until they are closed."""

    async def abuse(url: str, key: str, stop: asyncio.Event, answers: Counter[str]) -> None:
        host, _, port = url.removeprefix("http://").partition(":")
        writers: list[asyncio.StreamWriter] = []
        for _ in range(connections):
            if stop.is_set():
                break
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection(host, int(port))
                writers.append(writer)
        answers["held open"] = sum(not writer.transport.is_closing() for writer in writers)
        await stop.wait()
        for writer in writers:
            writer.close()

    return abuse


def _bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def _resident_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
