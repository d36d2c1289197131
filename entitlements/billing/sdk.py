"""What whoever calls the SDK needs: its errors as ours, and its values in our types."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import stripe
import structlog

from entitlements.kernel.errors import Conflict, PaymentDeclined, PaymentProviderUnavailable
from entitlements.subscriptions.state import SubscriptionStatus

log = structlog.get_logger()

BILLING = "billing"
"""In a subscription's metadata under `ends`: it is only the billing that ends, with its period."""


@asynccontextmanager
async def provider_errors() -> AsyncIterator[None]:
    """The SDK's errors as ours. Declines and refusals pass: their callers know what they mean."""
    try:
        yield
    except stripe.RateLimitError as error:
        raise PaymentProviderUnavailable(
            "the payment provider takes no more requests for now", _retry_after(error)
        ) from error
    except stripe.IdempotencyError as error:
        log.error("stripe_key_used_for_another_request", error=str(error))
        raise PaymentProviderUnavailable(
            "the payment provider knows another request under this one's key"
        ) from error
    except (stripe.APIConnectionError, stripe.APIError) as error:
        log.warning("stripe_unavailable", status=error.http_status, error=str(error))
        raise PaymentProviderUnavailable("the payment provider cannot be reached", 5) from error
    except (stripe.AuthenticationError, stripe.PermissionError) as error:
        log.error("stripe_refuses_our_key", error=type(error).__name__)
        raise PaymentProviderUnavailable("the payment provider refuses our key") from error


@asynccontextmanager
async def refusals() -> AsyncIterator[None]:
    """What the provider will not do, as a `Conflict` that says why."""
    try:
        yield
    except stripe.InvalidRequestError as error:
        raise Conflict(str(error.user_message or error), code="PROVIDER_REFUSED") from error


def decline_of(error: stripe.CardError) -> PaymentDeclined:
    body = error.error
    return PaymentDeclined(
        error.user_message or "the card was declined",
        (body.decline_code if body else None) or error.code,
    )


def _retry_after(error: stripe.StripeError) -> int:
    header = str((error.headers or {}).get("Retry-After", ""))
    return int(header) if header.isdigit() else 5


def status_of(subscription: stripe.Subscription) -> SubscriptionStatus:
    if subscription.status == "incomplete_expired":
        return SubscriptionStatus.CANCELED
    return SubscriptionStatus(subscription.status)


def metadata_of(metadata: Any) -> dict[str, str]:
    return metadata.to_dict() if metadata else {}


def what_ends(subscription: stripe.Subscription) -> str:
    """`BILLING`, or nothing where the end is that of what is held."""
    return metadata_of(subscription.metadata).get("ends", "")


def id_of(reference: Any) -> str | None:
    """The id of an expandable field, expanded or not."""
    return reference if reference is None or isinstance(reference, str) else str(reference.id)


def instant(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def optional_instant(seconds: int | None) -> datetime | None:
    return None if seconds is None else instant(seconds)
