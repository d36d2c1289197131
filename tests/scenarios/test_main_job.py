"""From one catalog to a paid add-on whose access is live."""

import asyncio
from typing import Any

from tests.api import Api


async def _on_starter(api: Api, card: str = "pm_card_visa") -> None:
    await api.create_customer("acme", card)
    started = await api.change("start", customerId="acme", planId="starter")
    assert started["__typename"] == "ChangeCommitted", started


async def test_a_denied_customer_buys_the_module_and_is_allowed_at_once(
    api: Api, example: Any
) -> None:
    await _on_starter(api)
    denied = await api.access("acme", "dashboards")
    assert (denied["allowed"], denied["reason"]) == (False, "NOT_ENTITLED")

    bought = await api.purchase(
        customerId="acme", addOnId="advanced-analytics", idempotencyKey="buy"
    )

    assert bought["__typename"] == "ChangeCommitted", bought
    assert bought["change"]["status"] == "APPLIED"
    allowed = await api.access("acme", "dashboards", minRevision=bought["revision"])
    assert allowed["allowed"]
    assert allowed["sources"] == [
        {"kind": "ADD_ON", "quantity": 1, "package": {"versionId": "advanced-analytics@1"}}
    ]


async def test_an_upgrade_in_mid_month_charges_to_the_cent_what_the_preview_said(
    api: Api, example: Any
) -> None:
    await _on_starter(api)
    await api.advance("2026-03-16T15:30:07Z")

    quote = await api.preview(customerId="acme", planId="professional")
    # 16 days less 3:30:07 of 31 are left: 1,369,793 of 2,678,400 seconds of $29 and of $99.
    amounts = [(line["kind"], line["amount"]["amountMinor"]) for line in quote["lines"]]
    assert amounts == [("CREDIT", "-1483"), ("CHARGE", "5063")]
    assert quote["dueNow"]["amountMinor"] == "3580"
    assert quote["dueNowExact"]
    assert quote["direction"] == "UPGRADE"
    assert quote["nextInvoice"]["total"]["amountMinor"] == "9900"
    committed = await api.commit(quote["token"], "upgrade")

    assert committed["change"]["total"]["amountMinor"] == "3580"
    customer = await api.customer("acme")
    newest = customer["invoices"]["nodes"][0]
    assert newest["status"] == "paid"
    assert newest["amountPaid"]["amountMinor"] == "3580"
    assert [line["amount"]["amountMinor"] for line in newest["lines"]] == ["-1483", "5063"]
    assert customer["subscriptions"][0]["plan"]["versionId"] == "professional@1"


async def test_a_renewal_charges_what_is_held(api: Api, example: Any) -> None:
    await _on_starter(api)
    await api.purchase(customerId="acme", addOnId="advanced-analytics", idempotencyKey="buy")
    await api.advance("2026-04-02T00:00:00Z")

    customer = await api.customer("acme")
    assert customer["subscriptions"][0]["currentPeriod"]["start"] == "2026-04-01T12:00:00Z"
    assert customer["invoices"]["nodes"][0]["total"]["amountMinor"] == "22900"


async def test_the_second_upgrade_of_a_month_credits_the_full_plan_held(
    api: Api, example: Any
) -> None:
    await _on_starter(api)
    await api.advance("2026-03-11T12:00:00Z")  # 21 of 31 days left
    await api.change("one", customerId="acme", planId="professional")
    await api.advance("2026-03-21T12:00:00Z")  # 11 of 31 days left

    quote = await api.preview(customerId="acme", planId="professional", interval="YEAR")
    amounts = [(line["kind"], line["amount"]["amountMinor"]) for line in quote["lines"]]
    assert amounts == [("CREDIT", "-3513"), ("CHARGE", "99000")]
    assert not quote["dueNowExact"]
    done = await api.commit(quote["token"], "two")
    assert done["__typename"] == "ChangeCommitted", done
    held = (await api.customer("acme"))["subscriptions"][0]
    assert held["currentPeriod"] == {
        "start": "2026-03-21T12:00:00Z",
        "end": "2027-03-21T12:00:00Z",
    }
    assert held["mrr"]["amountMinor"] == "8250"


async def test_a_declined_card_changes_nothing_but_the_ledger(api: Api, example: Any) -> None:
    await _on_starter(api)
    before = await api.customer("acme")
    await api.create_customer("broke", "pm_card_chargeCustomerFail")

    declined = await api.change("start", customerId="broke", planId="starter")

    assert declined["__typename"] == "PaymentDeclined"
    assert declined["declineCode"] == "generic_decline"
    customer = await api.customer("broke")
    assert customer["subscriptions"] == []
    assert customer["changes"]["nodes"][0]["failure"]["code"] == "PAYMENT_DECLINED"
    denied = await api.access("broke", "seats")
    assert denied["reason"] == "NO_ACTIVE_SUBSCRIPTION"
    actions = [entry["action"] for entry in await api.audit(stream="customer:broke")]
    assert actions == ["change.failed", "change.requested", "customer.created"]
    assert await api.customer("acme") == before


async def test_a_card_that_cannot_be_attached_shows_at_the_purchase(api: Api, example: Any) -> None:
    await api.create_customer("broke", "pm_card_chargeDeclined")
    declined = await api.change("start", customerId="broke", planId="starter")
    assert declined["__typename"] == "PaymentDeclined"


async def test_the_same_key_twice_buys_once(api: Api, example: Any) -> None:
    await _on_starter(api)
    first = await api.purchase(
        customerId="acme", addOnId="extra-calls", quantity=2, idempotencyKey="buy"
    )
    again = await api.purchase(
        customerId="acme", addOnId="extra-calls", quantity=2, idempotencyKey="buy"
    )
    other = await api.purchase(
        customerId="acme", addOnId="extra-calls", quantity=3, idempotencyKey="buy"
    )

    assert again["change"] == first["change"]
    assert other["__typename"] == "IdempotencyConflict"
    items = (await api.customer("acme"))["subscriptions"][0]["items"]
    assert [i["quantity"] for i in items] == [1, 2]


async def test_the_same_key_at_the_same_moment_buys_once(api: Api, example: Any) -> None:
    await _on_starter(api)
    answers = await asyncio.gather(
        *(
            api.purchase(customerId="acme", addOnId="extra-calls", idempotencyKey="buy")
            for _ in range(8)
        )
    )
    assert {a["__typename"] for a in answers} == {"ChangeCommitted"}
    assert len({a["change"]["id"] for a in answers}) == 1
    assert len((await api.customer("acme"))["invoices"]["nodes"]) == 2


async def test_a_quote_is_stale_once_the_customer_has_changed(api: Api, example: Any) -> None:
    await _on_starter(api)
    quote = await api.preview(customerId="acme", planId="professional")
    await api.purchase(customerId="acme", addOnId="extra-calls", idempotencyKey="buy")

    stale = await api.commit(quote["token"], "upgrade")

    assert stale["__typename"] == "QuoteStale"
    fresh = await api.commit(stale["quote"]["token"], "upgrade")
    assert fresh["__typename"] == "ChangeCommitted"


async def test_a_quote_expires_after_fifteen_minutes(api: Api, example: Any) -> None:
    await _on_starter(api)
    quote = await api.preview(customerId="acme", planId="professional")
    await api.advance("2026-03-01T12:15:01Z")
    expired = await api.commit(quote["token"], "upgrade")
    assert expired["__typename"] == "QuoteExpired"
    assert expired["quote"]["token"]


async def test_an_add_on_dearer_than_agreed_is_not_bought(api: Api, example: Any) -> None:
    await _on_starter(api)
    refused = await api.purchase(
        customerId="acme", addOnId="advanced-analytics", maxDueNow=19999, idempotencyKey="buy"
    )
    assert refused["__typename"] == "QuoteStale"
    assert refused["quote"]["dueNow"]["amountMinor"] == "20000"
    assert not (await api.access("acme", "dashboards"))["allowed"]


async def test_preview_stores_nothing(api: Api, example: Any) -> None:
    await _on_starter(api)
    before = await api.customer("acme")
    entries = await api.audit()
    await api.preview(customerId="acme", planId="professional")
    assert await api.customer("acme") == before
    assert await api.audit() == entries
