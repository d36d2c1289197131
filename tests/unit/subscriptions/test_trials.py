"""Who may try what, and what has become of a trial: decided without a database or a clock."""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from entitlements.catalog.document import parse
from entitlements.catalog.model import Catalog, TrialEnd, TrialTerms
from entitlements.catalog.versions import publish
from entitlements.kernel.period import Interval, Period
from entitlements.subscriptions.holdings import grants_of
from entitlements.subscriptions.queue import in_effect
from entitlements.subscriptions.state import (
    CustomerState,
    Item,
    Subscription,
    SubscriptionStatus,
    Trial,
    TrialStatus,
)
from entitlements.subscriptions.trials import current_step, settled, trial_available

START = datetime(2026, 3, 1, tzinfo=UTC)
MARCH = Period(START, datetime(2026, 4, 1, tzinfo=UTC))
AT = START + timedelta(days=10)


def _package(id: str, amount: str, days: int | None = 14, **more: Any) -> dict[str, Any]:
    prices = {"usd": {"month": amount}}
    trial = {"trial": {"days": days, "at_end": "convert"}} if days else {}
    charges = [{"id": "fee", "name": "Fee", "model": "flat", "prices": prices}]
    return {"id": id, "name": id.title(), "charges": charges, **trial, **more}


def _add_on(id: str, days: int | None = 14, **more: Any) -> dict[str, Any]:
    more = {"kind": "module", "entitlements": {f"has-{id}": True}} | more
    return _package(id, "10.00", days, **more)


def _catalog() -> Catalog:
    guide = [{"week": w, "title": f"Week {w}", "body": "x"} for w in (1, 2)]
    a = _add_on("a")
    a["trial"]["guide"] = guide
    document = {
        "currencies": ["usd"],
        "features": [
            {"id": f"has-{x}", "name": x, "kind": "boolean"} for x in ("a", "b", "c", "d", "e", "p")
        ],
        "products": [
            {
                "id": "app",
                "name": "App",
                "plans": [
                    _package("one", "100.00", entitlements={"has-p": True}),
                    _package("two", "200.00", entitlements={"has-p": True}),
                ],
                "add_ons": [
                    a,
                    _add_on("b", requires=["a"]),
                    _add_on("c", excludes=["a"]),
                    _add_on("d", works_with=["two"]),
                    _add_on("e", days=None),
                ],
                "bundles": [
                    _package("ae", "15.00", components=[{"id": "a"}, {"id": "e"}]),
                    _package("de", "15.00", components=[{"id": "d"}, {"id": "e"}]),
                ],
            }
        ],
    }
    return publish(
        parse(document), Catalog.EMPTY, revision=1, effective_at=START, published_at=START
    ).catalog


CATALOG = _catalog()
NOBODY = CustomerState(id="acme", currency="usd", revision=1)


def _held(*packages: str, **more: Any) -> Subscription:
    return msgspec.structs.replace(
        Subscription(
            id="sub",
            product_id="app",
            status=SubscriptionStatus.ACTIVE,
            interval=Interval.MONTH,
            currency="usd",
            period=MARCH,
            anchor=START,
            started_at=START,
            provider_id="sub_1",
            items=tuple(
                Item(
                    id=p,
                    package_id=p,
                    version=1,
                    entitlements_version=1,
                    quantity=1,
                    started_at=START,
                )
                for p in packages
            ),
        ),
        **more,
    )


def _customer(*packages: str, trials: tuple[Trial, ...] = (), **more: Any) -> CustomerState:
    held = (_held(*packages, **more),) if packages else ()
    return msgspec.structs.replace(NOBODY, subscriptions=held, trials=trials)


def _trial(package: str, status: TrialStatus = TrialStatus.ACTIVE, **more: Any) -> Trial:
    return msgspec.structs.replace(
        Trial(
            id="trl",
            product_id="app",
            subscription_id="sub",
            package_id=package,
            version=1,
            status=status,
            started_at=START,
            ends_at=START + timedelta(days=14),
            at_end=TrialEnd.CONVERT,
            with_subscription=False,
        ),
        **more,
    )


OVER = TrialStatus.EXPIRED


@pytest.mark.parametrize(
    ("state", "package", "code"),
    [
        (NOBODY, "one", None),
        (NOBODY, "a", "NO_SUBSCRIPTION"),
        (_customer("one"), "a", None),
        (_customer("one"), "two", "SUBSCRIPTION_HELD"),
        (_customer("one"), "one", "ALREADY_HELD"),
        (_customer("one", "a"), "a", "ALREADY_HELD"),
        (_customer("one", "ae"), "a", "ALREADY_HELD"),
        (_customer("one", "a"), "ae", None),
        (_customer("one"), "e", "NO_TRIAL"),
        (_customer("one"), "nothing", "NO_TRIAL"),
        (_customer("one"), "b", "REQUIRES"),
        (_customer("one", "a"), "b", None),
        (_customer("one", "a"), "c", "EXCLUDES"),
        (_customer("one"), "d", "DOES_NOT_FIT"),
        (_customer("one"), "de", "DOES_NOT_FIT"),
        (_customer("one", trials=(_trial("a"),)), "a", "ON_TRIAL"),
        (_customer("one", trials=(_trial("a"),)), "c", "EXCLUDES"),
        (_customer("one", trials=(_trial("a"),)), "b", None),
        (_customer("one", trials=(_trial("a", OVER),)), "a", "ALREADY_TRIED"),
        (_customer("one", trials=(_trial("a", OVER),)), "ae", "ALREADY_TRIED"),
        (_customer("one", trials=(_trial("ae", OVER),)), "a", "ALREADY_TRIED"),
        (_customer("one", status=SubscriptionStatus.PAUSED), "a", "NO_SUBSCRIPTION"),
        (
            _customer("one", status=SubscriptionStatus.PAST_DUE, past_due_since=START),
            "a",
            "PAYMENT_PAST_DUE",
        ),
    ],
)
def test_what_may_be_tried_and_why_not(
    state: CustomerState, package: str, code: str | None
) -> None:
    found = trial_available(CATALOG, state, package, AT)
    assert (None if isinstance(found, TrialTerms) else found.code) == code


def test_staff_may_let_somebody_try_again_but_not_twice_at_once() -> None:
    again = _customer("one", trials=(_trial("a", OVER),))
    assert isinstance(trial_available(CATALOG, again, "a", AT, again=True), TrialTerms)
    running = _customer("one", trials=(_trial("a"),))
    assert not isinstance(trial_available(CATALOG, running, "a", AT, again=True), TrialTerms)


ENDED = _held("one", status=SubscriptionStatus.CANCELED, ended_at=START + timedelta(days=14))
GIVEN_UP = _held("one", status=SubscriptionStatus.CANCELED, ended_at=AT)
ON_TRIAL = _held(
    "one", "a", status=SubscriptionStatus.TRIALING, trial_ends_at=START + timedelta(days=20)
)


@pytest.mark.parametrize(
    ("trial", "held", "status"),
    [
        (_trial("a"), _held("one"), TrialStatus.ACTIVE),
        (_trial("a"), _held("one", "a"), TrialStatus.CONVERTED),
        (_trial("a"), _held("one", "ae"), TrialStatus.CONVERTED),
        (_trial("ae"), _held("one", "a"), TrialStatus.ACTIVE),
        (_trial("a"), ENDED, TrialStatus.EXPIRED),
        (_trial("a"), GIVEN_UP, TrialStatus.CANCELED),
        (_trial("one", with_subscription=True), _held("one"), TrialStatus.CONVERTED),
        (_trial("one", with_subscription=True), ON_TRIAL, TrialStatus.ACTIVE),
        (_trial("b", with_subscription=True), ON_TRIAL, TrialStatus.CANCELED),
        (_trial("a"), ON_TRIAL, TrialStatus.ACTIVE),
    ],
)
def test_what_becomes_of_a_trial_follows_from_what_is_held(
    trial: Trial, held: Subscription, status: TrialStatus
) -> None:
    assert settled(CATALOG, trial, held).status is status


def test_what_is_bought_in_a_plans_trial_ends_as_that_does() -> None:
    joined = settled(CATALOG, _trial("a"), ON_TRIAL)
    assert (joined.with_subscription, joined.ends_at) == (True, ON_TRIAL.trial_ends_at)


@pytest.mark.parametrize(
    ("has_card", "at_end", "grants"),
    [
        (True, TrialEnd.CONVERT, True),
        (False, TrialEnd.CONVERT, False),
        (True, TrialEnd.EXPIRE, False),
    ],
)
def test_access_at_a_trials_end_needs_no_worker(
    has_card: bool, at_end: TrialEnd, grants: bool
) -> None:
    state = msgspec.structs.replace(
        _customer("one", trials=(_trial("a", at_end=at_end),)), has_payment_method=has_card
    )
    end = START + timedelta(days=14)
    before = grants_of(CATALOG, state, end - timedelta(seconds=1))
    assert before.of("has-a").value is not None
    assert before.holds_until == end
    assert (grants_of(CATALOG, state, end).of("has-a").value is not None) is grants
    [trial] = in_effect(CATALOG, state, end).trials
    assert trial.active is grants


@pytest.mark.parametrize("has_card", [True, False])
def test_a_plans_trial_goes_on_paid_or_ends_at_its_instant(has_card: bool) -> None:
    end = START + timedelta(days=14)
    held = _held(
        "one",
        status=SubscriptionStatus.TRIALING,
        trial_ends_at=end,
        period=Period(START, end),
        anchor=end,
    )
    state = msgspec.structs.replace(
        NOBODY,
        subscriptions=(held,),
        trials=(_trial("one", with_subscription=True),),
        has_payment_method=has_card,
    )
    then = in_effect(CATALOG, state, end)
    assert then.trials[0].status is (TrialStatus.CONVERTED if has_card else TrialStatus.EXPIRED)
    assert bool(then.live("app")) is has_card
    assert (grants_of(CATALOG, state, end).of("has-p").value is not None) is has_card


def test_the_guide_goes_by_the_weeks_since_the_start() -> None:
    def week(days: int) -> int | None:
        step = current_step(CATALOG, _trial("a", ends_at=START + timedelta(days=28)), days_on(days))
        return step.week if step else None

    def days_on(days: int) -> datetime:
        return START + timedelta(days=days)

    assert [week(days) for days in (0, 6, 7, 27, 28)] == [1, 1, 2, 2, None]
