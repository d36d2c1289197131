"""What every answer says beside its content, and to whom browsers may show it."""

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

_PREFLIGHT_SECONDS: Final = 600


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
