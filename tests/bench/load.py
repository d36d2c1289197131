"""Servers on the first core, wrk on the second, and what wrk saw."""

import asyncio
import contextlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import httpx

from entitlements.server.demo import listen

SECONDS = 2
STARTS_WITHIN_SECONDS = 120


class Seen(NamedTuple):
    """Requests a second, and milliseconds."""

    per_second: float
    p50_ms: float
    p99_ms: float


def missing(*programs: str) -> list[str]:
    return [name for name in programs if shutil.which(name) is None]


@asynccontextmanager
async def running(
    *command: str, path: str = "/graphql", cores: str = "0", **environment: str
) -> AsyncIterator[str]:
    """A server; `{port}` in its command becomes a free one."""
    with listen("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        *("taskset", "-c", cores),
        *(part.replace("{port}", str(port)) for part in command),
        env=os.environ | environment,
        stdout=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        async with httpx.AsyncClient() as client, asyncio.timeout(STARTS_WITHIN_SECONDS):
            while True:
                with contextlib.suppress(httpx.TransportError):
                    await client.post(f"{url}{path}", json={})
                    break
                await asyncio.sleep(0.05)
        yield url
    finally:
        process.terminate()
        await process.wait()


async def wrk(
    url: str, bearer: str, body: dict[str, Any] | str, *, connections: int, seconds: int = SECONDS
) -> Seen:
    """Send a body again and again; a text is a Lua function `request` that makes each one."""
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {bearer}"}
    lines = ['wrk.method = "POST"']
    lines += [f'wrk.headers["{name}"] = "{value}"' for name, value in headers.items()]
    lines.append(body if isinstance(body, str) else f"wrk.body = [==[{json.dumps(body)}]==]")
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write("\n".join(lines))
        script.flush()
        process = await asyncio.create_subprocess_exec(
            *(
                "taskset",
                "-c",
                "1",
                "wrk",
                "-t1",
                f"-c{connections}",
                f"-d{seconds}s",
                "--timeout",
                "30s",
            ),
            *("--latency", "-s", script.name, url),
            stdout=subprocess.PIPE,
        )
        said = (await process.communicate())[0].decode()
    if "Non-2xx" in said or "Socket errors" in said:
        raise RuntimeError(said)
    per_second = re.search(r"Requests/sec:\s+([\d.]+)", said)
    assert per_second is not None, said
    return Seen(float(per_second[1]), _ms(said, "50%"), _ms(said, "99%"))


def _ms(said: str, quantile: str) -> float:
    found = re.search(rf"{quantile}\s+([\d.]+)(us|ms|s)\s*\n", said)
    assert found is not None, said
    return float(found[1]) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[found[2]]


class Promise(NamedTuple):
    """A row of a table: what was found, and what it may not fall short of."""

    what: str
    found: float
    wanted: float
    below: bool = False
    unit: str = ""

    @property
    def kept(self) -> bool:
        return self.found <= self.wanted if self.below else self.found >= self.wanted

    @property
    def cells(self) -> list[str]:
        sign = "≤" if self.below else "≥"
        return [
            self.what,
            f"{self.found:.3g}{self.unit}",
            f"{sign} {self.wanted:.3g}{self.unit}",
            "yes" if self.kept else f"no: {self._short:.0%} short",
        ]

    @property
    def _short(self) -> float:
        return self.found / self.wanted - 1 if self.below else 1 - self.found / self.wanted
