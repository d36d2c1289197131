"""The endpoints: method, path, the SDK's parameters, and the part of them that is covered."""

import re
from collections.abc import Callable
from functools import cached_property

import msgspec

from entitlements.sandbox.errors import Json
from entitlements.sandbox.params import Schema
from entitlements.sandbox.store import Transaction


class Call(msgspec.Struct):
    """One API request, parsed: what a handler is given."""

    tx: Transaction
    path: dict[str, str]
    params: Json
    public_url: str


Handler = Callable[[Call], Json]


class Route:
    def __init__(
        self, method: str, path: str, params_type: str, covers: str, handler: Handler
    ) -> None:
        self.method = method
        self.path = path
        self.handler = handler
        self._params_type = params_type
        self._covers = covers
        pattern = re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", path)
        self._match = re.compile(pattern).fullmatch

    @cached_property
    def schema(self) -> Schema:
        """Read from the SDK when first called: start-up stays quick."""
        return Schema(self._params_type, self._covers)

    def match(self, path: str) -> dict[str, str] | None:
        found = self._match(path)
        return None if found is None else found.groupdict()


ROUTES: list[Route] = []


def endpoint(method: str, path: str, params_type: str, covers: str) -> Callable[[Handler], Handler]:
    """Declares an endpoint. `covers` names the parameters that it takes (`params.Schema`)."""

    def declare(handler: Handler) -> Handler:
        ROUTES.append(Route(method, path, params_type, covers, handler))
        return handler

    return declare


def find_route(method: str, path: str) -> tuple[Route, dict[str, str]] | None:
    """The endpoint at a path; one that names the path whole goes before one with variables."""
    found: tuple[Route, dict[str, str]] | None = None
    for route in ROUTES:
        values = route.match(path) if route.method == method else None
        if values is not None and (found is None or len(values) < len(found[1])):
            found = route, values
    return found
