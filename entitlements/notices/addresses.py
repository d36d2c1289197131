"""Where a notice may be sent: never into a network of ours. PURE.

Whoever may name a URL could otherwise have this service call what only it can reach: its own
machine, its network, the metadata of its cloud. A URL is judged by its form, and what its host
resolves to by its address, at each connection anew.
"""

import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from urllib.parse import urlsplit

import msgspec

from entitlements.kernel.errors import ValidationFailed

URL_LENGTH_AT_MOST = 2000

_CHARACTERS = re.compile(r"[!-~]+")  # printable ASCII, no space
_LABEL = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)", re.IGNORECASE)
_NUMERIC = re.compile(r"[0-9]+|0x[0-9a-f]*", re.IGNORECASE)
_NOT_PUBLIC_NAMES = ("localhost", "local", "internal", "home.arpa")

_GLOBAL_UNICAST = IPv6Network("2000::/3")
_TRANSLATED = IPv6Network("64:ff9b::/96")  # RFC 6052: the last 32 bits are an IPv4 address
_NOT_PUBLIC = (
    IPv4Network("192.0.0.0/24"),  # protocol assignments
    IPv4Network("192.88.99.0/24"),  # 6to4 relays
    IPv6Network("2002::/16"),  # 6to4: an IPv4 address in disguise
    IPv6Network("3fff::/20"),  # documentation
)
"""What Python 3.11 takes for public, and is not."""


class Target(msgspec.Struct, frozen=True):
    """A URL that is good in form. Only these parts of it are used: it is parsed once."""

    scheme: str
    host: str
    port: int
    path: str


def parse(url: str, *, sandbox: bool) -> Target:
    """The parts of an endpoint's URL; `ValidationFailed` at `url` says why it is not taken.

    Outside a sandbox only HTTPS, port 443 or one from 1024 on: the others speak something else.

    >>> parse("https://example.com/hooks?of=us", sandbox=False)
    Target(scheme='https', host='example.com', port=443, path='/hooks?of=us')
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise _refusal("MALFORMED_URL", "this is not a URL") from None
    if not _CHARACTERS.fullmatch(url) or "\\" in url or not host:
        raise _refusal("MALFORMED_URL", "write an absolute URL in ASCII, such as https://host/path")
    if len(url) > URL_LENGTH_AT_MOST:
        raise _refusal("LENGTH", f"a URL has at most {URL_LENGTH_AT_MOST} characters")
    if parts.scheme != "https" and not (sandbox and parts.scheme == "http"):
        raise _refusal("HTTPS_ONLY", "notices are sent over https only")
    if "@" in parts.netloc:
        raise _refusal("CREDENTIALS", "a URL carries no user name or password: verify signatures")
    if "#" in url:
        raise _refusal("MALFORMED_URL", "a fragment is not sent: leave it out")
    if port is None:
        port = 443 if parts.scheme == "https" else 80
    if not (sandbox and port) and port != 443 and port < 1024:
        raise _refusal("PORT", "the port is 443, or one from 1024 on")
    _check_host(host, sandbox=sandbox)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(parts.scheme, host, port, path)


def _check_host(host: str, *, sandbox: bool) -> None:
    """An address that may be reached, or a name that could have one."""
    labels = host.removesuffix(".").split(".")
    if ":" in host or _NUMERIC.fullmatch(labels[-1]):
        try:
            if "%" in host:
                raise ValueError  # a zone is of one machine
            ip_address(host)  # in its one usual form: no 127.1, 2130706433 or 0x7f.0.0.1
        except ValueError:
            raise _refusal("MALFORMED_URL", f"{host} is no address") from None
        if not may_reach(host, sandbox=sandbox):
            raise refused_address(host)
        return
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise _refusal("MALFORMED_URL", f"{host} is no name of a host")
    if sandbox and labels[-1] == "localhost":
        return
    if len(labels) < 2 or f".{'.'.join(labels)}".endswith(
        tuple(f".{n}" for n in _NOT_PUBLIC_NAMES)
    ):
        raise _refusal("PRIVATE_ADDRESS", f"{host} is a name within a network")


def origin(url: str) -> str:
    """A URL without its path and query, which may hold a secret of the receiver's."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def may_reach(address: str, *, sandbox: bool) -> bool:
    """Whether a resolved address is public; in a sandbox this machine itself will do, too.

    >>> may_reach("93.184.216.34", sandbox=False), may_reach("169.254.169.254", sandbox=False)
    (True, False)
    >>> may_reach("::ffff:127.0.0.1", sandbox=False), may_reach("::ffff:127.0.0.1", sandbox=True)
    (False, True)
    """
    try:
        ip = _unwrapped(ip_address(address))
    except ValueError:
        return False
    if ip.is_loopback:
        return sandbox
    if isinstance(ip, IPv6Address) and ip not in _GLOBAL_UNICAST:
        return False
    return ip.is_global and not ip.is_multicast and not any(ip in net for net in _NOT_PUBLIC)


def _unwrapped(ip: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """The IPv4 address that an IPv6 one stands for, where that is where a packet would go."""
    if isinstance(ip, IPv6Address):
        if ip.ipv4_mapped is not None:
            return ip.ipv4_mapped
        if ip in _TRANSLATED:
            return IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip


def refused_address(host: str) -> ValidationFailed:
    return _refusal("PRIVATE_ADDRESS", f"{host} is not a public address")


def _refusal(code: str, message: str) -> ValidationFailed:
    return ValidationFailed.of("url", code, message)
