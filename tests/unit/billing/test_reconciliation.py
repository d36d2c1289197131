"""What counts as a difference, and what may be mended, without a database or a provider."""

from datetime import UTC, datetime, timedelta

import pytest
from msgspec.structs import replace

from entitlements.billing.reconciliation import (
    STUCK_AFTER,
    InvoiceSide,
    ItemSide,
    OpenChange,
    Ours,
    PlannedSide,
    SubscriptionSide,
    Theirs,
    compare,
    in_motion,
)
from entitlements.kernel.period import Period
from entitlements.subscriptions.state import SubscriptionStatus

START = datetime(2026, 3, 1, tzinfo=UTC)
NOW = START + timedelta(days=10)
BASE = ItemSide("si_1", "pro/base", "pro@3/base/usd/month", 1)
SEATS = ItemSide("si_2", "pro/seats", "pro@3/seats/usd/month", 5)
HELD = SubscriptionSide(
    id="sub_there",
    our_id="sub_here",
    status=SubscriptionStatus.ACTIVE,
    currency="usd",
    interval="month",
    period=Period(START, START + timedelta(days=31)),
    anchor=START,
    cancel_at=None,
    trial_ends_at=None,
    items=(BASE, SEATS),
)
FOUND = replace(HELD, our_id=None, change_id="chg_1")
FIRST = InvoiceSide(
    status="paid",
    currency="usd",
    total_minor=5000,
    amount_due_minor=5000,
    amount_paid_minor=5000,
    by_change=True,
    created_at=START,
    subscription_id="sub_there",
    change_id="chg_1",
)
OURS = Ours(
    id="acme",
    revision=3,
    provider_id="cus_1",
    name="Acme",
    email=None,
    payment_method="pm_1 visa 4242 12/2030",
    credit_minor=0,
    subscriptions=(HELD,),
    changes=(),
    invoices={"in_1": FIRST},
    claims={"in_1": "chg_1"},
)
THEIRS = Theirs(
    deleted=False,
    name="Acme",
    email="acme@provider.example",
    payment_method="pm_1 visa 4242 12/2030",
    credit_minor=0,
    subscriptions=(FOUND,),
    invoices={"in_1": FIRST},
)


def told(ours: Ours = OURS, theirs: Theirs | None = THEIRS) -> list[tuple[str, str, str]]:
    return [
        (drift.kind.value, drift.path, str(drift.repair or ""))
        for drift in compare(ours, theirs, NOW)
    ]


def with_items(*items: ItemSide, **found: object) -> Theirs:
    return replace(THEIRS, subscriptions=(replace(FOUND, items=items, **found),))


def billed(**more: InvoiceSide) -> tuple[Ours, Theirs]:
    """Both sides know these invoices; no change claims them."""
    both = {"in_1": FIRST, **more}
    return replace(OURS, invoices=both), replace(THEIRS, invoices=both)


def test_two_sides_that_agree_differ_in_nothing() -> None:
    assert told() == []
    assert told(replace(OURS, provider_id=None, subscriptions=()), None) == []


def test_an_item_is_known_by_its_id_or_else_by_its_charge() -> None:
    assert told(theirs=with_items(BASE, replace(SEATS, quantity=7))) == [
        ("item_differs", "items.pro/seats.quantity", "push")
    ]
    assert told(theirs=with_items(BASE, replace(SEATS, id="si_9"))) == [
        ("item_differs", "items.pro/seats.id", "mirror")
    ]
    other = ItemSide("si_2", "team/seats", "team@1/seats/usd/month", 5)
    assert told(theirs=with_items(BASE, other)) == [
        ("item_differs", "items.pro/seats.price", "push")
    ]
    assert told(theirs=with_items(BASE)) == [("item_missing", "items.pro/seats", "push")]


def test_a_charge_that_stands_there_twice_is_told_and_not_deleted() -> None:
    again = replace(SEATS, id="si_9")
    assert told(theirs=with_items(BASE, SEATS, again)) == [("item_unknown", "items.si_9", "")]
    emptied = replace(again, quantity=0)
    assert told(theirs=with_items(BASE, SEATS, emptied)) == [
        ("item_emptied", "items.si_9", "sweep")
    ]


@pytest.mark.parametrize(
    "found",
    [
        {"schedule_id": "sub_sched_1"},
        {"pending_update": True},
        {"free": True},
        {"interval": "year"},
        {"status": SubscriptionStatus.PAST_DUE},
    ],
)
def test_items_are_not_pushed_where_something_could_become_due(found: dict[str, object]) -> None:
    drifts = told(theirs=with_items(BASE, **found))
    assert ("item_missing", "items.pro/seats", "") in drifts
    assert not [repair for _, _, repair in drifts if repair in ("push", "sweep")]


def test_one_change_paid_twice_is_not_the_same_as_a_charge_that_nobody_can_explain() -> None:
    again = replace(FIRST, created_at=START + timedelta(seconds=3))
    assert told(*billed(in_2=again)) == [("charged_twice", "invoices.in_2", "")]
    other = replace(again, amount_paid_minor=700)
    assert told(*billed(in_2=other)) == [("charge_unexplained", "invoices.in_2", "")]
    renewal = replace(again, by_change=False)
    credit = replace(again, amount_paid_minor=0, total_minor=-300)
    assert told(*billed(in_2=renewal, in_3=credit)) == []


def test_what_a_subscription_is_billed_as_it_ends_is_explained_by_its_end() -> None:
    ended = {"status": SubscriptionStatus.CANCELED, "ended_at": NOW}
    last = replace(FIRST, created_at=NOW, amount_paid_minor=700)
    ours, theirs = billed(in_2=last)
    ours = replace(ours, subscriptions=(replace(HELD, **ended),))
    assert told(ours, replace(theirs, subscriptions=(replace(FOUND, **ended),))) == []


def test_an_ended_subscription_that_lives_there_is_left_to_people() -> None:
    ended = replace(OURS, subscriptions=(replace(HELD, status=SubscriptionStatus.CANCELED),))
    assert told(ended) == [("subscription_differs", "status", "")]


def change(status: str, leased_until: datetime, **more: object) -> Ours:
    open_change = OpenChange(
        id="chg_2",
        status=status,
        leased_until=leased_until,
        expires_at=NOW - STUCK_AFTER if status == "awaiting_checkout" else None,
        abandoned=False,
    )
    return replace(OURS, changes=(replace(open_change, **more),))


def test_a_change_is_stuck_when_nobody_works_on_it_and_nothing_waits_for_it() -> None:
    stuck = [("change_stuck", "changes.chg_2", "finish")]
    under_way, dead = change("pending", NOW), change("pending", NOW - STUCK_AFTER)
    assert (in_motion(under_way, NOW), told(under_way)) == (True, [])
    assert (in_motion(dead, NOW), told(dead)) == (False, stuck)
    assert told(change("awaiting_checkout", NOW)) == stuck
    assert told(change("awaiting_checkout", NOW, expires_at=NOW)) == []
    waits = change("awaiting_payment", NOW - STUCK_AFTER)
    there = with_items(BASE, SEATS, pending_update=True, pending_change_id="chg_2")
    assert told(waits) == stuck
    assert told(waits, there) == []
    assert (
        told(replace(waits, changes=(replace(waits.changes[0], abandoned=True),)), there) == stuck
    )
    assert told(OURS, there) == [("pending_update_unknown", "pending_update", "")]


def test_a_first_payment_that_waits_is_no_lost_one() -> None:
    new = replace(FOUND, id="sub_new", change_id="chg_2", status=SubscriptionStatus.INCOMPLETE)
    there = replace(THEIRS, subscriptions=(FOUND, new))
    assert told(change("awaiting_payment", NOW), there) == []
    assert told(OURS, there) == [("subscription_unknown", "status", "")]


def test_what_is_planned_is_told_again_only_where_it_is_ours_and_charges_nothing() -> None:
    fewer = PlannedSide((("pro@3/base/usd/month", 1), ("pro@3/seats/usd/month", 3)))
    waits = replace(OURS, subscriptions=(replace(HELD, planned=fewer),))
    ours = {"schedule_id": "sub_sched_1", "schedule_is_ours": True}
    by_hand = {"schedule_id": "sub_sched_1", "planned": PlannedSide((("price_1", 1),))}
    assert told(waits, with_items(BASE, SEATS, planned=fewer, **ours)) == []
    assert told(waits) == [("schedule_missing", "schedule", "align")]
    assert told(waits, with_items(BASE, SEATS, **ours)) == [
        ("schedule_differs", "schedule", "align")
    ]
    assert told(waits, with_items(BASE, SEATS, **by_hand)) == [("schedule_differs", "schedule", "")]
    assert told(OURS, with_items(BASE, SEATS, **ours)) == [
        ("schedule_unknown", "schedule", "align")
    ]
    assert told(OURS, with_items(BASE, SEATS, **by_hand)) == [("schedule_unknown", "schedule", "")]
    assert ("schedule_missing", "schedule", "") in told(waits, with_items(BASE))
    ends = replace(HELD, cancel_at=HELD.period.end, unaligned=True)
    assert told(replace(OURS, subscriptions=(ends,))) == [
        ("subscription_differs", "cancel_at", "align")
    ]
