"""What was measured goes into the README, between the two marks of its bench, and only there."""

import os
import platform
from collections.abc import Sequence
from pathlib import Path

from entitlements.kernel.clock import wall_now

README = Path(__file__).parents[2] / "README.md"


def write_table(bench: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Replace the table between `<!-- bench:NAME -->` and `<!-- /bench:NAME -->`.

    Raises `ValueError` where the README has no such marks.
    """
    begin, end = f"<!-- bench:{bench} -->", f"<!-- /bench:{bench} -->"
    before, found, rest = README.read_text().partition(begin)
    _, found_end, after = rest.partition(end)
    if not found or not found_end:
        raise ValueError(f"the README has no marks for {bench}")
    lines = [
        "| " + " | ".join(headings) + " |",
        "|" + "---|" * len(headings),
        *("| " + " | ".join(row) + " |" for row in rows),
    ]
    measured = f"Measured on {wall_now():%Y-%m-%d} with {os.cpu_count()} cores, {_python()}."
    README.write_text("\n".join([f"{before}{begin}", measured, "", *lines, f"{end}{after}"]))


def _python() -> str:
    return f"{platform.python_implementation()} {platform.python_version()}"
