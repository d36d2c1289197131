"""The file is read exactly as written, and what cannot be read is refused with its line."""

import pytest

from entitlements.catalog.document import parse, read
from entitlements.catalog.source import NODES_MAX, SOURCE_MAX_BYTES
from entitlements.kernel.errors import Issue, ValidationFailed


def refused(text: str) -> list[tuple[str, str]]:
    with pytest.raises(ValidationFailed) as failed:
        read(text)
    return [(issue.code, issue.message) for issue in failed.value.issues]


@pytest.mark.parametrize(
    "word",
    ["29.10", "010", "0x1F", "1_000", "1e3", "on", "no", "Yes", "True", "2026-01-01", "12:30:45"],
)
def test_a_plain_word_stays_what_it_is(word: str) -> None:
    assert read(f"a: {word}\n{word}: [b]").document == {"a": word, word: ["b"]}


def test_only_true_false_and_null_mean_something() -> None:
    text = "a: true\nb: false\nc: null\nd: ~\ne:\nf: 'true'\ng: \"null\"\nh: |\n  true"
    assert read(text).document == {
        **{"a": True, "b": False, "c": None, "d": None, "e": None},
        **{"f": "true", "g": "null", "h": "true"},
    }


def test_keys_are_always_text() -> None:
    assert read("true: 1\nnull: 2\n5: 3").document == {"true": "1", "null": "2", "5": "3"}


def test_json_and_yaml_of_one_document_read_the_same() -> None:
    yaml = "a: {b: [1.50, true, null, x]}"
    json = '\t{"a":\r\n{"b": [1.50, true, null, "x"]}}'
    assert read(yaml).document == read(json).document == {"a": {"b": ["1.50", True, None, "x"]}}


def test_json_has_its_own_escapes() -> None:
    assert read(r'{"a": "\ud83d\ude00 \/ \u00e9"}').document == {"a": "😀 / é"}


@pytest.mark.parametrize("text", ["a:\n  - b: 1\n    c: 2", '{"a": [\n{"b": 1,\n"c": 2}]}'])
def test_each_part_knows_its_line(text: str) -> None:
    source = read(text)
    first = 2 if text.startswith("a") or text.startswith("{") else 0
    assert (source.line(("a", "0", "b")), source.line(("a", "0", "c"))) == (first, 3)
    assert source.line(("a", "0", "c", "not", "there")) == 3
    issue = Issue(("a", "0", "c"), "CODE", "is wrong")
    assert source.describe(issue) == "3: a.0.c: is wrong"


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("a: 1\nb: 2\na: 3", "DUPLICATE_KEY", "line 3: the key 'a' stands here twice"),
        ('{"a": 1,\n"a": 2}', "DUPLICATE_KEY", "line 2: the key 'a' stands here twice"),
        ("a: 1\n  b: 2", "SYNTAX", "line 2: mapping values are not allowed"),
        ("a: 1\n---\nb: 1", "SYNTAX", "line 2: a file holds one document"),
        ("a: &x [1, *x]", "SYNTAX", "line 1: the alias 'x' refers to nothing that is complete"),
        ("a: 1\nb: *x", "SYNTAX", "line 2: the alias 'x' refers to nothing that is complete"),
        ("a: &x b\n*x : 1", "SYNTAX", "line 2: an alias cannot be a key"),
        ("? [a]\n: b", "SYNTAX", "line 1: a key has to be text"),
        ("a: !!python/name:os.system x", "SYNTAX", "has no meaning here"),
        ("a: !!float 1", "SYNTAX", "has no meaning here"),
        ("a: !own {b: 1}", "SYNTAX", "the tag '!own' has no meaning here"),
        ("a: \x00", "SYNTAX", "a character that YAML does not allow"),
        ("a: \ud800", "SYNTAX", "line 1: not valid Unicode"),
        ("[" * 10_000, "SYNTAX", "line 1: nested deeper than 20 levels"),
        ('{"a":' * 10_000, "SYNTAX", "line 1: nested deeper than 20 levels"),
        ("#" * (SOURCE_MAX_BYTES + 1), "TOO_LARGE", "larger than 8,000,000 bytes"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_line(text: str, code: str, words: str) -> None:
    ((found, message),) = refused(text)
    assert found == code
    assert words in message


def test_all_doubled_keys_are_named_at_once() -> None:
    assert len(refused("a: 1\na: 2\nb: {c: 1, c: 2}")) == 2


def test_an_anchor_may_be_used_again() -> None:
    assert read("a: &x {k: 1}\nb: [*x, *x]").document == {"a": {"k": "1"}, "b": [{"k": "1"}] * 2}


def test_a_billion_laughs_end_early() -> None:
    lines = ["a0: &a0 [" + ", ".join(["lol"] * 10) + "]"]
    lines += [f"a{n}: &a{n} [" + ", ".join([f"*a{n - 1}"] * 10) + "]" for n in range(1, 10)]
    assert refused("\n".join(lines)) == [("TOO_LARGE", f"more than {NODES_MAX:,} values")]


def test_an_empty_file_is_no_catalog() -> None:
    for text in ("", "# nothing", "\ufeff"):
        with pytest.raises(ValidationFailed, match="a mapping is expected"):
            parse(read(text).document)
