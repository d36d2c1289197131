"""What `entitlements --help` says of a command, which it does not import, is what that one says."""

import pytest

from entitlements.cli import COMMANDS, loaded


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_listed_as_it_describes_itself(name: str) -> None:
    described = " ".join(loaded(name).help.split("\n\n")[0].split())
    assert described == COMMANDS[name][1]
