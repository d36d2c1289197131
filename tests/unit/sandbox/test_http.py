"""The edge of the API: keys, versions, bad input, idempotency, expand, pages of lists, faults."""

import concurrent.futures
import time
import typing
from typing import Any

import httpx
import pytest
import stripe
import typing_extensions

from entitlements.sandbox.app import sdk_paths
from entitlements.sandbox.params import fields
from entitlements.sandbox.routes import ROUTES
from tests.unit.sandbox.conftest import AUGUST_6, Checked, World, refused, sdk

FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def error_of(answer: httpx.Response) -> dict[str, Any]:
    body: dict[str, Any] = answer.json()["error"]
    return body


def post(raw: httpx.Client, path: str, form: str, **headers: str) -> httpx.Response:
    return raw.post(f"/v1/{path}", content=form, headers=FORM | headers)


# --- keys and versions


@pytest.mark.parametrize(
    "authorization", [None, "Bearer sk_live_abc", "Bearer x", "Basic !!", "Bearer sk_test_"]
)
def test_without_a_test_key_nobody_enters(url: str, authorization: str | None) -> None:
    headers = {"Authorization": authorization} if authorization else {}
    answer = httpx.get(f"{url}/v1/customers", headers=headers, trust_env=False)
    assert answer.status_code == 401
    assert error_of(answer)["type"] == "invalid_request_error"


def test_a_key_may_come_as_the_user_of_basic_authentication(url: str) -> None:
    answer = httpx.get(f"{url}/v1/customers", auth=("rk_test_x", ""), trust_env=False)
    assert answer.status_code == 200
    assert answer.headers["request-id"].startswith("req_")


def test_another_api_version_is_refused(raw: httpx.Client) -> None:
    assert raw.get("/v1/customers", headers={"Stripe-Version": "2020-08-27"}).status_code == 400


# --- bad input


@pytest.mark.parametrize(
    ("path", "form", "param"),
    [
        ("customers", "nam=x", "nam"),
        ("customers", "address[street]=x", "address[street]"),
        ("customers", "balance=1.5", "balance"),
        ("customers", "balance=abc", "balance"),
        ("customers", "tax_exempt=maybe", "tax_exempt"),
        ("customers", "metadata=x", "metadata"),
        ("customers", "preferred_locales=en", "preferred_locales"),
        ("customers", "name[a]=x", "name"),
        ("customers", "test_clock=clock_none", "test_clock"),
        ("prices", "unit_amount=1&product=p", "currency"),
        ("prices", "currency=zzz&unit_amount=1&product=p", "currency"),
        ("prices", "currency=usd&unit_amount=1&product=none", "product"),
        (
            "prices",
            "currency=usd&product_data[name]=x&recurring[interval]=eon&unit_amount=1",
            "recurring[interval]",
        ),
        (
            "prices",
            "currency=usd&product_data[name]=x&recurring[interval_count]=1&unit_amount=1",
            "recurring[interval]",
        ),
        ("prices", "currency=usd&product_data[name]=x&unit_amount=-1", "unit_amount_decimal"),
        (
            "prices",
            "currency=usd&product_data[name]=x&unit_amount_decimal=0.1234567890123",
            "unit_amount_decimal",
        ),
        (
            "prices",
            "currency=usd&product_data[name]=x&billing_scheme=tiered&tiers_mode=volume"
            "&tiers[0][up_to]=5&tiers[0][unit_amount]=1&tiers[1][up_to]=9&tiers[1][unit_amount]=1",
            "tiers[1][up_to]",
        ),
        ("subscriptions", "customer=cus_none&items[0][price]=p", "customer"),
        ("subscriptions", "items[0][quantity]=1.5", "items[0][quantity]"),
        ("subscriptions", "items[0][prize]=1", "items[0][prize]"),
        (
            "invoices/create_preview",
            "subscription_details[items][0][x]=1",
            "subscription_details[items][0][x]",
        ),
        ("test_helpers/test_clocks", "name=x", "frozen_time"),
        ("webhook_endpoints", "url=ftp://x&enabled_events[]=*", "url"),
        ("webhook_endpoints", "url=http://x&enabled_events[]=nonsense", "enabled_events[0]"),
    ],
)
def test_bad_parameters_are_refused_with_their_name(
    raw: httpx.Client, path: str, form: str, param: str
) -> None:
    answer = post(raw, path, form)
    assert answer.status_code == 400, answer.text
    assert error_of(answer)["param"] == param


@pytest.mark.parametrize(
    ("headers", "content"),
    [
        (FORM, b"name=\xff\xfe"),
        (FORM, b"name=%FF"),
        (FORM, b"name=a&name=b"),
        (FORM, b"=x"),
        (FORM, b"a[b=c"),
        (FORM, b"[x]=1"),
        (FORM, b"metadata" + b"[a]" * 200 + b"=1"),
        (FORM, b"&".join(b"metadata[k%d]=v" % i for i in range(60))),
        (FORM, b"metadata[" + b"k" * 41 + b"]=v"),
        (FORM, b"metadata[k]=" + b"v" * 501),
        (FORM, b"&".join(b"k%d=v" % i for i in range(6000))),
        ({"Content-Type": "application/json"}, b'{"name": "x"}'),
    ],
)
def test_malformed_bodies_are_refused_and_never_crash(
    raw: httpx.Client, headers: dict[str, str], content: bytes
) -> None:
    answer = raw.post("/v1/customers", content=content, headers=headers)
    assert answer.status_code == 400
    assert error_of(answer)["type"] == "invalid_request_error"


def test_a_body_too_large_is_refused(raw: httpx.Client) -> None:
    answer = raw.post("/v1/customers", content=b"name=" + b"x" * 2_000_000, headers=FORM)
    assert answer.status_code == 413


def test_what_the_sandbox_does_not_cover_is_said_aloud(raw: httpx.Client) -> None:
    for answer in (
        post(raw, "customers", "source=tok_visa"),
        post(raw, "coupons", "percent_off=10"),
        raw.get("/v1/payouts"),
        raw.get("/v1/customers/search", params={"query": "x"}),
        raw.get("/v1/customers", headers={"Stripe-Account": "acct_1"}),
    ):
        assert answer.status_code == 400
        assert error_of(answer)["code"] == "sandbox_not_covered"
    assert raw.get("/v1/nonsense").status_code == 404


def test_every_endpoint_is_one_of_the_sdks_with_parameters_of_the_sdks() -> None:
    for route in ROUTES:
        assert any(known(route.path.replace("{", "").replace("}", "")) for known in sdk_paths())
        for cover in route.schema.covers - {"expand"}:
            assert _exists(route.schema.type, cover.split(".")), (route.path, cover)


def _exists(params: Any, steps: list[str]) -> bool:
    """Whether a covered parameter such as `items[].price` is one of the SDK's."""
    if not steps:
        return True
    members = [params, *typing.get_args(params)]
    for member in [*members, *(a for m in members for a in typing.get_args(m))]:
        if typing_extensions.is_typeddict(member):
            found = fields(member).get(steps[0].removesuffix("[]"))
            return found is not None and _exists(found, steps[1:])
    return False


def test_a_missing_object_is_404_in_the_path_and_400_in_a_parameter(raw: httpx.Client) -> None:
    assert raw.get("/v1/customers/cus_none").status_code == 404
    answer = raw.get("/v1/invoices", params={"customer": "cus_none"})
    assert (answer.status_code, error_of(answer)["code"]) == (400, "resource_missing")


# --- idempotency


def test_a_repeated_key_replays_the_first_answer(raw: httpx.Client) -> None:
    first = post(raw, "customers", "name=Ada", **{"Idempotency-Key": "k1"})
    again = post(raw, "customers", "name=Ada", **{"Idempotency-Key": "k1"})
    assert again.content == first.content
    assert again.headers["idempotent-replayed"] == "true"
    assert again.headers["original-request"] == first.headers["request-id"]
    assert "idempotent-replayed" not in first.headers


def test_a_key_for_another_request_is_an_error(raw: httpx.Client) -> None:
    post(raw, "customers", "name=Ada", **{"Idempotency-Key": "k2"})
    for path, form in (("customers", "name=Bea"), ("products", "name=Ada")):
        answer = post(raw, path, form, **{"Idempotency-Key": "k2"})
        assert (answer.status_code, error_of(answer)["type"]) == (400, "idempotency_error")
    assert post(raw, "customers", "name=A", **{"Idempotency-Key": "k" * 256}).status_code == 400


def test_a_refused_request_leaves_its_key_free(raw: httpx.Client) -> None:
    assert post(raw, "customers", "name[]=x", **{"Idempotency-Key": "k3"}).status_code == 400
    assert post(raw, "customers", "name=x", **{"Idempotency-Key": "k3"}).status_code == 200


def test_a_declined_payment_is_replayed_and_not_tried_again(world: World) -> None:
    world.card("pm_card_chargeCustomerFail")
    world.subscribe(world.price())
    invoice = world.invoices()[0].id
    for _ in range(2):
        error = refused(lambda: world.v1.invoices.pay(invoice, {}, {"idempotency_key": invoice}))
        assert error.http_status == 402
    assert world.v1.invoices.retrieve(invoice).attempt_count == 2  # the creation's, and one


def test_a_key_in_flight_is_409(raw: httpx.Client, url: str) -> None:
    raw.post("/_sandbox/faults", json={"kind": "latency", "path": "/v1/products", "seconds": 0.5})

    def create() -> int:
        headers = FORM | {"Idempotency-Key": "k4", "Authorization": "Bearer sk_test_x"}
        answer = httpx.post(
            f"{url}/v1/products", content="name=x", headers=headers, trust_env=False
        )
        return answer.status_code

    with concurrent.futures.ThreadPoolExecutor() as pool:
        slow = pool.submit(create)
        time.sleep(0.2)
        assert create() == 409
        assert slow.result() == 200


# --- expand and lists


@pytest.mark.parametrize(
    "path",
    ["nonsense", "name", "invoice_settings.nonsense", "subscriptions.data.nonsense", "id.x"],
)
def test_expand_paths_that_do_not_exist_are_refused(world: World, path: str) -> None:
    error = refused(lambda: world.v1.customers.retrieve(world.customer, {"expand": [path]}))
    assert (error.http_status, error.param) == (400, "expand")
    listed = refused(lambda: world.v1.customers.list({"expand": [f"data.{path}"]}))
    assert listed.param == "expand"
    assert refused(lambda: world.v1.customers.list({"expand": ["test_clock"]})).param == "expand"


def test_expand_reaches_through_lists(world: World) -> None:
    world.card()
    world.subscribe(world.price())
    shown: Any = world.v1.customers.retrieve(
        world.customer,
        {
            "expand": [
                "subscriptions.data.items.data.price.product",
                "subscriptions.data.latest_invoice.payments",
                "invoice_settings.default_payment_method",
                "test_clock",
            ]
        },
    )
    sub = shown.subscriptions.data[0]
    assert sub["items"].data[0].price.product.name == "Pro"
    assert sub.latest_invoice.payments.data[0].status == "paid"
    assert shown.invoice_settings.default_payment_method.card.last4 == "4242"
    assert shown.test_clock.frozen_time == AUGUST_6


def test_an_invoice_shows_ten_lines_and_lists_the_rest(world: World) -> None:
    world.card()
    prices = [world.price(100 + i) for i in range(12)]
    world.subscribe(*prices)
    invoice = world.invoices()[0]
    assert (len(invoice.lines.data), invoice.lines.has_more) == (10, True)
    lines = list(world.v1.invoices.line_items.list(invoice.id, {"limit": 5}).auto_paging_iter())
    assert [line.amount for line in lines] == [100 + i for i in range(12)]


def test_lists_page_in_both_directions(world: World) -> None:
    made = [world.v1.products.create({"name": str(i), "url": world.customer}).id for i in range(5)]
    newest_first = list(reversed(made))
    first = world.v1.products.list({"url": world.customer, "limit": 2})
    assert ([p.id for p in first.data], first.has_more) == (newest_first[:2], True)
    after = world.v1.products.list(
        {"url": world.customer, "limit": 2, "starting_after": newest_first[3]}
    )
    assert ([p.id for p in after.data], after.has_more) == (newest_first[4:], False)
    before = world.v1.products.list(
        {"url": world.customer, "limit": 2, "ending_before": newest_first[3]}
    )
    assert ([p.id for p in before.data], before.has_more) == (newest_first[1:3], True)
    assert refused(lambda: world.v1.products.list({"limit": 0})).param == "limit"
    assert (
        refused(lambda: world.v1.products.list({"starting_after": "x"})).param == "starting_after"
    )


# --- faults on request


@pytest.fixture
def retrying(url: str) -> stripe.StripeClient:
    return sdk(url, max_network_retries=2, http_client=Checked(timeout=5))


@pytest.mark.parametrize("kind", ["error_before", "error_after", "cut_before", "cut_after"])
def test_the_sdk_gets_through_a_fault_with_one_effect(
    retrying: stripe.StripeClient, raw: httpx.Client, kind: str
) -> None:
    raw.post("/_sandbox/faults", json={"kind": kind, "path": "/v1/products", "method": "POST"})
    made = retrying.v1.products.create({"name": "once", "url": kind})
    assert [p.id for p in retrying.v1.products.list({"url": kind}).data] == [made.id]


def test_a_rate_limit_is_429_and_not_retried(
    retrying: stripe.StripeClient, raw: httpx.Client
) -> None:
    raw.post("/_sandbox/faults", json={"kind": "rate_limit", "path": "/v1/products", "times": 1})
    with pytest.raises(stripe.RateLimitError):
        retrying.v1.products.create({"name": "x"})
    retrying.v1.products.create({"name": "x"})
    assert raw.post("/_sandbox/faults", json={"kind": "nonsense"}).status_code == 400


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # the SDK's own
async def test_the_async_client_works_as_well(url: str) -> None:
    http: Any = stripe.HTTPXClient(timeout=10)
    client = stripe.StripeClient("sk_test_x", base_addresses={"api": url}, http_client=http)
    made = await client.v1.customers.create_async({"name": "Ada"})
    assert (await client.v1.customers.retrieve_async(made.id)).name == "Ada"
    await http.close_async()
