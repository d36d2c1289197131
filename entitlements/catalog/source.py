"""The catalog file as text: YAML or JSON, read exactly as written.

Nothing in the text is interpreted but `true`, `false` and `null`: every other scalar stays the text
that stands there, so that `29.10`, `no`, `1e3` and `2026-01-01` lose nothing on the way. What is a
number is decided where the format wants one (`schema.py`).
"""

import json
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
import yaml

from entitlements.kernel.errors import Issue, ValidationFailed

SOURCE_MAX_BYTES = 8_000_000
NODES_MAX = 1_000_000  # aliases count as often as they are used
DEPTH_MAX = 20

# libyaml where it is built in; without resolvers, every plain scalar is text.
_base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_base):  # type: ignore[misc]
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012


Path = tuple[str, ...]


class Source(msgspec.Struct, frozen=True):
    """A document read from text: JSON-like data whose numbers are text, and where each part stands.

    `lines` counts from 1. It holds a line per path, as `Issue.path` spells it.
    """

    document: Any
    lines: dict[Path, int]

    def line(self, path: Sequence[str]) -> int | None:
        """The line on which the part at a path stands, or else the nearest part around it."""
        for length in range(len(path), -1, -1):
            if (found := self.lines.get(tuple(path[:length]))) is not None:
                return found
        return None

    def describe(self, issue: Issue) -> str:
        """One line for a terminal: `12: products.0.plans.1.trial.days: between 14 and 30`."""
        line, where = self.line(issue.path), ".".join(issue.path)
        return ": ".join(str(part) for part in (line, where, issue.message) if part)


def read(text: str) -> Source:
    """Read YAML or JSON text. `ValidationFailed` with the lines of what cannot be read.

    >>> read("price: 29.10\\nid: no").document
    {'price': '29.10', 'id': 'no'}
    """
    _refuse_unreadable(text)
    text = text.removeprefix("\ufeff")
    builder = _Builder()
    if _is_json(text):
        _read_json(text, builder)
    else:
        _read_yaml(text, builder)
    if builder.issues:
        raise ValidationFailed(builder.issues)
    return Source(builder.document, builder.lines)


def _refuse_unreadable(text: str) -> None:
    try:
        size_bytes = len(text.encode())
    except UnicodeEncodeError as error:
        raise _syntax(text.count("\n", 0, error.start) + 1, "not valid Unicode") from error
    if size_bytes > SOURCE_MAX_BYTES:
        words = f"the document is larger than {SOURCE_MAX_BYTES:,} bytes"
        raise ValidationFailed.of((), "TOO_LARGE", words)


def _syntax(line: int, words: str) -> ValidationFailed:
    return ValidationFailed.of((), "SYNTAX", f"line {line}: {words}")


class _Open(msgspec.Struct):
    """A mapping or list whose end has not been read yet."""

    container: Any
    path: Path
    anchor: str | None
    nodes_before: int
    key: str | None = None


class _Builder:
    """Puts a document together from its parts in order, with a bound on depth and size."""

    def __init__(self) -> None:
        self.document: Any = None
        self.lines: dict[Path, int] = {}
        self.issues: list[Issue] = []
        self._open: list[_Open] = []
        self._anchors: dict[str, tuple[Any, int]] = {}
        self._nodes = 0

    def scalar(self, value: Any, text: str, line: int, anchor: str | None = None) -> None:
        """A value, or a key where one is due: keys are always the text as written."""
        top = self._open[-1] if self._open else None
        if top is not None and isinstance(top.container, dict) and top.key is None:
            self._key(top, text, line)
            value = text
        else:
            self._place(value, line, 1)
        if anchor is not None:
            self._anchors[anchor] = (value, 1)

    def open(self, container: Any, line: int, anchor: str | None = None) -> None:
        if len(self._open) >= DEPTH_MAX:
            raise _syntax(line, f"nested deeper than {DEPTH_MAX} levels")
        path = self._place(container, line, 1)
        if anchor is not None:
            self._anchors.pop(anchor, None)  # not to be referred to before it is complete
        self._open.append(_Open(container, path, anchor, self._nodes))

    def close(self) -> None:
        done = self._open.pop()
        if done.anchor is not None:
            weight = self._nodes - done.nodes_before + 1
            self._anchors[done.anchor] = (done.container, weight)

    def alias(self, anchor: str, line: int) -> None:
        if anchor not in self._anchors:
            raise _syntax(line, f"the alias {anchor[:64]!r} refers to nothing that is complete")
        value, weight = self._anchors[anchor]
        top = self._open[-1] if self._open else None
        if top is not None and isinstance(top.container, dict) and top.key is None:
            raise _syntax(line, "an alias cannot be a key")
        self._place(value, line, weight)

    def _key(self, top: _Open, text: str, line: int) -> None:
        top.key = text
        if text in top.container:
            words = f"line {line}: the key {text[:64]!r} stands here twice"
            self.issues.append(Issue((*top.path, text), "DUPLICATE_KEY", words))

    def _place(self, value: Any, line: int, weight: int) -> Path:
        self._nodes += weight
        if self._nodes > NODES_MAX:
            raise ValidationFailed.of((), "TOO_LARGE", f"more than {NODES_MAX:,} values")
        if not self._open:
            self.document = value
            self.lines[()] = line
            return ()
        top = self._open[-1]
        if isinstance(top.container, dict):
            if top.key is None:
                raise _syntax(line, "a key has to be text")
            name, top.key = top.key, None
            top.container[name] = value
        else:
            name = str(len(top.container))
            top.container.append(value)
        path = (*top.path, name)
        self.lines[path] = line
        return path


# YAML


_PLAIN = {"true": True, "false": False, "null": None, "~": None, "": None}
_TEXT_TAGS = (None, "!", "tag:yaml.org,2002:str")


def _read_yaml(text: str, builder: _Builder) -> None:
    line = 1
    try:
        for event in yaml.parse(text, Loader=_Loader):
            line = event.start_mark.line + 1 if event.start_mark else line
            _HANDLERS.get(type(event), _ignore)(event, line, builder)
    except yaml.MarkedYAMLError as error:
        if error.problem_mark is not None:
            line = error.problem_mark.line + 1
        raise _syntax(line, error.problem or "not YAML") from error
    except yaml.YAMLError as error:
        raise _syntax(line, "a character that YAML does not allow") from error


def _ignore(event: Any, line: int, builder: _Builder) -> None:
    pass


def _document(event: Any, line: int, builder: _Builder) -> None:
    if builder.lines:
        raise _syntax(line, "a file holds one document")


def _scalar(event: Any, line: int, builder: _Builder) -> None:
    if event.tag not in _TEXT_TAGS:
        raise _syntax(line, f"the tag {event.tag[:64]!r} has no meaning here")
    plain = event.style in (None, "") and event.tag is None
    value = _PLAIN.get(event.value, event.value) if plain else event.value
    builder.scalar(value, event.value, line, event.anchor)


def _container(make: Callable[[], Any], tag: str) -> Callable[[Any, int, _Builder], None]:
    def handle(event: Any, line: int, builder: _Builder) -> None:
        if event.tag not in (None, "!", tag):
            raise _syntax(line, f"the tag {event.tag[:64]!r} has no meaning here")
        builder.open(make(), line, event.anchor)

    return handle


_HANDLERS: dict[type, Callable[[Any, int, _Builder], None]] = {
    yaml.DocumentStartEvent: _document,
    yaml.ScalarEvent: _scalar,
    yaml.AliasEvent: lambda event, line, builder: builder.alias(event.anchor, line),
    yaml.MappingStartEvent: _container(dict, "tag:yaml.org,2002:map"),
    yaml.SequenceStartEvent: _container(list, "tag:yaml.org,2002:seq"),
    yaml.MappingEndEvent: lambda event, line, builder: builder.close(),
    yaml.SequenceEndEvent: lambda event, line, builder: builder.close(),
}


# JSON: nearly all of it is YAML, but not its surrogate pairs, its tabs and its `\/`.


_JSON_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\]]|[^\s{}\[\],:"]+')


def _is_json(text: str) -> bool:
    if not text.lstrip().startswith("{"):
        return False
    try:
        json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return False
    return True


def _no_constant(name: str) -> None:
    raise ValueError(name)


def _json_tokens(text: str) -> Iterator[tuple[str, int]]:
    ends = [m.start() for m in re.finditer("\n", text)]
    for token in _JSON_TOKEN.finditer(text):
        yield token.group(), bisect_right(ends, token.start()) + 1


def _read_json(text: str, builder: _Builder) -> None:
    """Read what is known to be valid JSON."""
    for token, line in _json_tokens(text):
        if token == "{":
            builder.open({}, line)
        elif token == "[":
            builder.open([], line)
        elif token in "}]":
            builder.close()
        elif token.startswith('"'):
            words = json.loads(token)
            builder.scalar(words, words, line)
        else:
            builder.scalar(_PLAIN.get(token, token), token, line)
