"""Events and webhook endpoints. An event is written in the transaction of what it tells of."""

from typing import Any

import stripe

from entitlements.kernel.ids import random_token
from entitlements.sandbox.errors import Json, invalid
from entitlements.sandbox.routes import Call, endpoint
from entitlements.sandbox.shapes import (
    PAGE,
    in_range,
    merge_metadata,
    page,
    plain_shape,
    public,
    render,
    shape,
)
from entitlements.sandbox.store import Transaction, make_id

API_VERSION = str(stripe.api_version)
"""The version of the API that the installed SDK speaks; the only one taken."""


def now(tx: Transaction, doc: Json) -> int:
    """The instant for an object: its test clock's, or else the machine's."""
    clock = tx.get(doc["test_clock"]) if doc.get("test_clock") else None
    return int(clock["_now"]) if clock else tx.wall


def emit(tx: Transaction, type: str, doc: Json, before: Json | None = None) -> None:
    """Record that something happened to an object.

    `before` is how it was shown earlier: the fields that differ are the event's
    `previous_attributes`, and where none do nothing is recorded.
    """
    shown = render(tx, doc)
    data: Json = {"object": shown}
    if before is not None:
        previous = {k: v for k, v in before.items() if shown.get(k) != v}
        previous |= {k: None for k in shown if k not in before}
        if not previous:
            return
        data["previous_attributes"] = previous
    event = {
        "id": make_id("evt"),
        "object": "event",
        "api_version": API_VERSION,
        "created": now(tx, doc),
        "data": data,
        "livemode": False,
        "pending_webhooks": 0,
        "request": tx.request,
        "type": type,
        "_lookup": type,
        "_parent": doc["id"],
        "_customer": doc["id"] if doc["object"] == "customer" else doc.get("customer"),
    }
    for hook in _hooks(tx):
        if hook["status"] == "enabled" and _wants(hook, type):
            event["pending_webhooks"] += 1
            tx.db.execute(
                "insert or ignore into deliveries (event, endpoint) values (?, ?)",
                (event["id"], hook["id"]),
            )
    tx.save(event)


def _hooks(tx: Transaction) -> list[Json]:
    """The endpoints, read once in a transaction: none of them changes what an event is sent to."""
    if tx.hooks is None:
        tx.hooks = tx.find("webhook_endpoint")
    return tx.hooks


def _wants(hook: Json, type: str) -> bool:
    return "*" in hook["enabled_events"] or type in hook["enabled_events"]


@shape("event", stripe.Event)
def _render_event(tx: Transaction, doc: Json) -> Json:
    waiting = tx.db.execute(
        "select count(*) from deliveries where event = ? and state = 'pending'", (doc["id"],)
    ).fetchone()[0]
    return public(doc) | {"pending_webhooks": waiting}


plain_shape("webhook_endpoint", stripe.WebhookEndpoint)


@endpoint("GET", "/v1/events", "EventListParams", f"created delivery_success type types {PAGE}")
def list_events(call: Call) -> Json:
    p = call.params
    if p.get("type") and p.get("types"):
        raise invalid("You may pass either type or types, but not both.", "types")
    types = p.get("types") or ([p["type"]] if p.get("type") else None)

    def keep(event: Json) -> bool:
        return (
            (types is None or _type_matches(event["type"], types))
            and in_range(event["created"], p.get("created"))
            and _delivered_as(call.tx, event["id"], p.get("delivery_success"))
        )

    filters = {"lookup": p["type"]} if p.get("type") and not p["type"].endswith("*") else {}
    return page(call.tx, "/v1/events", "event", p, keep, **filters)


def _type_matches(type: str, wanted: list[str]) -> bool:
    """A type by name, or a group of them such as `invoice.*`."""
    return any(type == w or (w.endswith("*") and type.startswith(w[:-1])) for w in wanted)


def _delivered_as(tx: Transaction, event: str, success: bool | None) -> bool:
    if success is None:
        return True
    states = [
        row[0] for row in tx.db.execute("select state from deliveries where event = ?", (event,))
    ]
    failed = any(state != "succeeded" for state in states)
    return not failed if success else failed


@endpoint("GET", "/v1/events/{id}", "EventRetrieveParams", "")
def retrieve_event(call: Call) -> Json:
    return render(call.tx, call.tx.need(call.path["id"], "event"))


@endpoint(
    "POST",
    "/v1/webhook_endpoints",
    "WebhookEndpointCreateParams",
    "url enabled_events api_version description metadata",
)
def create_endpoint(call: Call) -> Json:
    p = call.params
    _check_url(p["url"])
    hook = {
        "id": make_id("we"),
        "object": "webhook_endpoint",
        "api_version": _check_version(p.get("api_version")),
        "created": call.tx.wall,
        "description": p.get("description") or None,
        "enabled_events": p["enabled_events"],
        "livemode": False,
        "metadata": merge_metadata({}, p.get("metadata")),
        "status": "enabled",
        "url": p["url"],
        "_secret": f"whsec_{random_token()}",
    }
    call.tx.save(hook)
    # The secret is shown once, as at Stripe.
    return render(call.tx, hook) | {"secret": hook["_secret"]}


def _check_url(url: str) -> None:
    if not url.startswith(("http://", "https://")):
        raise invalid("Invalid URL: an explicit scheme (such as https) must be provided.", "url")


def _check_version(version: str | None) -> str | None:
    if version not in (None, "", API_VERSION):
        raise invalid(f"This sandbox sends events as of {API_VERSION} only.", "api_version")
    return version or None


@endpoint("GET", "/v1/webhook_endpoints", "WebhookEndpointListParams", PAGE)
def list_endpoints(call: Call) -> Json:
    return page(call.tx, "/v1/webhook_endpoints", "webhook_endpoint", call.params)


@endpoint("GET", "/v1/webhook_endpoints/{id}", "WebhookEndpointRetrieveParams", "")
def retrieve_endpoint(call: Call) -> Json:
    return render(call.tx, call.tx.need(call.path["id"], "webhook_endpoint"))


@endpoint(
    "POST",
    "/v1/webhook_endpoints/{id}",
    "WebhookEndpointUpdateParams",
    "url enabled_events description metadata disabled",
)
def update_endpoint(call: Call) -> Json:
    p: dict[str, Any] = call.params
    hook = call.tx.need(call.path["id"], "webhook_endpoint")
    if "url" in p:
        _check_url(p["url"])
    hook |= {k: p[k] for k in ("url", "enabled_events") if k in p}
    if "description" in p:
        hook["description"] = p["description"] or None
    if "disabled" in p:
        hook["status"] = "disabled" if p["disabled"] else "enabled"
    hook["metadata"] = merge_metadata(hook["metadata"], p.get("metadata"))
    return render(call.tx, call.tx.save(hook))


@endpoint("DELETE", "/v1/webhook_endpoints/{id}", "WebhookEndpointDeleteParams", "")
def delete_endpoint(call: Call) -> Json:
    hook = call.tx.need(call.path["id"], "webhook_endpoint")
    hook["_deleted"] = True
    call.tx.save(hook)
    call.tx.db.execute("delete from deliveries where endpoint = ?", (hook["id"],))
    return render(call.tx, hook)
