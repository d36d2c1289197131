"""The events that an endpoint may ask for: the one list of them. PURE.

A notice carries ids and a revision, never an amount or anything of a person: who is told reads the
rest through the API, as it is then. So notices may come late, twice and in any order.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum

import msgspec

from entitlements.kernel.errors import Issue
from entitlements.kernel.period import format_instant


class Event(StrEnum):
    TRIAL_ENDING = "trial.ending"
    PRICE_MOVING = "price.moving"
    PAYMENT_FAILED = "payment.failed"
    CHANGE_APPLIED = "change.applied"
    ENTITLEMENTS_CHANGED = "entitlements.changed"


class Kind(msgspec.Struct, frozen=True):
    """What an event means, and the ids that it carries beside `customerId` and `revision`."""

    description: str
    ids: tuple[str, ...] = ()


KINDS: Mapping[Event, Kind] = {
    Event.TRIAL_ENDING: Kind("A trial ends soon, and says how.", ("trialId",)),
    Event.PRICE_MOVING: Kind(
        "A price that is kept will move to a later version.",
        ("subscriptionId", "fromVersionId", "toVersionId"),
    ),
    Event.PAYMENT_FAILED: Kind(
        "A renewal was not paid: the subscription is past due, or unpaid.", ("subscriptionId",)
    ),
    Event.CHANGE_APPLIED: Kind("A change has taken effect.", ("changeId",)),
    Event.ENTITLEMENTS_CHANGED: Kind(
        "What the customer may do can be another from this revision on."
    ),
}

EVERY = "*"
"""Asks for every event, also for those that are added later."""


def subscription_issues(events: Sequence[str]) -> list[Issue]:
    """What is wrong with the events that an endpoint asks for.

    >>> [(i.path, i.code) for i in subscription_issues(["change.applied", "change.undone"])]
    [(('events', '1'), 'UNKNOWN_EVENT')]
    """
    known = ", ".join([*Event, EVERY])
    if not events:
        return [Issue(("events",), "EMPTY", f"name at least one of {known}")]
    return [
        Issue(("events", str(index)), "UNKNOWN_EVENT", f"one of {known}")
        for index, name in enumerate(events)
        if name != EVERY and name not in set(Event)
    ]


def asks_for(events: Sequence[str], event: Event) -> bool:
    return EVERY in events or event.value in events


def body(event: Event, at: datetime, customer_id: str, revision: int, **ids: str) -> str:
    """The notice as it is sent and signed. `TypeError` for other ids than the event's own.

    >>> from datetime import UTC
    >>> at = datetime(2026, 3, 1, tzinfo=UTC)
    >>> print(body(Event.CHANGE_APPLIED, at, "acme", 7, changeId="chg_1"))
    {"type":"change.applied","timestamp":"2026-03-01T00:00:00Z","data":{"customerId":"acme",\
"revision":"7","changeId":"chg_1"}}
    """
    if ids.keys() != set(KINDS[event].ids):
        raise TypeError(f"{event} carries {KINDS[event].ids}, not {tuple(ids)}")
    notice = {
        "type": event.value,
        "timestamp": format_instant(at),
        "data": {"customerId": customer_id, "revision": str(revision), **ids},
    }
    return msgspec.json.encode(notice).decode()
