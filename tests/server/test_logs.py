"""A fault of ours is logged so that it can be found, and shows nobody's secrets."""

import contextlib
import os
import pty
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import httpx
import pytest

from entitlements.server.demo import listen
from tests.conftest import ADMIN_KEY
from tests.events import WEBHOOK_SECRET, signed

STARTS_WITHIN_SECONDS = 90
KEY = "ent_service_c0ffee"
CUSTOMER = "marigold"
BROKEN = ("customer", "api_key", "webhook_event", "audit_entry")
"""Tables that are gone: whatever asks them ends in an error that nobody expected."""


@contextmanager
def collected(log: list[str], *, terminal: bool) -> Iterator[int]:
    """A file descriptor for what a process writes, and what came through it afterwards."""
    read_end, write_end = pty.openpty() if terminal else os.pipe()

    def collect() -> None:
        with contextlib.suppress(OSError):  # how a terminal says that its other side is closed
            while piece := os.read(read_end, 65536):
                log.append(piece.decode())

    reader = Thread(target=collect)
    reader.start()
    try:
        yield write_end
    finally:
        os.close(write_end)
        reader.join()
        os.close(read_end)


@pytest.fixture
def environment(sqlite_template: Path, tmp_path: Path) -> dict[str, str]:
    path = tmp_path / "entitlements.db"
    shutil.copy(sqlite_template, path)
    with contextlib.closing(sqlite3.connect(path)) as database:
        for table in BROKEN:
            database.execute(f"DROP TABLE {table}")
        database.commit()
    return os.environ | {
        "ENTITLEMENTS_DATABASE_URL": f"sqlite+aiosqlite:///{path}",
        "ENTITLEMENTS_STRIPE_API_KEY": "sk_test_for_tests",
        "ENTITLEMENTS_STRIPE_API_BASE": "http://127.0.0.1:9",
        "ENTITLEMENTS_STRIPE_WEBHOOK_SECRET": WEBHOOK_SECRET,
        "ENTITLEMENTS_ADMIN_KEY": ADMIN_KEY,
        "ENTITLEMENTS_SANDBOX": "true",
    }


@pytest.mark.parametrize(
    ("terminal", "workers"), [(False, 2), (True, 1)], ids=["piped", "on a terminal"]
)
def test_an_internal_error_is_logged_without_what_the_request_carried(
    environment: dict[str, str], *, terminal: bool, workers: int
) -> None:
    with contextlib.closing(listen("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    about = f'{{"object": "invoice", "customer": "{CUSTOMER}"}}'
    payload = f'{{"id": "evt_1", "type": "x", "livemode": false, "data": {{"object": {about}}}}}'
    headers = signed(payload)
    signature = headers["Stripe-Signature"]
    pieces: list[str] = []
    with collected(pieces, terminal=terminal) as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "entitlements", "serve",
             "--port", str(port), "--workers", str(workers)],
            env=environment, stdout=output, stderr=output,
        )  # fmt: skip
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
                _until_ready(client, pieces)
                query = {"query": f'{{ customer(id: "{CUSTOMER}") {{ id }} }}'}
                answers = [
                    client.post("/graphql", json=query, headers=_bearer(ADMIN_KEY)),
                    client.post("/graphql", json=query, headers=_bearer(KEY)),
                    client.post("/webhooks/stripe", content=payload, headers=headers),
                ]
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)
        command = [sys.executable, "-m", "entitlements", "audit", "verify", "--stream", CUSTOMER]
        subprocess.run(command, env=environment, stdout=output, stderr=output)

    log = _unframed("".join(pieces))
    *of_graphql, of_webhook = answers
    for answer in of_graphql:
        [error] = answer.json()["errors"]
        assert error["message"] == "something went wrong on our side"
        assert error["extensions"].keys() == {"code", "requestId"}
        assert error["extensions"]["code"] == "INTERNAL"
        assert error["extensions"]["requestId"] in log
    problem = of_webhook.json()
    assert problem["detail"] == "something went wrong on our side"
    assert problem.keys() == {"type", "title", "status", "detail", "code", "requestId"}
    assert problem["code"] == "INTERNAL"
    assert problem["requestId"] in log
    assert [answer.status_code for answer in answers] == [200, 500, 500]
    for expected in ("internal_error", *(f"nosuchtable:{table}" for table in BROKEN)):
        assert expected in log
    for secret in (ADMIN_KEY, KEY, CUSTOMER, WEBHOOK_SECRET, signature, signature[-64:]):
        assert secret not in log
    assert "locals" not in log


def _bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def _unframed(log: str) -> str:
    """Without colours, frames and line breaks, which could hide a value by cutting it in two."""
    return re.sub(r"\x1b\[[0-9;]*m|[\s│╭╮╰╯─]", "", log)


def _until_ready(client: httpx.Client, log: list[str]) -> None:
    for _ in range(STARTS_WITHIN_SECONDS * 20):
        with contextlib.suppress(httpx.HTTPError):
            if client.get("/readyz").status_code == 200:
                return
        time.sleep(0.05)
    raise TimeoutError("it did not start: " + "".join(log)[-5000:])
