"""What a client sees of an error: our own by code and words, GraphQL's by code, others masked."""

from collections.abc import Iterator
from typing import Any

import structlog
from graphql import GraphQLError, OperationDefinitionNode
from strawberry.extensions import SchemaExtension

from entitlements.kernel.errors import (
    Forbidden,
    NotFound,
    ServiceError,
    Unauthenticated,
    Unavailable,
    ValidationFailed,
)
from entitlements.storage.engine import is_unreachable

log = structlog.get_logger()

BAD_USER_INPUT = "BAD_USER_INPUT"
INTERNAL = "INTERNAL"


class CodedErrors(SchemaExtension):
    """Gives every top-level error `extensions.code`, and hides what is not for the client."""

    def on_operation(self) -> Iterator[None]:
        yield
        self._code(self.execution_context.result)

    def on_stream_result(self, result: Any) -> Iterator[None]:
        self._code(result)
        yield

    def _code(self, result: Any) -> None:
        errors = getattr(result, "errors", None)
        if errors:
            context = self.execution_context.context
            result.errors = [coded(error, getattr(context, "request_id", None)) for error in errors]


class OneOperation(SchemaExtension):
    """A document with several operations names the one that is meant (GraphQL, section 6.1)."""

    def on_validate(self) -> Iterator[None]:
        context = self.execution_context
        document = context.graphql_document
        if document is not None and not self._named():
            operations = [d for d in document.definitions if isinstance(d, OperationDefinitionNode)]
            if len(operations) > 1:
                message = "operationName is needed: the document has several operations"
                context.pre_execution_errors = [GraphQLError(message)]
        yield

    def _named(self) -> bool:
        return self.execution_context._provided_operation_name is not None


def coded(error: GraphQLError, request_id: str | None) -> GraphQLError:
    """The error as the client is told of it."""
    original = error.original_error
    while isinstance(original, GraphQLError) and original.original_error is not None:
        original = original.original_error
    if isinstance(original, ServiceError):
        extensions: dict[str, Any] = {"code": _code(original)}
        if isinstance(original, ValidationFailed):
            extensions["issues"] = [
                {"path": list(i.path), "code": i.code, "message": i.message}
                for i in original.issues
            ]
        return _as(error, original.message, extensions)
    if original is None or isinstance(original, GraphQLError):
        return _as(error, error.message, {"code": BAD_USER_INPUT, **(error.extensions or {})})
    if is_unreachable(original):
        log.error("database_unreachable", path=error.path, error=type(original).__name__)
        return _as(error, "the database cannot be reached: try again", {"code": Unavailable.code})
    log.error("internal_error", path=error.path, exc_info=original)
    extensions = {"code": INTERNAL, "requestId": request_id}
    return _as(error, "something went wrong on our side", extensions)


def _code(error: ServiceError) -> str:
    for kind, code in (
        (ValidationFailed, BAD_USER_INPUT),
        (NotFound, "NOT_FOUND"),
        (Forbidden, "FORBIDDEN"),
        (Unauthenticated, "UNAUTHENTICATED"),
    ):
        if isinstance(error, kind):
            return code
    return error.code


def _as(error: GraphQLError, message: str, extensions: dict[str, Any]) -> GraphQLError:
    return GraphQLError(
        message,
        nodes=error.nodes,
        source=error.source,
        positions=error.positions,
        path=error.path,
        extensions=extensions,
    )
