"""What every answer says beside its content, and to whom browsers may show it."""

from collections.abc import Iterable
from typing import Final

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

SECURITY_HEADERS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
)
"""Answers are data for who asked: not kept, not framed, never a page that runs something."""

PAGE_HEADERS: Final = {
    "content-security-policy": "default-src 'self'; base-uri 'none'; frame-ancestors 'none'; "
    "form-action 'self'; object-src 'none'",
    "cache-control": "no-cache",
}
"""A page of ours, which replaces what it says here: it loads what is ours, and nothing inline."""

_PREFLIGHT_SECONDS: Final = 600


def secured(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """An answer's headers, with those of `SECURITY_HEADERS` that it does not set itself.

    >>> secured([(b"cache-control", b"no-cache")])[:2]
    [(b'cache-control', b'no-cache'), (b'x-content-type-options', b'nosniff')]
    """
    own = list(headers)
    said = {name for name, _ in own}
    return own + [(name, value) for name, value in SECURITY_HEADERS if name not in said]


def shared(app: ASGIApp, origins: tuple[str, ...]) -> ASGIApp:
    """The application, also for pages of these origins (`*`: of any); without one, for none.

    A page brings a bearer and no cookie, so that being open to any is no risk of forged requests.
    """
    if not origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=("GET", "POST"),
        allow_headers=("authorization", "content-type"),
        expose_headers=("x-request-id", "retry-after"),
        max_age=_PREFLIGHT_SECONDS,
    )
