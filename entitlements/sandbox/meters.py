"""Usage: billing meters, the events they count, and what was used in a span of time."""

from fractions import Fraction

import stripe

from entitlements.sandbox.errors import Json, invalid
from entitlements.sandbox.events import emit, now
from entitlements.sandbox.routes import Call, endpoint
from entitlements.sandbox.shapes import PAGE, list_object, page, plain_shape, render
from entitlements.sandbox.store import Transaction, make_id

_DAY = 86_400
LATEST_DAYS = 35
"""How far back an event may lie."""

plain_shape("billing.meter", stripe.billing.Meter)
plain_shape("billing.meter_event", stripe.billing.MeterEvent)
plain_shape("billing.meter_event_summary", stripe.billing.MeterEventSummary)
plain_shape("billing.meter_event_adjustment", stripe.billing.MeterEventAdjustment)


def usage(tx: Transaction, meter_id: str, customer: str, start: int, end: int) -> Fraction:
    """What a customer used in `[start, end)`, by the meter's own formula."""
    meter = tx.need(meter_id, "billing.meter", "meter")
    counted = [
        event
        for event in tx.find("billing.meter_event", parent=f"{meter['event_name']}/{customer}")
        if start <= event["timestamp"] < end
    ]
    values = [Fraction(e["payload"][meter["value_settings"]["event_payload_key"]]) for e in counted]
    formula = meter["default_aggregation"]["formula"]
    if formula == "count":
        return Fraction(len(values))
    if formula == "last":
        latest = max(range(len(counted)), key=lambda i: (counted[i]["timestamp"], i), default=None)
        return Fraction(0) if latest is None else values[latest]
    return sum(values, Fraction(0))


@endpoint(
    "POST",
    "/v1/billing/meters",
    "billing.MeterCreateParams",
    "display_name event_name default_aggregation customer_mapping value_settings event_time_window",
)
def create_meter(call: Call) -> Json:
    tx, p = call.tx, call.params
    for other in tx.find("billing.meter", lookup=p["event_name"]):
        if other["status"] == "active":
            raise invalid(
                f"There is already an active meter for event_name {p['event_name']}.", "event_name"
            )
    mapping = p.get(
        "customer_mapping", {"event_payload_key": "stripe_customer_id", "type": "by_id"}
    )
    meter = {
        "id": make_id("mtr"),
        "object": "billing.meter",
        "created": tx.wall,
        "customer_mapping": mapping,
        "default_aggregation": p["default_aggregation"],
        "display_name": p["display_name"],
        "event_name": p["event_name"],
        "event_time_window": p.get("event_time_window"),
        "livemode": False,
        "status": "active",
        "status_transitions": {"deactivated_at": None},
        "updated": tx.wall,
        "value_settings": p.get("value_settings", {"event_payload_key": "value"}),
        "_lookup": p["event_name"],
    }
    tx.save(meter)
    emit(tx, "billing.meter.created", meter)
    return render(tx, meter)


@endpoint("GET", "/v1/billing/meters", "billing.MeterListParams", f"status {PAGE}")
def list_meters(call: Call) -> Json:
    wanted = call.params.get("status")
    return page(
        call.tx,
        "/v1/billing/meters",
        "billing.meter",
        call.params,
        lambda meter: wanted in (None, meter["status"]),
    )


@endpoint("GET", "/v1/billing/meters/{id}", "billing.MeterRetrieveParams", "")
def retrieve_meter(call: Call) -> Json:
    return render(call.tx, call.tx.need(call.path["id"], "billing.meter"))


@endpoint("POST", "/v1/billing/meters/{id}", "billing.MeterUpdateParams", "display_name")
def update_meter(call: Call) -> Json:
    tx = call.tx
    meter = tx.need(call.path["id"], "billing.meter")
    before = render(tx, meter)
    meter |= {"display_name": call.params.get("display_name", meter["display_name"])}
    tx.save(meter)
    emit(tx, "billing.meter.updated", meter, before)
    return render(tx, meter)


@endpoint("POST", "/v1/billing/meters/{id}/deactivate", "billing.MeterDeactivateParams", "")
def deactivate_meter(call: Call) -> Json:
    return _switch(call, "inactive", "billing.meter.deactivated")


@endpoint("POST", "/v1/billing/meters/{id}/reactivate", "billing.MeterReactivateParams", "")
def reactivate_meter(call: Call) -> Json:
    return _switch(call, "active", "billing.meter.reactivated")


def _switch(call: Call, status: str, event: str) -> Json:
    tx = call.tx
    meter = tx.need(call.path["id"], "billing.meter")
    if meter["status"] == status:
        raise invalid(f"The meter is already {status}.")
    meter["status"] = status
    meter["status_transitions"] = {"deactivated_at": tx.wall if status == "inactive" else None}
    tx.save(meter)
    emit(tx, event, meter)
    return render(tx, meter)


@endpoint(
    "POST",
    "/v1/billing/meter_events",
    "billing.MeterEventCreateParams",
    "event_name payload identifier timestamp",
)
def create_event(call: Call) -> Json:
    """Counts once for an identifier: a repeated one answers the first event."""
    tx, p = call.tx, call.params
    meters = [
        m for m in tx.find("billing.meter", lookup=p["event_name"]) if m["status"] == "active"
    ]
    if not meters:
        raise invalid(
            f"No active meter found for event_name {p['event_name']}.", "event_name", "no_meter"
        )
    meter = meters[0]
    customer = _customer_in(tx, meter, p["payload"])
    _check_value(meter, p["payload"])
    identifier = p.get("identifier") or make_id("mev")
    if len(identifier) > 100:
        raise invalid("identifier can be at most 100 characters long.", "identifier")
    for earlier in tx.find("billing.meter_event", lookup=identifier):
        return render(tx, earlier)
    present = now(tx, customer)
    at = p.get("timestamp", present)
    if at < present - LATEST_DAYS * _DAY:
        raise invalid(
            f"The timestamp must be within the past {LATEST_DAYS} days.",
            "timestamp",
            "timestamp_too_far_in_past",
        )
    if at > present + 300:
        raise invalid(
            "The timestamp must not be more than 5 minutes in the future.",
            "timestamp",
            "timestamp_in_future",
        )
    event = {
        "id": make_id("mevt"),
        "object": "billing.meter_event",
        "created": present,
        "event_name": p["event_name"],
        "identifier": identifier,
        "livemode": False,
        "payload": p["payload"],
        "timestamp": at,
        "_customer": customer["id"],
        "_lookup": identifier,
        "_parent": f"{p['event_name']}/{customer['id']}",
    }
    return render(tx, tx.save(event))


def _customer_in(tx: Transaction, meter: Json, payload: Json) -> Json:
    key = meter["customer_mapping"]["event_payload_key"]
    if key not in payload:
        raise invalid(f"The payload must contain {key}.", f"payload[{key}]", "parameter_missing")
    return tx.need(payload[key], "customer", f"payload[{key}]")


def _check_value(meter: Json, payload: Json) -> None:
    key = meter["value_settings"]["event_payload_key"]
    if meter["default_aggregation"]["formula"] == "count" and key not in payload:
        payload[key] = "1"
    text = payload.get(key, "")
    digits = text.lstrip("-").replace(".", "", 1)
    if not digits.isascii() or not digits.isdigit() or len(text) > 30:
        raise invalid(f"The payload's {key} must be a number.", f"payload[{key}]")


@endpoint(
    "GET",
    "/v1/billing/meters/{id}/event_summaries",
    "billing.MeterEventSummaryListParams",
    "customer start_time end_time",
)
def list_summaries(call: Call) -> Json:
    tx, p = call.tx, call.params
    meter = tx.need(call.path["id"], "billing.meter")
    customer = tx.need(p["customer"], "customer", "customer")
    if p["end_time"] <= p["start_time"]:
        raise invalid("end_time must be after start_time.", "end_time")
    value = usage(tx, meter["id"], customer["id"], p["start_time"], p["end_time"])
    summary = {
        "id": make_id("mtrusg"),
        "object": "billing.meter_event_summary",
        "aggregated_value": float(value),
        "end_time": p["end_time"],
        "livemode": False,
        "meter": meter["id"],
        "start_time": p["start_time"],
    }
    url = f"/v1/billing/meters/{meter['id']}/event_summaries"
    return list_object(url, [summary] if value else []) | {"_kind": summary["object"]}
