"""Documents: prepared once, held against limits, trusted ones by their id."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from entitlements.kernel.errors import ValidationFailed
from entitlements.server.app import create_app
from entitlements.services import Services
from graphql_schema.documents import DEFAULT_LIMITS, Documents, prepare, read_manifest
from graphql_schema.permissions import Principal, Role
from graphql_schema.schema import schema
from tests.api import Api
from tests.conftest import on_sqlite

ROLE = "query Role { viewer { role } }"


async def refusal(api: Api, body: dict[str, Any]) -> tuple[int, str]:
    """The status and the code of an answer without data."""
    response = await api.client.post(
        "/graphql",
        json=body,
        headers={
            "Authorization": f"Bearer {api.bearer}",
            "Accept": "application/graphql-response+json",
        },
    )
    answer = response.json()
    assert answer.keys() == {"errors"}, answer
    return response.status_code, answer["errors"][0]["extensions"]["code"]


TOO_COMPLEX = {
    "tokens": "{ viewer { " + "role " * 2_000 + "} }",
    "levels": "{ catalog { products { plans " + "{ extends " * 13 + "{ id }" + " }" * 16,
    "aliases": "{ viewer { " + " ".join(f"r{n}: role" for n in range(51)) + " } }",
    "aliases in fragments": "{ a: viewer { ...f } b: viewer { ...f } } fragment f on Viewer { "
    + " ".join(f"r{n}: role" for n in range(25))
    + " }",
    "root fields": "{ " + "viewer { role } " * 21 + "}",
    "levels that no parser takes": "{ viewer " * 500 + "} " * 500,
}


@on_sqlite
async def test_a_document_above_a_limit_is_refused_each_time(api: Api) -> None:
    for what, text in TOO_COMPLEX.items():
        for _ in range(2):
            assert await refusal(api, {"query": text}) == (400, "QUERY_TOO_COMPLEX"), what
    at_most = "{ viewer { " + " ".join(f"r{n}: role" for n in range(50)) + " } }"
    assert len((await api.ask(at_most))["viewer"]) == 50


def test_a_circle_of_fragments_is_left_to_validation() -> None:
    circle = "{ viewer { ...a } } fragment a on Viewer { ...b } fragment b on Viewer { ...a }"
    documents = Documents(schema._schema)
    assert any("itself" in error.message for error in documents.prepared(circle).errors)


def test_a_document_is_prepared_once_and_a_long_one_is_not_kept() -> None:
    documents = Documents(schema._schema)
    assert documents.prepared(ROLE) is documents.prepared(ROLE)
    long = ROLE + "#" * 20_000
    assert documents.prepared(long) is not documents.prepared(long)


@asynccontextmanager
async def with_manifest(services: Services, path: Path, **more: Any) -> AsyncIterator[Api]:
    """The API of a process that was given trusted documents."""

    @asynccontextmanager
    async def already_open() -> AsyncIterator[Services]:
        yield services

    update = {"trusted_documents": path, **more}
    object.__setattr__(services, "settings", services.settings.model_copy(update=update))
    app = create_app(already_open)
    app.state.services = services
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://entitlements"
    ) as client:
        yield Api(client, services.settings.admin_key.get_secret_value())


@on_sqlite
async def test_trusted_documents_come_by_their_id_and_no_limit_holds_for_them(
    services: Services, tmp_path: Path
) -> None:
    manifest = tmp_path / "documents.json"
    manifest.write_text(json.dumps({"role": ROLE, "deep": TOO_COMPLEX["aliases"]}))
    async with with_manifest(services, manifest) as api:
        answer = await api.client.post(
            "/graphql",
            json={"documentId": "role"},
            headers={"Authorization": f"Bearer {api.bearer}"},
        )
        assert answer.json() == {"data": {"viewer": {"role": "admin"}}}
        assert len((await api.ask(TOO_COMPLEX["aliases"]))["viewer"]) == 51
        unknown = await refusal(api, {"documentId": "else"})
        assert unknown == (400, "PERSISTED_DOCUMENT_NOT_FOUND")
        for both in ({"documentId": "role", "query": ROLE}, {"documentId": 5}):
            assert await refusal(api, both) == (400, "BAD_USER_INPUT")


@on_sqlite
async def test_where_only_trusted_documents_are_taken_a_front_end_sends_no_others(
    services: Services, tmp_path: Path, example: Any
) -> None:
    manifest = tmp_path / "documents.json"
    manifest.write_text(json.dumps({"role": ROLE}))
    async with with_manifest(services, manifest, trusted_documents_only=True) as api:
        await api.create_customer("acme")
        front_end = await api.token("acme")
        assert await front_end.ask(ROLE) == {"viewer": {"role": "customer"}}
        for text in ("{ viewer { role } }", "query Role { viewer { role } } # else"):
            assert await refusal(front_end, {"query": text}) == (400, "FORBIDDEN")
            assert await api.ask(text) == {"viewer": {"role": "admin"}}


def test_only_what_is_public_is_held_to_trusted_documents() -> None:
    documents = Documents(schema._schema, {"role": ROLE}, trusted_only=True)
    other = documents.prepared("{ viewer { role } }")
    held = {
        role
        for role in Role
        if not documents.are_open_to(Principal(role=role, name="somebody"), other)
    }
    assert held == {Role.PUBLISHABLE, Role.CUSTOMER}


def test_a_manifest_that_is_none_refuses_the_start(tmp_path: Path) -> None:
    for text in ("[]", '{"a": 1}', "{", ""):
        path = tmp_path / "manifest.json"
        path.write_text(text)
        with pytest.raises(ValidationFailed, match="is no JSON object"):
            read_manifest(path)
    with pytest.raises(ValidationFailed, match="is no JSON object"):
        read_manifest(tmp_path / "nowhere.json")


def test_no_text_takes_long_to_be_counted() -> None:
    """One took half a minute, when strings without an end were looked at again from within."""
    for piece in ('"\\', '\\"""', '"""\\', '"\\a', '"a\n', "#\n", '""" " "" '):
        prepare(schema._schema, piece * (100_000 // len(piece)), DEFAULT_LIMITS)
