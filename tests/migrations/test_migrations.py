"""The database's shape is what the code declares, on the way up and down; the ledger only grows."""

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from entitlements.audit import ledger, seals
from entitlements.audit.ledger import Actor
from entitlements.kernel.clock import wall_now
from entitlements.kernel.errors import ValidationFailed
from entitlements.kernel.signing import Signer
from entitlements.server.migrations import differences, is_at_head, migrate, refuse_if_behind
from entitlements.services import build_services
from entitlements.settings import load_settings
from entitlements.storage.engine import create_engine
from entitlements.storage.unit_of_work import Database


async def test_up_down_and_up_again_ends_at_the_declared_tables(database_url: str) -> None:
    engine = create_engine(database_url)
    assert await is_at_head(engine)
    assert await differences(engine) == []
    await refuse_if_behind(engine)
    await migrate(engine, mode="sandbox", revision="-1")
    with pytest.raises(ValidationFailed, match="run `entitlements migrate`"):
        await refuse_if_behind(engine)
    await migrate(engine, mode="sandbox", revision="base")
    assert not await is_at_head(engine)
    await migrate(engine, mode="sandbox")
    assert await is_at_head(engine)
    assert await differences(engine) == []
    await engine.dispose()


async def test_a_service_refuses_a_database_of_the_other_mode(database_url: str) -> None:
    settings = load_settings(
        database_url=database_url, stripe_api_key="rk_test_x", admin_key="x" * 20, sandbox=False
    )
    with pytest.raises(ValidationFailed, match="made for a sandbox service"):
        await build_services(settings)
    engine = create_engine(database_url)
    with pytest.raises(ValidationFailed, match="made for a sandbox service"):
        await migrate(engine, mode="live")
    await engine.dispose()


async def _append(database: Database) -> None:
    async with database.write() as session:
        await ledger.append(
            session, stream="catalog", at=wall_now(), actor=Actor("test"), action="tried",
            object_type="thing", object_id="1", after={"amount": "1.50"},
        )  # fmt: skip


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_entry SET actor = 'nobody'",
        "DELETE FROM audit_entry",
        "UPDATE audit_seal SET kid = ''",
        "DELETE FROM audit_seal",
    ],
)
async def test_the_database_itself_refuses_to_change_the_ledger(
    database_url: str, statement: str
) -> None:
    database = Database(create_engine(database_url))
    await _append(database)
    async with database.write() as session:
        await seals.seal(session, Signer(["a secret"]))
    with pytest.raises(DBAPIError, match="append-only"):
        async with database.write() as session:
            await session.execute(text(statement))
    await database.close()
