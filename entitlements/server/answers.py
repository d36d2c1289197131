"""How a request is refused: in GraphQL's words where that was asked, elsewhere as a problem."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

from starlette.responses import JSONResponse

from entitlements.server import metrics

JSON_TYPE: Final = "application/json"
PROBLEM_TYPE: Final = "application/problem+json"
"""What is refused beside GraphQL is told as RFC 9457 has it."""

GRAPHQL_PATHS: Final = frozenset({"/graphql", "/portal/graphql", "/console/graphql"})


def error(
    status: int,
    code: str,
    message: str,
    headers: Mapping[str, str] | None = None,
    *,
    media_type: str = JSON_TYPE,
    **extensions: str,
) -> JSONResponse:
    metrics.turned_away(code)
    body = {"errors": [{"message": message, "extensions": {"code": code, **extensions}}]}
    return JSONResponse(body, status, headers, media_type)


def problem(
    status: int,
    code: str,
    detail: str,
    headers: Mapping[str, str] | None = None,
    **more: str,
) -> JSONResponse:
    title = HTTPStatus(status).phrase
    body = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    return JSONResponse(body | {"code": code} | more, status, headers, PROBLEM_TYPE)


def refusal(
    path: str,
    status: int,
    code: str,
    message: str,
    headers: Mapping[str, str] | None = None,
    **more: str,
) -> JSONResponse:
    tell = error if path in GRAPHQL_PATHS else problem
    return tell(status, code, message, headers, **more)
