"""Signed tokens (quotes, offers, customer tokens) and seals. A derived key per purpose, `kid` per
secret."""

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from typing import Any

import jwt

_ALGORITHM = "HS256"


class InvalidToken(Exception):
    """Not signed by us for this purpose. Says no more: a forger learns nothing."""


class Signer:
    """Signs with the first secret, verifies with all, so that secrets can be rotated.

    Expiry is not judged here: quotes expire by the service's clock, tokens by the wall's.
    """

    def __init__(self, secrets: Sequence[str]) -> None:
        if not secrets:
            raise ValueError("a signer needs a secret")
        self._secrets = tuple(secret.encode() for secret in secrets)

    def sign(self, purpose: str, claims: Mapping[str, Any]) -> str:
        secret = self._secrets[0]
        return jwt.encode(
            dict(claims), _derive(secret, purpose), _ALGORITHM, headers={"kid": _kid(secret)}
        )

    def verify(self, purpose: str, token: str) -> dict[str, Any]:
        """The claims of a token that was signed for `purpose`; else `InvalidToken`."""
        try:
            kid = jwt.get_unverified_header(token).get("kid")
            secret = next(s for s in self._secrets if _kid(s) == kid)
            claims: dict[str, Any] = jwt.decode(
                token,
                _derive(secret, purpose),
                algorithms=[_ALGORITHM],
                options={"verify_exp": False, "verify_iat": False, "verify_nbf": False},
            )
        except (jwt.InvalidTokenError, StopIteration, ValueError) as error:
            raise InvalidToken from error
        return claims

    def derived_keys(self, purpose: str) -> tuple[bytes, ...]:
        """A key of 32 bytes for each secret, the first in use: for what is no token of ours."""
        return tuple(_derive(secret, purpose) for secret in self._secrets)

    def mac(self, purpose: str, message: bytes) -> tuple[str, str]:
        """Which secret signs, and an HMAC-SHA-256 in hex: for what is kept for years."""
        secret = self._secrets[0]
        return _kid(secret), _mac(secret, purpose, message)

    def is_mac(self, purpose: str, message: bytes, kid: str, mac: str) -> bool:
        """Whether one of our secrets made it. False too where that secret is not known any more."""
        secret = next((s for s in self._secrets if _kid(s) == kid), None)
        return secret is not None and hmac.compare_digest(_mac(secret, purpose, message), mac)


def _mac(secret: bytes, purpose: str, message: bytes) -> str:
    return hmac.new(_derive(secret, purpose), message, hashlib.sha256).hexdigest()


def _derive(secret: bytes, purpose: str) -> bytes:
    return hmac.new(secret, f"entitlements/{purpose}".encode(), hashlib.sha256).digest()


def _kid(secret: bytes) -> str:
    return hashlib.sha256(b"kid" + secret).hexdigest()[:12]
