"""From JSON-like data to the shapes of `schema.py`, with every mistake of form at once.

What is not well formed is cut out and the rest is decoded all the same, so that `rules.py` can
report the mistakes of meaning in the same answer.
"""

import math
from collections.abc import Iterable, Mapping
from decimal import Decimal
from difflib import get_close_matches
from typing import Any

import msgspec
from pydantic import ValidationError

from entitlements.catalog.schema import DROPPED, KNOWN_KEYS, UNION_TAGS, CatalogShape
from entitlements.catalog.source import DEPTH_MAX, NODES_MAX, Path
from entitlements.kernel.errors import Issue, ValidationFailed

HINTS_MAX = 100  # looking for what was meant takes its time
_ROUNDS_MAX = 2 * DEPTH_MAX  # each cuts at least one level further up

# Kinds of pydantic's mistakes, as codes of ours with their words. Its other ones keep its words.
_CODES: dict[str, tuple[str, str]] = {
    "missing": ("MISSING", "is missing"),
    "model_type": ("WRONG_TYPE", "a mapping is expected"),
    "model_attributes_type": ("WRONG_TYPE", "a mapping is expected"),
    "dict_type": ("WRONG_TYPE", "a mapping is expected"),
    "list_type": ("WRONG_TYPE", "a list is expected"),
    "string_type": ("WRONG_TYPE", "text is expected; write true, false and null in quotes"),
    "bool_type": ("WRONG_TYPE", "true or false is expected"),
    "enum": ("NOT_LISTED", "one of {expected} is expected"),
    "string_too_long": ("TOO_LONG", "at most {max_length} characters are expected"),
    "string_unicode": ("WRONG_TYPE", "valid Unicode is expected"),
    "too_long": ("TOO_MANY", "at most {max_length} are expected"),
    "too_short": ("TOO_FEW", "at least {min_length} is expected"),
}
_PATTERNS = {
    r"^[a-z0-9-]{1,64}$": (
        "INVALID_ID",
        "an id is expected: lower case letters, digits and -, at most 64",
    ),
    r"^[A-Za-z]{3}$": ("UNKNOWN_CURRENCY", "a currency code of ISO 4217 is expected"),
}


class Structure(msgspec.Struct, frozen=True):
    """What could be decoded, what could not (`lost`), and the data that it came from."""

    document: CatalogShape | None
    issues: tuple[Issue, ...]
    lost: frozenset[Path]
    data: Any


def decode(raw: Any) -> Structure:
    """Decode JSON-like data: mappings, lists, text, numbers, booleans and null.

    Raises `ValidationFailed` only where the data is no such thing at all, or too large.
    """
    data = _plain(raw)
    rest = data
    issues: list[Issue] = []
    lost: set[Path] = set()
    for round_number in range(_ROUNDS_MAX):
        try:
            document = CatalogShape.model_validate(rest)
        except ValidationError as error:
            if round_number == 0:
                rest = _plain(data)  # to cut from, while `data` stays whole
            found = list(_mistakes(error))
            issues += found if round_number == 0 else []
            lost |= {issue.path for issue in found if issue.code != "UNKNOWN_KEY"}
            whole_is_lost = [issue for issue in found if not _cut(rest, issue)]
            if whole_is_lost:
                break
        else:
            return Structure(document, tuple(issues), frozenset(lost), data)
    return Structure(None, tuple(issues), frozenset(lost), data)


def _mistakes(error: ValidationError) -> Iterable[Issue]:
    found = error.errors(include_url=False, include_context=True, include_input=False)
    for i, mistake in enumerate(found):
        keys = mistake["loc"]
        keys = keys[:-1] if keys and keys[-1] == "[key]" else keys
        if mistake["type"] == "extra_forbidden":
            path = (*_without_tags(keys[:-1]), str(keys[-1]))
            yield Issue(path, "UNKNOWN_KEY", _unknown_key(path[-1], hint=i < HINTS_MAX))
        else:
            context = mistake.get("ctx", {})
            path = _without_tags(keys)
            code, message = _code_and_words(mistake["type"], mistake["msg"], context)
            yield Issue(path, code, f"{path[-1]} {message}" if code == "MISSING" else message)


def _without_tags(keys: tuple[int | str, ...]) -> Path:
    return tuple(str(key) for key in keys if key not in UNION_TAGS)


def _code_and_words(kind: str, words: str, context: Mapping[str, Any]) -> tuple[str, str]:
    if kind == "string_pattern_mismatch":
        return _PATTERNS[context["pattern"]]
    code, template = _CODES.get(kind, (kind.upper(), words))
    return code, template.format_map(context) if kind in _CODES else template


def _unknown_key(key: str, *, hint: bool) -> str:
    words = f"the key {key[:64]!r} is not known here"
    close = get_close_matches(key[:64], KNOWN_KEYS, n=1) if hint else []
    return f"{words}; did you mean {close[0]!r}?" if close and close[0] != key else words


def _cut(data: Any, issue: Issue) -> bool:
    """Take what is wrong out of the data: the part itself, or the whole that misses it.

    False if nothing is left.
    """
    path = issue.path
    if len(path) == 1 and path[0] in CatalogShape.model_fields:
        data[path[0]] = [DROPPED]
        return True
    if issue.code == "MISSING":
        path = path[:-1]
    if not path:
        return False
    parent = data
    for key in path[:-1]:
        parent = _child(parent, key)
    if isinstance(parent, list):
        parent[int(path[-1])] = DROPPED
    elif isinstance(parent, dict):
        parent.pop(path[-1], None)
    return True


def _child(parent: Any, key: str) -> Any:
    """The part under a key; None where an earlier cut took it."""
    if isinstance(parent, dict):
        return parent.get(key)
    return parent[int(key)] if isinstance(parent, list) else None


# Plain data


def _plain(raw: Any) -> Any:
    """A copy that holds nothing but mappings with text keys, lists and scalars, and is bounded.

    A float, which only a decoder of JSON can have made, is the shortest number that reads as it:
    what its author wrote, up to 17 digits.
    """
    return _Copy().copy(raw, ())


class _Copy:
    def __init__(self) -> None:
        self.nodes = 0

    def copy(self, value: Any, path: Path) -> Any:
        self.nodes += 1
        if self.nodes > NODES_MAX:
            raise ValidationFailed.of((), "TOO_LARGE", f"more than {NODES_MAX:,} values")
        if isinstance(value, str):
            return _text(value, path)
        if value is None or value is DROPPED or isinstance(value, bool | int | Decimal | float):
            return _scalar(value, path)
        if len(path) >= DEPTH_MAX:
            raise ValidationFailed.of(path, "TOO_DEEP", f"nested deeper than {DEPTH_MAX} levels")
        if isinstance(value, Mapping):
            return {self._key(k, path): self.copy(v, (*path, str(k))) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [self.copy(item, (*path, str(i))) for i, item in enumerate(value)]
        raise ValidationFailed.of(path, "WRONG_TYPE", "JSON-like data is expected")

    @staticmethod
    def _key(key: Any, path: Path) -> str:
        if not isinstance(key, str):
            raise ValidationFailed.of(path, "WRONG_TYPE", "keys have to be text")
        return _text(key, path)


def _text(value: str, path: Path) -> str:
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValidationFailed.of(path, "WRONG_TYPE", "valid Unicode is expected") from None
    return value


def _scalar(value: Any, path: Path) -> Any:
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValidationFailed.of(path, "INVALID_NUMBER", "a finite number is expected")
        return Decimal(repr(value))
    if isinstance(value, Decimal) and not value.is_finite():
        raise ValidationFailed.of(path, "INVALID_NUMBER", "a finite number is expected")
    return value
