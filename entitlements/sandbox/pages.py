"""placeholder"""

from starlette.routing import Route

from entitlements.sandbox.engine import Engine


def page_routes(engine: Engine) -> list[Route]:
    return []
