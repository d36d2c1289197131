"""Staff by OpenID Connect: a bearer that the company's own issuer signed, and the role it gives.

What the issuer publishes (its discovery document and its keys) is fetched when it is first needed,
remembered, and fetched again when it is old or a token names a key that is not in it. While the
issuer cannot be reached the keys that are known go on being good.
"""

import asyncio
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import jwt
import structlog

from entitlements.kernel.clock import monotonic_seconds
from entitlements.kernel.errors import Unavailable, ValidationFailed
from entitlements.settings import Settings
from graphql_schema.permissions import Principal, Role

log = structlog.get_logger()

ALGORITHMS: Final = (
    "RS256",
    "RS384",
    "RS512",
    "PS256",
    "PS384",
    "PS512",
    "ES256",
    "ES384",
    "EdDSA",
)
"""Those with a public key alone: with a shared one, whoever can verify could sign."""

STAFF: Final = frozenset({Role.SUPPORT, Role.PRICING, Role.FINANCE, Role.ADMIN})
KEYS_SECONDS: Final = 300.0
"""How long keys are used before they are asked for again: how late a withdrawn one is noticed."""

AGAIN_SECONDS = 10.0
"""No sooner are keys asked for again, whatever keys tokens name."""

TIMEOUT_SECONDS: Final = 5.0
LEEWAY_SECONDS: Final = 30
SUBJECT_CHARACTERS_AT_MOST: Final = 200
_DISCOVERY = "/.well-known/openid-configuration"


class Issuer:
    """The one that the settings name."""

    def __init__(self, url: str, audience: str, claim: str, roles: Mapping[str, Role]) -> None:
        self._url = url
        self._audience = audience
        self._claim = claim.split(".")
        self._roles = roles
        self._keys: dict[str | None, jwt.PyJWK] = {}
        self._fetched_at: float | None = None
        self._fetching = asyncio.Lock()

    async def principal(self, bearer: str) -> tuple[Principal, datetime] | None:
        """Who a token makes its bearer, and until when; None where it is not good.

        Raises `Unavailable` where no key is known yet and the issuer cannot be reached.
        """
        try:
            header = jwt.get_unverified_header(bearer)
            if header.get("alg") not in ALGORITHMS:
                return None
            key = await self._key(header.get("kid"))
            if key is None:
                return None
            claims: dict[str, Any] = jwt.decode(
                bearer,
                key,
                algorithms=[header["alg"]],
                audience=self._audience,
                issuer=self._url,
                leeway=LEEWAY_SECONDS,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
            until = datetime.fromtimestamp(claims["exp"], UTC)
        except (jwt.PyJWTError, ValueError, OverflowError, OSError):
            return None
        subject, role = claims["sub"], self._role(claims)
        if role is None or not 1 <= len(subject) <= SUBJECT_CHARACTERS_AT_MOST:
            return None
        return Principal(role=role, name=f"oidc:{subject}"), until

    def _role(self, claims: Mapping[str, Any]) -> Role | None:
        """The first role of the settings that the token's claim names."""
        found: Any = claims
        for name in self._claim:
            found = found.get(name) if isinstance(found, dict) else None
        named = {found} if isinstance(found, str) else set(_texts(found))
        return next((role for name, role in self._roles.items() if name in named), None)

    # ── keys ─────────────────────────────────────────────────────────────────

    async def _key(self, kid: str | None) -> jwt.PyJWK | None:
        if self._age() > KEYS_SECONDS or (kid not in self._keys and self._age() > AGAIN_SECONDS):
            async with self._fetching:
                if self._age() > (AGAIN_SECONDS if kid not in self._keys else KEYS_SECONDS):
                    await self._fetch()
        if not self._keys:
            raise Unavailable("the issuer of this token cannot be reached: try again")
        return self._keys.get(kid)

    def _age(self) -> float:
        return float("inf") if self._fetched_at is None else monotonic_seconds() - self._fetched_at

    async def _fetch(self) -> None:
        try:
            async with httpx.AsyncClient(timeout=TIMEOUT_SECONDS) as client:
                about = (await client.get(self._url.rstrip("/") + _DISCOVERY)).raise_for_status()
                found = about.json()
                if found["issuer"] != self._url:
                    raise ValueError("it says that it is another issuer")
                answer = (await client.get(_checked(found["jwks_uri"]))).raise_for_status()
                self._keys = dict(_usable(answer.json()["keys"]))
        except (httpx.HTTPError, ValueError, LookupError, TypeError) as error:
            log.error("oidc_issuer_unreachable", issuer=self._url, why=str(error))
        self._fetched_at = monotonic_seconds()


def issuer_of(settings: Settings) -> Issuer | None:
    """The issuer of the settings, if they name one. `ValidationFailed` where they are not whole."""
    if not settings.oidc_issuer:
        return None
    if not _is_safe(settings.oidc_issuer):
        raise _wrong("OIDC_ISSUER", "an issuer is an https:// address")
    if not settings.oidc_audience:
        raise _wrong("OIDC_AUDIENCE", "an issuer needs the audience that its tokens are for")
    roles: dict[str, Role] = {}
    for pair in settings.oidc_roles:
        name, _, role = pair.rpartition("=")
        if not name or role not in set(STAFF):
            staff = ", ".join(sorted(STAFF))
            raise _wrong("OIDC_ROLES", f"{pair!r} is not VALUE=ROLE, with a role of {staff}")
        roles[name] = Role(role)
    if not roles:
        raise _wrong("OIDC_ROLES", "say which value of the claim gives which role")
    return Issuer(settings.oidc_issuer, settings.oidc_audience, settings.oidc_roles_claim, roles)


def _wrong(name: str, words: str) -> ValidationFailed:
    return ValidationFailed.of(f"ENTITLEMENTS_{name}", "OIDC", words)


def _is_safe(url: str) -> bool:
    """Whether what comes from there is what was sent: https, or this machine's own."""
    parts = urlsplit(url)
    local = parts.hostname in ("localhost", "127.0.0.1", "::1")
    return bool(parts.hostname) and (parts.scheme == "https" or (parts.scheme == "http" and local))


def _checked(url: str) -> str:
    if not _is_safe(url):
        raise ValueError("its keys are not at an https:// address")
    return url


def _usable(keys: list[dict[str, Any]]) -> Iterator[tuple[str | None, jwt.PyJWK]]:
    """Those that sign, by their id; what we do not understand is passed over."""
    for key in keys:
        if key.get("use", "sig") == "sig" and key.get("kty") in ("RSA", "EC", "OKP"):
            try:
                yield key.get("kid"), jwt.PyJWK(key)
            except jwt.PyJWTError:
                log.warning("oidc_key_not_understood", kid=key.get("kid"))


def _texts(found: Any) -> Iterator[str]:
    if isinstance(found, list):
        yield from (value for value in found if isinstance(value, str))
