"""GraphQL over HTTP, as its specification and other people's clients see it."""

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ADMIN_KEY

NODE = Path(__file__).parent.parent / "node"

in_node = pytest.mark.skipif(
    shutil.which("node") is None or not (NODE / "node_modules").is_dir(),
    reason="needs Node 20 and `make node`, which installs the clients of tests/node",
)


async def run(script: str, *arguments: str) -> list[Any]:
    """What a script of tests/node says, a JSON value a line."""
    process = await asyncio.create_subprocess_exec(
        "node", str(NODE / script), *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, err.decode()
    return [json.loads(line) for line in out.decode().splitlines()]


@in_node
async def test_every_must_and_should_of_the_specification_is_met(url: str) -> None:
    *failed, total = await run("audit.mjs", f"http://{url}/graphql", ADMIN_KEY)
    assert total["audits"] > 60
    assert failed == [], json.dumps(failed, indent=1)
