"""Ids of our own: a prefix that names the kind, then 26 characters that sort by creation."""

import os
import secrets
import threading
import time
from datetime import datetime

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: no i, l, o, u
_PAIRS = [first + second for first in _ALPHABET for second in _ALPHABET]
_HIGH_SHIFTS, _LOW_SHIFTS = range(60, -1, -10), range(50, -1, -10)
_LOW = (1 << 60) - 1
_lock = threading.Lock()
_last_us = 0


def new_id(prefix: str) -> str:
    """A new id such as `chg_01k9…`: 64 bits of wall time in microseconds, then 66 bits of chance.

    Ids made later in one process sort after earlier ones, also within one microsecond.
    """
    global _last_us
    with _lock:
        _last_us = max(time.time_ns() // 1000, _last_us + 1)
        number = (_last_us << 66) | (int.from_bytes(os.urandom(9)) >> 6)
    return _written(prefix, number)


def first_id_at(prefix: str, at: datetime) -> str:
    """What no id made at `at` (wall time) or later sorts before."""
    return _written(prefix, int(at.timestamp()) * 1_000_000 << 66)


def _written(prefix: str, number: int) -> str:
    high, low = number >> 60, number & _LOW  # whole numbers of two digits each are faster
    pairs = [_PAIRS[high >> shift & 1023] for shift in _HIGH_SHIFTS]
    pairs += [_PAIRS[low >> shift & 1023] for shift in _LOW_SHIFTS]
    return f"{prefix}_" + "".join(pairs)


def random_token(length_bytes: int = 24) -> str:
    """A secret for keys, in characters that survive a URL and a double click."""
    number = secrets.randbits(length_bytes * 8)
    length = (length_bytes * 8 + 4) // 5
    return "".join(_ALPHABET[(number >> (5 * i)) & 31] for i in range(length))
