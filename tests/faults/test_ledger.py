"""Somebody who owns the database tampers with the ledger: it is found, and named."""

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import text

from entitlements.audit import ledger, seals
from entitlements.audit.ledger import Actor
from entitlements.audit.seals import Seal, Verification
from entitlements.kernel.clock import wall_now
from entitlements.kernel.signing import Signer
from entitlements.storage.engine import create_engine
from entitlements.storage.unit_of_work import Database
from tests.conftest import ADMIN_KEY, on_sqlite

SIGNER = Signer(["a secret that is not in the database"])


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    opened = Database(create_engine(database_url))
    yield opened
    await opened.close()


async def append(database: Database, stream: str = "catalog") -> None:
    async with database.write() as session:
        await ledger.append(
            session, stream=stream, at=wall_now(), actor=Actor("test"), action="tried",
            object_type="thing", object_id="1", after={"amount": "1.50"}, reason="=1+1",
        )  # fmt: skip


async def sealed(database: Database) -> Seal:
    async with database.write() as session:
        newest, is_new = await seals.seal(session, SIGNER)
    assert newest is not None
    assert is_new
    return newest


async def tamper(database: Database, *statements: str) -> None:
    async with database.write() as session:
        for table in ("audit_entry", "audit_seal"):
            if database.is_postgresql:
                await session.execute(text(f"DROP TRIGGER {table}_append_only ON {table}"))
            else:
                for operation in ("update", "delete"):
                    await session.execute(text(f"DROP TRIGGER {table}_no_{operation}"))
        for statement in statements:
            await session.execute(text(statement))


async def verify(
    database: Database, signer: Signer = SIGNER, kept: tuple[Seal, ...] = ()
) -> Verification:
    async with database.read(streaming=True) as session:
        return await seals.verify(session, signer, kept=kept)


@pytest.mark.parametrize(
    ("tampering", "broken"),
    [
        ("UPDATE audit_entry SET actor = 'nobody' WHERE sequence = 2", 2),
        ("DELETE FROM audit_entry WHERE sequence = 2", 3),
    ],
)
async def test_an_entry_that_was_changed_or_taken_out_is_found_and_named(
    database: Database, tampering: str, broken: int
) -> None:
    for _ in range(4):
        await append(database)
    assert await verify(database) == Verification(ok=True, entries=4)
    await tamper(database, tampering)
    found = await verify(database)
    assert not found.ok
    assert found.first_broken is not None
    assert found.first_broken.sequence == broken


async def test_the_loss_of_the_newest_entries_is_found_by_their_seal(database: Database) -> None:
    await append(database, "customer:acme")
    await append(database, "customer:bolt")
    await sealed(database)
    await append(database, "customer:acme")
    await sealed(database)
    assert (await verify(database)).seals == 2
    await tamper(database, "DELETE FROM audit_entry WHERE sequence = 2")
    assert (await verify(database)).problem == "customer:acme 2 was sealed and is missing"


async def test_a_chain_that_was_written_anew_is_found_by_its_seal(database: Database) -> None:
    await append(database)
    await sealed(database)
    await tamper(database, "DELETE FROM audit_entry")
    await append(database)
    found = await verify(database)
    assert found.problem == "catalog 1 is not what seal 1 sealed"
    assert found.first_broken is not None


async def test_a_seal_cannot_be_made_without_the_key(database: Database) -> None:
    await append(database)
    await sealed(database)
    assert (await verify(database, Signer(["another secret"]))).problem == (
        "seal 1 is not one of ours, or was altered"
    )
    rotated = Signer(["a newer secret", "a secret that is not in the database"])
    assert (await verify(database, rotated)).ok


async def test_an_end_that_was_cut_off_with_its_seal_is_found_by_one_kept_elsewhere(
    database: Database,
) -> None:
    await append(database)
    first = await sealed(database)
    await append(database)
    second = await sealed(database)
    await tamper(
        database,
        "DELETE FROM audit_entry WHERE sequence = 2",
        "DELETE FROM audit_seal WHERE sequence = 2",
    )
    assert (await verify(database)).ok
    assert (await verify(database, kept=(first,))).ok
    assert (await verify(database, kept=(first, second))).problem == (
        "seal 2 was kept and is missing: the end was cut off"
    )
    forged = msgspec.structs.replace(first, heads_digest="0" * 64)
    assert (await verify(database, kept=(forged,))).problem == (
        "seal 1 is not the one that was kept"
    )


async def test_nothing_is_sealed_twice(database: Database) -> None:
    await append(database)
    first = await sealed(database)
    async with database.write() as session:
        assert await seals.seal(session, SIGNER) == (first, False)
        assert not await seals.is_due(session)


@on_sqlite
async def test_the_commands_seal_verify_and_export(database_url: str, tmp_path: Path) -> None:
    database = Database(create_engine(database_url))
    await append(database)
    await append(database)
    await database.close()
    environment = os.environ | {
        "ENTITLEMENTS_DATABASE_URL": database_url,
        "ENTITLEMENTS_STRIPE_API_KEY": "sk_test_x",
        "ENTITLEMENTS_STRIPE_API_BASE": "http://127.0.0.1:9",
        "ENTITLEMENTS_ADMIN_KEY": ADMIN_KEY,
        "ENTITLEMENTS_SANDBOX": "true",
    }

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "entitlements", "audit", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    kept = tmp_path / "seals.jsonl"
    kept.write_text(run("seal", "--print").stdout)
    proved = run("verify", "--seal", str(kept))
    assert proved.returncode == 0, proved.stderr
    assert "consistent: 2 entries, 1 seal(s), unaltered up to" in proved.stdout
    assert run("verify", "--stream", "nope").returncode == 2
    exported = run("export", "--format", "csv").stdout.splitlines()
    assert len(exported) == 3
    assert "'=1+1" in exported[1]
    lines = run("export", "--action", "tried").stdout.splitlines()
    assert [msgspec.json.decode(line)["sequence"] for line in lines] == [1, 2]
