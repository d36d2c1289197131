"""Who may do what: the one table. A root field that is not in it is open to nobody.

A principal is a key (with a role) or a customer token (bound to one customer, with scopes).
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import msgspec
from strawberry.extensions.field_extension import AsyncExtensionResolver, FieldExtension
from strawberry.types import Info

from entitlements.audit.ledger import Actor
from entitlements.kernel.errors import Forbidden, NotFound, ServiceError, ValidationFailed
from entitlements.subscriptions.change import Authority
from entitlements.subscriptions.service import Caller


class Role(StrEnum):
    PUBLISHABLE = "publishable"
    CUSTOMER = "customer"
    SERVICE = "service"
    SUPPORT = "support"
    PRICING = "pricing"
    FINANCE = "finance"
    ADMIN = "admin"


class CustomerScope(StrEnum):
    """What a customer token may do: READ includes preview; USE counts; BUY changes and pays."""

    READ = "read"
    USE = "use"
    BUY = "buy"


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """Who is asking. `name` is for the ledger; `customer_id` binds a customer token."""

    role: Role
    name: str
    scopes: frozenset[CustomerScope] = frozenset()
    customer_id: str | None = None

    @property
    def authority(self) -> Authority:
        if self.role is Role.CUSTOMER:
            return Authority.CUSTOMER
        return Authority.STAFF if self.role in (Role.SUPPORT, Role.ADMIN) else Authority.SERVICE

    def caller(self, request_id: str | None) -> Caller:
        return Caller(Actor(self.name, request_id), self.authority)


class Rule(msgspec.Struct, frozen=True):
    """The roles that may, and for customer tokens the scope that is needed (None: they may not)."""

    roles: frozenset[Role]
    scope: CustomerScope | None = None

    def allows(self, principal: Principal) -> bool:
        if principal.role is Role.CUSTOMER:
            return self.scope is not None and self.scope in principal.scopes
        return principal.role in self.roles


_EVERYBODY = frozenset(Role)
_CUSTOMER_READERS = frozenset({Role.SERVICE, Role.SUPPORT, Role.FINANCE, Role.ADMIN})
_CUSTOMER_WRITERS = frozenset({Role.SERVICE, Role.SUPPORT, Role.ADMIN})
_STAFF = frozenset({Role.SUPPORT, Role.PRICING, Role.FINANCE, Role.ADMIN})
_CATALOG = frozenset({Role.SERVICE, *_STAFF})
_APPROVERS = frozenset({Role.SUPPORT, Role.ADMIN})
_AUDITORS = frozenset({Role.FINANCE, Role.ADMIN})
_INTEGRATORS = frozenset({Role.SERVICE, Role.ADMIN})

RULES: Mapping[str, Rule] = {
    "Query.viewer": Rule(_EVERYBODY, CustomerScope.READ),
    "Query.catalog": Rule(_EVERYBODY, CustomerScope.READ),
    "Query.plan": Rule(_EVERYBODY, CustomerScope.READ),
    "Query.addOn": Rule(_EVERYBODY, CustomerScope.READ),
    "Query.bundle": Rule(_EVERYBODY, CustomerScope.READ),
    "Query.comparePlans": Rule(_EVERYBODY, CustomerScope.READ),
    "Query.estimate": Rule(_EVERYBODY, CustomerScope.READ),
    "Query.customer": Rule(_CUSTOMER_READERS, CustomerScope.READ),
    "Query.change": Rule(_CUSTOMER_READERS, CustomerScope.READ),
    "Query.customers": Rule(_CUSTOMER_READERS),
    "Query.changesAwaitingApproval": Rule(_APPROVERS | {Role.FINANCE}),
    "Query.access": Rule(_CUSTOMER_READERS, CustomerScope.READ),
    "Query.accessMany": Rule(_CUSTOMER_READERS, CustomerScope.READ),
    "Query.usageHistory": Rule(_CUSTOMER_READERS, CustomerScope.READ),
    "Query.catalogProposal": Rule(_STAFF),
    "Query.catalogProposals": Rule(_STAFF),
    "Query.legacyVersions": Rule(_STAFF),
    "Query.migrations": Rule(_STAFF),
    "Query.auditEntries": Rule(_AUDITORS),
    "Query.verifyAudit": Rule(_AUDITORS),
    "Query.priceHistory": Rule(_AUDITORS | {Role.PRICING}),
    "Query.explainCharge": Rule(_AUDITORS | {Role.SUPPORT}),
    "Query.mrrMovements": Rule(_AUDITORS),
    "Query.mrrMovementsBy": Rule(_AUDITORS),
    "Query.sandboxClock": Rule(_EVERYBODY, CustomerScope.READ),
    "Query.webhookEndpoints": Rule(_CUSTOMER_READERS),
    "Query.webhookDeliveries": Rule(_CUSTOMER_READERS),
    "SubscriptionRoot.entitlementsChanged": Rule(_CUSTOMER_READERS, CustomerScope.READ),
    "Mutation.createCustomer": Rule(_CUSTOMER_WRITERS),
    "Mutation.updateCustomer": Rule(_CUSTOMER_WRITERS),
    "Mutation.eraseCustomer": Rule(_APPROVERS),
    "Mutation.createCustomerToken": Rule(_CUSTOMER_WRITERS),
    "Mutation.revokeCustomerTokens": Rule(_CUSTOMER_WRITERS),
    "Mutation.previewChange": Rule(_CUSTOMER_WRITERS, CustomerScope.READ),
    "Mutation.commitChange": Rule(_CUSTOMER_WRITERS, CustomerScope.BUY),
    "Mutation.purchaseAddOn": Rule(_CUSTOMER_WRITERS, CustomerScope.BUY),
    "Mutation.cancelSubscription": Rule(_CUSTOMER_WRITERS, CustomerScope.BUY),
    "Mutation.cancelScheduledChange": Rule(_CUSTOMER_WRITERS, CustomerScope.BUY),
    "Mutation.approveChange": Rule(_APPROVERS),
    "Mutation.declineChange": Rule(_APPROVERS),
    "Mutation.setUpPaymentMethod": Rule(_CUSTOMER_WRITERS, CustomerScope.BUY),
    "Mutation.payInvoice": Rule(_CUSTOMER_WRITERS, CustomerScope.BUY),
    "Mutation.startTrial": Rule(_CUSTOMER_WRITERS, CustomerScope.BUY),
    "Mutation.extendTrial": Rule(_APPROVERS),
    "Mutation.convertTrial": Rule(_CUSTOMER_WRITERS, CustomerScope.BUY),
    "Mutation.cancelTrial": Rule(_CUSTOMER_WRITERS, CustomerScope.BUY),
    "Mutation.consume": Rule(_CUSTOMER_WRITERS, CustomerScope.USE),
    "Mutation.setLevel": Rule(_CUSTOMER_WRITERS, CustomerScope.USE),
    "Mutation.recordUsage": Rule(_CUSTOMER_WRITERS),
    "Mutation.setOverride": Rule(_APPROVERS),
    "Mutation.endOverride": Rule(_APPROVERS),
    "Mutation.proposeCatalog": Rule(frozenset({Role.PRICING, Role.ADMIN})),
    "Mutation.approveProposal": Rule(_AUDITORS),
    "Mutation.rejectProposal": Rule(_AUDITORS),
    "Mutation.pauseMigration": Rule(_AUDITORS),
    "Mutation.resumeMigration": Rule(_AUDITORS),
    "Mutation.rollBackMigration": Rule(_AUDITORS),
    "Mutation.createWebhookEndpoint": Rule(_INTEGRATORS),
    "Mutation.deleteWebhookEndpoint": Rule(_INTEGRATORS),
    "Mutation.resendWebhook": Rule(_INTEGRATORS),
    "Mutation.advanceSandboxClock": Rule(frozenset({Role.ADMIN})),
}

DATED_CATALOG = _CATALOG
"""Who may see the catalog of another instant, and any version: others see what is sold now."""

CUSTOMERS = _CUSTOMER_READERS
"""Who may see any customer."""

OVERRIDES = _CUSTOMER_READERS
"""Who may see overrides as such, with their reasons: a customer sees what they grant."""

DENIALS = _CUSTOMER_READERS
"""Who may see how often a customer was denied what: a customer hears each as it happens."""

OVERRIDE_DAYS_AT_MOST: Mapping[Role, int] = {Role.SUPPORT: 90}
"""Within how many days an override of theirs has to end; who is not here sets one for good."""

PROVIDER_IDS = _STAFF
"""Who may see ids at the payment provider."""


def is_open(type_name: str, field_name: str, principal: Principal) -> bool:
    rule = RULES.get(f"{type_name}.{field_name}")
    return rule is not None and rule.allows(principal)


def require(type_name: str, field_name: str, principal: Principal) -> None:
    """Raises `Forbidden` where the table does not open a root field to a principal."""
    if not is_open(type_name, field_name, principal):
        raise Forbidden(f"{field_name} is not open to {principal.role} with these scopes")


class Guarded(FieldExtension):
    """Applies the table to a root field, before anything of it runs."""

    async def resolve_async(
        self, next_: AsyncExtensionResolver, source: Any, info: Info, **kwargs: Any
    ) -> Any:
        assert info.path.typename is not None
        try:
            require(info.path.typename, info.field_name, info.context.principal)
            if info.context.lasting:
                await info.context.still_good()
            return await next_(source, info, **kwargs)
        except ServiceError as error:
            await keep_refusal(info.context, f"{info.path.typename}.{info.field_name}", error)
            raise


_KEPT = frozenset(Role) - {Role.PUBLISHABLE, Role.CUSTOMER}
"""Whose refusals the ledger keeps: who has one of these keys was given it by name."""

_REFUSALS = frozenset({"FORBIDDEN", "OWN_PROPOSAL"})
_BEYOND_BOUNDS = frozenset({"NOT_YOURS_TO_CHOOSE", "NOT_YOURS_TO_END", "END_REQUIRED", "TOO_LATE"})
"""Codes of errors, and of issues with the input, that say that somebody else may."""


async def keep_refusal(context: Any, asked: str, error: ServiceError) -> None:
    """Write down that a root field was refused to somebody with a key, if that is what happened."""
    code = refused_code(error)
    if code is not None and context.principal.role in _KEPT:
        await context.services.refusals.note(context.caller.actor, asked, code, error.message)


def refused_code(error: ServiceError) -> str | None:
    """The code by which an error is a refusal for want of authority; None where it is not."""
    if isinstance(error, ValidationFailed):
        codes = (issue.code for issue in error.issues)
        return next((code for code in codes if code in _BEYOND_BOUNDS), None)
    return error.code if error.code in _REFUSALS else None


def customer_of(principal: Principal, customer_id: str | None) -> str:
    """The customer that a request is about: a token's own, which may be left out.

    Anybody else's is not found, never "forbidden": a token learns nothing of others.
    """
    if principal.customer_id is not None:
        if customer_id not in (None, principal.customer_id):
            raise NotFound("customer", customer_id or "")
        return principal.customer_id
    if customer_id is None:
        raise ValidationFailed.of("customerId", "REQUIRED", "say which customer")
    return customer_id
