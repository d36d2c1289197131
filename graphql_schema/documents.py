"""Documents: each is parsed, held against the limits, validated and compiled once, and remembered.

A document is known by its text. What front ends ship is listed in a manifest, ids to texts: those
come by `documentId`, are never forgotten, and are ours, so that no limit is held against them. Of
the others the last `REMEMBERED_AT_MOST` are remembered, unless they are long.
"""

from collections.abc import Iterator, Mapping
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
    SelectionSetNode,
    parse,
    specified_rules,
)
from strawberry.extensions import SchemaExtension
from strawberry.schema.schema import validate_document

from entitlements.kernel.errors import Forbidden, ValidationFailed
from entitlements.kernel.lru import Lru
from graphql_schema.errors import coded
from graphql_schema.permissions import Principal, Role

REMEMBERED_AT_MOST: Final = 500
CHARACTERS_REMEMBERED_AT_MOST: Final = 10_000
"""A longer document is prepared anew each time: a thousand times its text is held otherwise."""

TOKENS_AT_MOST: Final = 2_000
DEPTH_AT_MOST: Final = 15
ALIASES_AT_MOST: Final = 50
ROOT_FIELDS_AT_MOST: Final = 20

TOO_COMPLEX: Final = "QUERY_TOO_COMPLEX"
NOT_TRUSTED: Final = frozenset({Role.PUBLISHABLE, Role.CUSTOMER})
"""Who sends trusted documents only, where that is set: what is theirs is in public."""


class Prepared:
    """One document. Without an `ast` it is refused as `errors` say; with both, by validation.

    `compiled` is for whoever compiles its operations, by name.
    """

    __slots__ = ("ast", "compiled", "errors", "trusted")

    def __init__(
        self, ast: DocumentNode | None, errors: list[GraphQLError], *, trusted: bool
    ) -> None:
        self.ast = ast
        self.errors = errors
        self.trusted = trusted
        self.compiled: dict[str | None, Any] = {}


class Documents:
    """Those of one application."""

    def __init__(
        self,
        schema: GraphQLSchema,
        trusted: Mapping[str, str] | None = None,
        *,
        trusted_only: bool = False,
    ) -> None:
        self._schema = schema
        self._texts = dict(trusted or {})
        self._trusted = {
            text: prepare(schema, text, trusted=True) for text in set(self._texts.values())
        }
        self._others: Lru[str, Prepared] = Lru(REMEMBERED_AT_MOST)
        self._trusted_only = trusted_only

    def text(self, document_id: str) -> str | None:
        """The text of a trusted document."""
        return self._texts.get(document_id)

    def prepared(self, text: str) -> Prepared:
        found = self._trusted.get(text) or self._others.get(text)
        if found is None:
            found = prepare(self._schema, text)
            if len(text) <= CHARACTERS_REMEMBERED_AT_MOST:
                self._others[text] = found
        return found

    def are_open_to(self, principal: Principal, document: Prepared) -> bool:
        return document.trusted or not self._trusted_only or principal.role not in NOT_TRUSTED

    def mistakes(self) -> list[str]:
        """What is wrong with trusted documents, by their ids."""
        return [
            f"{id}: {error.message}"
            for id, text in self._texts.items()
            for error in self._trusted[text].errors
        ]


def read_manifest(path: Path) -> dict[str, str]:
    """A JSON object from ids to texts, as client builds write it. Raises `ValidationFailed`."""
    try:
        found = msgspec.json.decode(path.read_bytes(), type=dict[str, str])
    except (OSError, msgspec.MsgspecError) as error:
        words = f"{path} is no JSON object from ids to documents: {error}"
        raise ValidationFailed.of("ENTITLEMENTS_TRUSTED_DOCUMENTS", "MANIFEST", words) from None
    return found


def prepare(schema: GraphQLSchema, text: str, *, trusted: bool = False) -> Prepared:
    """Parse, hold against the limits, validate: in that order, up to the first that refuses."""
    try:
        ast = parse(text, max_lexical_tokens=None if trusted else TOKENS_AT_MOST)
    except GraphQLSyntaxError as error:
        refusal = coded(error, None)
        if "nested too deeply" in error.message:
            refusal = _too_complex("levels", DEPTH_AT_MOST)
        elif f"more than {TOKENS_AT_MOST} tokens" in error.message:
            refusal = _too_complex("tokens", TOKENS_AT_MOST)
        return Prepared(None, [refusal], trusted=trusted)
    if not trusted and (passed := _limit_passed(ast)):
        return Prepared(None, [_too_complex(*passed)], trusted=False)
    return Prepared(ast, validate_document(schema, ast, tuple(specified_rules)), trusted=trusted)


# ── limits ───────────────────────────────────────────────────────────────────


class _Size(msgspec.Struct, frozen=True):
    """Of a selection set with its fragments, each counted wherever it is spread."""

    depth: int
    aliases: int
    fields: int


def _limit_passed(ast: DocumentNode) -> tuple[str, int] | None:
    """The first limit that an operation passes; the fragments of a document are measured once."""
    fragments = {f.name.value: f for f in ast.definitions if isinstance(f, FragmentDefinitionNode)}
    sizes: dict[str, _Size] = {}
    for definition in ast.definitions:
        if isinstance(definition, OperationDefinitionNode):
            size = _size(definition.selection_set, fragments, sizes)
            for name, found, most in (
                ("levels", size.depth, DEPTH_AT_MOST),
                ("aliases", size.aliases, ALIASES_AT_MOST),
                ("root fields", size.fields, ROOT_FIELDS_AT_MOST),
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
