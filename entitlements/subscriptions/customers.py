"""Customers: created, renamed, read with what they hold. Each knows its revision."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime

import msgspec
import structlog
from sqlalchemy import and_, or_, select

from entitlements.audit.personal import digests
from entitlements.catalog.model import Catalog
from entitlements.kernel.clock import Clock
from entitlements.kernel.errors import Conflict, Issue, PaymentProviderUnavailable, ValidationFailed
from entitlements.kernel.ids import new_id, random_token
from entitlements.kernel.money import is_currency
from entitlements.storage.unit_of_work import Database
from entitlements.subscriptions.change import ChangeDirection
from entitlements.subscriptions.history import states_at
from entitlements.subscriptions.payments import PaymentProvider
from entitlements.subscriptions.queue import in_effect
from entitlements.subscriptions.records import (
    load_states,
    lock_customer,
    locked_customer,
    record,
)
from entitlements.subscriptions.service import Caller
from entitlements.subscriptions.state import CustomerState, Subscription
from entitlements.subscriptions.tables import ChangeRow, CustomerRow, InvoiceRow

log = structlog.get_logger()


class CustomerView(msgspec.Struct, frozen=True):
    """A customer as stored, and what follows from it."""

    row: CustomerRow
    state: CustomerState


class CustomerService:
    def __init__(
        self,
        database: Database,
        catalog: Callable[[], Awaitable[Catalog]],
        clock: Clock,
        payments: PaymentProvider,
        *,
        sandbox: bool,
    ) -> None:
        self._database = database
        self._catalog = catalog
        self._clock = clock
        self._payments = payments
        self._sandbox = sandbox

    async def create_customer(
        self,
        caller: Caller,
        customer_id: str,
        *,
        name: str | None = None,
        email: str | None = None,
        currency: str | None = None,
        sandbox_payment_method: str | None = None,
    ) -> CustomerRow:
        """A new customer, known to us alone until the first payment. `Conflict` where it exists."""
        catalog = await self._catalog()
        if currency is None:
            currency = next(iter(catalog.currencies), "usd")
        issues = _customer_issues(customer_id, name, email)
        if not is_currency(currency) or (catalog.currencies and currency not in catalog.currencies):
            known = ", ".join(catalog.currencies)
            issues.append(
                Issue(("currency",), "UNKNOWN_CURRENCY", f"{currency!r} is not one of {known}")
            )
        if sandbox_payment_method and not self._sandbox:
            issues.append(
                Issue(("sandboxPaymentMethod",), "SANDBOX_ONLY", "test cards are for the sandbox")
            )
        elif sandbox_payment_method and not _names_a_test_card(sandbox_payment_method):
            issues.append(
                Issue(
                    ("sandboxPaymentMethod",),
                    "UNKNOWN_PAYMENT_METHOD",
                    "name a test card, such as pm_card_visa",
                )
            )
        if issues:
            raise ValidationFailed(issues)
        now = self._clock.now()
        async with self._database.write() as session:
            if await lock_customer(session, customer_id) is not None:
                raise Conflict(f"there is a customer {customer_id!r} already", code="EXISTS")
            row = CustomerRow(
                id=customer_id,
                sequence=new_id("cus"),
                name=name,
                email=email,
                currency=currency,
                created_at=now,
                revision=1,
                token_generation=1,
                sandbox_payment_method=sandbox_payment_method,
                credit_balance_minor=0,
                salt=random_token(),
            )
            session.add(row)
            await session.flush()
            after = {"currency": currency, **_digests(row, {"name": name, "email": email})}
            await record(session, now, caller.actor, row, "customer.created", after=after)
        return row

    async def update_customer(
        self, caller: Caller, customer_id: str, *, name: str | None, email: str | None
    ) -> CustomerRow:
        """Change the name or the e-mail address; None leaves it. The ledger says that, and to what
        only in digests. `Conflict` `ERASED` where the customer's personal data was erased.
        """
        if issues := _customer_issues(customer_id, name, email):
            raise ValidationFailed(issues)
        now = self._clock.now()
        async with self._database.write() as session:
            row = await locked_customer(session, customer_id)
            wanted = {"name": name, "email": email}
            if row.erased_at is not None and any(wanted.values()):
                words = "what is known of the person was erased: nothing is added to it"
                raise Conflict(words, code="ERASED")
            changed = [k for k, v in wanted.items() if v is not None and getattr(row, k) != v]
            for field in changed:
                setattr(row, field, wanted[field])
            if changed:
                row.revision += 1
                row.salt = row.salt or random_token()
                after = {"fields": changed, **_digests(row, {k: wanted[k] for k in changed})}
                await record(session, now, caller.actor, row, "customer.updated", after=after)
        if changed and row.provider_id is not None:
            await self._tell_provider(row, row.provider_id)
        return row

    async def _tell_provider(self, row: CustomerRow, provider_id: str) -> None:
        """Its invoices bear the new name. If it is away, that is found by a reconciliation."""
        key = f"customer:{row.sequence}:named:{row.revision}"
        try:
            await self._payments.put_customer(key, provider_id, name=row.name, email=row.email)
        except (PaymentProviderUnavailable, Conflict) as error:
            log.warning("provider_not_told_name", customer=row.id, error=error.message)

    async def revoke_tokens(self, caller: Caller, customer_id: str) -> CustomerRow:
        """Make every token of the customer that was issued so far useless."""
        now = self._clock.now()
        async with self._database.write() as session:
            row = await locked_customer(session, customer_id)
            row.token_generation += 1
            row.revision += 1
            await record(session, now, caller.actor, row, "customer.tokens_revoked")
        return row

    # ── reading ──────────────────────────────────────────────────────────────

    async def views(self, customer_ids: Sequence[str]) -> list[CustomerView | None]:
        """Customers with what they hold by now, in the order asked for, in five statements."""
        async with self._database.read() as session:
            rows = (
                await session.scalars(select(CustomerRow).where(CustomerRow.id.in_(customer_ids)))
            ).all()
            states = await load_states(session, rows)
        catalog, now = await self._catalog(), self._clock.now()
        found = {row.id: CustomerView(row, in_effect(catalog, states[row.id], now)) for row in rows}
        return [found.get(customer_id) for customer_id in customer_ids]

    async def views_at(
        self, customer_ids: Sequence[str], catalog: Catalog, at: datetime
    ) -> dict[str, CustomerView]:
        """The same as it stood at an instant, by what was sold then; of those who were there.

        Raises `ValidationFailed` for an instant to come, or one from before anything was recorded.
        """
        if at > self._clock.now():
            raise ValidationFailed.of("at", "IN_THE_FUTURE", "the instant is yet to come")
        async with self._database.read() as session:
            query = select(CustomerRow).where(CustomerRow.id.in_(customer_ids))
            rows = {row.id: row for row in await session.scalars(query)}
            states = await states_at(session, rows.values(), at)
        return {
            id: CustomerView(rows[id], in_effect(catalog, state, at))
            for id, state in states.items()
        }

    async def page(
        self, *, first: int, after: str | None, search: str | None = None
    ) -> Sequence[CustomerRow]:
        """Up to `first` customers, newest first, older than the cursor `after`.

        `search` finds the beginning of an id, a name or an e-mail address.
        """
        query = select(CustomerRow).order_by(CustomerRow.sequence.desc()).limit(first)
        if after is not None:
            query = query.where(CustomerRow.sequence < after)
        if search:
            columns = (CustomerRow.id, CustomerRow.name, CustomerRow.email)
            query = query.where(or_(*(c.istartswith(search, autoescape=True) for c in columns)))
        async with self._database.read() as session:
            return (await session.scalars(query)).all()

    async def changes(
        self, customer_id: str, *, first: int, after: str | None
    ) -> Sequence[ChangeRow]:
        """Up to `first` changes of a customer, newest first, older than the change `after`."""
        query = select(ChangeRow).where(ChangeRow.customer_id == customer_id)
        if after is not None:
            query = query.where(ChangeRow.id < after)
        async with self._database.read() as session:
            query = query.order_by(ChangeRow.id.desc()).limit(first)
            return (await session.scalars(query)).all()

    async def change(self, change_id: str) -> ChangeRow | None:
        async with self._database.read() as session:
            return await session.get(ChangeRow, change_id)

    async def scheduled_changes(self, customer_id: str) -> Sequence[ChangeRow]:
        """Changes that wait for their instant, the next one first."""
        query = (
            select(ChangeRow)
            .where(
                ChangeRow.customer_id == customer_id,
                ChangeRow.status == "scheduled",
                ChangeRow.effective_at > self._clock.now(),
            )
            .order_by(ChangeRow.effective_at, ChangeRow.id)
        )
        async with self._database.read() as session:
            return (await session.scalars(query)).all()

    async def waiting_then(self, held: Subscription, at: datetime) -> Sequence[ChangeRow]:
        """What waited at an instant, of a subscription as it stood then: its queue, and its end."""
        ids = [entry.change_id for entry in held.queue]
        query = select(ChangeRow).where(
            ChangeRow.subscription_id == held.id,
            or_(
                ChangeRow.id.in_(ids),
                and_(
                    ChangeRow.direction == ChangeDirection.CANCELLATION.value,
                    ChangeRow.effective_at == held.cancel_at,
                    ChangeRow.created_at <= at,
                ),
            ),
        )
        async with self._database.read() as session:
            return (await session.scalars(query.order_by(ChangeRow.id))).all()

    async def invoice(self, invoice_id: str) -> InvoiceRow | None:
        async with self._database.read() as session:
            return await session.get(InvoiceRow, invoice_id)

    async def invoices(
        self, customer_id: str, *, first: int, after: str | None
    ) -> Sequence[InvoiceRow]:
        """Up to `first` invoices of a customer, newest first, older than the invoice `after`."""
        query = select(InvoiceRow).where(InvoiceRow.customer_id == customer_id)
        if after is not None:
            query = query.where(InvoiceRow.id < after)
        async with self._database.read() as session:
            query = query.order_by(InvoiceRow.id.desc()).limit(first)
            return (await session.scalars(query)).all()


def _digests(row: CustomerRow, fields: Mapping[str, str | None]) -> dict[str, object]:
    """What the ledger keeps of personal data."""
    assert row.salt is not None
    found = digests(row.salt, fields)
    return {"digests": found} if found else {}


def _names_a_test_card(method: str) -> bool:
    return method.startswith("pm_card_") and len(method) <= 100


def _customer_issues(customer_id: str, name: str | None, email: str | None) -> list[Issue]:
    issues = []
    if not (customer_id.strip() and len(customer_id) <= 255 and customer_id.isprintable()):
        issues.append(Issue(("id",), "LENGTH", "an id has 1 to 255 printable characters"))
    if name is not None and len(name) > 500:
        issues.append(Issue(("name",), "LENGTH", "a name has at most 500 characters"))
    if email is not None and ("@" not in email or len(email) > 320 or not email.isprintable()):
        issues.append(Issue(("email",), "EMAIL", "this is not an e-mail address"))
    return issues
