"""Pages for people: who is let in, for how long, and what their cookie is good for."""

import asyncio
import re
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from pydantic import SecretStr

from entitlements.audit.ledger import Actor
from entitlements.kernel.clock import wall_now
from entitlements.kernel.errors import NotFound, ValidationFailed
from entitlements.kernel.signing import Signer
from entitlements.server import keys
from entitlements.server.app import create_app
from entitlements.server.portal import sessions
from entitlements.server.portal.assets import assets
from entitlements.server.portal.documents import beside_ours, ours
from entitlements.server.portal.links import made_link
from entitlements.services import Services, opened_services, return_urls_of
from entitlements.settings import Settings, load_settings
from graphql_schema.documents import Documents
from graphql_schema.schema import schema
from tests.api import Api
from tests.conftest import on_sqlite

HERE = {"Sec-Fetch-Site": "same-origin"}
FORGED = "gAAAAABnotOursAtAll"


@pytest.fixture
async def acme(api: Api, example: Any) -> Api:
    """The API as a front end of a customer on the starter plan uses it."""
    await api.create_customer("acme")
    await api.change("start", customerId="acme", planId="starter")
    return await api.token("acme", "READ", "BUY")


async def link(customer: Api, **headers: str) -> httpx.Response:
    bearer = {"Authorization": f"Bearer {customer.bearer}"}
    return await customer.client.post("/portal/links", headers=bearer | headers)


async def code(customer: Api) -> str:
    url = (await link(customer)).json()["url"]
    return str(url.partition("#code=")[2])


async def redeem(api: Api, given: str, headers: Mapping[str, str] = HERE) -> httpx.Response:
    return await api.client.post("/portal/session", json={"code": given}, headers=headers)


async def sign_in(api: Api, bearer: str, headers: Mapping[str, str] = HERE) -> httpx.Response:
    return await api.client.post("/console/session", json={"bearer": bearer}, headers=headers)


async def ask(
    api: Api, document_id: str = "portal.Overview", headers: Mapping[str, str] = HERE, **more: Any
) -> httpx.Response:
    """As a page does: the client keeps cookies as a browser would."""
    app = document_id.partition(".")[0]
    body = {"documentId": document_id} | more
    return await api.client.post(f"/{app}/graphql", json=body, headers=headers)


async def held(api: Api) -> str:
    """The customer whose plan the page shows."""
    answer = await ask(api)
    assert answer.status_code == 200, answer.text
    customer = answer.json()["data"]["customer"]
    assert [s["plan"]["id"] for s in customer["subscriptions"]] == ["starter"]
    return str(customer["id"])


def refused_as(response: httpx.Response) -> tuple[int, str, str]:
    problem = response.json()
    assert response.headers["content-type"] == "application/problem+json"
    assert "set-cookie" not in response.headers
    return response.status_code, problem["code"], problem["detail"]


# ── the portal ───────────────────────────────────────────────────────────────


async def test_a_link_opens_the_portal_once_and_signing_out_closes_it(acme: Api, api: Api) -> None:
    made = await link(acme)
    url, _, given = made.json()["url"].partition("#code=")
    assert (made.status_code, url) == (200, "http://entitlements/portal")
    assert acme.bearer not in made.text
    assert (await ask(api)).status_code == 401
    opened = await redeem(api, given)
    assert opened.status_code == 204
    assert [await held(api) for _ in range(3)] == ["acme"] * 3  # the last in front of the framework

    again = refused_as(await redeem(api, given))
    assert again[:2] == (401, "UNAUTHENTICATED")
    assert refused_as(await redeem(api, FORGED)) == again
    await api.client.delete("/portal/session", headers=HERE)
    assert (await ask(api)).status_code == 401


@on_sqlite
async def test_a_code_is_good_for_five_minutes_and_a_session_as_long_as_its_token(
    acme: Api, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    def by_the_wall(**passed: float) -> None:
        at = wall_now() + timedelta(**passed)
        for module in ("access.tokens", "server.authentication", "server.portal.sessions"):
            monkeypatch.setattr(f"entitlements.{module}.wall_now", lambda: at)

    first, second = await code(acme), await code(acme)
    by_the_wall(minutes=4, seconds=58)
    assert (await redeem(api, first)).status_code == 204
    by_the_wall(minutes=5, seconds=2)
    assert refused_as(await redeem(api, second)) == refused_as(await redeem(api, first))
    assert await held(api) == "acme"
    by_the_wall(minutes=61)
    assert (await ask(api)).status_code == 401


async def test_of_many_that_redeem_a_code_at_once_one_is_let_in(acme: Api, api: Api) -> None:
    given = await code(acme)
    answers = await asyncio.gather(*(redeem(api, given) for _ in range(5)))
    assert sorted(answer.status_code for answer in answers) == [204, 401, 401, 401, 401]


@on_sqlite
async def test_a_session_is_its_customers_own_and_ends_when_their_tokens_are_revoked(
    acme: Api, api: Api
) -> None:
    await api.create_customer("globex")
    await redeem(api, await code(acme))
    other = await ask(api, variables={"id": "globex"})
    assert other.json()["data"]["customer"]["id"] == "acme"
    unused = await code(acme)
    revoke = 'mutation { revokeCustomerTokens(customerId: "acme") { __typename } }'
    await api.ask(revoke)
    assert (await ask(api)).status_code == 401
    assert refused_as(await redeem(api, unused))[0] == 401
    assert (await link(acme)).status_code == 401


@on_sqlite
async def test_support_makes_a_link_with_nothing_but_the_settings_and_the_database(
    acme: Api, api: Api, settings: Settings
) -> None:
    here = settings.model_copy(
        update={"public_url": "http://entitlements", "stripe_api_key": SecretStr("")}
    )

    async def made(settings: Settings, customer_id: str = "acme") -> str:
        return await made_link(
            settings, customer_id, scopes=("read",), ttl_seconds=600, subject="ann"
        )

    url, _, given = (await made(here)).partition("#code=")
    assert url == "http://entitlements/portal"
    assert (await redeem(api, given)).status_code == 204
    assert await held(api) == "acme"
    with pytest.raises(NotFound):
        await made(here, "nobody")
    with pytest.raises(ValidationFailed, match="ENTITLEMENTS_PUBLIC_URL"):
        await made(settings)


def test_the_ways_back_lead_to_our_own_pages_where_it_is_said_where_they_are() -> None:
    live = {"stripe_api_key": "rk_live_x", "admin_key": "x" * 20}
    settings = load_settings(public_url="https://billing.example/", **live)
    assert settings.public_url == "https://billing.example"
    urls = return_urls_of(settings)
    way_back = "https://billing.example/portal/payment?done=1"
    assert urls.checked(way_back) == way_back
    assert urls.checked(None) == "https://billing.example/"
    with pytest.raises(ValidationFailed, match="origin"):
        urls.checked("https://evil.example/portal")
    for wrong in ("billing.example", "https://billing.example/under", "ftp://x"):
        with pytest.raises(ValidationFailed, match="an origin"):
            load_settings(public_url=wrong, **live)


@on_sqlite
async def test_only_a_customers_token_makes_a_link(acme: Api, api: Api) -> None:
    assert refused_as(await link(api))[:2] == (403, "FORBIDDEN")
    assert refused_as(await link(api.bound_to("nobody")))[:2] == (401, "UNAUTHENTICATED")


@on_sqlite
async def test_the_cookie_is_for_pages_of_this_origin_and_their_own_documents(
    acme: Api, api: Api, services: Services
) -> None:
    await redeem(api, await code(acme))
    for elsewhere in (
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Origin": "http://entitlements"},
        {"Origin": "https://evil.example"},
        {},
    ):
        answer = await ask(api, headers=elsewhere)
        assert (answer.status_code, "data" in answer.json()) == (403, False), elsewhere
        assert (await redeem(api, await code(acme), elsewhere)).status_code == 403
    assert (await ask(api, headers={"Origin": "http://entitlements"})).status_code == 200

    viewer = "{ viewer { role } }"
    for body in (
        {"query": viewer},
        {"documentId": "portal.Overview", "query": viewer},
        {"documentId": "console.Proposals"},
        {"documentId": "portal.Nothing"},
        [{"documentId": "portal.Overview"}],
    ):
        answer = await api.client.post("/portal/graphql", json=body, headers=HERE)
        assert (answer.status_code, "data" in answer.json()) == (400, False), body
    as_a_form = await api.client.post(
        "/portal/graphql",
        content='{"documentId": "portal.Overview"}',
        headers=HERE | {"Content-Type": "text/plain"},
    )
    assert as_a_form.status_code == 415
    plain = await api.client.post("/graphql", json={"documentId": "portal.Overview"}, headers=HERE)
    assert plain.status_code == 401
    long = await ask(api, variables={"id": "x" * services.settings.request_bytes_at_most})
    assert long.status_code == 413
    for answer in (as_a_form, long):
        assert answer.headers["x-request-id"].startswith("req_")
        assert answer.headers["cache-control"] == "no-store"


@on_sqlite
async def test_no_script_reads_the_session_and_over_https_it_stays_there(
    acme: Api, api: Api
) -> None:
    for base, secure in (("http://entitlements", False), ("https://entitlements", True)):
        opened = await acme.client.post(
            f"{base}/portal/session", json={"code": await code(acme)}, headers=HERE
        )
        cookie = opened.headers["set-cookie"]
        parts = {part.strip().lower() for part in cookie.split(";")}
        assert {"httponly", "samesite=strict", "path=/portal"} <= parts
        assert ("secure" in parts) == secure
        assert acme.bearer not in cookie
        [age] = [int(part.removeprefix("max-age=")) for part in parts if "max-age" in part]
        assert 3500 < age <= 3600  # the token's own


# ── the console ──────────────────────────────────────────────────────────────


@on_sqlite
async def test_staff_sign_in_to_the_console_until_their_key_is_revoked(
    acme: Api, api: Api, services: Services
) -> None:
    made = {}
    for role in ("finance", "service", "publishable"):
        made[role] = await keys.create(services.database, Actor("test"), role=role, name=role)
    refused = {refused_as(await sign_in(api, made[role][1])) for role in ("service", "publishable")}
    refused |= {refused_as(await sign_in(api, given)) for given in (acme.bearer, "ö", "")}
    assert [why[:2] for why in refused] == [(401, "UNAUTHENTICATED")]
    row, key = made["finance"]
    assert (await sign_in(api, key)).status_code == 204
    proposals = await ask(api, "console.Proposals", variables={"first": 10})
    [proposal] = proposals.json()["data"]["catalogProposals"]["nodes"]
    assert proposal["status"] == "PUBLISHED"
    assert (await ask(api)).status_code == 401  # the portal is not open by it

    await keys.revoke(services.database, Actor("test"), row.id)
    ended = await ask(api, "console.Proposals", variables={"first": 10})
    assert ended.status_code == 401


def test_a_key_that_was_used_before_still_opens_what_it_sealed() -> None:
    old, new = "the-secret-of-last-year", "the-secret-of-this-year"
    sealed = sessions.Seal(Signer([old]), "portal-session").closed(b"bearer")
    assert sessions.Seal(Signer([new, old]), "portal-session").opened(sealed, 60) == b"bearer"
    assert sessions.Seal(Signer([new, old]), "console-session").opened(sealed, 60) is None
    assert sessions.Seal(Signer([new]), "portal-session").opened(sealed, 60) is None


# ── the pages ────────────────────────────────────────────────────────────────


@on_sqlite
async def test_pages_run_nothing_inline_and_load_only_what_is_ours(api: Api) -> None:
    for path in ("/portal", "/portal/plans/compare", "/console", "/console/"):
        page = await api.client.get(path)
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        policies = page.headers.get_list("content-security-policy")
        assert len(policies) == 1
        assert "default-src 'self'" in policies[0]
        assert "unsafe" not in policies[0]
        assert page.headers.get_list("cache-control") == ["no-cache"]
        assert page.headers["x-content-type-options"] == "nosniff"
        assert page.headers["referrer-policy"] == "no-referrer"
        assert not re.search(r"<style| style=| on\w+=|javascript:", page.text)
        assert re.findall(r"<script[^>]*>(.*?)</script>", page.text) == [""]
        loaded = re.findall(r'(?:src|href)="([^"#]+)"', page.text)
        assert all(url.startswith(("/portal", "/console")) for url in loaded), loaded
        for url in loaded:
            assert (await api.client.get(url)).status_code == 200, url


@on_sqlite
async def test_files_are_compressed_and_kept_for_ever_under_their_digest(api: Api) -> None:
    url = f"{assets().path}/shared/style.css"
    small = await api.client.get(url, headers={"Accept-Encoding": "gzip"})
    plain = await api.client.get(url, headers={"Accept-Encoding": "identity"})
    assert small.headers["content-encoding"] == "gzip"
    assert int(small.headers["content-length"]) < len(plain.content) == len(small.content)
    assert plain.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert plain.headers["content-type"] == "text/css; charset=utf-8"
    other = await api.client.get("/portal/assets/another/shared/style.css")
    assert (other.content, other.headers["cache-control"]) == (plain.content, "no-cache")
    for name in ("shared/nothing.js", "../documents/portal.graphql", "portal/shell.html"):
        assert name not in assets().files
        asked = await api.client.get(f"{assets().path}/{name.replace('..', '%2e%2e')}")
        assert asked.status_code == 404


def test_what_the_pages_ask_fits_the_schema() -> None:
    assert {id.partition(".")[0] for id in ours()} == {"portal", "console"}
    assert Documents(schema._schema, ours()).mistakes() == []


@on_sqlite
async def test_an_operators_document_does_not_take_the_name_of_a_pages_own(
    settings: Settings, tmp_path: Path
) -> None:
    assert beside_ours({"mine": "{ viewer { role } }"}).keys() == {"mine", *ours()}
    manifest = tmp_path / "documents.json"
    manifest.write_bytes(msgspec.json.encode({"portal.Overview": "{ viewer { role } }"}))
    changed = settings.model_copy(update={"trusted_documents": manifest})
    app = create_app(lambda: opened_services(changed))
    with pytest.raises(ValidationFailed, match=r"portal\.Overview"):
        async with app.router.lifespan_context(app):
            pass
