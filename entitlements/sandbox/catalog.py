"""Products and prices. A price never changes what it charges; a new version is a new price."""

from decimal import Decimal
from typing import Any

import stripe

from entitlements.kernel.money import is_currency, plain
from entitlements.sandbox.errors import Json, StripeError, invalid
from entitlements.sandbox.events import emit
from entitlements.sandbox.routes import Call, endpoint
from entitlements.sandbox.shapes import (
    PAGE,
    in_range,
    merge_metadata,
    page,
    page_of,
    plain_shape,
    public,
    render,
    shape,
)
from entitlements.sandbox.store import Transaction, make_id

plain_shape("product", stripe.Product)


@shape(
    "price",
    stripe.Price,
    includable={"tiers": lambda tx, doc: doc["_tiers"], "currency_options": None},
)
def _render_price(tx: Transaction, doc: Json) -> Json:
    return public(doc)


plain_shape("plan", stripe.Plan)


def plan_of(price: Json) -> Json:
    """The older twin of a price that subscription items still carry."""
    recurring = price["recurring"]
    return {
        "id": price["id"],
        "object": "plan",
        "active": price["active"],
        "amount": price["unit_amount"],
        "amount_decimal": price["unit_amount_decimal"],
        "billing_scheme": price["billing_scheme"],
        "created": price["created"],
        "currency": price["currency"],
        "interval": recurring["interval"],
        "interval_count": recurring["interval_count"],
        "livemode": False,
        "metadata": price["metadata"],
        "meter": recurring["meter"],
        "nickname": price["nickname"],
        "product": price["product"],
        "tiers_mode": price["tiers_mode"],
        "transform_usage": price["transform_quantity"],
        "trial_period_days": None,
        "usage_type": recurring["usage_type"],
    }


# --- products

_PRODUCT = "name active description metadata images url unit_label statement_descriptor shippable"


@endpoint("POST", "/v1/products", "ProductCreateParams", f"{_PRODUCT} id type marketing_features")
def create_product(call: Call) -> Json:
    tx, p = call.tx, call.params
    id = p.get("id") or make_id("prod")
    existing = tx.get(id)
    if existing is not None and not existing.get("_deleted"):
        raise invalid("Product already exists.", "id", "resource_already_exists")
    return render(tx, new_product(tx, id, p))


def new_product(tx: Transaction, id: str, p: Json) -> Json:
    product = {
        "id": id,
        "object": "product",
        "active": True,
        "created": tx.wall,
        "default_price": None,
        "description": None,
        "images": [],
        "livemode": False,
        "marketing_features": p.get("marketing_features", []),
        "metadata": {},
        "name": "",
        "type": p.get("type", "service"),
        "updated": tx.wall,
    }
    _change_product(product, p)
    tx.save(product)
    emit(tx, "product.created", product)
    return product


def _change_product(product: Json, p: Json) -> None:
    if "name" in p and not p["name"]:
        raise invalid("Invalid name: must not be empty.", "name", "parameter_invalid_empty")
    product |= {k: p[k] for k in ("name", "active", "shippable") if k in p}
    for field in ("description", "url", "unit_label", "statement_descriptor"):
        if field in p:
            product[field] = p[field] or None
    if "images" in p:
        product["images"] = p["images"] or []
    product["metadata"] = merge_metadata(product["metadata"], p.get("metadata"))


@endpoint("GET", "/v1/products/{id}", "ProductRetrieveParams", "")
def retrieve_product(call: Call) -> Json:
    return render(call.tx, call.tx.need(call.path["id"], "product"))


@endpoint(
    "POST",
    "/v1/products/{id}",
    "ProductUpdateParams",
    f"{_PRODUCT} default_price marketing_features",
)
def update_product(call: Call) -> Json:
    tx, p = call.tx, call.params
    product = tx.need(call.path["id"], "product")
    before = render(tx, product)
    _change_product(product, p)
    if "default_price" in p:
        price = tx.need(p["default_price"], "price", "default_price")
        if price["product"] != product["id"]:
            raise invalid("The default price belongs to another product.", "default_price")
        product["default_price"] = price["id"]
    if "marketing_features" in p:
        product["marketing_features"] = p["marketing_features"] or []
    if render(tx, product) != before:
        product["updated"] = tx.wall
    tx.save(product)
    emit(tx, "product.updated", product, before)
    return render(tx, product)


@endpoint("DELETE", "/v1/products/{id}", "ProductDeleteParams", "")
def delete_product(call: Call) -> Json:
    tx = call.tx
    product = tx.need(call.path["id"], "product")
    if any(price for price in tx.find("price", parent=product["id"])):
        raise invalid(
            "This product cannot be deleted because it has one or more user-created prices."
        )
    emit(tx, "product.deleted", product)
    product["_deleted"] = True
    return render(tx, tx.save(product))


@endpoint(
    "GET", "/v1/products", "ProductListParams", f"active created ids shippable type url {PAGE}"
)
def list_products(call: Call) -> Json:
    p = call.params

    def keep(product: Json) -> bool:
        return (
            all(p.get(k) in (None, product.get(k)) for k in ("active", "shippable", "type", "url"))
            and (not p.get("ids") or product["id"] in p["ids"])
            and in_range(product["created"], p.get("created"))
        )

    return page(call.tx, "/v1/products", "product", p, keep)


# --- prices


@endpoint(
    "POST",
    "/v1/prices",
    "PriceCreateParams",
    "active billing_scheme currency lookup_key metadata nickname product product_data.name "
    "product_data.id product_data.metadata product_data.active product_data.unit_label "
    "product_data.statement_descriptor recurring tax_behavior tiers tiers_mode "
    "transfer_lookup_key transform_quantity unit_amount unit_amount_decimal",
)
def create_price(call: Call) -> Json:
    tx, p = call.tx, call.params
    if not is_currency(p["currency"]):
        raise invalid(f"Invalid currency: {p['currency']}.", "currency")
    price = {
        "id": make_id("price"),
        "object": "price",
        "active": p.get("active", True),
        "billing_scheme": p.get("billing_scheme", "per_unit"),
        "created": tx.wall,
        "currency": p["currency"],
        "custom_unit_amount": None,
        "livemode": False,
        "lookup_key": None,
        "metadata": merge_metadata({}, p.get("metadata")),
        "nickname": p.get("nickname"),
        "product": _product_for(tx, p),
        "recurring": _recurring(tx, p["recurring"]) if "recurring" in p else None,
        "tax_behavior": p.get("tax_behavior", "unspecified"),
        "tiers_mode": None,
        "transform_quantity": p.get("transform_quantity"),
        "type": "recurring" if "recurring" in p else "one_time",
        "unit_amount": None,
        "unit_amount_decimal": None,
        "_tiers": None,
    } | _amounts(p)
    price["_parent"] = price["product"]
    if price["transform_quantity"] and price["transform_quantity"]["divide_by"] < 1:
        raise invalid("Must be at least 1.", "transform_quantity[divide_by]")
    if "lookup_key" in p:
        _take_lookup_key(tx, price, p["lookup_key"], p.get("transfer_lookup_key", False))
    tx.save(price)
    emit(tx, "price.created", price)
    return render(tx, price)


def _product_for(tx: Transaction, p: Json) -> str:
    if ("product" in p) == ("product_data" in p):
        raise invalid(
            "You must pass either product or product_data.", "product", "parameter_missing"
        )
    if "product" in p:
        product = tx.need(p["product"], "product", "product")
        if not product["active"] and p.get("active", True):
            raise invalid("The product is not active.", "product")
        return str(product["id"])
    data = p["product_data"]
    return str(new_product(tx, data.get("id") or make_id("prod"), data)["id"])


def _recurring(tx: Transaction, given: Json) -> Json:
    count = given.get("interval_count", 1)
    most = {"day": 1095, "week": 156, "month": 36, "year": 3}[given["interval"]]
    if not 1 <= count <= most:
        raise invalid(
            f"Must be between 1 and {most} for {given['interval']}.", "recurring[interval_count]"
        )
    usage = given.get("usage_type", "licensed")
    meter = given.get("meter")
    if (usage == "metered") != bool(meter):
        raise invalid("Metered prices, and only these, name a billing meter.", "recurring[meter]")
    if meter:
        tx.need(meter, "billing.meter", "recurring[meter]")
    if given.get("trial_period_days"):
        raise invalid(
            "Trials are given to subscriptions, not to prices.", "recurring[trial_period_days]"
        )
    return {
        "interval": given["interval"],
        "interval_count": count,
        "meter": meter,
        "trial_period_days": None,
        "usage_type": usage,
    }


def _amounts(p: Json) -> Json:
    if p.get("billing_scheme", "per_unit") == "tiered":
        return _tiered(p)
    for param in ("tiers", "tiers_mode"):
        if param in p:
            raise invalid(f"{param} needs billing_scheme=tiered.", param)
    return _one_amount(p, "unit_amount", "unit_amount_decimal", "", required=True)


def _one_amount(p: Json, whole: str, exact: str, name: str, *, required: bool = False) -> Json:
    """An amount given as an integer or as a decimal, shown as both where it is whole."""
    where = f"{name}[{exact}]" if name else exact
    if whole in p and exact in p:
        raise invalid(f"You may only specify one of these: {whole}, {exact}.", where)
    value: Any = p.get(whole, p.get(exact))
    if value is None:
        if required:
            raise invalid(f"Missing required param: {whole}.", whole, "parameter_missing")
        return {whole: None, exact: None}
    amount = Decimal(value)
    if amount < 0 or amount > 999_999_999_999:
        raise invalid("Invalid non-negative integer.", where, "parameter_invalid_integer")
    integral = amount == amount.to_integral_value()
    return {whole: int(amount) if integral else None, exact: format(plain(amount), "f")}


def _tiered(p: Json) -> Json:
    for param in ("unit_amount", "unit_amount_decimal", "transform_quantity"):
        if param in p:
            raise invalid(f"{param} cannot be used with billing_scheme=tiered.", param)
    for param in ("tiers", "tiers_mode"):
        if not p.get(param):
            raise invalid(f"Missing required param: {param}.", param, "parameter_missing")
    tiers, below = [], 0
    for i, given in enumerate(p["tiers"]):
        name = f"tiers[{i}]"
        last = i == len(p["tiers"]) - 1
        top = None if given["up_to"] == "inf" else given["up_to"]
        if (top is None) != last:
            raise invalid("The last tier, and only it, must be up to inf.", f"{name}[up_to]")
        if top is not None and top <= below:
            raise invalid("Tiers must rise.", f"{name}[up_to]")
        below = top or below
        unit = _one_amount(given, "unit_amount", "unit_amount_decimal", name)
        flat = _one_amount(given, "flat_amount", "flat_amount_decimal", name)
        if unit["unit_amount_decimal"] is None and flat["flat_amount_decimal"] is None:
            raise invalid("A tier needs a unit amount or a flat amount.", f"{name}[unit_amount]")
        tiers.append(flat | unit | {"up_to": top})
    return {"tiers_mode": p["tiers_mode"], "_tiers": tiers}


def _take_lookup_key(tx: Transaction, price: Json, key: str, transfer: bool) -> None:
    if len(key) > 200:
        raise invalid("lookup_key can be at most 200 characters long.", "lookup_key")
    if not key:
        price |= {"lookup_key": None, "_lookup": None}
        return
    for other in tx.find("price", lookup=key):
        if other["id"] == price["id"]:
            continue
        if not transfer:
            raise StripeError(
                400,
                f"A price (`{other['id']}`) already uses that lookup key.",
                code="resource_already_exists",
                param="lookup_key",
            )
        before = render(tx, other)
        other |= {"lookup_key": None, "_lookup": None}
        tx.save(other)
        emit(tx, "price.updated", other, before)
    price |= {"lookup_key": key, "_lookup": key}


@endpoint("GET", "/v1/prices/{id}", "PriceRetrieveParams", "")
def retrieve_price(call: Call) -> Json:
    return render(call.tx, call.tx.need(call.path["id"], "price"))


@endpoint(
    "POST",
    "/v1/prices/{id}",
    "PriceUpdateParams",
    "active lookup_key metadata nickname tax_behavior transfer_lookup_key",
)
def update_price(call: Call) -> Json:
    tx, p = call.tx, call.params
    price = tx.need(call.path["id"], "price")
    before = render(tx, price)
    if "tax_behavior" in p and price["tax_behavior"] not in ("unspecified", p["tax_behavior"]):
        raise invalid("tax_behavior cannot be changed once it is set.", "tax_behavior")
    price |= {k: p[k] for k in ("active", "tax_behavior") if k in p}
    if "nickname" in p:
        price["nickname"] = p["nickname"] or None
    if "lookup_key" in p:
        _take_lookup_key(tx, price, p["lookup_key"], p.get("transfer_lookup_key", False))
    price["metadata"] = merge_metadata(price["metadata"], p.get("metadata"))
    tx.save(price)
    emit(tx, "price.updated", price, before)
    return render(tx, price)


@endpoint(
    "GET",
    "/v1/prices",
    "PriceListParams",
    f"active created currency lookup_keys product recurring type {PAGE}",
)
def list_prices(call: Call) -> Json:
    p = call.params
    if len(p.get("lookup_keys", [])) > 10:
        raise invalid("You may pass at most 10 lookup keys.", "lookup_keys")

    def keep(price: Json) -> bool:
        return (
            all(p.get(k) in (None, price[k]) for k in ("active", "currency", "product", "type"))
            and all(
                (price["recurring"] or {}).get(k) == v for k, v in p.get("recurring", {}).items()
            )
            and in_range(price["created"], p.get("created"))
        )

    if "lookup_keys" in p:  # by index: a catalog may have thousands of prices
        found = [d for key in set(p["lookup_keys"]) for d in call.tx.find("price", lookup=key)]
        newest_first = sorted(filter(keep, found), key=lambda doc: str(doc["id"]), reverse=True)
        shown = [render(call.tx, doc) for doc in newest_first]
        return page_of("/v1/prices", "price", shown, p)
    filters = {"parent": p["product"]} if "product" in p else {}
    return page(call.tx, "/v1/prices", "price", p, keep, **filters)
