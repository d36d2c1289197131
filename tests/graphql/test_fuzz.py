"""Whatever the schema allows may be asked: an answer or a coded error comes, never a fault."""

import collections
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from graphql_schema.schema import schema
from tests.api import Api
from tests.conftest import on_sqlite

WORDS = [
    "acme",
    "starter",
    "professional",
    "workspace",
    "seats",
    "sso",
    "api-calls",
    "usd",
    "a",
    "",
]


def documents(count: int) -> list[str]:
    """So many that are valid, of every root field, with values that mostly mean nothing."""
    generators = pytest.importorskip(
        "hypothesis_graphql", reason="needs the development dependencies of now: `make .venv/dev`"
    )
    nodes = generators.nodes
    word = st.sampled_from(WORDS) | st.text(max_size=20)
    instant = st.datetimes().map(lambda at: at.isoformat() + "Z")
    scalars = {
        "BigInt": st.integers(-(2**70), 2**70).map(lambda n: nodes.String(str(n))),
        "Decimal": (st.decimals() | st.text(max_size=5)).map(lambda n: nodes.String(str(n))),
        "DateTime": (instant | st.text(max_size=5)).map(nodes.String),
        "Date": (st.dates().map(str) | st.text(max_size=5)).map(nodes.String),
        "JSON": word.map(nodes.String),
        "ID": word.map(nodes.String),
    }
    found: list[str] = []

    @settings(
        max_examples=count,
        database=None,
        derandomize=True,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(generators.from_schema(schema._schema, custom_scalars=scalars))
    def collect(text: str) -> None:
        found.append(text)

    collect()
    return found


@on_sqlite
async def test_no_document_makes_a_fault(api: Api, example: Any, soak: bool) -> None:
    await api.create_customer("acme")
    await api.change("start", customerId="acme", planId="starter")
    said: collections.Counter[str] = collections.Counter()
    for text in documents(1_000 if soak else 30):
        response = await api.client.post(
            "/graphql",
            content=json.dumps({"query": text}),
            headers={
                "Authorization": f"Bearer {api.bearer}",
                "Content-Type": "application/json",
                "Accept": "application/graphql-response+json",
            },
        )
        errors = response.json().get("errors", [])
        codes = {error["extensions"]["code"] for error in errors}
        assert response.status_code < 500, text
        assert "INTERNAL" not in codes, text
        said.update(codes or {"ok"})
    print(dict(said))
    assert said["ok"] > 0
