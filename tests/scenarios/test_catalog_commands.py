"""A catalog file's way from an editor to what is sold, told in the operator's commands."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from entitlements.catalog import examples
from entitlements.cli import app

CATALOG = examples.text("workspace")


class Terminal:
    """Runs `entitlements catalog …`; what it said, and how it ended."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.errors = ""

    def file(self, name: str, text: str) -> str:
        path = self.directory / name
        path.write_text(text, encoding="utf-8")
        return str(path)

    def __call__(self, *words: str, ends: int = 0) -> str:
        result = CliRunner().invoke(app, ["catalog", *words])
        self.errors = result.stderr
        assert result.exit_code == ends, (result.output, result.exception)
        return result.stdout


@pytest.fixture
def terminal(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """With the database for a setting, and with no key of any kind."""
    monkeypatch.setenv("ENTITLEMENTS_DATABASE_URL", database_url)
    monkeypatch.setenv("ENTITLEMENTS_SANDBOX", "true")
    return Terminal(tmp_path)


def last_word(said: str) -> str:
    return said.split()[-1]


def test_a_file_is_compared_proposed_approved_and_exported(terminal: Terminal) -> None:
    file = terminal.file("catalog.yaml", CATALOG)
    assert "no mistakes" in terminal("check", file)
    assert terminal("export", ends=2) == ""
    assert "nothing is published yet" in terminal.errors
    first = last_word(terminal("propose", file, "--reason", "First prices", "--as", "ann"))

    terminal("approve", first, "--as", "ann", ends=1)
    assert "OWN_PROPOSAL" in terminal.errors
    assert terminal("approve", first, "--as", "bob") == "Revision 1 is sold now.\n"
    assert "No difference" in terminal("diff", file)
    exported = terminal.file("exported.yaml", terminal("export"))
    assert "No difference" in terminal("diff", exported)

    dearer = terminal.file("dearer.yaml", CATALOG.replace('month: "99.00"', 'month: "109.00"'))
    said = terminal("diff", dearer, ends=1)
    assert "charges.base.prices.usd.month │ 99.00  │ 109.00 │ +10.10" in said
    found = json.loads(terminal("diff", dearer, "--json", ends=1))
    assert (found["base_revision"], found["notes"]) == (1, [])
    assert [(d["before"], d["after"], d["percent"]) for d in found["differences"]] == [
        ("99.00", "109.00", "10.10")
    ]

    policy = "professional=price:at_renewal:1,cap:10,notice:30"
    second = last_word(
        terminal("propose", dearer, "--reason", "Costs", "--as", "ann", "--policy", policy)
    )
    third = last_word(terminal("propose", file, "--reason", "As it was", "--as", "ann"))
    shown = terminal("proposals", second)
    assert "price at_renewal, entitlements keep, renewals 1, max_increase_percent 10" in shown
    terminal("approve", second, "--as", "bob")
    terminal("approve", third, "--as", "bob", ends=1)
    assert "STALE_BASE" in terminal.errors
    assert terminal("proposals", third).startswith(f"{third}: superseded")

    fourth = last_word(
        terminal(
            *("propose", file, "--reason", "Back", "--as", "ann", "--base", "2"),
            *("--effective-at", "2040-01-01T00:00:00Z"),
        )
    )
    assert "! SAME_AS_BEFORE professional: professional@3" in terminal("proposals", fourth)
    said = terminal("approve", fourth, "--as", "bob", "--note", "Fine")
    assert said == "Revision 3 is sold from 2040-01-01T00:00:00Z on.\n"
    assert "109.00" in terminal("export")
    assert "109.00" not in terminal("export", "--as-of", "2040-01-01T00:00:00Z")
    assert terminal("export", "--revision", "1") == terminal("export", "--revision", "3")
    assert "No difference" in terminal("diff", file)
    terminal("diff", file, "--against", "current", ends=1)

    fifth = last_word(
        terminal(
            *("propose", dearer, "--reason", "Again", "--as", "ann"),
            *("--effective-at", "2041-01-01T00:00:00Z"),
        )
    )
    assert terminal("reject", fifth, "--note", "Enough", "--as", "bob") == f"{fifth} is rejected.\n"
    terminal("reject", fifth, "--note", "Enough", "--as", "bob", ends=1)


def test_a_mistake_in_the_file_is_told_with_its_line_by_every_command(terminal: Terminal) -> None:
    wrong = CATALOG.replace("limit: 5,", "limit: five,").replace(
        "extends: starter", "extends: gold"
    )
    file = terminal.file("wrong.yaml", wrong)
    lines = dict(enumerate(wrong.splitlines(), 1))
    limit = next(n for n, line in lines.items() if "limit: five" in line)
    base = next(n for n, line in lines.items() if "extends: gold" in line)
    told = [
        f"{file}:{limit}: INVALID_NUMBER products.0.plans.0.entitlements.seats.limit: ",
        f"{file}:{base}: NOT_FOUND products.0.plans.1.extends: ",
    ]
    for words, ends in ((("check",), 1), (("diff",), 2), (("propose", "--reason", "Costs"), 1)):
        terminal(*words, file, ends=ends)
        assert all(place in terminal.errors for place in told), terminal.errors
        assert "2 mistakes." in terminal.errors
    assert "prp_" not in terminal("proposals")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--policy", "starter=now,cap:much"], "'cap:much' is not a part of a policy"),
        (["--policy", "starter"], "write PACKAGE=POLICY"),
        (["--effective-at", "tomorrow"], "write RFC 3339"),
    ],
)
def test_a_wrong_option_could_not_run(terminal: Terminal, words: list[str], says: str) -> None:
    file = terminal.file("catalog.yaml", CATALOG)
    terminal("propose", file, "--reason", "Costs", *words, ends=2)
    assert says in " ".join(terminal.errors.replace("│", " ").split())


def test_one_person_may_do_both_where_the_settings_say_so(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENTITLEMENTS_REQUIRE_SECOND_APPROVER", "false")
    file = terminal.file("catalog.yaml", CATALOG)
    proposal = last_word(terminal("propose", file, "--reason", "First prices"))
    assert terminal("approve", proposal) == "Revision 1 is sold now.\n"
