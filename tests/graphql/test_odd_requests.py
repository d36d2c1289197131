"""What is ambiguous or absurd is refused in words, never guessed and never an internal error."""

from typing import Any

from tests.api import Api


async def test_a_document_with_two_operations_has_to_say_which_one_is_meant(api: Api) -> None:
    both = "query A { viewer { role } } query B { viewer { role } }"
    assert await api.refused(both) == "BAD_USER_INPUT"
    response = await api.client.post(
        "/graphql",
        json={"query": both, "operationName": "B"},
        headers={"Authorization": f"Bearer {api.bearer}"},
    )
    assert response.json() == {"data": {"viewer": {"role": "admin"}}}


async def test_checks_that_make_no_sense_are_refused(api: Api, example: Any) -> None:
    await api.create_customer("acme")
    check = """query ($feature: ID!, $quantity: BigInt! = 1, $atLeast: String) {
                 access(customerId: "acme", featureId: $feature, quantity: $quantity,
                        atLeast: $atLeast) { allowed } }"""
    for variables in (
        {"feature": "support-hours", "atLeast": "1e999999999"},
        {"feature": "support-hours", "atLeast": "soon"},
        {"feature": "support-channel", "atLeast": "telepathy"},
        {"feature": "sso", "atLeast": "yes"},
        {"feature": "seats", "quantity": 0},
        {"feature": "seats", "quantity": str(2**63)},
    ):
        assert await api.refused(check, **variables) == "BAD_USER_INPUT", variables


async def test_a_check_of_what_nobody_knows_has_its_reason(api: Api, example: Any) -> None:
    await api.create_customer("acme")
    assert (await api.access("nobody", "sso"))["reason"] == "CUSTOMER_NOT_FOUND"
    assert (await api.access("acme", "teleport"))["reason"] == "FEATURE_NOT_FOUND"
    for id in ("", " ", "a\nb", "x" * 256):
        assert (await api.create_customer(id))["issues"][0]["path"] == ["id"]
