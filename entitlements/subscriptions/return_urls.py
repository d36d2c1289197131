"""Where the provider's pages may lead a customer back to."""

from collections.abc import Sequence
from urllib.parse import urlsplit

import msgspec

from entitlements.kernel.errors import ValidationFailed

LOOPBACK = ("127.0.0.1", "localhost", "::1")


class ReturnUrls(msgspec.Struct, frozen=True):
    """Allowed are the origins named, the first where none is given; `loopback`: this machine too.

    >>> ReturnUrls(("https://app.example",), False).checked("https://app.example/billing?x=1")
    'https://app.example/billing?x=1'
    """

    origins: Sequence[str]
    loopback: bool

    def checked(self, given: str | None) -> str:
        """The URL to use. `ValidationFailed` on `returnUrl` for an origin that is not allowed."""
        if given is None and self.origins:
            return f"{self.origins[0]}/"
        try:
            parts = urlsplit(given or "")
        except ValueError:
            parts = urlsplit("")
        web = parts.scheme in ("http", "https")
        known = f"{parts.scheme}://{parts.netloc}" in self.origins
        if (
            given is None
            or not web
            or not (known or (self.loopback and parts.hostname in LOOPBACK))
        ):
            raise ValidationFailed.of(
                "returnUrl",
                "ORIGIN_NOT_ALLOWED",
                "give a URL whose origin is among ENTITLEMENTS_RETURN_ORIGINS",
            )
        return given
