"""What is compiled answers with the executor's bytes: the executor is the reference."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from graphql import (
    GraphQLObjectType,
    get_named_type,
    is_abstract_type,
    is_leaf_type,
    is_required_argument,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from entitlements.server.front import Front
from entitlements.services import Services
from graphql_schema.compiled import compile_operation
from graphql_schema.documents import DEFAULT_LIMITS, prepare
from graphql_schema.schema import schema
from tests.api import Api
from tests.conftest import on_sqlite
from tests.serving import serving

TYPES = schema._schema.type_map
ROOTS = {
    "query": ("access", "accessMany", "customer"),
    "mutation": ("consume",),
}
FEATURES = (
    "sso",
    "dashboards",
    "seats",
    "api-calls",
    "support-hours",
    "support-channel",
    "nothing",
)
BAD = (None, "", "nothing", 5, -1, 1.5, True, [], {}, "12", "9" * 30, "gold")
VALUES: dict[str, Any] = {
    "featureId": st.sampled_from(FEATURES),
    "customerId": st.sampled_from(("acme", "acme", "acme", "nobody")),
    "id": st.sampled_from(("acme", "acme", "nobody")),
    "quantity": st.sampled_from((1, "3", 1_000_000)),
    "atLeast": st.sampled_from(("chat", "3", "priority")),
    "minRevision": st.sampled_from((0, "1")),
    "idempotencyKey": st.sampled_from(("a", "b", "c", "")),
    "first": st.sampled_from((1, 3)),
    "locale": st.just("en"),
    "currency": st.just("usd"),
}
_CHECKS = st.lists(
    st.fixed_dictionaries(
        {"featureId": VALUES["featureId"]},
        optional={"quantity": VALUES["quantity"] | st.none(), "atLeast": VALUES["atLeast"]},
    ),
    min_size=1,
    max_size=3,
)
_PLAIN_CHECKS = st.lists(
    st.sampled_from(
        (
            {"featureId": "sso"},
            {"featureId": "dashboards", "quantity": "2"},
            {"featureId": "support-channel"},
            {"featureId": "support-channel", "atLeast": "chat"},
            {"featureId": "support-hours", "atLeast": "3"},
        )
    ),
    min_size=1,
    max_size=3,
)
"""Those that memory answers."""
NOT_THE_SAME_TWICE = {"offerToken"}


class Drawn:
    """A random operation on hot fields, and variables for it."""

    def __init__(self, draw: Any) -> None:
        self._draw = draw
        self.operation = draw(st.sampled_from(("query", "query", "query", "mutation")))
        self.variables: dict[str, Any] = {}
        self._declared: list[str] = []
        self._fragments: list[str] = []
        self._is_plain = self.operation == "query" and draw(st.booleans())
        root = TYPES["Query" if self.operation == "query" else "Mutation"]
        assert isinstance(root, GraphQLObjectType)
        count = draw(st.sampled_from((1, 1, 1, 2)))
        if self._is_plain:
            fields = [self._plain_field()]
        else:
            roots = ROOTS[self.operation]
            fields = [self._field(root, draw(st.sampled_from(roots))) for _ in range(count)]
        if self._rarely():
            fields.insert(0, "__typename")
        body = " ".join(fields)
        declared = f"({', '.join(self._declared)})" if self._declared else ""
        self.text = f"{self.operation} Hot{declared} {{ {body} }} " + " ".join(self._fragments)

    def _rarely(self) -> bool:
        return bool(self._draw(st.integers(0, 11)) == 7)

    def _plain_field(self) -> str:
        """Checks that memory answers, and nothing of them that has to be waited for."""
        below = self._selection(TYPES["AccessDecision"], 1)
        checks = self._draw(_PLAIN_CHECKS)
        if self._draw(st.booleans()):
            self._declared.append("$checks: [AccessInput!]!")
            self.variables["checks"] = checks
            return f'accessMany(customerId: "acme", checks: $checks){below}'
        arguments = _literal(checks[0])[1:-1]
        return f'access(customerId: "acme", {arguments}){below}'

    def _field(self, parent: GraphQLObjectType, name: str, depth: int = 0) -> str:
        field = parent.fields[name]
        arguments = []
        for argument_name, argument in field.args.items():
            if is_required_argument(argument) or self._draw(st.booleans()):
                arguments.append(f"{argument_name}: {self._argument(argument_name, argument)}")
        alias = f"a{len(self._declared)}: " if depth == 0 or self._rarely() else ""
        called = f"({', '.join(arguments)})" if arguments else ""
        below = self._selection(get_named_type(field.type), depth + 1)
        return f"{alias}{name}{called}{self._directive()}{below}"

    def _argument(self, name: str, argument: Any) -> str:
        value = self._draw(_CHECKS if name == "checks" else VALUES[name])
        if self._rarely():
            value = self._draw(st.sampled_from(BAD))
        if self._draw(st.booleans()):
            return _literal(value)
        variable = f"v{len(self._declared)}"
        type_ = str(argument.type)
        if is_required_argument(argument) and self._rarely():
            type_ = (
                type_.rstrip("!")
                + "! = "
                + _literal(self._draw(_CHECKS) if name == "checks" else "sso")
            )
        self._declared.append(f"${variable}: {type_}")
        if not self._rarely():
            self.variables[variable] = value
        return f"${variable}"

    def _directive(self) -> str:
        if not self._rarely():
            return ""
        name = self._draw(st.sampled_from(("include", "skip")))
        if self._draw(st.booleans()):
            return f" @{name}(if: {self._draw(st.sampled_from(('true', 'false')))})"
        variable = f"v{len(self._declared)}"
        self._declared.append(f"${variable}: Boolean!")
        self.variables[variable] = self._draw(st.booleans())
        return f" @{name}(if: ${variable})"

    def _selection(self, type_: Any, depth: int) -> str:
        if is_leaf_type(type_):
            return ""
        if is_abstract_type(type_):
            parts = ["__typename"]
            parts += [
                f"... on {possible.name}{self._selection(possible, depth)}"
                for possible in schema._schema.get_possible_types(type_)
                if self._draw(st.booleans())
            ]
            if depth > 1 and self._draw(st.booleans()):
                parts.append("id")
            return f" {{ {' '.join(parts)} }}"
        names = [
            name
            for name, field in type_.fields.items()
            if name not in NOT_THE_SAME_TWICE
            and not (self._is_plain and name == "unlocks")
            and (depth < 3 or is_leaf_type(get_named_type(field.type)))
            and (type_.name != "Customer" or name in ("id", "revision", "entitlements", "name"))
        ]
        some = self._draw(st.lists(st.sampled_from(names), min_size=1, max_size=4))
        parts = [self._field(type_, name, depth) for name in some]
        if self._rarely():
            parts.append("__typename")
        body = f"{{ {' '.join(parts)} }}"
        if self._rarely():
            name = f"F{len(self._fragments)}"
            self._fragments.append(f"fragment {name} on {type_.name} {body}")
            return f" {{ ...{name} __typename }}"
        if self._rarely():
            return f" {{ ...{self._directive()} {body} __typename }}"
        return f" {body}"


def _literal(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {_literal(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_literal, value)) + "]"
    return json.dumps(value)


@st.composite
def drawn(draw: Any) -> Drawn:
    return Drawn(draw)


async def bytes_of(api: Api, body: dict[str, Any], *, compiled: bool) -> tuple[int, bytes]:
    """The answer; what holds an escaped character goes to the executor."""
    text = json.dumps(body) if compiled else json.dumps(body)[:-1] + ', "_": "\\u0020"}'
    response = await api.client.post(
        "/graphql",
        content=text,
        headers={"Authorization": f"Bearer {api.bearer}", "Content-Type": "application/json"},
    )
    id = response.headers["x-request-id"].encode()
    return response.status_code, response.content.replace(id, b"")


@pytest.fixture
async def over_tcp(services: Services) -> AsyncIterator[httpx.AsyncClient]:
    """Where a connection may answer by itself, before the application."""
    async with (
        serving(services) as address,
        httpx.AsyncClient(base_url=f"http://{address}") as client,
    ):
        yield client


@pytest.fixture
async def bearers(api: Api, example: Any, over_tcp: httpx.AsyncClient) -> list[tuple[Api, Api]]:
    """Who may all of it, who may read, who may count: of a customer and of their twin."""
    for id in ("acme", "twin"):
        await api.create_customer(id)
        await api.change(f"start-{id}", customerId=id, planId="starter")
    some = (("READ",), ("USE",), ("READ", "USE"))
    tokens = [(await api.token("acme", *s), await api.token("twin", *s)) for s in some]
    pairs = [(api, api), *tokens]
    for pair in pairs:
        for each in pair:  # remembered from now on, also how it is to be answered
            await each.send("{ viewer { role } }")
            await Api(over_tcp, each.bearer).send("{ viewer { role } }")
    return pairs


@on_sqlite
async def test_what_is_compiled_answers_as_the_executor_does(
    bearers: list[tuple[Api, Api]],
    over_tcp: httpx.AsyncClient,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop = asyncio.get_running_loop()
    soak = request.config.getoption("--soak")
    compiled = at_once = 0
    answer_at_once = Front.answer_at_once

    def counted(*given: Any) -> bytes | None:
        nonlocal at_once
        answer = answer_at_once(*given)
        at_once += answer is not None
        return answer

    monkeypatch.setattr(Front, "answer_at_once", counted)

    async def compared(one: Drawn, pair: tuple[Api, Api]) -> None:
        nonlocal compiled
        body = {"query": one.text, "variables": one.variables}
        twins = body
        if one.operation == "mutation":  # each counts for itself
            twins = json.loads(json.dumps(body).replace("acme", "twin"))
        told = await bytes_of(Api(over_tcp, pair[0].bearer), body, compiled=True)
        expected = await bytes_of(pair[1 if twins is not body else 0], twins, compiled=False)
        assert told == expected, one.text
        prepared = prepare(schema._schema, one.text, DEFAULT_LIMITS)
        if prepared.ast is not None and not prepared.errors:
            compiled += compile_operation(schema, prepared.ast, None) is not None

    @settings(max_examples=5_000 if soak else 100)
    @given(one=drawn(), who=st.integers(0, len(bearers) - 1))
    def compare(one: Drawn, who: int) -> None:
        asyncio.run_coroutine_threadsafe(compared(one, bearers[who]), loop).result(30)

    await asyncio.to_thread(compare)
    assert compiled > 20
    assert at_once > 20
