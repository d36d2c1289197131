"""Ids of our own: a prefix that names the kind, then 26 characters that sort by creation."""

import secrets
import threading
import time
from datetime import datetime

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: no i, l, o, u
_lock = threading.Lock()
_last_us = 0


def new_id(prefix: str) -> str:
    """A new id such as `chg_01k9…`: 64 bits of wall time in microseconds, then 66 bits of chance.

    Ids made later in one process sort after earlier ones, also within one microsecond.
    """
    global _last_us
    with _lock:
        _last_us = max(time.time_ns() // 1000, _last_us + 1)
        number = (_last_us << 66) | secrets.randbits(66)
    return _written(prefix, number)


def first_id_at(prefix: str, at: datetime) -> str:
    """What no id made at `at` (wall time) or later sorts before."""
    return _written(prefix, int(at.timestamp()) * 1_000_000 << 66)


def _written(prefix: str, number: int) -> str:
    return f"{prefix}_" + "".join(_ALPHABET[(number >> shift) & 31] for shift in range(125, -1, -5))


def random_token(length_bytes: int = 24) -> str:
    """A secret for keys, in characters that survive a URL and a double click."""
    number = secrets.randbits(length_bytes * 8)
    length = (length_bytes * 8 + 4) // 5
    return "".join(_ALPHABET[(number >> (5 * i)) & 31] for i in range(length))
