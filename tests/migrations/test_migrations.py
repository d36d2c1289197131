"""The database's shape is what the code declares, on the way up and down; the ledger only grows."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import inspect, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from entitlements.audit import ledger, seals
from entitlements.audit.ledger import Actor
from entitlements.finance.movements import mrr_movements
from entitlements.kernel.clock import wall_now
from entitlements.kernel.errors import ValidationFailed
from entitlements.kernel.money import Money
from entitlements.kernel.period import Period
from entitlements.kernel.signing import Signer
from entitlements.pricing.mrr import MrrMovements
from entitlements.server.migrations import differences, is_at_head, migrate, refuse_if_behind
from entitlements.services import build_services
from entitlements.settings import load_settings
from entitlements.storage.engine import create_engine
from entitlements.storage.unit_of_work import Database
from entitlements.subscriptions.history import record_movements
from entitlements.subscriptions.state import CustomerState
from entitlements.subscriptions.tables import CustomerRevisionRow, CustomerRow

BEGIN = datetime(2026, 3, 1, tzinfo=UTC)


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


async def _held(session: AsyncSession) -> None:
    """A customer who came to hold something."""
    now = wall_now()
    session.add(CustomerRow(id="acme", sequence="1", currency="usd", created_at=now, revision=1))
    await session.flush()
    state = CustomerState(id="acme", currency="usd", revision=1)
    session.add(CustomerRevisionRow(customer_id="acme", revision=1, at=now, state={}))
    await record_movements(session, state, {("sub", "pro", "pro"): 100}, now)


async def _has_table(engine: AsyncEngine, name: str) -> bool:
    async with engine.connect() as connection:
        return await connection.run_sync(lambda there: inspect(there).has_table(name))


async def test_what_the_ledger_says_of_the_mrr_is_taken_over(database_url: str) -> None:
    engine = create_engine(database_url)
    database = Database(engine)
    async with database.write() as session:
        await _held(session)
        for n, minor in enumerate((1000, 500, -1500, 2000)):
            await ledger.append(
                session, stream="customer:acme", at=BEGIN + timedelta(days=n), actor=Actor("test"),
                action="change.applied", object_type="change", object_id="chg_1",
                mrr_delta=Money(minor, "usd"),
            )  # fmt: skip
    while await _has_table(engine, "mrr_movement"):
        await migrate(engine, mode="sandbox", revision="-1")
    await migrate(engine, mode="sandbox")
    async with database.read(streaming=True) as session:
        period = Period(BEGIN, BEGIN + timedelta(days=9))
        found = await mrr_movements(session, period, "usd")
    await engine.dispose()
    assert found == MrrMovements(
        new_minor=1000, expansion_minor=500, churn_minor=1500, reactivation_minor=2000
    )
    assert found.closing_minor == 2000


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_entry SET actor = 'nobody'",
        "DELETE FROM audit_entry",
        "UPDATE audit_seal SET kid = ''",
        "DELETE FROM audit_seal",
        "UPDATE customer_revision SET state = '{}'",
        "DELETE FROM mrr_movement",
    ],
)
async def test_the_database_itself_refuses_to_change_the_ledger(
    database_url: str, statement: str
) -> None:
    database = Database(create_engine(database_url))
    await _append(database)
    async with database.write() as session:
        await seals.seal(session, Signer(["a secret"]))
        await _held(session)
    with pytest.raises(DBAPIError, match="append-only"):
        async with database.write() as session:
            await session.execute(text(statement))
    await database.close()
