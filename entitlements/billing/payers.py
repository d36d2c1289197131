"""Customers at the provider, and the card that each pays with."""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import stripe
import structlog

from entitlements.billing.sdk import decline_of, id_of, instant, provider_errors, refusals
from entitlements.kernel.clock import wall_now
from entitlements.kernel.errors import Conflict, ValidationFailed
from entitlements.kernel.ids import new_id
from entitlements.subscriptions.payments import (
    BillingCustomer,
    Checkout,
    CheckoutStatus,
    ProviderCustomer,
)

log = structlog.get_logger()

CHECKOUT_OPEN_FOR = timedelta(minutes=31)
"""The provider takes no less than 30 minutes, counted when it gets the request."""


class Payers:
    def __init__(
        self, client: stripe.StripeClient, test_clock: Callable[[], Awaitable[str]] | None
    ) -> None:
        self._client = client
        self._test_clock = test_clock

    async def ensure_customer(self, customer: BillingCustomer) -> ProviderCustomer:
        async with provider_errors():
            provider_id = customer.provider_id or await self._create_customer(customer)
            found = await self._customer(provider_id)
            if found.deleted:
                raise ValidationFailed.of(
                    "customerId", "DELETED_AT_PROVIDER", "the payment provider has deleted it"
                )
            await self._name(customer, found)
            if found.payment_method_id is None and customer.sandbox_payment_method:
                await self._attach(customer, provider_id, customer.sandbox_payment_method)
                found = await self._customer(provider_id)
            return found

    async def _name(self, customer: BillingCustomer, found: ProviderCustomer) -> None:
        """Our name and e-mail address, apart from creating: a key goes with one request for ever.

        A refused one (no e-mail address, to the provider) is no reason not to sell.
        """
        name, email = customer.name or found.name, customer.email or found.email
        if (name, email) == (found.name, found.email):
            return
        try:
            await self.put_customer(new_id("name"), found.id, name=name, email=email)
        except Conflict as error:
            log.warning("stripe_refused_name", customer=customer.id, error=error.message)

    async def put_customer(
        self, key: str, provider_id: str, *, name: str | None, email: str | None
    ) -> None:
        """Give the customer at the provider our name and e-mail address; None leaves one alone."""
        params: dict[str, Any] = {"name": name} if name is not None else {}
        params |= {"email": email} if email is not None else {}
        async with provider_errors(), refusals():
            await self._client.v1.customers.update_async(
                provider_id,
                params,  # type: ignore[arg-type]
                {"idempotency_key": key},
            )

    async def forget_customer(self, key: str, provider_id: str) -> None:
        async with provider_errors(), refusals():
            if (await self._customer(provider_id)).deleted:
                return
            await self._client.v1.customers.update_async(
                provider_id, {"name": "", "email": ""}, {"idempotency_key": key}
            )
            saved = await self._client.v1.payment_methods.list_async(
                {"customer": provider_id, "limit": 100}
            )
            async for method in saved.auto_paging_iter():
                await self._client.v1.payment_methods.detach_async(
                    method.id, {}, {"idempotency_key": f"{key}:{method.id}"}
                )

    async def _create_customer(self, customer: BillingCustomer) -> str:
        """Without what may change until it is stored: see `_name`."""
        params: dict[str, Any] = {"metadata": {"customer": customer.id}}
        if self._test_clock is not None:
            params["test_clock"] = await self._test_clock()
        created = await self._client.v1.customers.create_async(
            params,  # type: ignore[arg-type]
            {"idempotency_key": f"customer:{customer.key}:create"},
        )
        return created.id

    async def _attach(self, customer: BillingCustomer, provider_id: str, method: str) -> None:
        """A named test card becomes the customer's default."""
        try:
            attached = await self._client.v1.payment_methods.attach_async(
                method,
                {"customer": provider_id},
                {"idempotency_key": f"customer:{customer.key}:attach:{method}"},
            )
        except stripe.CardError as error:
            raise decline_of(error) from error
        except stripe.InvalidRequestError as error:
            raise ValidationFailed.of(
                "sandboxPaymentMethod", "UNKNOWN_PAYMENT_METHOD", f"there is no {method!r}"
            ) from error
        await self._client.v1.customers.update_async(
            provider_id,
            {"invoice_settings": {"default_payment_method": attached.id}},
            {"idempotency_key": f"customer:{customer.key}:default:{attached.id}"},
        )

    async def customer(self, provider_id: str) -> ProviderCustomer | None:
        async with provider_errors():
            try:
                return await self._customer(provider_id)
            except stripe.InvalidRequestError:
                return None

    async def _customer(self, provider_id: str) -> ProviderCustomer:
        found = await self._client.v1.customers.retrieve_async(
            provider_id, {"expand": ["invoice_settings.default_payment_method"]}
        )
        if getattr(found, "deleted", False):  # all that is left of it is its id
            return ProviderCustomer(
                id=found.id, balance_minor=0, payment_method_id=None, deleted=True
            )
        settings = found.invoice_settings
        method: Any = settings.default_payment_method if settings else None
        card = getattr(method, "card", None)
        return ProviderCustomer(
            id=found.id,
            balance_minor=found.balance or 0,
            payment_method_id=method.id if method else None,
            name=found.name,
            email=found.email,
            brand=card.brand if card else None,
            last4=card.last4 if card else None,
            expires=f"{card.exp_month:02}/{card.exp_year}" if card else None,
        )

    async def start_checkout(
        self, key: str, customer_provider_id: str, currency: str, return_url: str
    ) -> Checkout:
        expires_at = int((wall_now() + CHECKOUT_OPEN_FOR).timestamp())
        async with provider_errors():
            session = await self._client.v1.checkout.sessions.create_async(
                {
                    "mode": "setup",
                    "customer": customer_provider_id,
                    "currency": currency,
                    "success_url": return_url,
                    "cancel_url": return_url,
                    "expires_at": expires_at,
                },
                # A later try is another page: the time is in it. Nobody has seen a lost one.
                {"idempotency_key": f"{key}:{expires_at}"},
            )
            return _checkout(session)

    async def finish_checkout(self, checkout_id: str) -> Checkout:
        async with provider_errors():
            session = await self._client.v1.checkout.sessions.retrieve_async(
                checkout_id, {"expand": ["setup_intent"]}
            )
            intent: Any = session.setup_intent
            if session.status == "complete" and intent is not None and intent.payment_method:
                await self._client.v1.customers.update_async(
                    id_of(session.customer) or "",
                    {
                        "invoice_settings": {
                            "default_payment_method": id_of(intent.payment_method) or ""
                        }
                    },
                    {"idempotency_key": f"checkout:{checkout_id}:default"},
                )
            return _checkout(session)


def _checkout(session: Any) -> Checkout:
    return Checkout(
        id=session.id,
        status=CheckoutStatus(session.status),
        url=session.url,
        expires_at=instant(session.expires_at),
    )
