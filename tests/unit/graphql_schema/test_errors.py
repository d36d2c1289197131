"""Every code that an error can have stands in one table, and the table has no other."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import graphql_schema

ROOT = Path(graphql_schema.__file__).parent.parent
TABLE = ROOT / "graphql_schema" / "ERRORS.md"
NEVER_RAISED = {"ERROR"}
"""The base class's own."""


def codes_of(tree: ast.AST) -> Iterator[str]:
    """`code="…"` and `NotOffered("…")` of calls, `code = "…"` of classes, `"code": "…"`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "NotOffered":
            yield from texts(node.args[0])
        elif isinstance(node, ast.keyword) and node.arg == "code":
            yield from texts(node.value)
        elif isinstance(node, ast.ClassDef):
            for line in node.body:
                if isinstance(line, ast.Assign) and names(line) == {"code"}:
                    yield from texts(line.value)
        elif isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and key.value == "code":
                    yield from texts(value)


def texts(value: ast.AST) -> Iterator[str]:
    if isinstance(value, ast.Constant) and isinstance(value.value, str):
        yield value.value


def names(line: ast.Assign) -> set[str]:
    return {target.id for target in line.targets if isinstance(target, ast.Name)}


def in_code() -> set[str]:
    files = [
        path
        for room in ("entitlements", "graphql_schema")
        for path in (ROOT / room).rglob("*.py")
        if not {"sandbox", "cli", "guard"} & set(path.parts)
    ]
    found = {code for path in files for code in codes_of(ast.parse(path.read_text()))}
    return {code for code in found if re.fullmatch(r"[A-Z][A-Z_]+", code)} - NEVER_RAISED


TOP_LEVEL = {"BAD_USER_INPUT", "INTERNAL", "TIMEOUT", "QUERY_TOO_COMPLEX",
             "PERSISTED_DOCUMENT_NOT_FOUND"}  # fmt: skip
"""Those that the code has as constants."""


def test_every_code_is_in_the_table() -> None:
    table = set(re.findall(r"^\| `([A-Z_]+)` \|", TABLE.read_text(), re.MULTILINE))
    assert table == in_code() | TOP_LEVEL
