"""How `catalog propose` takes a policy: `pro=price:at_renewal:1,entitlements:now,cap:10`."""

from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Any

import typer

from entitlements.catalog.proposals import GrandfatherPolicy, Policy
from entitlements.cli.terminal import instant

POLICY_HELP = (
    "What happens to those who hold an older version: PACKAGE=POLICY, where POLICY is `keep` (the "
    "default), `keep_until:2027-01-01T00:00:00Z`, `at_renewal:N` or `now`; `price:` or "
    "`entitlements:` before it names one of the two; `cap:PERCENT` and `notice:DAYS` may follow, "
    "with commas between: pro=price:at_renewal:1,cap:10. "
    "Once for each package."
)


def policy_of(text: str) -> Policy:
    """`professional=price:at_renewal:1,entitlements:now,cap:10` as a policy."""
    package_id, equals, rest = text.partition("=")
    if not equals:
        raise typer.BadParameter(f"{text!r}: write PACKAGE=POLICY", param_hint="--policy")
    fields: dict[str, Any] = {"package_id": package_id.strip()}
    try:
        for part in rest.split(","):
            fields |= _part(part.strip())
    except (ValueError, InvalidOperation):
        raise typer.BadParameter(
            f"{text!r}: {part.strip()!r} is not a part of a policy", param_hint="--policy"
        ) from None
    return Policy(**fields)


def _part(part: str) -> dict[str, Any]:
    name, _, value = part.partition(":")
    if name == "cap":
        return {"max_increase_percent": Decimal(value)}
    if name == "notice":
        return {"notice_days": int(value)}
    of = [name] if name in ("price", "entitlements") else ["price", "entitlements"]
    kind, _, detail = (value if len(of) == 1 else part).partition(":")
    policy = GrandfatherPolicy(kind.replace("-", "_"))
    fields: dict[str, Any] = dict.fromkeys(of, policy)
    if policy is GrandfatherPolicy.KEEP_UNTIL:
        fields["until"] = _until(detail)
    elif policy is GrandfatherPolicy.AT_RENEWAL:
        fields["renewals"] = int(detail)
    elif detail:
        raise ValueError(detail)
    return fields


def _until(text: str) -> datetime:
    return instant(f"{text}T00:00:00Z" if len(text) == len("2027-01-01") else text)
