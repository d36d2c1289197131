"""Documents: each is parsed, held against the limits, validated and compiled once, and remembered.

A document is known by its text. What front ends ship is listed in a manifest, ids to texts: those
come by `documentId`, are never forgotten, and are ours, so that no limit is held against them. Of
the others the last `REMEMBERED_AT_MOST` are remembered, unless they are long.
"""

import re
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Final

import msgspec
from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLError,
    GraphQLSchema,
    GraphQLSyntaxError,
    InlineFragmentNode,
    OperationDefinitionNode,
    OperationType,
    SelectionSetNode,
    parse,
    specified_rules,
)
from strawberry.extensions import SchemaExtension
from strawberry.schema.schema import validate_document

from entitlements.kernel.errors import Forbidden, RateLimited, ValidationFailed
from entitlements.kernel.lru import Lru
from graphql_schema.cost import objects
from graphql_schema.errors import coded
from graphql_schema.permissions import Principal, Role

REMEMBERED_AT_MOST: Final = 500
CHARACTERS_REMEMBERED_AT_MOST: Final = 10_000
"""A longer document is prepared anew each time: a thousand times its text is held otherwise."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What a document that is not trusted has at most; `objects` is its cost (`cost.py`)."""

    tokens: int = 2_000
    depth: int = 15
    aliases: int = 50
    root_fields: int = 20
    objects: int = 200_000


DEFAULT_LIMITS: Final = Limits()

TOO_COMPLEX: Final = "QUERY_TOO_COMPLEX"
NOT_TRUSTED: Final = frozenset({Role.PUBLISHABLE, Role.CUSTOMER})
"""Who sends trusted documents only, where that is set: what is theirs is in public."""


class Prepared:
    """One document. Without an `ast` it is refused as `errors` say; with both, by validation.

    `compiled` is for whoever compiles its operations, by name; `labels` for who counts them.
    """

    __slots__ = ("ast", "compiled", "errors", "labels", "trusted")

    def __init__(
        self, ast: DocumentNode | None, errors: list[GraphQLError], *, trusted: bool
    ) -> None:
        self.ast = ast
        self.errors = errors
        self.trusted = trusted
        self.compiled: dict[str | None, Any] = {}
        self.labels: dict[tuple[str | None, bool], str] = {}


class Documents:
    """Those of one application."""

    def __init__(
        self,
        schema: GraphQLSchema,
        trusted: Mapping[str, str] | None = None,
        *,
        trusted_only: bool = False,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self._schema = schema
        self._limits = limits
        self._texts = dict(trusted or {})
        self._trusted = {text: prepare(schema, text, None) for text in set(self._texts.values())}
        self._others: Lru[str, Prepared] = Lru(REMEMBERED_AT_MOST)
        self._trusted_only = trusted_only

    def text(self, document_id: str) -> str | None:
        """The text of a trusted document."""
        return self._texts.get(document_id)

    def prepared(self, text: str) -> Prepared:
        found = self._trusted.get(text) or self._others.get(text)
        if found is None:
            found = prepare(self._schema, text, self._limits)
            if len(text) <= CHARACTERS_REMEMBERED_AT_MOST:
                self._others[text] = found
        return found

    def kind(self, text: str, operation_name: str | None) -> OperationType | None:
        """What an operation does; None where there is none of that name, or not one."""
        ast = self.prepared(text).ast
        found = [
            definition.operation
            for definition in (ast.definitions if ast else ())
            if isinstance(definition, OperationDefinitionNode)
            and (not operation_name or name_of(definition) == operation_name)
        ]
        return found[0] if len(found) == 1 else None

    def are_open_to(self, principal: Principal, document: Prepared) -> bool:
        return document.trusted or not self._trusted_only or principal.role not in NOT_TRUSTED

    def mistakes(self) -> list[str]:
        """What is wrong with trusted documents, by their ids."""
        return [
            f"{id}: {error.message}"
            for id, text in self._texts.items()
            for error in self._trusted[text].errors
        ]


def name_of(operation: OperationDefinitionNode) -> str | None:
    return operation.name.value if operation.name else None


def read_manifest(path: Path) -> dict[str, str]:
    """A JSON object from ids to texts, as client builds write it. Raises `ValidationFailed`."""
    try:
        found = msgspec.json.decode(path.read_bytes(), type=dict[str, str])
    except (OSError, msgspec.MsgspecError) as error:
        words = f"{path} is no JSON object from ids to documents: {error}"
        raise ValidationFailed.of("ENTITLEMENTS_TRUSTED_DOCUMENTS", "MANIFEST", words) from None
    return found


def prepare(schema: GraphQLSchema, text: str, limits: Limits | None) -> Prepared:
    """Parse, hold against the limits, validate: in that order, up to the first that refuses.

    What is trusted has none (None).
    """
    trusted = limits is None
    if limits and _has_more_tokens(text, limits.tokens):
        return Prepared(None, [_too_complex("tokens", limits.tokens)], trusted=False)
    try:
        ast = parse(text, max_lexical_tokens=limits.tokens if limits else None)
    except GraphQLSyntaxError as error:
        refusal = coded(error, None)
        if limits and "nested too deeply" in error.message:
            refusal = _too_complex("levels", limits.depth)
        elif limits and f"more than {limits.tokens} tokens" in error.message:
            refusal = _too_complex("tokens", limits.tokens)
        return Prepared(None, [refusal], trusted=trusted)
    if limits and (passed := _limit_passed(ast, limits)):
        return Prepared(None, [_too_complex(*passed)], trusted=False)
    errors = validate_document(schema, ast, tuple(specified_rules))
    if limits and not errors and objects(schema, ast) > limits.objects:
        return Prepared(None, [_too_complex("objects to answer", limits.objects)], trusted=False)
    return Prepared(ast, errors, trusted=trusted)


# ── limits ───────────────────────────────────────────────────────────────────


_TOKEN = re.compile(
    r'''(#[^\n\r]*+)|"""(?:\\"""|[^"]|"(?!""))*+(?:""")?|"(?:\\.|[^"\\\n\r])*+"?|[\w.+-]++|[!$&():=@\[\]{|}]'''
)
"""Nothing is looked at twice, and a string without an end is one, too: no text takes long."""


def _has_more_tokens(text: str, most: int) -> bool:
    """Whether a document is surely too long: to read it takes the parser twenty times as long.

    >>> _has_more_tokens('{ a(b: "c d # e") } # f g', 9)
    False
    >>> _has_more_tokens('{ a(b: "c d # e") } # f g', 7)
    True
    """
    found = (token for token in _TOKEN.finditer(text) if token[1] is None)
    return next(islice(found, most, None), None) is not None


class _Size(msgspec.Struct, frozen=True):
    """Of a selection set with its fragments, each counted wherever it is spread."""

    depth: int
    aliases: int
    fields: int


def _limit_passed(ast: DocumentNode, limits: Limits) -> tuple[str, int] | None:
    """The first limit that an operation passes; the fragments of a document are measured once."""
    fragments = {f.name.value: f for f in ast.definitions if isinstance(f, FragmentDefinitionNode)}
    sizes: dict[str, _Size] = {}
    for definition in ast.definitions:
        if isinstance(definition, OperationDefinitionNode):
            size = _size(definition.selection_set, fragments, sizes)
            for name, found, most in (
                ("levels", size.depth, limits.depth),
                ("aliases", size.aliases, limits.aliases),
                ("root fields", size.fields, limits.root_fields),
            ):
                if found > most:
                    return name, most
    return None


def _size(
    selected: SelectionSetNode,
    fragments: Mapping[str, FragmentDefinitionNode],
    sizes: dict[str, _Size],
) -> _Size:
    depth = aliases = fields = 0
    for node in selected.selections:
        if isinstance(node, FieldNode):
            below = _size(node.selection_set, fragments, sizes) if node.selection_set else _NOTHING
            depth = max(depth, 1 + below.depth)
            aliases += below.aliases + (node.alias is not None)
            fields += 1
            continue
        if isinstance(node, FragmentSpreadNode):
            name = node.name.value
            if name not in sizes:
                sizes[name] = _NOTHING  # a circle ends here: validation refuses it
                if name in fragments:
                    sizes[name] = _size(fragments[name].selection_set, fragments, sizes)
            below = sizes[name]
        else:
            assert isinstance(node, InlineFragmentNode)
            below = _size(node.selection_set, fragments, sizes)
        depth, aliases = max(depth, below.depth), aliases + below.aliases
        fields += below.fields
    return _Size(depth, aliases, fields)


_NOTHING = _Size(0, 0, 0)


def _too_complex(what: str, most: int) -> GraphQLError:
    return GraphQLError(f"a document has at most {most} {what}", extensions={"code": TOO_COMPLEX})


# ── in Strawberry's executor ─────────────────────────────────────────────────


class PreparedDocuments(SchemaExtension):
    """Takes the request's document as it is prepared, instead of parsing and validating it."""

    _prepared: Prepared | None = None

    def on_parse(self) -> Iterator[None]:
        execution, text = self.execution_context, self.execution_context.query
        documents: Documents | None = getattr(execution.context, "documents", None)
        if documents is not None and text:
            try:
                execution.context.admit()
            except RateLimited as error:
                raise GraphQLError(error.message, extensions={"code": error.code}) from None
            found = self._prepared = documents.prepared(text)
            if not documents.are_open_to(execution.context.principal, found):
                raise GraphQLError(_NOT_OPEN, extensions={"code": Forbidden.code})
            if found.ast is None:
                raise found.errors[0].with_traceback(None)
            execution.graphql_document = found.ast
        yield

    def on_validate(self) -> Iterator[None]:
        if self._prepared is not None:
            self.execution_context.pre_execution_errors = self._prepared.errors
        yield


_NOT_OPEN = "only the documents that this service was given are open to you"
