"""Policies as they are written on the command line."""

from datetime import UTC, datetime
from decimal import Decimal

import pytest
import typer

from entitlements.catalog.proposals import GrandfatherPolicy as Kind
from entitlements.catalog.proposals import Policy
from entitlements.cli.policies import policy_of

NEW_YEAR = datetime(2027, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("pro=now", Policy(package_id="pro", price=Kind.NOW, entitlements=Kind.NOW)),
        ("pro=entitlements:now", Policy(package_id="pro", entitlements=Kind.NOW)),
        (
            "pro=price:at-renewal:2,cap:12.5,notice:30",
            Policy(
                package_id="pro",
                price=Kind.AT_RENEWAL,
                renewals=2,
                max_increase_percent=Decimal("12.5"),
                notice_days=30,
            ),
        ),
        *(
            (
                f"pro=price:keep_until:{written}, entitlements:keep",
                Policy(package_id="pro", price=Kind.KEEP_UNTIL, until=NEW_YEAR),
            )
            for written in ("2027-01-01", "2027-01-01T01:00:00+01:00")
        ),
    ],
)
def test_a_policy_is_read(text: str, policy: Policy) -> None:
    assert policy_of(text) == policy


@pytest.mark.parametrize(
    "text",
    ["pro", "pro=", "pro=soon", "pro=now:1", "pro=at_renewal", "pro=cap:x", "pro=keep_until:2027"],
)
def test_what_is_no_policy_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        policy_of(text)
