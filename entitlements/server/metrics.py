"""What operators watch of the edge, beside what each room counts by itself.

A request is named by its operation, where who sends it may be believed: names of those in public
would be as many as they like. Theirs, and all beyond a bound, go by their first root field.
"""

import functools
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

from graphql import FieldNode, OperationDefinitionNode
from prometheus_client import Counter, Gauge, Histogram
from sqlalchemy import ColumnElement, Select, func, select

from entitlements.billing.tables import UsageReportRow, WebhookEventRow
from entitlements.billing.webhooks import WAITING
from entitlements.kernel.clock import wall_now
from entitlements.notices.tables import WebhookDeliveryRow
from entitlements.services import Services
from entitlements.subscriptions.tables import ChangeRow, SubscriptionRow
from graphql_schema.documents import NOT_TRUSTED, Prepared, name_of
from graphql_schema.permissions import Principal

NAMES_AT_MOST: Final = 300
OK, REFUSED, FAILED = "ok", "refused", "failed"
UNNAMED: Final = "-"
"""The operation of a request without a document that could be carried out."""

_requests = Histogram(
    "entitlements_request_seconds",
    "GraphQL requests by operation and outcome (ok; refused; failed, by a fault of ours)",
    ["operation", "outcome"],
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 30),
)
_turned_away = Counter(
    "entitlements_requests_turned_away", "Requests refused before their document was read", ["code"]
)
_queues = Gauge(
    "entitlements_queue_depth", "What is due and waits, of all processes together", ["queue"]
)
_names: set[str] = set()

answered_also: list[Callable[[str, str], None]] = []
"""Who else is told of each request: its operation's name, and its outcome."""


def turned_away(code: str) -> None:
    _turned_away.labels(code).inc()


def answered(
    prepared: Prepared | None, name: str | None, principal: Principal, outcome: str, seconds: float
) -> None:
    """Count one request; `prepared` is None where it had no document."""
    operation = _operation(prepared, name, principal) if prepared else UNNAMED
    _series(operation, outcome).observe(seconds)
    for told in answered_also:
        told(operation, outcome)


@functools.cache
def _series(operation: str, outcome: str) -> Histogram:
    """Their number is bounded, as the names are."""
    return _requests.labels(operation, outcome)


def _operation(prepared: Prepared, name: str | None, principal: Principal) -> str:
    believed = prepared.trusted or principal.role not in NOT_TRUSTED
    key = name, believed
    label = prepared.labels.get(key)
    if label is None:
        label = prepared.labels[key] = _label(prepared, name, believed=believed)
    return label


def _label(prepared: Prepared, name: str | None, *, believed: bool) -> str:
    if prepared.ast is None or prepared.errors:
        return UNNAMED
    operations = [d for d in prepared.ast.definitions if isinstance(d, OperationDefinitionNode)]
    found = next((o for o in operations if not name or name_of(o) == name), None)
    if found is None:
        return UNNAMED
    called = name_of(found)
    if called and believed and (called in _names or len(_names) < NAMES_AT_MOST):
        _names.add(called)
        return called
    first = found.selection_set.selections[0]
    return first.name.value if isinstance(first, FieldNode) else found.operation.value


async def measure_queues(services: Services) -> None:
    """Ask how much is due and waits. Raises what the database raises."""
    wall, now = wall_now(), services.clock.now()
    async with services.database.read() as session:
        for name, count in _counts(wall, now).items():
            _queues.labels(name).set(await session.scalar(count) or 0)


def _counts(wall: datetime, now: datetime) -> dict[str, Select[int]]:
    def those(column: Any, *conditions: ColumnElement[bool]) -> Select[int]:
        return select(func.count(column)).where(*conditions)

    event, change, delivery = WebhookEventRow, ChangeRow, WebhookDeliveryRow
    return {
        "webhooks": those(event.id, event.status.in_(WAITING), event.due_at <= wall),
        "changes": those(change.id, change.status == "pending"),
        "scheduled": those(change.id, change.status == "scheduled", change.effective_at <= now),
        "provider": those(SubscriptionRow.id, SubscriptionRow.align_due_at <= wall),
        "usage": those(UsageReportRow.id, UsageReportRow.due_at <= now),
        "notices": those(delivery.id, delivery.next_attempt_at <= wall),
    }
