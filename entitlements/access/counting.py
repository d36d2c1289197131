"""Counting use: `consume` and `setLevel` one at a time and once per key, events in batches.

What is in the counters is read by checks (`used`) and by the change engine (`used_now`).
"""

import hashlib
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Any, NamedTuple

import msgspec
from prometheus_client import Counter
from sqlalchemy.ext.asyncio import AsyncSession

from entitlements.access import counters
from entitlements.access.batches import Batches
from entitlements.access.counters import (
    BILLED_APART,
    CALENDAR_COUNTERS_KEPT,
    COUNTERS_KEPT,
    EVENTS_LATE_AT_MOST,
    Count,
    CounterKey,
    Event,
)
from entitlements.access.service import Answer, Check
from entitlements.access.signals import Signals
from entitlements.access.snapshots import Known
from entitlements.access.swaps import Swaps
from entitlements.access.usage import (
    COUNT_AT_MOST,
    QUANTITY_AT_MOST,
    Cycle,
    Window,
    billed_apart,
    billed_buckets,
    bound_of,
    cycle_of,
    decide_consumed,
    decide_level,
    is_level,
    is_sum,
    products_of_features,
    window_of,
)
from entitlements.catalog.model import (
    Catalog,
    EntitlementValue,
    Feature,
    FeatureKind,
    GrantMode,
    ResetPeriod,
)
from entitlements.grants.decide import Decision, DenialReason, decide
from entitlements.grants.merge import Grants
from entitlements.grants.sources import GrantSource, GrantSourceKind
from entitlements.kernel.clock import Clock
from entitlements.kernel.errors import (
    IdempotencyConflict,
    NotFound,
    ServiceError,
    ValidationFailed,
)
from entitlements.kernel.lru import Lru
from entitlements.kernel.period import Interval, Period
from entitlements.storage.unit_of_work import Database
from entitlements.subscriptions.customers import CustomerService
from entitlements.subscriptions.queue import in_effect
from entitlements.subscriptions.state import CustomerState
from entitlements.subscriptions.violations import Used

EVENTS_AT_ONCE = 1000
EVENTS_EARLY_AT_MOST = timedelta(minutes=5)
"""Clocks differ by so much; an event from further ahead is a mistake."""

HISTORY_DAYS_AT_MOST = 366
SEEN_AT_MOST = 10_000
"""Of how many counters a process remembers what they said."""

REPEATED_AT_MOST = 10
"""How often keys may turn up in others' hands while some requests are settled."""


COUNTED = Counter(
    "entitlements_usage_counted_total",
    "Uses of consume and setLevel, by what became of them.",
    ["mutation", "outcome"],
)
EVENTS = Counter(
    "entitlements_usage_events_total", "Events of use, by what became of them.", ["outcome"]
)


class Consumed(msgspec.Struct, frozen=True):
    """The answer to `consume` or `setLevel`. `duplicate`: it is that of an earlier request."""

    answer: Answer
    duplicate: bool


KeyName = tuple[str, str, str]
"""What is done once: a customer, a mutation, a key."""

Settled = Consumed | ServiceError
"""What becomes of a count."""


class Rejected(msgspec.Struct, frozen=True):
    """An event that was not counted; `index` is where it stands among those given."""

    index: int
    id: str
    code: str
    message: str


class Recorded(msgspec.Struct, frozen=True):
    accepted: int
    duplicates: int
    rejected: tuple[Rejected, ...]


class UsageDay(msgspec.Struct, frozen=True):
    day: date
    quantity: int


class _StoredSource(msgspec.Struct, frozen=True, array_like=True):
    kind: GrantSourceKind
    mode: GrantMode
    value: EntitlementValue
    quantity: int
    package: str | None
    component: str | None
    ends_at: datetime | None


class StoredAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """An answer as it is kept under its key: packages by their version, which never change."""

    allowed: bool
    revision: int
    reason: DenialReason | None = None
    over_limit: bool = False
    value: EntitlementValue | None = None
    used: int | None = None
    remaining: int | None = None
    warning: int | None = None
    resets_at: datetime | None = None
    sources: tuple[_StoredSource, ...] = ()


class _Request(msgspec.Struct, frozen=True, kw_only=True):
    """One count that is asked for under a key, and the answer that follows from its outcome.

    `step` is None where there is nothing to count: the answer is no then, and kept all the same.
    """

    customer_id: str
    mutation: str
    key: str
    digest: str
    catalog: Catalog
    check: Check
    at: datetime
    step: Count | None
    bound: int
    answer: Callable[[int, bool], Answer]

    @property
    def name(self) -> KeyName:
        """What is done once."""
        return self.customer_id, self.mutation, self.key


class _KnownOf(NamedTuple):
    """What is known of a catalog: the product of each feature, and what is `billed_apart`."""

    catalog: Catalog
    products: Mapping[str, str]
    billed_apart: frozenset[str]


class _Repeated(Exception):
    """A key is there already: whatever was counted with it is rolled back."""


class UsageService:
    def __init__(
        self,
        database: Database,
        catalog: Callable[[], Awaitable[Catalog]],
        clock: Clock,
        customers: CustomerService,
        known: Callable[[str], Awaitable[Known]],
        signals: Signals,
    ) -> None:
        self._database = database
        self._catalog = catalog
        self._clock = clock
        self._customers = customers
        self._known = known
        self._signals = signals
        self._of_catalog = _KnownOf(Catalog.EMPTY, {}, frozenset())
        self._batches = Batches(self._settle)
        self._swaps = Swaps(database)
        self._seen: Lru[CounterKey, int] = Lru(SEEN_AT_MOST)

    # ── one at a time ────────────────────────────────────────────────────────

    async def consume(self, customer_id: str, feature_id: str, quantity: int, key: str) -> Consumed:
        """Count a quantity of a SUM feature if it is allowed, once per key.

        Raises `ValidationFailed` for a quantity below 1 or absurd, a key that is none, and a
        feature that is not counted so; `IdempotencyConflict` for a key of another request.
        """
        _check_range("quantity", quantity, 1)
        return await self._count(customer_id, "consume", feature_id, quantity, key)

    async def set_level(self, customer_id: str, feature_id: str, level: int, key: str) -> Consumed:
        """Say what is in use of a LEVEL feature now, once per key. Lowering is always fine."""
        _check_range("level", level, 0)
        return await self._count(customer_id, "setLevel", feature_id, level, key)

    async def _count(
        self, customer_id: str, mutation: str, feature_id: str, quantity: int, key: str
    ) -> Consumed:
        if not (1 <= len(key) <= 255 and key.isprintable()):
            words = "a key has 1 to 255 printable characters"
            raise ValidationFailed.of("idempotencyKey", "LENGTH", words)
        known = await self._known(customer_id)
        catalog, state, grants = known.catalog, known.snapshot.state, known.snapshot.grants
        feature = catalog.features.get(feature_id)
        _check_kind(feature, mutation)
        check = Check(feature_id, max(quantity, 1))
        if state is None or grants is None:
            answer = Answer(check, decide(None, feature), feature, 0, catalog)
            self._told(mutation, customer_id, answer, "denied")
            return Consumed(answer, False)
        at = self._clock.now()
        request = _Request(
            customer_id=customer_id,
            mutation=mutation,
            key=key,
            digest=hashlib.sha256(f"{feature_id} {quantity}".encode()).hexdigest(),
            catalog=catalog,
            check=check,
            at=at,
            step=self._step(catalog, state, feature, quantity, at) if feature else None,
            bound=-1 if feature is None else bound_of(grants, feature.id),
            answer=_answering(catalog, grants, feature, mutation, quantity, check, state.revision),
        )
        consumed = await self._batches.settled(request)
        outcome = "counted" if consumed.answer.decision.allowed else "denied"
        outcome = "repeated" if consumed.duplicate else outcome
        self._told(mutation, customer_id, consumed.answer, outcome)
        return consumed

    def _told(self, mutation: str, customer_id: str, answer: Answer, outcome: str) -> None:
        COUNTED.labels(mutation, outcome).inc()
        if outcome == "denied":
            self._signals.heard(customer_id, [answer])

    async def _settle(self, requests: Sequence[_Request]) -> list[Settled]:
        """Count, answer and remember the answers in one transaction: all of it or nothing."""
        if (found := await self._at_once(requests)) is not None:
            return found
        known: Mapping[KeyName, tuple[str, str]] = {}
        for _ in range(REPEATED_AT_MOST):
            try:
                async with self._database.write() as session:
                    answers, used = await _settled(session, requests, known)
                for counter, now in used.items():
                    self._seen[counter] = now
                return answers
            except _Repeated:  # its first answer was given by another process, or long ago
                async with self._database.read() as session:
                    known = await counters.remembered(session, [r.name for r in requests])
        raise RuntimeError("keys are there and are not there")

    async def _at_once(self, requests: Sequence[_Request]) -> list[Settled] | None:
        """The same in one statement, by what the counters said when this process last looked;
        None where they say something else by now, or a key is there."""
        steps = {r.step.counter: r.step for r in requests if r.step is not None}
        apart = any(s.window.earlier or s.billed for s in steps.values())
        if apart or not self._database.is_postgresql:
            return None
        seen = {counter: self._seen.get(counter) for counter in steps}
        unknown = [counter for counter, used in seen.items() if used is None]
        found = await self._swaps.look(unknown) if unknown else {}
        if found is None:
            return None
        seen |= found
        now = {counter: used or 0 for counter, used in seen.items()}
        answers, written = _together(requests, {}, now, {})
        new = [
            {**steps[counter].row, "used": now[counter]}
            for counter, used in seen.items()
            if used is None and counter in written.counters
        ]
        done = bool(written.keys) and await self._swaps.swap(seen, now, new, written)
        for counter, used in seen.items():
            if not done:
                self._seen.pop(counter)
            elif used is not None or counter in written.counters:
                self._seen[counter] = now[counter]
        return answers if done else None

    async def close(self) -> None:
        await self._swaps.close()

    def _step(
        self, catalog: Catalog, state: CustomerState, feature: Feature, quantity: int, at: datetime
    ) -> Count:
        by_billing = feature.reset is ResetPeriod.BILLING_PERIOD
        return Count(
            customer_id=state.id,
            feature_id=feature.id,
            window=self.window(catalog, state, feature, at),
            kept=COUNTERS_KEPT if by_billing else CALENDAR_COUNTERS_KEPT,
            at=at,
            quantity=quantity,
            billed=self._billed_apart(catalog, state, feature, at),
        )

    # ── events ───────────────────────────────────────────────────────────────

    async def record(self, events: Sequence[Event]) -> Recorded:
        """Count what has happened, above the limit too, each event once by customer and id.

        A late event counts in the window of its own instant. What cannot be counted is listed,
        and the rest is counted. Raises `ValidationFailed` for none, or for more than 1000.
        """
        if not 1 <= len(events) <= EVENTS_AT_ONCE:
            words = f"from 1 to {EVENTS_AT_ONCE} events"
            raise ValidationFailed.of("events", "LENGTH", words)
        catalog, now = await self._catalog(), self._clock.now()
        ids = {e.customer_id for e in events if e.customer_id.isprintable()}
        views = await self._customers.views(sorted(ids))
        states = {view.row.id: view.state for view in views if view}
        rejected: list[Rejected] = []
        first: dict[tuple[str, str], tuple[int, Event]] = {}
        repeated: list[tuple[int, Event]] = []
        for index, event in enumerate(events):
            if mistake := _mistake(catalog, states, event, now):
                rejected.append(Rejected(index, event.id, *mistake))
            elif event.key in first:
                repeated.append((index, event))
            else:
                first[event.key] = index, event
        dated = [msgspec.structs.replace(e, at=e.at or now) for _, e in first.values()]
        async with self._database.write() as session:
            new = await counters.take(session, dated)
            fresh = [event for event in dated if event.key in new]
            await counters.add(session, self._steps(catalog, states, fresh, now))
            known = await counters.taken(session, [key for key in first if key not in new])
        repeated += [found for key, found in first.items() if key not in new]
        others = [
            Rejected(index, event.id, "ID_REUSED", "this id was used for another event")
            for index, event in sorted(repeated, key=lambda found: found[0])
            if not _same(event, known.get(event.key) or first[event.key][1])
        ]
        recorded = Recorded(len(new), len(repeated) - len(others), (*rejected, *others))
        EVENTS.labels("accepted").inc(recorded.accepted)
        EVENTS.labels("duplicate").inc(recorded.duplicates)
        EVENTS.labels("rejected").inc(len(recorded.rejected))
        return recorded

    def _steps(
        self,
        catalog: Catalog,
        states: Mapping[str, CustomerState],
        events: Iterable[Event],
        now: datetime,
    ) -> Iterator[Count]:
        """A step for each event. Most of a customer's fall into the window of the one before."""
        last: dict[tuple[str, str], Count] = {}
        for event in events:
            at = event.at or now
            step = last.get((event.customer_id, event.feature_id))
            if step is None or not step.is_of(at):
                feature = catalog.features[event.feature_id]
                step = self._step(catalog, states[event.customer_id], feature, event.quantity, at)
                last[event.customer_id, event.feature_id] = step
            yield msgspec.structs.replace(step, at=at, quantity=event.quantity)

    # ── reading ──────────────────────────────────────────────────────────────

    def window(
        self, catalog: Catalog, state: CustomerState, feature: Feature, at: datetime
    ) -> Window:
        """The window of a customer's feature that an instant falls in."""
        return window_of(feature.reset, self._cycle(catalog, state, feature, at), at)

    def billed_window(
        self, catalog: Catalog, state: CustomerState, feature: Feature, at: datetime
    ) -> tuple[Period, Sequence[datetime]]:
        """The window that a metered charge of a feature bills at an instant, and the starts of the
        counters in it."""
        window, starts = billed_buckets(self._cycle(catalog, state, feature, at), at)
        if feature.reset is not ResetPeriod.BILLING_PERIOD:
            starts = tuple(start + BILLED_APART for start in starts)
        return window, starts

    def _billed_apart(
        self, catalog: Catalog, state: CustomerState, feature: Feature, at: datetime
    ) -> Period | None:
        """The month that a step is billed in, where its window is another than what is billed."""
        if feature.id not in self._known_of(catalog).billed_apart:
            return None
        return Period.containing(
            self._cycle(catalog, state, feature, at).anchor, Interval.MONTH, at
        )

    def _cycle(
        self, catalog: Catalog, state: CustomerState, feature: Feature, at: datetime
    ) -> Cycle:
        then = in_effect(catalog, state, at)  # what was due by then, written down or not
        product_id = self._known_of(catalog).products.get(feature.id)
        return cycle_of(catalog, then, feature.id, product_id)

    def _known_of(self, catalog: Catalog) -> _KnownOf:
        """What is found out once of a catalog."""
        if self._of_catalog.catalog is not catalog:
            products = products_of_features(catalog)
            self._of_catalog = _KnownOf(catalog, products, billed_apart(catalog))
        return self._of_catalog

    async def totals(
        self, session: AsyncSession, asked: Sequence[tuple[str, str, Sequence[datetime]]]
    ) -> list[int]:
        """What counters of a customer's feature say together, by their starts."""
        return await counters.totals(session, asked)

    async def used(
        self,
        catalog: Catalog,
        states: Iterable[CustomerState],
        features: Iterable[Feature],
        at: datetime,
    ) -> dict[str, dict[str, Used]]:
        """What is used of METERED features at an instant, by customer and feature."""
        asked = self._windows(catalog, states, features, at)
        async with self._database.read() as session:
            found = await counters.read(session, asked)
        return {
            customer_id: _by_feature(windows, found[customer_id])
            for customer_id, windows in asked.items()
        }

    async def used_now(
        self, session: AsyncSession, catalog: Catalog, state: CustomerState, at: datetime
    ) -> Mapping[str, Used]:
        """The same for one customer and all features, in the caller's transaction."""
        asked = self._windows(catalog, [state], catalog.features.values(), at)
        return _by_feature(asked[state.id], (await counters.read(session, asked))[state.id])

    def _windows(
        self,
        catalog: Catalog,
        states: Iterable[CustomerState],
        features: Iterable[Feature],
        at: datetime,
    ) -> dict[str, dict[str, Window]]:
        metered = [feature for feature in features if feature.kind is FeatureKind.METERED]
        return {
            state.id: {f.id: self.window(catalog, state, f, at) for f in metered}
            for state in states
        }

    async def history(
        self, customer_id: str, feature_id: str, start: datetime, end: datetime
    ) -> list[UsageDay]:
        """What was used on each UTC day that `[start, end)` touches; of a LEVEL, the level at
        the day's end.

        Raises `NotFound` for the customer, `ValidationFailed` for a feature that is not metered
        and for a span that is empty or longer than 366 days.
        """
        catalog = await self._catalog()
        feature = catalog.features.get(feature_id)
        if feature is None or feature.kind is not FeatureKind.METERED:
            words = f"{feature_id!r} is no metered feature"
            raise ValidationFailed.of("featureId", "NOT_METERED", words)
        first, last = start.date(), (end - timedelta(microseconds=1)).date()
        count = (last - first).days + 1
        if end <= start or count > HISTORY_DAYS_AT_MOST:
            words = f"a span has from 1 to {HISTORY_DAYS_AT_MOST} days"
            raise ValidationFailed.of("to", "OUT_OF_RANGE", words)
        state = await self._state(customer_id)
        if state is None:
            raise NotFound("customer", customer_id)
        today = self._clock.now().date()
        async with self._database.read() as session:
            found = await counters.days(session, customer_id, feature_id, first, last)
            level = 0
            if is_level(feature):
                level = await counters.last_before(session, customer_id, feature_id, first) or 0
        days = []
        for day in (first + timedelta(days=n) for n in range(count)):
            level = found.get(day, level)
            quantity = level if is_level(feature) and day <= today else found.get(day, 0)
            days.append(UsageDay(day, quantity))
        return days

    async def _state(self, customer_id: str) -> CustomerState | None:
        if not customer_id.isprintable():  # nobody is called so, and no database is asked
            return None
        [view] = await self._customers.views([customer_id])
        return view.state if view else None

    # ── forgetting ───────────────────────────────────────────────────────────

    async def purge(self) -> int:
        """Forget keys, events and counters past their time, some at once; how much it was."""
        now = self._clock.now()
        async with self._database.read() as session:
            if not await counters.is_anything_due(session, now):
                return 0
        async with self._database.write() as session:
            return await counters.purge(session, now)


async def _settled(
    session: AsyncSession, requests: Sequence[_Request], known: Mapping[KeyName, tuple[str, str]]
) -> tuple[list[Settled], dict[CounterKey, int]]:
    """The answers to requests in their order, and what the counters say then.

    `known` are the first answers to keys that are there. Raises `_Repeated` for another one.
    """
    new = [request for request in requests if request.name not in known]
    earlier = await _earlier(session, [r.step for r in new if r.step is not None])
    used = await _locked(session, new, earlier)
    answers, written = _together(requests, known, used, earlier)
    if written.keys and not await counters.write(session, written):
        raise _Repeated
    await counters.bill(session, written.billed)
    return answers, used


def _together(
    requests: Sequence[_Request],
    known: Mapping[KeyName, tuple[str, str]],
    used: dict[CounterKey, int],
    earlier: Mapping[CounterKey, int],
) -> tuple[list[Settled], counters.Steps]:
    """Decide requests in their order, each by what the ones before it have left in `used`."""
    new: dict[KeyName, _Request] = {}
    for request in requests:
        if request.name not in known:
            new.setdefault(request.name, request)
    written = counters.Steps()
    first, answers = dict(known), dict[KeyName, Settled]()
    for request in new.values():
        answer = answers[request.name] = _decided(request, used, earlier, written)
        if isinstance(answer, Consumed):
            row = _kept(request, answer.answer)
            first[request.name] = row["request_digest"], row["answer"]
            written.keys.append(row)
    found = [
        answers[request.name]
        if new.get(request.name) is request
        else _repeated(request, first.get(request.name), answers.get(request.name))
        for request in requests
    ]
    return found, written


async def _earlier(session: AsyncSession, steps: Sequence[Count]) -> dict[CounterKey, int]:
    """What was used in the months before of a window that is counted by its months."""
    found: dict[CounterKey, int] = {}
    for step in {step.counter: step for step in steps if step.window.earlier}.values():
        starts = step.window.earlier
        before = msgspec.structs.replace(step.window, bucket_start=starts[0], earlier=starts[1:])
        asked = {step.customer_id: {step.feature_id: before}}
        read = await counters.read(session, asked)
        found[step.counter] = read[step.customer_id].get(step.feature_id, 0)
    return found


async def _locked(
    session: AsyncSession, requests: Iterable[_Request], earlier: Mapping[CounterKey, int]
) -> dict[CounterKey, int]:
    """What the counters of requests say, locked; one that something may be counted in is made."""
    counting = [(request, request.step) for request in requests if request.step is not None]
    if not counting:
        return {}
    found = await counters.lock(session, [step.counter for _, step in counting])
    missing = [
        step
        for request, step in counting
        if step.counter not in found
        and step.quantity <= max(request.bound - earlier.get(step.counter, 0), 0)
    ]
    if missing:
        await counters.begin(session, missing)
        found |= await counters.lock(session, [step.counter for step in missing])
    return found


def _decided(
    request: _Request,
    used: dict[CounterKey, int],
    earlier: Mapping[CounterKey, int],
    written: counters.Steps,
) -> Settled:
    """Count one step if it may be counted: in `used`, and in what will be written."""
    step = request.step
    if step is None:
        return Consumed(request.answer(0, False), False)
    before, counter = earlier.get(step.counter, 0), step.counter
    now = used.get(counter, 0)
    if request.mutation == "setLevel":
        counted = step.quantity <= max(request.bound, now, 0)
        after = step.quantity
    else:
        after = now + step.quantity
        counted = after <= request.bound - before
    if counted and counter in used:
        used[counter] = written.counters[counter] = after
        if request.mutation == "setLevel":
            written.levels[step.day] = after
        else:
            written.added[step.day] = written.added.get(step.day, 0) + step.quantity
            written.billed.append(step)
    elif request.bound == COUNT_AT_MOST:
        words = "the counter cannot count so far"
        return ValidationFailed.of("quantity", "OUT_OF_RANGE", words)
    answer = request.answer(used.get(counter, 0) + before, counted)
    return Consumed(msgspec.structs.replace(answer, resets_at=step.window.end), False)


def _kept(request: _Request, answer: Answer) -> dict[str, Any]:
    return {
        "customer_id": request.customer_id,
        "mutation": request.mutation,
        "key": request.key,
        "request_digest": request.digest,
        "answer": msgspec.json.encode(_stored(answer)).decode(),
        "created_at": request.at,
    }


def _repeated(
    request: _Request, first: tuple[str, str] | None, answered: Settled | None
) -> Settled:
    """The first answer to a key, word for word; or the mistake that the same request had."""
    if first is None:
        assert answered is not None
        return answered
    digest, answer = first
    if digest != request.digest:
        return IdempotencyConflict("this key was used for another request")
    stored = msgspec.json.decode(answer, type=StoredAnswer)
    return Consumed(_restored(request.catalog, request.check, stored), True)


def _by_feature(windows: Mapping[str, Window], found: Mapping[str, int]) -> dict[str, Used]:
    return {f: Used(found.get(f, 0), window.end) for f, window in windows.items()}


def _answering(
    catalog: Catalog,
    grants: Grants,
    feature: Feature | None,
    mutation: str,
    quantity: int,
    check: Check,
    revision: int,
) -> Callable[[int, bool], Answer]:
    """The answer to a count, by what the counter says afterwards and whether it was counted."""

    def answer(used: int, counted: bool) -> Answer:
        if feature is None:
            decision = decide(grants, None)
        elif mutation == "consume":
            decision = decide_consumed(grants, feature, quantity, used=used, counted=counted)
        else:
            decision = decide_level(grants, feature, quantity, used=used, counted=counted)
        return Answer(check, decision, feature, revision, catalog)

    return answer


def _check_range(name: str, quantity: int, least: int) -> None:
    if not least <= quantity <= QUANTITY_AT_MOST:
        words = f"a {name} is from {least} to {QUANTITY_AT_MOST}"
        raise ValidationFailed.of(name, "OUT_OF_RANGE", words)


def _check_kind(feature: Feature | None, mutation: str) -> None:
    """`consume` is for what adds up, `setLevel` for what is there now."""
    if feature is None:
        return
    if mutation == "consume" and not is_sum(feature):
        words = f"{feature.name} does not add up: " + (
            "set its level" if is_level(feature) else "it is not metered"
        )
        raise ValidationFailed.of("featureId", "NOT_A_SUM", words)
    if mutation == "setLevel" and not is_level(feature):
        words = f"{feature.name} has no level: " + (
            "consume it" if is_sum(feature) else "it is not metered"
        )
        raise ValidationFailed.of("featureId", "NOT_A_LEVEL", words)


def _mistake(
    catalog: Catalog, states: Mapping[str, CustomerState], event: Event, now: datetime
) -> tuple[str, str] | None:
    """Why an event cannot be counted: the first code that applies, and words."""
    feature = catalog.features.get(event.feature_id)
    if not (1 <= len(event.id) <= 255 and event.id.isprintable()):
        return "ID", "an id has 1 to 255 printable characters"
    if event.customer_id not in states:
        return "CUSTOMER_NOT_FOUND", f"there is no customer {event.customer_id!r}"
    if feature is None:
        return "FEATURE_NOT_FOUND", f"there is no feature {event.feature_id!r}"
    if not is_sum(feature):
        return "NOT_A_SUM", f"{feature.name} does not add up"
    if not 1 <= event.quantity <= QUANTITY_AT_MOST:
        return "OUT_OF_RANGE", f"a quantity is from 1 to {QUANTITY_AT_MOST}"
    if event.at is not None and event.at > now + EVENTS_EARLY_AT_MOST:
        return "IN_FUTURE", "it has not happened yet"
    if event.at is not None and event.at < now - EVENTS_LATE_AT_MOST:
        return "TOO_OLD", f"it is more than {EVENTS_LATE_AT_MOST.days} days old"
    return None


def _same(event: Event, first: Event) -> bool:
    said = (event.feature_id, event.quantity) == (first.feature_id, first.quantity)
    return said and (event.at is None or first.at is None or event.at == first.at)


def _stored(answer: Answer) -> StoredAnswer:
    decision = answer.decision
    return StoredAnswer(
        allowed=decision.allowed,
        revision=answer.revision,
        reason=decision.reason,
        over_limit=decision.over_limit,
        value=decision.value,
        used=decision.used,
        remaining=decision.remaining,
        warning=decision.warning,
        resets_at=answer.resets_at,
        sources=tuple(
            _StoredSource(
                source.kind,
                source.mode,
                source.value,
                source.quantity,
                source.package.version_id if source.package else None,
                source.component.version_id if source.component else None,
                source.ends_at,
            )
            for source in decision.sources
        ),
    )


def _restored(catalog: Catalog, check: Check, stored: StoredAnswer) -> Answer:
    decision = Decision(
        stored.allowed,
        stored.reason,
        stored.over_limit,
        stored.value,
        stored.used,
        stored.remaining,
        stored.warning,
        tuple(
            GrantSource(
                kind=source.kind,
                mode=source.mode,
                value=source.value,
                quantity=source.quantity,
                package=catalog.versions[source.package] if source.package else None,
                component=catalog.versions[source.component] if source.component else None,
                ends_at=source.ends_at,
            )
            for source in stored.sources
        ),
    )
    feature = catalog.features.get(check.feature_id)
    return Answer(check, decision, feature, stored.revision, catalog, stored.resets_at)
