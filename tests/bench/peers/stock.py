"""Stock Strawberry with its parser and validation caches: the same subset, the same data."""

import enum
import json
import sys
from pathlib import Path
from typing import Any

import strawberry
import uvicorn
from strawberry.asgi import GraphQL
from strawberry.extensions import ParserCache, ValidationCache


@strawberry.enum
class DenialReason(enum.Enum):
    CUSTOMER_NOT_FOUND = 1
    NOT_ENTITLED = 2


@strawberry.type
class EntitlementValue:
    enabled: bool | None
    number: str | None
    choice: str | None


@strawberry.type
class AccessDecision:
    feature_id: strawberry.ID
    allowed: bool
    reason: DenialReason | None
    value: EntitlementValue | None
    revision: str


@strawberry.input
class AccessInput:
    feature_id: strawberry.ID
    at_least: str | None = None


def decide(customer: Any, feature_id: str) -> AccessDecision:
    if customer is None:
        return AccessDecision(
            feature_id=strawberry.ID(feature_id),
            allowed=False,
            reason=DenialReason.CUSTOMER_NOT_FOUND,
            value=None,
            revision="0",
        )
    value = customer["features"].get(feature_id)
    allowed = value is not None and value.enabled is not False
    return AccessDecision(
        feature_id=strawberry.ID(feature_id),
        allowed=allowed,
        reason=None if allowed else DenialReason.NOT_ENTITLED,
        value=value,
        revision=customer["revision"],
    )


@strawberry.type
class Query:
    @strawberry.field
    async def access(
        self,
        info: strawberry.Info,
        feature_id: strawberry.ID,
        customer_id: strawberry.ID | None = None,
    ) -> AccessDecision:
        return decide(info.context["customer"], feature_id)

    @strawberry.field
    async def access_many(
        self,
        info: strawberry.Info,
        checks: list[AccessInput],
        customer_id: strawberry.ID | None = None,
    ) -> list[AccessDecision]:
        customer = info.context["customer"]
        return [decide(customer, check.feature_id) for check in checks]


class View(GraphQL[Any, None]):
    def __init__(self, data: Any) -> None:
        schema = strawberry.Schema(
            Query, extensions=[lambda: ParserCache(100), lambda: ValidationCache(100)]
        )
        super().__init__(schema, graphql_ide=None)
        self._tokens = data["tokens"]
        self._customers = data["customers"]
        for customer in self._customers.values():
            customer["features"] = {
                id: EntitlementValue(**value) for id, value in customer["features"].items()
            }

    async def get_context(self, request: Any, response: Any) -> Any:
        token = request.headers.get("authorization", "")[7:]
        return {"customer": self._customers.get(self._tokens.get(token))}


if __name__ == "__main__":
    port, data_file = sys.argv[1:]
    uvicorn.run(
        View(json.loads(Path(data_file).read_text())),
        port=int(port),
        loop="uvloop",
        http="httptools",
        log_level="warning",
        access_log=False,
        lifespan="off",
    )
