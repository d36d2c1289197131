"""Secrets where none may be: in a database, in what was logged."""

import re
from pathlib import Path

SHAPES = {
    "a key of ours": rb"ent_(?:publishable|service|support|pricing|finance|admin)_[0-9a-z]{20,}",
    "a signed token": rb"eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]{10,}",
    "a key of the provider": rb"\b[sr]k_(?:test|live)_\w+",
    "a signing secret": rb"whsec_\w+",
    "a client secret": rb"\w+_secret_\w{8,}",
}
_PARTS = {
    "a key of ours": b"ent_",
    "a signed token": b"eyJ",
    "a key of the provider": b"k_",
    "a signing secret": b"whsec_",
    "a client secret": b"_secret_",
}
"""What is looked for first: a megabyte of a database costs a millisecond."""


def leaked(text: bytes) -> list[str]:
    """Which kinds of secrets stand in it."""
    return [
        what
        for what, shape in SHAPES.items()
        if _PARTS[what] in text and re.search(shape, text, re.ASCII)
    ]


def leaked_into(database: Path) -> list[str]:
    """Into a SQLite database, with what it has not written back yet."""
    files = database.parent.glob(f"{database.name}*")
    return leaked(b"\n".join(file.read_bytes() for file in files))
