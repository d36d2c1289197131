"""Whatever is handed in as a catalog is either a catalog or a list of mistakes."""

import copy
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from entitlements.catalog.advice import warnings
from entitlements.catalog.diff import diff
from entitlements.catalog.document import Draft, parse, read
from entitlements.catalog.schema import KNOWN_KEYS
from entitlements.catalog.versions import decode_draft, encode
from entitlements.kernel.errors import Issue, ValidationFailed

FORMAT = (Path(__file__).parents[1] / "golden" / "catalog_format.yaml").read_text(encoding="utf-8")
DOCUMENT = read(FORMAT).document

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.decimals()
    | st.text(max_size=8)
    | st.sampled_from(
        ["usd", "seats", "api-calls", "starter", "1e3", "0", "10", "-1", "flat", "x."]
    )
)
keys = st.text(max_size=6) | st.sampled_from([*KNOWN_KEYS, "usd", "eur", "seats", "amount:"])
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4)
)


def accepted(document: Any) -> Draft | None:
    """The draft, or None with at least one mistake that can be printed and sent."""
    issues: tuple[Issue, ...] = ()
    try:
        return parse(document)
    except ValidationFailed as failed:
        issues = failed.issues
    assert issues
    for issue in issues:
        "".join([*issue.path, issue.code, issue.message]).encode()
    return None


def places(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    children = node.items() if isinstance(node, dict) else enumerate(node)
    return [
        place
        for key, child in children
        for place in [(*path, key), *(places(child, (*path, key)) if _holds(child) else [])]
    ]


def _holds(node: Any) -> bool:
    return isinstance(node, dict | list)


PLACES = places(DOCUMENT)


@given(anything)
def test_anything_is_a_catalog_or_has_mistakes(document: Any) -> None:
    accepted(document)


@st.composite
def bent(draw: st.DrawFn) -> Any:
    """The example of the format with one to four places replaced, removed, moved or added to."""
    document = copy.deepcopy(DOCUMENT)
    for _ in range(draw(st.integers(1, 4))):
        *path, last = draw(st.sampled_from(PLACES))
        node = document
        try:
            for key in path:
                node = node[key]
            value = draw(anything | st.sampled_from(PLACES).map(_at))
            match draw(st.sampled_from(["set", "delete", "add"])):
                case "set":
                    node[last] = copy.deepcopy(value)
                case "delete":
                    del node[last]
                case "add" if isinstance(node, list):
                    node.append(copy.deepcopy(value))
                case "add":
                    node[draw(keys)] = copy.deepcopy(value)
        except (KeyError, IndexError, TypeError):
            continue
    return document


def _at(path: tuple[Any, ...]) -> Any:
    node = DOCUMENT
    for key in path:
        node = node[key]
    return node


@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow])
@given(bent())
def test_a_bent_catalog_is_a_catalog_or_has_mistakes(document: Any) -> None:
    draft = accepted(document)
    if draft is not None:
        assert decode_draft(encode(draft)) == draft
        assert diff(draft, draft) == []
        warnings(draft)


def test_any_single_place_may_be_missing() -> None:
    for *path, last in PLACES:
        document = copy.deepcopy(DOCUMENT)
        node = document
        for key in path:
            node = node[key]
        del node[last]
        accepted(document)


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    with suppress(ValidationFailed):
        accepted(read(text).document)


@settings(max_examples=300)
@given(st.data())
def test_a_damaged_file_is_read_or_refused(data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(FORMAT)))
    end = data.draw(st.integers(start, min(start + 40, len(FORMAT))))
    middle = data.draw(st.text(alphabet="abc:{}[]&*!|>\"'#,- \n\t%@`?1~", max_size=6))
    with suppress(ValidationFailed):
        accepted(read(FORMAT[:start] + middle + FORMAT[end:]).document)


json_documents = st.recursive(
    st.none() | st.booleans() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=20,
)


@given(st.dictionaries(st.text(max_size=6), json_documents), st.sampled_from([None, 1, "\t"]))
def test_json_reads_as_what_it_says(document: Any, indent: Any) -> None:
    for ascii_only in (True, False):
        text = json.dumps(document, indent=indent, ensure_ascii=ascii_only)
        try:
            text.encode()
        except UnicodeEncodeError:
            continue
        assert read(text).document == document


@given(st.decimals(min_value=0, max_value=10**6, places=12))
def test_an_amount_is_read_exactly_as_written(amount: Any) -> None:
    document = copy.deepcopy(DOCUMENT)
    fee = document["products"][0]["plans"][0]["charges"][0]
    for written in (format(amount, "f"), amount):
        fee["prices"]["usd"]["month"] = written
        price = parse(document).packages["starter"].charges[0].prices[0]
        assert price.flat_amount == amount
