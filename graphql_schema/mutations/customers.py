"""Creating customers, and the tokens that front ends carry for them."""

from typing import Annotated

import strawberry

from entitlements.access import tokens
from entitlements.kernel.errors import NotFound as NotFoundError
from graphql_schema.context import Info
from graphql_schema.permissions import CustomerScope, Guarded
from graphql_schema.types.customers import Customer, CustomerPayload, CustomerToken
from graphql_schema.types.enums import describe_enum
from graphql_schema.types.errors import Conflict, NotFound, ValidationFailed

describe_enum(
    CustomerScope,
    "What a customer token may do.",
    READ="Read and preview.",
    USE="Count: consume, setLevel.",
    BUY="Change, try and pay.",
)
CustomerResult = Annotated[
    CustomerPayload | Conflict | ValidationFailed | NotFound,
    strawberry.union("CustomerResult", description="The customer, or why not."),
]
CustomerTokenResult = Annotated[
    CustomerToken | ValidationFailed | NotFound,
    strawberry.union("CustomerTokenResult", description="A token, or why not."),
]


CustomerId = Annotated[strawberry.ID, strawberry.argument(description="Your own id of it.")]


@strawberry.input(description="A new customer.")
class CreateCustomerInput:
    id: strawberry.ID = strawberry.field(description="Your own id of the customer.")
    name: str | None = strawberry.field(default=None, description="For people.")
    email: str | None = strawberry.field(default=None, description="For receipts.")
    currency: str | None = strawberry.field(
        default=None, description="ISO 4217, lower case; the catalog's first if left out."
    )
    sandbox_payment_method: str | None = strawberry.field(
        default=None, description='Sandbox only: a test card, such as "pm_card_visa".'
    )


@strawberry.type
class CustomerMutations:
    @strawberry.mutation(extensions=[Guarded()], description="Make a customer known.")
    async def create_customer(
        self,
        info: Info,
        input: Annotated[CreateCustomerInput, strawberry.argument(description="Who it is.")],
    ) -> CustomerResult:
        await info.context.services.customers.create_customer(
            info.context.caller,
            input.id,
            name=input.name,
            email=input.email,
            currency=input.currency,
            sandbox_payment_method=input.sandbox_payment_method,
        )
        return await customer_payload(info, input.id)

    @strawberry.mutation(extensions=[Guarded()], description="Change name or e-mail address.")
    async def update_customer(
        self,
        info: Info,
        id: CustomerId,
        name: Annotated[str | None, strawberry.argument(description="Null: as it is.")] = None,
        email: Annotated[str | None, strawberry.argument(description="Null: as it is.")] = None,
    ) -> CustomerResult:
        caller = info.context.caller
        await info.context.services.customers.update_customer(caller, id, name=name, email=email)
        return await customer_payload(info, id)

    @strawberry.mutation(
        extensions=[Guarded()],
        description="Erase the personal data of a customer, for good: name, e-mail address, card, "
        "here and at the payment provider, and the salt that the ledger's digests of them are "
        "under. Purchases, invoices and the ledger stay; tokens are useless from then on. "
        "Conflict: SUBSCRIPTION_LIVE, CHANGE_IN_PROGRESS. Once is enough: again changes nothing.",
    )
    async def erase_customer(
        self,
        info: Info,
        id: CustomerId,
        reason: Annotated[
            str, strawberry.argument(description="Why: it is kept, up to 2000 characters.")
        ],
    ) -> CustomerResult:
        await info.context.services.erasing.erase(info.context.caller, id, reason)
        return await customer_payload(info, id)

    @strawberry.mutation(
        extensions=[Guarded()], description="A token that a front end may carry for a customer."
    )
    async def create_customer_token(
        self,
        info: Info,
        customer_id: CustomerId,
        ttl_seconds: Annotated[
            int, strawberry.argument(description="How long it is good, at most 86400 seconds.")
        ] = 3600,
        scopes: Annotated[
            list[CustomerScope], strawberry.argument(description="What it may do.")
        ] = [CustomerScope.READ],  # noqa: B006 (never changed)
        subject: Annotated[
            str | None,
            strawberry.argument(
                description="The person, for the ledger, where it stays for ever: an id of yours, "
                "no name or address."
            ),
        ] = None,
    ) -> CustomerTokenResult:
        view = await info.context.customers.load(customer_id)
        if view is None:
            raise NotFoundError("customer", customer_id)
        issued = tokens.issue(
            info.context.services.signer,
            view.row.id,
            view.row.token_generation,
            scopes=[scope.value for scope in scopes],
            ttl_seconds=ttl_seconds,
            subject=subject,
        )
        return CustomerToken(token=issued.token, expires_at=issued.expires_at)

    @strawberry.mutation(
        extensions=[Guarded()], description="Make every token of a customer useless, at once."
    )
    async def revoke_customer_tokens(self, info: Info, customer_id: CustomerId) -> CustomerResult:
        await info.context.services.customers.revoke_tokens(info.context.caller, customer_id)
        return await customer_payload(info, customer_id)


async def customer_payload(info: Info, customer_id: str) -> CustomerPayload:
    """The customer as they are after what was just done."""
    info.context.changed()
    view = await info.context.customers.load(customer_id)
    assert view is not None
    return CustomerPayload(customer=Customer(view=view))
