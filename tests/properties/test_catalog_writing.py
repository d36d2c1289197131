"""A document that we write is read as the data that it was."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from entitlements.catalog.document import read, write

words = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), max_size=8)
scalars = (
    st.none()
    | st.booleans()
    | words
    | st.from_regex(r"-?[0-9]{1,20}(\.[0-9]{1,3})?", fullmatch=True)
    | st.sampled_from(["true", "null", "~", "", "no", "1e3", "2026-01-01", "- a", "a: b", "\n"])
)
documents = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3)
)


@given(st.dictionaries(words, documents, max_size=4))
def test_what_is_written_is_read_again(document: Any) -> None:
    assert read(write(document)).document == document
