"""Staff come with a token of their company's own issuer, which is here next door, over HTTP."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from entitlements.kernel.clock import wall_now
from entitlements.kernel.errors import ValidationFailed
from entitlements.server import oidc
from entitlements.server.demo import Server, listen, server_config
from entitlements.settings import Settings, load_settings
from tests.api import Api

AUDIENCE = "https://entitlements.example"
VIEWER = "{ viewer { role } }"


class Issuer:
    """One that publishes its keys, and may withdraw them."""

    def __init__(self) -> None:
        self.url = ""
        self.keys: dict[str, Any] = {"one": rsa.generate_private_key(65537, 2048)}
        self.fetched = 0
        self.down = False

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/.well-known/openid-configuration", self._about),
                Route("/keys", self._published),
            ]
        )

    async def _about(self, _request: Any) -> JSONResponse:
        about = {"issuer": self.url, "jwks_uri": f"{self.url}/keys"}
        return JSONResponse(about, 503 if self.down else 200)

    async def _published(self, _request: Any) -> JSONResponse:
        self.fetched += 1
        found = [{"kty": "of next year", "kid": "odd"}]
        for kid, key in self.keys.items():
            kind = jwt.algorithms.ECAlgorithm if kid == "curve" else jwt.algorithms.RSAAlgorithm
            found.append(json.loads(kind.to_jwk(key.public_key())) | {"kid": kid, "use": "sig"})
        return JSONResponse({"keys": found})

    def token(
        self, kid: str = "one", algorithm: str = "RS256", key: Any = None, **claims: Any
    ) -> str:
        said = {
            "iss": self.url, "aud": AUDIENCE, "sub": "ann", "groups": {"pricing": ["prices"]},
            "exp": wall_now() + timedelta(minutes=5), **claims,
        }  # fmt: skip
        said = {name: value for name, value in said.items() if value is not None}
        signing = None if algorithm == "none" else key or self.keys[kid]
        return jwt.encode(said, signing, algorithm, headers={"kid": kid})


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    issuer, bound = Issuer(), listen("127.0.0.1", 0)
    issuer.url = f"http://127.0.0.1:{bound.getsockname()[1]}"
    server = Server(server_config(issuer.app(), lifespan="off"))
    task = asyncio.create_task(server.serve(sockets=[bound]))
    yield issuer
    server.should_exit = True
    await task


@pytest.fixture
def database_url(sqlite_template: Any) -> str:
    return f"sqlite+aiosqlite:///{sqlite_template}"  # nothing is written here


@pytest.fixture
def settings(settings: Settings, issuer: Issuer) -> Settings:
    return settings.model_copy(
        update={
            "oidc_issuer": issuer.url,
            "oidc_audience": AUDIENCE,
            "oidc_roles_claim": "groups.pricing",
            "oidc_roles": ("prices=pricing", "books=finance"),
        }
    )


async def role(api: Api, token: str) -> str | None:
    """The role that a token gives; None where it is refused."""
    response = await api.bound_to(token).send(VIEWER)
    if response.status_code == 401:
        return None
    return str(response.json()["data"]["viewer"]["role"])


async def test_a_token_of_the_issuer_has_the_role_that_its_claim_names(
    api: Api, issuer: Issuer
) -> None:
    assert await role(api, issuer.token()) == "pricing"
    assert await role(api, issuer.token(groups={"pricing": "books"})) == "finance"
    both = issuer.token(groups={"pricing": ["books", "prices"]}, aud=["another", AUDIENCE])
    assert await role(api, both) == "pricing"
    assert issuer.fetched == 1


async def test_what_is_not_whole_is_refused_in_the_same_words(api: Api, issuer: Issuer) -> None:
    past, soon = wall_now() - timedelta(minutes=1), wall_now() + timedelta(minutes=5)
    for token in (
        issuer.token(aud="another"),
        issuer.token(aud=None),
        issuer.token(iss=f"{issuer.url}/"),
        issuer.token(exp=past),
        issuer.token(exp=None),
        issuer.token(exp=10**30),
        issuer.token(nbf=soon),
        issuer.token(sub=None),
        issuer.token(sub="x" * 300),
        issuer.token(groups={"pricing": ["visitors"]}),
        issuer.token(groups={"pricing": {"prices": True}}),
        issuer.token(groups="prices"),
        issuer.token(key=rsa.generate_private_key(65537, 2048)),
        issuer.token(key=ec.generate_private_key(ec.SECP256R1()), algorithm="ES256"),
        issuer.token(key="shared by both " * 3, algorithm="HS256"),
        issuer.token(algorithm="none"),
        issuer.token()[:-8] + "AAAAAAAA",
        "a.b.c",
    ):
        assert await role(api, token) is None, token


async def test_keys_are_rotated_without_a_restart(
    api: Api, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await role(api, issuer.token()) == "pricing"
    issuer.keys["curve"] = ec.generate_private_key(ec.SECP256R1())
    monkeypatch.setattr(oidc, "AGAIN_SECONDS", 0)
    assert await role(api, issuer.token("curve", "ES256")) == "pricing"
    gone = issuer.token(sub="bob")
    del issuer.keys["one"]
    assert (
        await role(api, issuer.token("none", key=issuer.keys["curve"], algorithm="ES256")) is None
    )
    assert await role(api, gone) is None


async def test_tokens_that_name_unknown_keys_do_not_have_them_fetched_each_time(
    api: Api, issuer: Issuer
) -> None:
    for number in range(5):
        assert await role(api, issuer.token(f"x{number}", key=issuer.keys["one"])) is None
    assert issuer.fetched == 1


async def test_while_the_issuer_is_away_its_known_keys_are_good(
    api: Api, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    issuer.down = True
    unknown = await api.bound_to(issuer.token()).send(VIEWER)
    assert (unknown.status_code, unknown.headers["retry-after"]) == (503, "1")
    assert unknown.json()["errors"][0]["extensions"]["code"] == "UNAVAILABLE"
    monkeypatch.setattr(oidc, "AGAIN_SECONDS", 0)
    monkeypatch.setattr(oidc, "KEYS_SECONDS", 0)
    issuer.down = False
    assert await role(api, issuer.token()) == "pricing"
    issuer.down = True
    assert await role(api, issuer.token(sub="bob")) == "pricing"
    assert await role(api, issuer.token("two", key=issuer.keys["one"])) is None


def test_settings_that_would_let_in_nobody_or_anybody_refuse_the_start() -> None:
    good = {"oidc_issuer": "https://id.example", "oidc_audience": "us", "oidc_roles": "a=admin"}
    assert oidc.issuer_of(load_settings(**good)) is not None
    for wrong in (
        {"oidc_issuer": "http://id.example"},
        {"oidc_audience": ""},
        {"oidc_roles": ""},
        {"oidc_roles": "a=customer"},
        {"oidc_roles": "admin"},
    ):
        with pytest.raises(ValidationFailed):
            oidc.issuer_of(load_settings(**good | wrong))
