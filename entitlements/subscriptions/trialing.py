"""Trials asked for, made longer, bought, given up; and what time does to those that are ours.

What begins or ends a trial is a change like any other (`service`): stored before the provider is
called, once per key. A plan's trial ends at the provider; `sync` follows. The end of one of ours is
due data with an instant: the worker buys what is to be bought, once, and settles the rest.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta

import structlog
from sqlalchemy import func, select

from entitlements.audit.ledger import Actor
from entitlements.catalog.model import Catalog
from entitlements.kernel.clock import Clock
from entitlements.kernel.errors import (
    Conflict,
    Issue,
    NotFound,
    PaymentProviderUnavailable,
    QuoteStale,
    ServiceError,
    TrialNotAvailable,
    ValidationFailed,
)
from entitlements.kernel.period import Interval
from entitlements.kernel.tracing import traced
from entitlements.notices import outbox
from entitlements.notices.events import Event
from entitlements.storage.unit_of_work import Database
from entitlements.subscriptions.alignment import Alignment
from entitlements.subscriptions.change import Authority
from entitlements.subscriptions.queue import in_effect
from entitlements.subscriptions.quote import Quote
from entitlements.subscriptions.quoting import Quoting
from entitlements.subscriptions.records import (
    load_state,
    locked_customer,
    move_queue,
    raise_future,
    refuse_while_unsettled,
)
from entitlements.subscriptions.request import (
    REASON_LENGTH_AT_MOST,
    ChangeRequest,
    TrialRequest,
)
from entitlements.subscriptions.service import Caller, ChangeService
from entitlements.subscriptions.settlement import Committed
from entitlements.subscriptions.state import CustomerState, Trial, TrialStatus
from entitlements.subscriptions.tables import ChangeRow, CustomerRow, SubscriptionRow, TrialRow
from entitlements.subscriptions.trials import (
    conversion_request,
    converts_at_end,
    giving_up_request,
)
from entitlements.subscriptions.tried import end_trial, extended

CRITERIA_AT_MOST = 20
CRITERION_LENGTH_AT_MOST = 500
EXTENSION_DAYS_AT_MOST = 30
TRIAL_DAYS_AT_MOST = 90
"""How long a trial may come to be by being extended."""

NOTICE = timedelta(days=3)
RETRY_CODES = frozenset({"CHANGE_IN_PROGRESS", "RENEWAL_IN_PROGRESS", "CHANGED_MEANWHILE"})
"""Of a conversion at a trial's end: another try will do."""

SYSTEM = Caller(Actor("system"), Authority.STAFF)

log = structlog.get_logger()


class Trials:
    def __init__(
        self,
        database: Database,
        catalog: Callable[[], Awaitable[Catalog]],
        clock: Clock,
        changes: ChangeService,
        quoting: Quoting,
        alignment: Alignment,
    ) -> None:
        self._database = database
        self._catalog = catalog
        self._clock = clock
        self._changes = changes
        self._quoting = quoting
        self._alignment = alignment

    # ── asked for ────────────────────────────────────────────────────────────

    async def start(
        self,
        caller: Caller,
        customer_id: str,
        package_id: str,
        key: str,
        *,
        interval: Interval | None = None,
        quantities: Mapping[str, int] | None = None,
        success_criteria: Sequence[str] = (),
        again: bool = False,
        reason: str | None = None,
        return_url: str | None = None,
    ) -> Committed:
        """Begin a trial, once per key. `interval` and `quantities` are what it converts at.

        Raises `ValidationFailed` with every mistake, by the paths of `StartTrialInput`, and
        `TrialNotAvailable`. Without the card that it needs it waits for one: see the change.
        """
        if issues := _start_issues(success_criteria, again, reason, caller.authority):
            raise ValidationFailed(issues)
        tried = TrialRequest(
            package_id=package_id, success_criteria=tuple(success_criteria), again=again
        )
        request = ChangeRequest(
            interval=interval, quantities=quantities or {}, reason=reason, trial=tried
        )

        async def quoted() -> Quote:
            return await self._quoting.quote(customer_id, request, caller.authority)

        try:
            return await self._changes.do(
                caller, customer_id, "startTrial", key, request, quoted, return_url=return_url
            )
        except QuoteStale as error:
            raise Conflict(error.message, code="CHANGED_MEANWHILE") from error

    async def convert(
        self,
        caller: Caller,
        trial_id: str,
        key: str,
        *,
        return_url: str | None = None,
        bound_to: str | None = None,
    ) -> Committed:
        """Buy what is tried, now, on the terms of its start. What fails leaves the trial as it was.

        `Conflict` `TRIAL_OVER` where it is not running any more.
        """
        trial = await self._found(trial_id, bound_to)

        async def quoted() -> Quote:
            row, state = await self._quoting.loaded(trial.customer_id)
            return await self._quote_conversion(row, state, trial_id)

        return await self._changes.do(
            caller, trial.customer_id, "convertTrial", key, trial_id, quoted, return_url=return_url
        )

    async def conversion(self, customer_id: str, trial_id: str) -> Quote | None:
        """What converting now would do; None where it cannot be done now."""
        row, state = await self._quoting.loaded(customer_id)
        try:
            return await self._quote_conversion(row, state, trial_id)
        except (Conflict, ValidationFailed):
            return None

    async def _quote_conversion(
        self, row: CustomerRow, state: CustomerState, trial_id: str, *, by_itself: bool = False
    ) -> Quote:
        catalog = await self._catalog()
        trial = next(t for t in state.trials if t.id == trial_id)
        if not by_itself:
            then = in_effect(catalog, state, self._clock.now())
            now = next(t for t in then.trials if t.id == trial_id)
            if not now.active:
                raise Conflict(f"the trial is {now.status}", code="TRIAL_OVER")
        request = conversion_request(catalog, trial, by_itself=by_itself)
        return await self._quoting.quote_state(row, state, request, Authority.STAFF)

    async def cancel(self, caller: Caller, trial_id: str, *, bound_to: str | None = None) -> str:
        """Give a trial up now; the customer's id. Of one that is given up already nothing changes.

        A plan's ends its subscription with it, at once and without an invoice; what joined one goes
        alone.
        """
        found = await self._found(trial_id, bound_to)
        if found.status == TrialStatus.CANCELED.value:
            return found.customer_id
        row, trial = await self._running(found)
        if trial.with_subscription:
            await self._give_up_held(caller, row.id, trial)
            return row.id
        now = self._clock.now()
        async with self._database.write() as session:
            row = await locked_customer(session, found.customer_id)
            await refuse_while_unsettled(session, row.id)
            stored = await session.get_one(TrialRow, trial_id, with_for_update=True)
            if stored.status == TrialStatus.ACTIVE.value:
                row.revision += 1
                await end_trial(session, now, row, stored, TrialStatus.CANCELED, actor=caller.actor)
        return row.id

    async def _give_up_held(self, caller: Caller, customer_id: str, trial: Trial) -> None:
        """What is held on trial goes: the subscription of a plan, or only what joined it."""
        request = giving_up_request(await self._catalog(), trial)

        async def quoted() -> Quote:
            return await self._quoting.quote(customer_id, request, Authority.STAFF)

        # Whoever repeats it gets the answer of the first try, unless that one failed.
        failed = select(func.count()).where(
            ChangeRow.customer_id == customer_id,
            ChangeRow.mutation == "cancelTrial",
            ChangeRow.idempotency_key.startswith(f"{trial.id}:", autoescape=True),
            ChangeRow.status == "failed",
        )
        async with self._database.read() as session:
            key = f"{trial.id}:{await session.scalar(failed)}"
        await self._changes.do(caller, customer_id, "cancelTrial", key, trial.id, quoted)

    async def extend(self, caller: Caller, trial_id: str, days: int, reason: str) -> str:
        """Let a trial end `days` later; the customer's id. Who may is for the caller to know.

        A plan's is stored first, together with all that is tried in it, and the provider is told at
        once or by the worker (`alignment`).
        """
        found = await self._found(trial_id, None)
        if issues := _extension_issues(days, reason):
            raise ValidationFailed(issues)
        row, trial = await self._running(found)
        ends_at = trial.ends_at + timedelta(days=days)
        if ends_at > trial.started_at + timedelta(days=TRIAL_DAYS_AT_MOST):
            words = f"a trial lasts {TRIAL_DAYS_AT_MOST} days at most"
            raise ValidationFailed.of("days", "TOO_LONG", words)
        now = self._clock.now()
        async with self._database.write() as session:
            row = await locked_customer(session, row.id)
            await refuse_while_unsettled(session, row.id)
            together = TrialRow.id == trial_id
            if trial.with_subscription:
                together = (TrialRow.subscription_id == trial.subscription_id) & (
                    TrialRow.with_subscription
                )
            rows = (
                await session.scalars(
                    select(TrialRow).where(together, TrialRow.status == TrialStatus.ACTIVE.value)
                )
            ).all()
            if trial_id not in {each.id for each in rows}:
                raise TrialNotAvailable("the trial is over", code="TRIAL_OVER")
            row.revision += 1
            for each in rows:
                await extended(session, now, row, each, ends_at, actor=caller.actor, reason=reason)
            if trial.with_subscription:
                subscription = await session.get_one(SubscriptionRow, trial.subscription_id)
                if subscription.cancel_at is not None:
                    subscription.cancel_at = ends_at
                subscription.trial_ends_at = ends_at
                subscription.period_end = subscription.anchor = ends_at
                await move_queue(session, subscription)
                raise_future(subscription)
        if trial.with_subscription:
            try:
                await self._alignment.align(trial.subscription_id)
            except ServiceError as error:  # it is stored: the worker tells the provider
                log.warning("provider_not_told_trial", trial=trial_id, code=error.code)
        return row.id

    async def _running(self, found: TrialRow) -> tuple[CustomerRow, Trial]:
        """A trial as it is now; `TrialNotAvailable` `TRIAL_OVER` where it does not run."""
        row, state = await self._quoting.loaded(found.customer_id)
        then = in_effect(await self._catalog(), state, self._clock.now())
        trial = next(t for t in then.trials if t.id == found.id)
        if not trial.active or trial.ends_at <= self._clock.now():
            raise TrialNotAvailable(f"the trial is over: {trial.status}", code="TRIAL_OVER")
        return row, trial

    async def _found(self, trial_id: str, bound_to: str | None) -> TrialRow:
        async with self._database.read() as session:
            trial = await session.get(TrialRow, trial_id)
        if trial is None or bound_to not in (None, trial.customer_id):
            raise NotFound("trial", trial_id)
        return trial

    async def started_by(self, change_id: str) -> str | None:
        """The trial that a change began: of what it asked for, not of what joined it."""
        query = (
            select(TrialRow.id)
            .where(TrialRow.change_id == change_id)
            .order_by(TrialRow.id)
            .limit(1)
        )
        async with self._database.read() as session:
            return await session.scalar(query)

    # ── due ──────────────────────────────────────────────────────────────────

    async def next_at(self, after: datetime, until: datetime) -> datetime | None:
        """When a trial ends next, or is told to, later than one instant and by another."""
        active = TrialRow.status == TrialStatus.ACTIVE.value
        async with self._database.read() as session:
            ends_at = await session.scalar(
                select(func.min(TrialRow.ends_at)).where(
                    active, TrialRow.ends_at > after, TrialRow.ends_at <= until
                )
            )
            untold = await session.scalar(
                select(func.min(TrialRow.ends_at)).where(
                    active,
                    TrialRow.notice_given_at.is_(None),
                    TrialRow.ends_at > after + NOTICE,
                    TrialRow.ends_at <= until + NOTICE,
                )
            )
        instants = [ends_at, untold - NOTICE if untold is not None else None]
        return min((at for at in instants if at is not None), default=None)

    async def work(self, limit: int = 100) -> int:
        """Tell of trials that end soon, and end those of ours that are over; how many it were."""
        now = self._clock.now()
        active = (
            select(TrialRow.id)
            .where(TrialRow.status == TrialStatus.ACTIVE.value)
            .order_by(TrialRow.ends_at, TrialRow.id)
            .limit(limit)
        )
        soon = active.where(
            TrialRow.notice_given_at.is_(None),
            TrialRow.ends_at > now,
            TrialRow.ends_at <= now + NOTICE,
        )
        over = active.where(TrialRow.ends_at <= now, TrialRow.with_subscription.is_(False))
        async with self._database.read() as session:
            ending = (await session.scalars(soon)).all()
            ended = (await session.scalars(over)).all()
        done = 0
        for trial_id in ending:
            done += await self._tell(trial_id, now)
        for trial_id in ended:
            done += await self._end(trial_id, now)
        return done

    @traced("trials.tell")
    async def _tell(self, trial_id: str, now: datetime) -> bool:
        async with self._database.write() as session:
            trial = await session.get_one(TrialRow, trial_id)
            row = await locked_customer(session, trial.customer_id)
            await session.refresh(trial)
            active = trial.status == TrialStatus.ACTIVE.value
            if not active or trial.notice_given_at is not None:
                return False
            trial.notice_given_at = now
            await outbox.append(
                session, Event.TRIAL_ENDING, now, row.id, row.revision, trialId=trial.id
            )
        return True

    @traced("trials.end")
    async def _end(self, trial_id: str, now: datetime) -> bool:
        """Buy what is to be bought by itself; what is not, or cannot be, has expired."""
        async with self._database.read() as session:
            found = await session.get_one(TrialRow, trial_id)
            row = await session.get_one(CustomerRow, found.customer_id)
            state = await load_state(session, row)
        trial = next(t for t in state.trials if t.id == trial_id)
        then = in_effect(await self._catalog(), state, now)
        if converts_at_end(then, trial):
            try:
                change = await self._convert_by_itself(row.id, trial)
                if change.status == "awaiting_payment":  # the bank asks for the customer
                    return False
            except PaymentProviderUnavailable:
                return False
            except ServiceError as error:
                if error.code in RETRY_CODES or isinstance(error, QuoteStale):
                    return False
                log.warning("trial_not_converted", trial=trial_id, code=error.code)
        async with self._database.write() as session:
            row = await locked_customer(session, found.customer_id)
            stored = await session.get_one(TrialRow, trial_id, with_for_update=True)
            if stored.status == TrialStatus.ACTIVE.value and stored.ends_at <= now:
                row.revision += 1
                await end_trial(session, now, row, stored, TrialStatus.EXPIRED)
        return True

    async def _convert_by_itself(self, customer_id: str, trial: Trial) -> ChangeRow:
        async def quoted() -> Quote:
            row, state = await self._quoting.loaded(customer_id)
            return await self._quote_conversion(row, state, trial.id, by_itself=True)

        key = f"{trial.id}:{int(trial.ends_at.timestamp())}"
        done = await self._changes.do(SYSTEM, customer_id, "trialEnd", key, trial.id, quoted)
        async with self._database.read() as session:
            return await session.get_one(ChangeRow, done.change_id)


def _start_issues(
    criteria: Sequence[str], again: bool, reason: str | None, authority: Authority
) -> list[Issue]:
    issues = []
    if len(criteria) > CRITERIA_AT_MOST:
        words = f"at most {CRITERIA_AT_MOST} criteria"
        issues.append(Issue(("successCriteria",), "TOO_MANY", words))
    for index, criterion in enumerate(criteria[:CRITERIA_AT_MOST]):
        if not criterion.strip() or len(criterion) > CRITERION_LENGTH_AT_MOST:
            words = f"a criterion has 1 to {CRITERION_LENGTH_AT_MOST} characters"
            issues.append(Issue(("successCriteria", str(index)), "LENGTH", words))
    if again and authority is not Authority.STAFF:
        words = "only staff lets somebody try again"
        issues.append(Issue(("allowAgain",), "NOT_YOURS_TO_CHOOSE", words))
    elif again and not (reason or "").strip():
        words = "trying again needs a reason"
        issues.append(Issue(("reason",), "REASON_REQUIRED", words))
    if reason is not None and len(reason) > REASON_LENGTH_AT_MOST:
        words = f"a reason has at most {REASON_LENGTH_AT_MOST} characters"
        issues.append(Issue(("reason",), "LENGTH", words))
    return issues


def _extension_issues(days: int, reason: str) -> list[Issue]:
    issues = []
    if not 1 <= days <= EXTENSION_DAYS_AT_MOST:
        words = f"from 1 to {EXTENSION_DAYS_AT_MOST} days at a time"
        issues.append(Issue(("days",), "OUT_OF_RANGE", words))
    if not reason.strip():
        issues.append(Issue(("reason",), "REASON_REQUIRED", "say why: finance will read it"))
    elif len(reason) > REASON_LENGTH_AT_MOST:
        words = f"a reason has at most {REASON_LENGTH_AT_MOST} characters"
        issues.append(Issue(("reason",), "LENGTH", words))
    return issues
