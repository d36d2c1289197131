"""Asking the schema as somebody: principals, and a thin client of the schema itself."""

from datetime import datetime
from typing import Any

from strawberry.types import ExecutionResult

from entitlements.catalog import examples
from entitlements.catalog.document import read
from entitlements.kernel.clock import SettableClock
from entitlements.services import Services
from graphql_schema.context import Context
from graphql_schema.permissions import CustomerScope, Principal, Role
from graphql_schema.schema import schema

ANN = Principal(role=Role.PRICING, name="key:ann")
BOB = Principal(role=Role.FINANCE, name="key:bob")
ADMIN = Principal(role=Role.ADMIN, name="key:root")
SHOP = Principal(role=Role.PUBLISHABLE, name="key:shop")


def customer(id: str) -> Principal:
    """A customer's token that may read."""
    scopes = frozenset({CustomerScope.READ})
    return Principal(role=Role.CUSTOMER, name=f"customer:{id}", scopes=scopes, customer_id=id)


class Api:
    """Asks the schema as somebody. Each question is a request of its own."""

    def __init__(self, services: Services) -> None:
        self.services = services

    async def execute(
        self, document: str, principal: Principal = SHOP, **variables: Any
    ) -> ExecutionResult:
        context = Context(self.services, principal, "req_1")
        result = await schema.execute(document, variable_values=variables, context_value=context)
        assert isinstance(result, ExecutionResult)
        return result

    async def ask(self, document: str, principal: Principal = SHOP, **variables: Any) -> Any:
        """The data; an error fails the test."""
        result = await self.execute(document, principal, **variables)
        assert result.errors is None, result.errors
        return result.data

    async def refused(
        self, document: str, principal: Principal = SHOP, **variables: Any
    ) -> dict[str, Any]:
        """The extensions of the one error that is expected."""
        result = await self.execute(document, principal, **variables)
        assert result.errors is not None, result.data
        (error,) = result.errors
        return error.extensions or {}

    def set_clock(self, at: datetime) -> None:
        assert isinstance(self.services.clock, SettableClock)
        self.services.clock.set(at)

    async def publish(self, example: str) -> None:
        """Publish a document that ships with the service."""
        await self.publish_document(read(examples.text(example)).document)

    async def publish_document(self, document: Any) -> None:
        """Publish a document at once, by two people."""
        proposed = await self.ask(
            'mutation($d: JSON!) { proposeCatalog(input: {document: $d, reason: "Prices"}) {'
            " ... on CatalogProposal { id } } }",
            ANN,
            d=document,
        )
        await self.ask(
            "mutation($id: ID!) { approveProposal(id: $id) { ... on CatalogProposal { id } } }",
            BOB,
            id=proposed["proposeCatalog"]["id"],
        )
