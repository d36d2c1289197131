"""What the README tells a stranger to do gives what it says."""

import asyncio
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import msgspec

from entitlements.billing.webhooks import HANDLED
from entitlements.notices.events import KINDS
from entitlements.server.demo import DemoState

README = Path(__file__).parent.parent / "README.md"
STARTS_WITHIN_SECONDS = 30


def requests() -> tuple[str, list[tuple[str, Any]]]:
    """The function to ask with, and each request with what it answers."""
    text = README.read_text()
    preparation = re.search(r"```sh\nexport KEY=.*\n(ask\(\).*)\n```", text)
    assert preparation
    pairs = re.findall(r"```sh\n(ask .*)\n```\n```json\n(.*)\n```", text)
    return preparation[1], [(command, json.loads(answer)) for command, answer in pairs]


def matches(answer: Any, said: Any) -> bool:
    """Whether an answer is what the README says; `…` stands for anything."""
    if said == "…":
        return True
    if isinstance(said, dict):
        return (
            isinstance(answer, dict)
            and answer.keys() == said.keys()
            and all(matches(answer[key], said[key]) for key in said)
        )
    if isinstance(said, list):
        same = isinstance(answer, list) and len(answer) >= len(said)
        return same and all(map(matches, answer, said))
    return bool(answer == said)


async def run(command: str, **environment: str) -> str:
    process = await asyncio.create_subprocess_exec(
        "bash", "-c", command, env=os.environ | environment, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    return out.decode()


async def started(process: asyncio.subprocess.Process) -> str:
    """The demo's URL, once it says that it serves."""
    assert process.stdout
    url = ""
    async with asyncio.timeout(STARTS_WITHIN_SECONDS):
        while line := (await process.stdout.readline()).decode():
            if found := re.match(r"GraphQL\s+(http\S+)/graphql", line):
                url = found[1]
            if "Ctrl-C" in line:
                return url
    raise AssertionError("it ended")


async def demo(data: Path) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "entitlements", "demo", "--port", "0", "--data", str(data),
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip


async def test_the_five_requests_answer_what_the_readme_says_and_a_second_start_remembers(
    tmp_path: Path,
) -> None:
    ask, pairs = requests()
    assert len(pairs) == 5
    process = await demo(tmp_path)
    try:
        url = await started(process)
        state = msgspec.json.decode((tmp_path / "demo.json").read_bytes(), type=DemoState)
        for command, said in pairs:
            script = f"{ask}\n{command}".replace("http://127.0.0.1:8000", url)
            answer = json.loads(await run(script, KEY=state.admin_key))
            assert matches(answer, said), (command, answer)
    finally:
        process.terminate()
        await asyncio.wait_for(process.wait(), 10)

    again = await demo(tmp_path)
    try:
        url = await started(again)
        command, said = pairs[-1]
        script = f"{ask}\n{command}".replace("http://127.0.0.1:8000", url)
        assert matches(json.loads(await run(script, KEY=state.admin_key)), said)
    finally:
        again.terminate()
        await asyncio.wait_for(again.wait(), 10)


def test_the_readme_names_every_setting_and_every_command() -> None:
    from entitlements.cli import COMMANDS
    from entitlements.settings import Settings

    text = README.read_text()
    for setting in Settings.model_fields:
        assert f"`{setting.upper()}`" in text, setting
    for name in COMMANDS:
        assert re.search(rf"\b{name}\b", text), name


def test_the_billing_room_names_every_event_that_is_acted_on() -> None:
    text = (README.parent / "entitlements" / "billing" / "README.md").read_text()
    for name in HANDLED:
        assert f"`{name}`" in text, name


def test_the_notices_room_names_every_event_and_what_it_carries() -> None:
    text = (README.parent / "entitlements" / "notices" / "README.md").read_text()
    for event, kind in KINDS.items():
        [row] = [line for line in text.splitlines() if line.startswith(f"| `{event}` |")]
        assert row.split(" | ")[2] == (", ".join(f"`{id}`" for id in kind.ids) or "–"), event
