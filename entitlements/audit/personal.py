"""Personal data in a ledger that nobody can change: a digest is kept, never the value."""

import hashlib
import hmac
from collections.abc import Mapping


def digests(salt: str, fields: Mapping[str, str | None]) -> dict[str, str]:
    """An HMAC-SHA-256 of each value, in hex, under a salt that belongs to one person.

    While there is the salt, somebody who knows a value can prove that it was the one. Without it a
    digest says nothing, not even of a value that is guessed. What has no value is left out.

    >>> found = digests("a salt", {"name": "Ann", "email": None})
    >>> list(found), [found == digests(salt, {"name": "Ann"}) for salt in ("a salt", "another")]
    (['name'], [True, False])
    """
    return {
        field: hmac.new(salt.encode(), f"{field}\n{value}".encode(), hashlib.sha256).hexdigest()
        for field, value in fields.items()
        if value is not None
    }
