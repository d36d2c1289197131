"""Test clocks, and doing in order what is due by them or by the machine's time."""

from collections.abc import Callable

import stripe

from entitlements.kernel.clock import monotonic_seconds
from entitlements.sandbox import checkout, customers, renewals, schedules
from entitlements.sandbox.errors import Json, invalid
from entitlements.sandbox.events import emit
from entitlements.sandbox.routes import Call, endpoint
from entitlements.sandbox.shapes import PAGE, page, public, render, shape
from entitlements.sandbox.store import Transaction, make_id

_DAY = 86_400
LATEST = 4_102_444_800
"""The year 2100: clocks begin before it."""
MAX_YEARS = 10
"""How far one call may advance a clock."""

SLICE_SECONDS = 0.04
"""How long other requests may have to wait for an advancing clock."""

DUE: dict[str, Callable[[Transaction, Json, int], None]] = {
    "subscription": renewals.run_due,
    "subscription_schedule": schedules.run_due,
    "invoice": lambda tx, invoice, at: renewals.retry(tx, invoice),
    "checkout.session": checkout.expire,
}
"""What to do with an object of a kind when its time has come."""


@shape("test_helpers.test_clock", stripe.test_helpers.TestClock)
def _render_clock(tx: Transaction, doc: Json) -> Json:
    return public(doc) | {
        "frozen_time": doc["_now"],
        "status_details": {
            "advancing": {"target_frozen_time": doc["_target"]}
            if doc["status"] == "advancing"
            else None
        }
        if doc["status"] == "advancing"
        else {},
    }


@endpoint(
    "POST",
    "/v1/test_helpers/test_clocks",
    "test_helpers.TestClockCreateParams",
    "frozen_time name",
)
def create_clock(call: Call) -> Json:
    tx, p = call.tx, call.params
    if not 0 <= p["frozen_time"] <= LATEST:
        raise invalid("Invalid timestamp.", "frozen_time")
    clock = {
        "id": make_id("clock"),
        "object": "test_helpers.test_clock",
        "created": tx.wall,
        "deletes_after": tx.wall + 30 * _DAY,
        "livemode": False,
        "name": p.get("name"),
        "status": "ready",
        "_now": p["frozen_time"],
        "_target": p["frozen_time"],
    }
    tx.save(clock)
    emit(tx, "test_helpers.test_clock.created", clock)
    return render(tx, clock)


@endpoint("GET", "/v1/test_helpers/test_clocks/{id}", "test_helpers.TestClockRetrieveParams", "")
def retrieve_clock(call: Call) -> Json:
    return render(call.tx, call.tx.need(call.path["id"], "test_helpers.test_clock"))


@endpoint("GET", "/v1/test_helpers/test_clocks", "test_helpers.TestClockListParams", PAGE)
def list_clocks(call: Call) -> Json:
    return page(call.tx, "/v1/test_helpers/test_clocks", "test_helpers.test_clock", call.params)


@endpoint(
    "POST",
    "/v1/test_helpers/test_clocks/{id}/advance",
    "test_helpers.TestClockAdvanceParams",
    "frozen_time",
)
def advance_clock(call: Call) -> Json:
    """Does what is due for a short while; the rest follows in small steps after the answer."""
    tx = call.tx
    clock = tx.need(call.path["id"], "test_helpers.test_clock")
    target = call.params["frozen_time"]
    if clock["status"] != "ready":
        raise invalid("Test clock advancement already underway.", code="test_clock_advancing")
    if target <= clock["_now"]:
        raise invalid("frozen_time must be after the clock's present time.", "frozen_time")
    if target > clock["_now"] + MAX_YEARS * 366 * _DAY:
        raise invalid(f"A clock can advance by {MAX_YEARS} years at a time.", "frozen_time")
    clock |= {"status": "advancing", "_target": target}
    tx.save(clock)
    emit(tx, "test_helpers.test_clock.advancing", clock)
    advance_for(tx, clock, SLICE_SECONDS)
    return render(tx, clock)


@endpoint("DELETE", "/v1/test_helpers/test_clocks/{id}", "test_helpers.TestClockDeleteParams", "")
def delete_clock(call: Call) -> Json:
    """Takes its customers with it."""
    tx = call.tx
    clock = tx.need(call.path["id"], "test_helpers.test_clock")
    for customer in tx.find("customer", clock=clock["id"]):
        customers.delete(tx, customer)
    emit(tx, "test_helpers.test_clock.deleted", clock)
    clock["_deleted"] = True
    return render(tx, tx.save(clock))


def advance_for(tx: Transaction, clock: Json, seconds: float) -> bool:
    """Advance for about so long; False once the clock is ready."""
    until = monotonic_seconds() + seconds
    while more := advance_step(tx, clock):
        if monotonic_seconds() > until:
            break
    return more


def advancing(tx: Transaction) -> list[Json]:
    return [c for c in tx.find("test_helpers.test_clock") if c["status"] == "advancing"]


def advance_step(tx: Transaction, clock: Json) -> bool:
    """Do the next thing that is due on an advancing clock; False once it is ready."""
    doc = tx.first_due(clock["id"], clock["_target"])
    if doc is None:
        clock |= {"_now": clock["_target"], "status": "ready"}
        tx.save(clock)
        emit(tx, "test_helpers.test_clock.ready", clock)
        return False
    clock["_now"] = max(clock["_now"], doc["_due"])
    tx.save(clock)
    DUE[doc["object"]](tx, doc, doc["_due"])
    return True


def wall_step(tx: Transaction, wall: int) -> bool:
    """Do the next thing that is due by the machine's time; False where nothing is.

    What is late (the process was away) happens as of the instant at which it was due.
    """
    doc = tx.first_due("", wall)
    if doc is None:
        return False
    tx.wall = doc["_due"]
    DUE[doc["object"]](tx, doc, doc["_due"])
    tx.wall = wall
    return True
