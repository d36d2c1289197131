"""Use as the provider counts it: its meters, and the events that it adds up.

A meter adds up the units to be paid for of one charge, for all versions of its package. What is
included has been left out before: it could not be said beside tiers or blocks.
"""

import hashlib
from datetime import datetime, timedelta
from typing import Any

import msgspec
import stripe

from entitlements.billing.sdk import instant, metadata_of
from entitlements.kernel.period import Period

NAME_LENGTH_AT_MOST = 100
LATE_USAGE = "late_usage"
"""In the metadata of what is invoiced for use that came too late: under which key of ours."""

FINAL_AFTER = timedelta(hours=1)
"""About how long after a period's end its invoice is final."""


def event_name(package_id: str, charge_id: str) -> str:
    """What the events of a charge are called: at most 100 characters.

    >>> event_name("help-desk-team", "conversations")
    'help-desk-team/conversations'
    >>> len(event_name("a" * 64, "b" * 64))
    100
    """
    name = f"{package_id}/{charge_id}"
    if len(name) <= NAME_LENGTH_AT_MOST:
        return name
    return f"{name[:67]}-{hashlib.sha256(name.encode()).hexdigest()[:32]}"


class MeterEvent(msgspec.Struct, frozen=True, kw_only=True):
    """So many units more (or fewer) to be paid for, at an instant. `identifier` counts once."""

    identifier: str
    name: str
    customer_provider_id: str
    units: int
    at: datetime


class Meters:
    def __init__(self, client: stripe.StripeClient) -> None:
        self._client = client
        self._ids: dict[str, str] = {}

    async def ensure(self, package_id: str, charge_id: str) -> str:
        """The meter of a charge, made there where it is missing; its id."""
        name = event_name(package_id, charge_id)
        if name not in self._ids:
            try:
                made = await self._client.v1.billing.meters.create_async(
                    {
                        "display_name": name,
                        "event_name": name,
                        "default_aggregation": {"formula": "sum"},
                    },
                    {"idempotency_key": f"meter:{name}"},
                )
                self._ids[name] = made.id
            except stripe.InvalidRequestError:
                found = await self._find(name)
                if found is None:
                    raise
                self._ids[name] = found
        return self._ids[name]

    async def _find(self, name: str) -> str | None:
        """One that was made before, by a process of ours or for another database."""
        page = await self._client.v1.billing.meters.list_async({"status": "active", "limit": 100})
        async for meter in page.auto_paging_iter():
            if meter.event_name == name:
                return meter.id
        return None

    async def send(self, event: MeterEvent) -> datetime:
        """Have an event counted, once however often it is sent within a day; when it was taken."""
        taken = await self._client.v1.billing.meter_events.create_async(
            {
                "event_name": event.name,
                "identifier": event.identifier,
                "timestamp": int(event.at.timestamp()),
                "payload": {
                    "stripe_customer_id": event.customer_provider_id,
                    "value": str(event.units),
                },
            },
            {"idempotency_key": event.identifier},
        )
        return instant(taken.created)

    async def counted(
        self, package_id: str, charge_id: str, customer_provider_id: str, span: Period
    ) -> int:
        """The units of a customer that the provider has counted in a span of whole minutes."""
        meter_id = await self.ensure(package_id, charge_id)
        page = await self._client.v1.billing.meters.event_summaries.list_async(
            meter_id,
            {
                "customer": customer_provider_id,
                "start_time": int(span.start.timestamp()),
                "end_time": int(span.end.timestamp()),
            },
        )
        # The SDK has them as floats; we send whole units only, so each is whole.
        return sum([round(each.aggregated_value) async for each in page.auto_paging_iter()])

    async def invoice_late(
        self,
        key: str,
        *,
        customer_provider_id: str,
        subscription_provider_id: str,
        currency: str,
        amount_minor: int,
        description: str,
        span: Period,
        version_id: str,
        charge_id: str,
    ) -> None:
        """Have an amount stand on a subscription's next invoice, once: `key` is in its metadata,
        where it outlives the provider's memory of keys."""
        items = self._client.v1.invoice_items
        there: Any = {"customer": customer_provider_id, "limit": 100}
        page = await items.list_async(there | {"created": {"gte": int(span.end.timestamp())}})
        async for item in page.auto_paging_iter():
            if metadata_of(item.metadata).get(LATE_USAGE) == key:
                return
        await items.create_async(
            {
                "customer": customer_provider_id,
                "subscription": subscription_provider_id,
                "currency": currency,
                "amount": amount_minor,
                "description": description,
                "period": {"start": int(span.start.timestamp()), "end": int(span.end.timestamp())},
                "metadata": {LATE_USAGE: key, "package": version_id, "charge": charge_id},
            },
            {"idempotency_key": key},
        )

    async def takes_usage(self, subscription_provider_id: str, period_end: datetime) -> bool:
        """Whether use before a period's end is still going to be invoiced: its invoice is a draft,
        or there is none yet."""
        end = int(period_end.timestamp())
        params: Any = {
            "subscription": subscription_provider_id,
            "created": {"gte": end, "lt": end + int(FINAL_AFTER.total_seconds())},
            "limit": 100,
        }
        page = await self._client.v1.invoices.list_async(params)
        return not any(
            invoice.billing_reason == "subscription_cycle" and invoice.status != "draft"
            for invoice in page.data
        )
