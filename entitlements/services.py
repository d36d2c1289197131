"""The composition root: one process's services, built from its settings and nothing else."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import or_, select
from sqlalchemy.exc import OperationalError, ProgrammingError
from sqlalchemy.ext.asyncio import AsyncSession

from entitlements.access.counting import UsageService
from entitlements.access.offering import Offering
from entitlements.access.overrides import OverrideService
from entitlements.access.refusals import Refusals
from entitlements.access.service import Access
from entitlements.access.signals import Signals
from entitlements.access.snapshots import Snapshots
from entitlements.access.streams import Streams
from entitlements.audit import ledger
from entitlements.billing.metering import Metering
from entitlements.billing.pace import Pace
from entitlements.billing.provider import StripeProvider
from entitlements.billing.reading import OurSide, TheirSide
from entitlements.billing.reconciler import Reconciler
from entitlements.billing.webhooks import Webhooks
from entitlements.catalog.service import CatalogService
from entitlements.finance.worth import Worth
from entitlements.kernel.clock import Clock, SettableClock, WallClock
from entitlements.kernel.errors import Conflict, Issue, ServiceError, ValidationFailed
from entitlements.kernel.period import add_months, format_instant, to_second
from entitlements.kernel.signing import Signer
from entitlements.notices.delivery import Deliveries
from entitlements.notices.sending import Sender
from entitlements.notices.service import Notices
from entitlements.settings import Settings
from entitlements.storage.engine import create_engine
from entitlements.storage.feed import ChangeFeed
from entitlements.storage.installation import installation, lock_installation
from entitlements.storage.unit_of_work import Database
from entitlements.subscriptions.alignment import Alignment
from entitlements.subscriptions.approval import Approvals
from entitlements.subscriptions.customers import CustomerService
from entitlements.subscriptions.due import Due
from entitlements.subscriptions.erasing import Erasing
from entitlements.subscriptions.history import History
from entitlements.subscriptions.migrations import Migrations
from entitlements.subscriptions.moving import Moving
from entitlements.subscriptions.paying import PayingService
from entitlements.subscriptions.quoting import Quoting
from entitlements.subscriptions.return_urls import ReturnUrls
from entitlements.subscriptions.service import Caller, ChangeService
from entitlements.subscriptions.settlement import Settlement
from entitlements.subscriptions.state import SubscriptionStatus, TrialStatus
from entitlements.subscriptions.sync import ProviderSync
from entitlements.subscriptions.tables import (
    ChangeRow,
    CustomerRow,
    MigrationRow,
    SubscriptionItemRow,
    SubscriptionRow,
    TrialRow,
)
from entitlements.subscriptions.trialing import Trials

CLOCK_YEARS_AT_MOST = 10
STEPS_AT_MOST = 1_000
FOLLOW_TRIES = 20
FOLLOW_PAUSE_SECONDS = 0.1


@dataclass(frozen=True)
class Services:
    """What the API, the worker and the commands are given."""

    settings: Settings
    database: Database
    feed: ChangeFeed
    clock: Clock
    signer: Signer
    catalog: CatalogService
    customers: CustomerService
    erasing: Erasing
    changes: ChangeService
    approvals: Approvals
    trials: Trials
    moving: Moving
    migrations: Migrations
    settlement: Settlement
    alignment: Alignment
    due: Due
    sync: ProviderSync
    paying: PayingService
    payments: StripeProvider
    webhooks: Webhooks
    notices: Notices
    deliveries: Deliveries
    reconciler: Reconciler
    access: Access
    usage: UsageService
    metering: Metering
    signals: Signals
    snapshots: Snapshots
    streams: Streams
    offering: Offering
    overrides: OverrideService
    refusals: Refusals
    sandbox_clock: "SandboxClock"

    async def close(self) -> None:
        await self.deliveries.close()
        await self.signals.close()
        self.streams.close()
        await self.usage.close()
        await self.feed.close()
        await self.payments.close()
        await self.database.close()


class SandboxClock:
    """The clock of a sandboxed service: moved by hand, together with the provider's test clock."""

    def __init__(self, settings: Settings, database: Database, clock: SettableClock | None) -> None:
        self.enabled = settings.sandbox
        self._database = database
        self.clock: Clock = WallClock()
        if settings.sandbox:
            self.clock = clock or SettableClock()
        self._payments: StripeProvider | None = None
        self._sync: ProviderSync | None = None
        self._due: Due | None = None
        self._alignment: Alignment | None = None
        self._trials: Trials | None = None
        self._moving: Moving | None = None
        self._metering: Metering | None = None

    def connect(
        self,
        payments: StripeProvider,
        sync: ProviderSync,
        due: Due,
        alignment: Alignment,
        trials: Trials,
        moving: Moving,
        metering: Metering,
    ) -> None:
        self._payments, self._sync = payments, sync
        self._due, self._alignment = due, alignment
        self._trials, self._moving, self._metering = trials, moving, metering

    async def load(self) -> None:
        """Go on where the clock was set last, by this process or another."""
        if isinstance(self.clock, SettableClock):
            async with self._database.read() as session:
                at = (await installation(session)).sandbox_now
            if at is not None and at > self.clock.now():
                self.clock.set(at)

    async def test_clock_id(self) -> str:
        """The provider's test clock that every sandboxed customer lives under, made once."""
        assert self._payments is not None
        async with self._database.read() as session:
            row = await installation(session)
        if row.test_clock_id is not None:
            return row.test_clock_id
        created = await self._payments.create_test_clock(to_second(self.clock.now()))
        async with self._database.write() as session:
            row = await lock_installation(session)
            row.test_clock_id = row.test_clock_id or created
            return row.test_clock_id

    async def advance(self, caller: Caller, to: datetime) -> datetime:
        """Move the time forward: everything that is due on the way happens, theirs and ours.

        Raises `Conflict` outside sandbox mode, `ValidationFailed` for going back or too far.
        """
        if not isinstance(self.clock, SettableClock):
            raise Conflict("only a sandbox's clock can be advanced", code="NOT_A_SANDBOX")
        now, to = self.clock.now(), to_second(to)
        if to < now or to > add_months(now, 12 * CLOCK_YEARS_AT_MOST):
            words = f"from {format_instant(now)} on, by at most {CLOCK_YEARS_AT_MOST} years"
            raise ValidationFailed([Issue(("to",), "OUT_OF_RANGE", words)])
        await self.pass_until(to, stays=True)
        async with self._database.write() as session:
            await lock_installation(session)
            await ledger.append(
                session,
                stream="sandbox",
                at=to,
                actor=caller.actor,
                action="sandbox.clock_advanced",
                object_type="sandbox",
                object_id="clock",
                after={"now": to},
            )
        return to

    async def pass_until(self, to: datetime, *, stays: bool) -> None:
        """Move both clocks, and let happen what is due on the way, theirs and ours, in order.

        `stays`: from now on the clock only moves by hand, also after a restart.
        """
        assert self._due is not None
        await self._move()
        for _ in range(STEPS_AT_MOST):
            at = await self._next_at(to)
            if at is None:
                break
            await self._step(max(at, self.clock.now()), stays=stays)
            if await self._due.next_at(at) is not None:  # a worker is at it, too
                await asyncio.sleep(FOLLOW_PAUSE_SECONDS)
        await self._step(to, stays=stays)

    async def _next_at(self, to: datetime) -> datetime | None:
        assert self._due is not None
        assert self._trials is not None
        assert self._moving is not None
        now = self.clock.now()
        instants = [
            await self._due.next_at(to),
            await self._trials.next_at(now, to),
            await self._moving.next_at(now, to),
        ]
        return min((at for at in instants if at is not None), default=None)

    async def _step(self, to: datetime, *, stays: bool) -> None:
        assert isinstance(self.clock, SettableClock)
        assert self._payments is not None
        assert self._due is not None
        assert self._trials is not None
        assert self._metering is not None
        await self._metering.report_all()  # in time for the invoices that are written on the way
        await self._payments.advance_clock(to)
        if stays:
            async with self._database.write() as session:
                (await lock_installation(session)).sandbox_now = to
        self.clock.set(to)
        await self._follow(to)
        for customer_id in await self._due.customers():
            await self._due.apply(customer_id)
        await self._trials.work()
        await self._move()

    async def _move(self) -> None:
        """What policies move from now on, and what the provider has still to be told."""
        assert self._moving is not None
        assert self._alignment is not None
        assert self._metering is not None
        while await self._moving.work():
            pass
        for subscription_id in await self._alignment.waiting():
            with contextlib.suppress(ServiceError):  # it is logged, and the worker tries again
                await self._alignment.align(subscription_id)
        while await self._metering.work():
            pass

    async def _follow(self, to: datetime) -> None:
        """Take over what the provider did meanwhile, without waiting for its webhooks."""
        assert self._sync is not None
        assert self._metering is not None
        renewed = set(await self._metering.customers_renewed(to))
        async with self._database.read() as session:
            renewed |= {
                provider_id
                for provider_id in await session.scalars(
                    select(CustomerRow.provider_id)
                    .join(SubscriptionRow, SubscriptionRow.customer_id == CustomerRow.id)
                    .where(
                        SubscriptionRow.status != SubscriptionStatus.CANCELED.value,
                        SubscriptionRow.provider_id.is_not(None),
                        or_(
                            SubscriptionRow.period_end <= to,
                            SubscriptionRow.status != SubscriptionStatus.ACTIVE.value,
                        ),
                    )
                    .distinct()
                )
                if provider_id is not None
            }
        for provider_id in sorted(renewed):
            for _ in range(FOLLOW_TRIES):
                with contextlib.suppress(Conflict):  # its webhooks may be at work on it, too
                    await self._sync.customer(provider_id)
                    break
                await asyncio.sleep(FOLLOW_PAUSE_SECONDS)


async def _held_versions(session: AsyncSession) -> set[str]:
    """Every package version that somebody holds, tries or is about to hold, as `pro@3`."""
    held = await session.execute(
        select(SubscriptionItemRow.package_id, SubscriptionItemRow.version).union(
            select(SubscriptionItemRow.package_id, SubscriptionItemRow.entitlements_version),
            select(MigrationRow.package_id, MigrationRow.to_version),
            select(TrialRow.package_id, TrialRow.version).where(
                TrialRow.status == TrialStatus.ACTIVE.value
            ),
        )
    )
    return {f"{package_id}@{version}" for package_id, version in held} | {
        f"{package_id}@{version}"
        for request in await session.scalars(
            select(ChangeRow.request).where(
                ChangeRow.status.in_(("pending", "scheduled")), ChangeRow.migration_id.is_(None)
            )
        )
        for package_id, version in request.get("versions", {}).items()
    }


async def build_services(settings: Settings, *, clock: SettableClock | None = None) -> Services:
    """Wire everything, and refuse to start on a database of the other mode.

    `clock` replaces a sandbox's, to make a past for it.
    """
    settings.check()
    database = Database(create_engine(settings.database_url))
    await _check_mode(database, settings)
    sandbox_clock = SandboxClock(settings, database, clock)
    await sandbox_clock.load()
    service_clock = sandbox_clock.clock
    signer = Signer(settings.signing_secrets)
    feed = ChangeFeed(database)
    catalog = _catalog_service(settings, database, service_clock, feed)
    api_key = settings.stripe_api_key.get_secret_value()
    payments = StripeProvider(
        database,
        api_key,
        settings.stripe_api_base,
        catalog.current,
        test_clock=sandbox_clock.test_clock_id if settings.sandbox else None,
        clock=service_clock,
    )
    return_urls = return_urls_of(settings)
    customers = CustomerService(
        database, catalog.current, service_clock, payments, sandbox=settings.sandbox
    )
    database.completing.append(History(catalog.current, service_clock).complete)
    snapshots = Snapshots(
        database, catalog, service_clock, feed, at_most=settings.snapshots_at_most
    )
    signals = Signals(database, service_clock)
    usage = UsageService(
        database, catalog.current, service_clock, customers, snapshots.get, signals
    )
    metering = Metering(database, catalog.current, service_clock, payments.meters, usage)
    quoting = Quoting(
        database,
        catalog.current,
        service_clock,
        signer,
        payments,
        usage.used_now,
        metering.report,
    )
    due = Due(database, catalog.current, service_clock)
    alignment = Alignment(database, catalog.current, service_clock, payments, due)
    settlement = Settlement(
        database,
        catalog.current,
        service_clock,
        payments,
        quoting,
        alignment,
        due,
        return_urls,
        metering.report,
    )
    sync = ProviderSync(database, catalog.current, service_clock, payments, settlement)
    approvals = Approvals(database, service_clock, quoting, settlement)
    changes = ChangeService(
        database,
        catalog.current,
        service_clock,
        payments,
        quoting,
        settlement,
        approvals,
        alignment,
        due,
        sync,
        return_urls,
    )
    trials = Trials(database, catalog.current, service_clock, changes, quoting, alignment)
    moving = Moving(database, catalog.current, catalog.policies, service_clock, quoting, changes)
    sandbox_clock.connect(payments, sync, due, alignment, trials, moving, metering)
    sender = Sender(sandbox=settings.sandbox)
    webhooks = Webhooks(
        database,
        service_clock,
        sync,
        payments.catalog_push,
        settings.stripe_webhook_secret.get_secret_value(),
        livemode=not settings.sandbox and "_live_" in api_key,
    )
    pace = Pace()
    feed.start()
    return Services(
        settings=settings,
        database=database,
        feed=feed,
        clock=service_clock,
        signer=signer,
        catalog=catalog,
        customers=customers,
        erasing=Erasing(database, service_clock, payments),
        changes=changes,
        approvals=approvals,
        trials=trials,
        moving=moving,
        migrations=Migrations(database, catalog.current, catalog.policies, service_clock),
        settlement=settlement,
        alignment=alignment,
        due=due,
        sync=sync,
        payments=payments,
        paying=PayingService(database, service_clock, payments, sync, return_urls),
        webhooks=webhooks,
        reconciler=Reconciler(
            database,
            service_clock,
            OurSide(database, catalog.current, metering),
            TheirSide(payments.client, payments.prices, pace),
            payments,
            settlement,
            alignment,
            sync,
            webhooks,
            metering,
            pace,
        ),
        usage=usage,
        metering=metering,
        notices=Notices(database, service_clock, signer, sender),
        deliveries=Deliveries(database, signer, sender),
        access=Access(catalog.current, service_clock, snapshots, usage.used, signals.heard),
        signals=signals,
        snapshots=snapshots,
        streams=Streams(snapshots, service_clock, settings.streams_at_most),
        offering=Offering(database, service_clock, snapshots, usage.used, quoting),
        overrides=OverrideService(database, catalog.current, service_clock),
        refusals=Refusals(database, service_clock),
        sandbox_clock=sandbox_clock,
    )


def _catalog_service(
    settings: Settings, database: Database, clock: Clock, feed: ChangeFeed
) -> CatalogService:
    return CatalogService(
        database,
        clock,
        feed,
        held_versions=_held_versions,
        require_second_approver=settings.require_second_approver,
        impact=Worth(database, clock).of_change,
    )


@asynccontextmanager
async def opened_catalog(settings: Settings) -> AsyncIterator[CatalogService]:
    """The catalog alone, for commands: asks for a database, and for no key of the provider."""
    async with _opened_catalog(settings) as (catalog, _, _):
        yield catalog


@asynccontextmanager
async def opened_migrations(settings: Settings) -> AsyncIterator[Migrations]:
    """Migrations alone, for commands, in the same way."""
    async with _opened_catalog(settings) as (catalog, database, clock):
        yield Migrations(database, catalog.current, catalog.policies, clock)


@asynccontextmanager
async def _opened_catalog(
    settings: Settings,
) -> AsyncIterator[tuple[CatalogService, Database, Clock]]:
    if not settings.database_url:
        raise ValidationFailed.of(
            "ENTITLEMENTS_DATABASE_URL", "MISSING", "a database URL is needed"
        )
    database = Database(create_engine(settings.database_url))
    try:
        await _check_mode(database, settings)
        sandbox_clock = SandboxClock(settings, database, None)
        await sandbox_clock.load()
        clock = sandbox_clock.clock
        yield _catalog_service(settings, database, clock, ChangeFeed(database)), database, clock
    finally:
        await database.close()


@asynccontextmanager
async def opened_services(
    settings: Settings, *, clock: SettableClock | None = None
) -> AsyncIterator[Services]:
    services = await build_services(settings, clock=clock)
    try:
        yield services
    finally:
        await services.close()


def return_urls_of(settings: Settings) -> ReturnUrls:
    """Those that are set, and our own pages, where `public_url` says where they are.

    In a sandbox any page of this machine will do, the sandbox's own where none is given.
    """
    own = (settings.public_url,) if settings.public_url else ()
    origins = (*settings.return_origins, *own)
    if settings.sandbox and not origins:
        origins = (settings.stripe_api_base.rstrip("/"),)
    return ReturnUrls(origins, loopback=settings.sandbox)


async def _check_mode(database: Database, settings: Settings) -> None:
    wanted = "sandbox" if settings.sandbox else "live"
    try:
        async with database.read() as session:
            mode = (await installation(session)).mode
    except (OperationalError, ProgrammingError) as error:
        await database.close()
        raise ValidationFailed.of(
            "ENTITLEMENTS_DATABASE_URL",
            "NOT_MIGRATED",
            "the database has no tables yet, or cannot be opened: run `entitlements migrate`",
        ) from error
    if mode != wanted:
        await database.close()
        raise ValidationFailed.of(
            "ENTITLEMENTS_SANDBOX",
            "OTHER_MODE",
            f"the database was made for a {mode} service, and this one is {wanted}",
        )
