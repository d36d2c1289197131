"""The pages' files, read and compressed once: what a browser loads, and may keep for ever.

They stand under a path that has a digest of them all, so that a new version is another path, and
modules import each other by relative paths.
"""

import gzip
import hashlib
from collections.abc import Mapping
from functools import cache
from html import escape
from pathlib import Path
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from entitlements.server.headers import PAGE_HEADERS
from entitlements.server.portal.documents import APPS

_STATIC: Final = Path(__file__).parent / "static"
_TYPES: Final = {
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
_SHELL: Final = "shell.html"
_FOR_EVER: Final = "public, max-age=31536000, immutable"


class Asset(msgspec.Struct, frozen=True):
    content_type: str
    plain: bytes
    compressed: bytes


class Assets(msgspec.Struct, frozen=True):
    """`path` is what all of them stand under; `shells` are the pages' HTML, by app."""

    path: str
    digest: str
    files: Mapping[str, Asset]
    shells: Mapping[str, str]


@cache
def assets() -> Assets:
    """Those of this process."""
    files: dict[str, Asset] = {}
    digest = hashlib.sha256()
    for file in sorted(_STATIC.rglob("*")):
        if file.suffix in _TYPES:
            name, plain = file.relative_to(_STATIC).as_posix(), file.read_bytes()
            digest.update(b"%s\0%d\0%s" % (name.encode(), len(plain), plain))
            files[name] = Asset(_TYPES[file.suffix], plain, gzip.compress(plain, mtime=0))
    named = digest.hexdigest()[:16]
    path = f"/portal/assets/{named}"
    return Assets(path, named, files, {app: _shell(app, path, files) for app in APPS})


def _shell(app: str, path: str, files: Mapping[str, Asset]) -> str:
    """An app's page, before its script runs. All modules are loaded at once, not one by one."""
    modules = (
        name for name in files if name.endswith(".js") and name.split("/")[0] in ("shared", app)
    )
    preloads = "\n".join(
        f'    <link rel="modulepreload" href="{escape(f"{path}/{name}")}">' for name in modules
    )
    template = (_STATIC / app / _SHELL).read_text(encoding="utf-8")
    return template.replace("    <!-- modules -->", preloads).replace("{assets}", path)


async def asset(request: Request) -> Response:
    """A file. Under another version's digest it is this one's, and not kept: while processes are
    replaced one after another a page may ask either."""
    found = assets().files.get(request.path_params["name"])
    if found is None:
        return Response(status_code=404, headers=PAGE_HEADERS)
    headers = PAGE_HEADERS | {"content-type": found.content_type, "vary": "accept-encoding"}
    if request.path_params["digest"] == assets().digest:
        headers["cache-control"] = _FOR_EVER
    if "gzip" not in request.headers.get("accept-encoding", ""):
        return Response(found.plain, headers=headers)
    return Response(found.compressed, headers=headers | {"content-encoding": "gzip"})
