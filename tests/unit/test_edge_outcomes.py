"""Well-formed requests through the whole application: which command is sent, and what its outcome looks like to the caller."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from orderflow.http.calls import Parts
from orderflow.http.edge import Edge, StartRefused, build_app, serve
from orderflow.http.gateway import Applied, Ask, Denied, Outcome
from orderflow.http.idempotency import derived_id
from orderflow.http.limits import Strangers
from orderflow.http.meters import Meters
from orderflow.http.owners import Owners
from orderflow.http.problems import later
from orderflow.http.reads import Reads
from orderflow.http.settings import EdgeSettings
from orderflow.http.timeline import Timeline
from orderflow.schemas.catalog import Catalog
from orderflow.streams.domain.contract import Refused, Shortage
from orderflow.streams.domain.order_records import (
    CancelOrder,
    LineQuantity,
    OrderSnapshot,
    OrderSnapshotFulfillment,
    OrderSnapshotLine,
    OrderStatus,
    PlacedLine,
    PlaceOrder,
    PostFulfillmentStatus,
    RecordDelivery,
    ShipTo,
)
from orderflow.streams.domain.parts import Money
from orderflow.streams.domain.stock_records import AdjustStock, Cell, ReceiveStock, StockSnapshot
from orderflow.streams.records import Records

RECORDS = Records(Catalog(), {subject.name: number for number, subject in enumerate(Catalog().subjects(), 1)})
ITEMS = '{"items":[{"sku":"A","qty":1}]}'
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
ORDER = OrderSnapshot(
    "ord_1",
    version=3,
    sequence=5,
    at=1_769_162_400_000_000,
    status=OrderStatus.SHIPPED,
    label="shipped",
    order_number="ORD-20260123-ABCDEFGH",
    lines=(OrderSnapshotLine("1", "A", 1, shipped=1),),
    fulfillments=(OrderSnapshotFulfillment("ord_1~F1", "SHIPPED", "main"),),
    placed_at=1_769_162_400_123_456,
)
STOCK = StockSnapshot(
    "A", version=2, cells=(Cell("main", 10, reserved=3, available=7), Cell("east", 5, allocated=1, available=4)), at=1_769_162_400_000_000
)


class Script:
    """The gateway's port with one answer for everything."""

    in_flight = 0

    def __init__(self, outcome: Outcome | Exception | None) -> None:
        self.outcome = outcome
        self.asked: list[Ask] = []

    async def start(self) -> None: ...
    async def close(self) -> None: ...

    async def ask(self, ask: Ask) -> Outcome | None:
        self.asked.append(ask)
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome

    async def alive(self) -> bool:
        return True

    async def failed(self) -> None:
        await asyncio.Event().wait()


@asynccontextmanager
async def edge(
    outcome: Outcome | Exception | None, gateway: type[Script] = Script, **changed: Any
) -> AsyncIterator[tuple[TestClient, Script]]:
    settings = EdgeSettings.model_validate({"profile": "demo", **changed})
    script = gateway(outcome)
    parts = Parts(
        settings,
        script,
        Reads(Owners({"orders": 4, "stock": 4}), settings),
        Timeline(settings, RECORDS),
        Meters(),
        asyncio.Event(),
        Strangers(1000),
    )
    async with TestClient(TestServer(build_app(Edge(parts, (parts.reads, script))))) as client:
        yield client, script


async def test_the_seeds_literal_order_is_placed() -> None:
    """curl -d: a form's content type, no key, no token."""
    async with edge(Applied(ORDER)) as (client, script):
        answer = await client.post("/api/v1/orders", data=ITEMS, headers={"Content-Type": "application/x-www-form-urlencoded"})
        view = await answer.json()
    (ask,) = script.asked
    assert answer.status == 201
    assert (ask.space, ask.command) == ("orders", PlaceOrder(channel="box", lines=(PlacedLine("1", "A", 1),)))
    assert ask.key == "ord_" + ask.meta.command_id
    assert answer.headers["Location"] == "/api/v1/orders/" + ask.key
    assert answer.headers["ETag"] == '"3"'
    assert view["order_id"] == "ord_1"


class Shelf(Script):
    """Has A and no B, and says nothing of C."""

    async def ask(self, ask: Ask) -> Outcome | None:
        self.asked.append(ask)
        assert isinstance(ask.command, PlaceOrder)
        sku = ask.command.lines[0].sku
        if sku == "C":
            return None
        return (
            Applied(ORDER)
            if sku == "A"
            else Denied("INSUFFICIENT_STOCK", Refused("PlaceOrder", "INSUFFICIENT_STOCK", {}, (Shortage("B", 1, 0),)))
        )


async def test_each_of_many_orders_is_placed_refused_or_wrong_by_itself() -> None:
    orders = [{"items": [{"sku": sku, "qty": 1}]} for sku in "ABC"]
    wrong: list[Any] = [{"items": []}, {"items": [{"sku": "A", "qty": 0.5}], "colour": "red"}, "an order", None]
    key = {"Idempotency-Key": "monday"}
    async with edge(None, Shelf) as (client, script):
        answer = await client.post("/api/v1/orders/bulk", json={"orders": [*orders, *wrong]}, headers=key)
        found = await answer.json()
        again = await (await client.post("/api/v1/orders/bulk", json={"orders": [orders[0], orders[2]]}, headers=key)).json()
    assert answer.status == 207
    assert [found[name] for name in ("placed", "pending", "refused", "not_taken")] == [1, 1, 5, 0]
    assert [item["status"] for item in found["items"]] == [201, 409, 202, 400, 400, 400, 400]
    assert [item["index"] for item in found["items"]] == list(range(7))
    placed, short, pending, empty, two_faults, *others = found["items"]
    assert placed["order"]["order_id"] == "ord_1" and placed["location"].endswith(placed["order_id"])
    assert short["problem"]["shortages"] == [{"sku": "B", "requested": 1, "available": 0}]
    assert pending["command_id"] in pending["location"] and "order" not in pending
    assert empty["problem"]["code"] == "EMPTY_LINES"
    assert [fault["pointer"] for fault in empty["problem"]["errors"]] == ["/orders/3/items"]
    assert {fault["pointer"] for fault in two_faults["problem"]["errors"]} == {"/orders/4/items/0/qty", "/orders/4/colour"}
    assert {fault["pointer"] for item in others for fault in item["problem"]["errors"]} == {"/orders/5", "/orders/6"}
    names = [(ask.meta.command_id, ask.meta.body_hash) for ask in script.asked]
    assert len(names) == 5 and len(set(names[:3])) == 3, "what is malformed is not sent"
    assert names[3] == names[0], "a repeat is the same command"
    assert names[4][0] == names[1][0] and names[4][1] != names[1][1], "another order in its place is told apart by its owner"
    assert again["items"][0]["location"] == placed["location"]


async def test_what_the_log_did_not_take_is_told_apart_from_what_was_refused() -> None:
    async with edge(later("LOG_UNAVAILABLE", "the log does not answer", 5)) as (client, _):
        found = await (await client.post("/api/v1/orders/bulk", data=f'{{"orders":[{ITEMS},{ITEMS}]}}')).json()
    assert [found[name] for name in ("placed", "pending", "refused", "not_taken")] == [0, 0, 0, 2]
    assert {item["problem"]["code"] for item in found["items"]} == {"LOG_UNAVAILABLE"}


@pytest.mark.parametrize("body", ["{}", '{"orders":[]}', '{"orders":{}}', '{"orders":[1],"atomic":true}', f'{{"orders":{[1] * 501}}}'])
async def test_a_list_of_orders_that_is_none_is_refused_as_a_whole(body: str) -> None:
    async with edge(None) as (client, script):
        answer = await client.post("/api/v1/orders/bulk", data=body)
    assert answer.status == 400 and script.asked == []


async def test_everything_an_order_may_say_reaches_the_command() -> None:
    price = {"amount_minor": 100, "currency": "VND"}
    body = {
        "order_id": "test-order-123",
        "lines": [{"sku": "A", "quantity": 2, "unit_price": price, "location_id": "east"}, {"sku": "B", "qty": 1, "line_id": "1"}],
        "channel": "web",
        "customer_ref": "c-1",
        "external_ref": "shop-7",
        "currency": "VND",
        "time_zone": "Asia/Ho_Chi_Minh",
        "partial_policy": "reject",
        "must_accept": True,
        "ship_to": {"country": "VN", "postal_code": "700000"},
        "attributes": {"gift": "xin chào"},
        "token_ref": "pm_1",
    }
    async with edge(Applied(ORDER)) as (client, script):
        await client.post("/api/v1/orders", json=body)
    assert script.asked[0].key == "test-order-123"
    assert script.asked[0].command == PlaceOrder(
        channel="web",
        customer_ref="c-1",
        currency="VND",
        time_zone="Asia/Ho_Chi_Minh",
        partial_policy="reject",
        external_ref="shop-7",
        must_accept=True,
        ship_to=ShipTo(country="VN", postal_code="700000"),
        lines=(PlacedLine("2", "A", 2, unit_price=Money(100, "VND"), location_id="east"), PlacedLine("1", "B", 1)),
        attributes={"gift": "xin chào"},
        token_ref="pm_1",  # noqa: S106
    )


@pytest.mark.parametrize(
    ("path", "body", "space", "key", "command"),
    [
        ("orders/o-1/cancel", "", "orders", "o-1", CancelOrder(by="staff")),
        (
            "orders/o-1/cancel",
            '{"reason":"changed my mind","lines":[{"line_id":"1","qty":2}]}',
            "orders",
            "o-1",
            CancelOrder("staff", "changed my mind", (LineQuantity("1", 2),)),
        ),
        ("fulfillment/o-1/status", '{"status":"picking"}', "orders", "o-1", PostFulfillmentStatus("o-1", "picking")),
        ("fulfillment/o-1~F2/status", '{"status":"cancelled","seq":4}', "orders", "o-1", PostFulfillmentStatus("o-1~F2", "canceled", 4)),
        (
            "orders/o-1~F1/delivery",
            '{"delivered_at":"2026-01-23T17:00:00.000001+07:00","proof_ref":"p-1"}',
            "orders",
            "o-1",
            RecordDelivery("", "o-1~F1", 1_769_162_400_000_001, "p-1"),
        ),
        ("stock/receipts", '{"sku":"A","qty":10}', "stock", "A", ReceiveStock("main", 10)),
        (
            "stock/receipts",
            '{"sku":"A","quantity":1,"location":"east","lot":"L1","expires_on":"1970-01-11","reference":"dn-7","disposition":"damaged"}',
            "stock",
            "A",
            ReceiveStock("east", 1, "L1", 10, disposition="damaged", reference="dn-7"),
        ),
        ("stock/adjust", '{"sku":"A","delta":-2,"reason":"count","expected":9}', "stock", "A", AdjustStock("main", "", -2, 9, "count")),
    ],
)
async def test_a_request_becomes_one_command(path: str, body: str, space: str, key: str, command: object) -> None:
    async with edge(None) as (client, script):
        answer = await client.post("/api/v1/" + path, data=body)
    assert answer.status == 202
    assert [(ask.space, ask.key, ask.command) for ask in script.asked] == [(space, key, command)]


async def test_a_delivery_without_a_time_is_now() -> None:
    async with edge(None) as (client, script):
        before = datetime.now(UTC).timestamp()
        await client.post("/api/v1/orders/o-1/delivery")
    command = script.asked[0].command
    assert isinstance(command, RecordDelivery)
    assert before <= command.delivered_at / 1e6 <= datetime.now(UTC).timestamp()


async def test_a_repeat_with_its_key_is_the_same_command_and_order() -> None:
    async with edge(Applied(ORDER)) as (client, script):
        for body in (ITEMS, '{"lines":[{"quantity":1,"sku":"A"}]}', '{"items":[{"sku":"A","qty":2}]}'):
            await client.post("/api/v1/orders", data=body, headers={"Idempotency-Key": "k-1"})
        await client.post("/api/v1/orders", data=ITEMS)
    first, same, other_body, without = script.asked
    assert first.meta.command_id == derived_id("main", "demo", "POST /api/v1/orders", "k-1")
    assert {ask.key for ask in (first, same, other_body)} == {"ord_" + first.meta.command_id}
    assert first.meta.body_hash == same.meta.body_hash != other_body.meta.body_hash
    assert without.meta.command_id != first.meta.command_id


async def test_a_command_carries_who_what_and_its_trace() -> None:
    headers = {"X-Request-Id": "req-1", "traceparent": TRACE, "If-Match": '"7"'}
    async with edge(Applied(ORDER)) as (client, script):
        answer = await client.post("/api/v1/orders/o-1/cancel", headers=headers)
    (ask,) = script.asked
    assert (ask.meta.correlation_id, ask.meta.principal, ask.meta.tenant, ask.meta.expected_version) == ("req-1", "demo", "main", 7)
    assert ask.headers == (("traceparent", TRACE.encode()),)
    assert answer.headers["X-Request-Id"] == "req-1"


async def test_a_minted_request_id_is_the_same_everywhere() -> None:
    async with edge(None) as (client, script):
        answer = await client.post("/api/v1/orders", data=ITEMS)
    assert answer.headers["X-Request-Id"] == script.asked[0].meta.correlation_id


async def test_a_shortage_is_409_with_what_was_missing() -> None:
    refused = Refused("PlaceOrder", "INSUFFICIENT_STOCK", {}, (Shortage("LIMITED-SKU", 1, 0),))
    async with edge(Denied("INSUFFICIENT_STOCK", refused)) as (client, script):
        answer = await client.post("/api/v1/orders", data=ITEMS)
        problem = await answer.json(content_type="application/problem+json")
    assert answer.status == 409
    assert problem | {"request_id": ""} == {
        "type": "urn:orderflow:problem:insufficient-stock",
        "title": "Insufficient stock",
        "status": 409,
        "code": "INSUFFICIENT_STOCK",
        "shortages": [{"sku": "LIMITED-SKU", "requested": 1, "available": 0}],
        "order_id": script.asked[0].key,
        "request_id": "",
    }


@pytest.mark.parametrize(
    ("denied", "if_match", "status"),
    [
        (Denied("UNKNOWN_SKU", Refused("PlaceOrder", "UNKNOWN_SKU")), "", 422),
        (Denied("KEY_REUSED", Refused("PlaceOrder", "KEY_REUSED", {"first": "PlaceOrder"})), "", 422),
        (Denied("NOT_FOUND", Refused("CancelOrder", "NOT_FOUND")), "", 404),
        (Denied("VERSION_CONFLICT", Refused("CancelOrder", "VERSION_CONFLICT")), "", 409),
        (Denied("VERSION_CONFLICT", Refused("CancelOrder", "VERSION_CONFLICT")), '"2"', 412),
        (Denied("STEP_TIMED_OUT", Refused("PlaceOrder", "STEP_TIMED_OUT")), "", 504),
        (Denied("A_REASON_OF_A_NEWER_WORKER", Refused("CancelOrder", "A_REASON_OF_A_NEWER_WORKER")), "", 409),
        (Denied("PARKED"), "", 500),
        (later("LOG_UNAVAILABLE", "the log does not answer", 1), "", 503),
        (RuntimeError("a bug"), "", 500),
    ],
)
async def test_a_reason_has_its_status(denied: Denied | Exception, if_match: str, status: int) -> None:
    async with edge(denied) as (client, _):
        answer = await client.post("/api/v1/orders/o-1/cancel", headers={"If-Match": if_match} if if_match else {})
        problem = await answer.json(content_type="application/problem+json")
    assert answer.status == problem["status"] == status
    assert problem["code"] == getattr(denied, "reason", getattr(denied, "code", "INTERNAL"))
    assert ("Retry-After" in answer.headers) == (status == 503)


async def test_no_outcome_yet_is_202_with_the_resource() -> None:
    async with edge(None) as (client, script):
        answer = await client.post("/api/v1/orders", data=ITEMS)
        view = await answer.json()
    (ask,) = script.asked
    location = "/api/v1/orders/" + ask.key
    assert (answer.status, answer.headers["Location"], answer.headers["Retry-After"]) == (202, location, "1")
    assert view == {"accepted": True, "location": location, "command_id": ask.meta.command_id, "order_id": ask.key}


async def test_an_order_is_shown_with_one_label_and_its_precise_state() -> None:
    async with edge(Applied(ORDER)) as (client, script):
        view = await (await client.post("/api/v1/orders", data=ITEMS)).json()
        script.outcome = Applied(OrderSnapshot("o", status=OrderStatus.REJECTED, label="canceled", reason="INSUFFICIENT_STOCK"))
        rejected = await (await client.post("/api/v1/orders", data=ITEMS)).json()
    assert (view["status"], view["state"], view["placed_at"]) == ("shipped", "shipped", "2026-01-23T10:00:00.123456Z")
    assert view["fulfillments"] == [{"fulfillment_id": "ord_1~F1", "status": "shipped", "location_id": "main"}]
    assert view["lines"][0]["shipped"] == 1
    assert (rejected["status"], rejected["state"], rejected["reason"]) == ("canceled", "rejected", "INSUFFICIENT_STOCK")


async def test_stock_is_shown_in_sum_and_by_location() -> None:
    async with edge(Applied(STOCK)) as (client, _):
        received = await client.post("/api/v1/stock/receipts", data='{"sku":"A","qty":1}')
        adjusted = await client.post("/api/v1/stock/adjust", data='{"sku":"A","delta":1,"reason":"count"}')
        view = await received.json()
    assert (received.status, adjusted.status, received.headers["ETag"]) == (201, 200, '"2"')
    assert received.headers["Location"] == "/api/v1/stock/A"
    assert {name: view[name] for name in ("on_hand", "available", "reserved", "allocated")} == {
        "on_hand": 15,
        "available": 11,
        "reserved": 3,
        "allocated": 1,
    }
    assert (view["quantity_available"], view["quantity_reserved"]) == (11, 3)
    assert [cell["location_id"] for cell in view["cells"]] == ["main", "east"]


async def test_health_and_figures() -> None:
    async with edge(Applied(ORDER)) as (client, _):
        await client.post("/api/v1/orders", data=ITEMS)
        live, ready = await client.get("/health/live"), await client.get("/health/ready")
        state, figures = await ready.json(), await (await client.get("/metrics")).text()
    assert (live.status, ready.status) == (200, 503)
    assert (state["ready"], state["owners_read"], state["partitions_missing"]["orders"]) == (False, False, [0, 1, 2, 3])
    assert 'orderflow_http_requests_total{method="POST",route="/api/v1/orders",status="201"} 1.0' in figures
    assert 'orderflow_commands_total{command="PlaceOrder",outcome="applied",reason=""} 1.0' in figures


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"profile": "prod"}, "ORDERFLOW_PROFILE=prod"),
        ({}, "ORDERFLOW_PROFILE=prod"),
        ({"profile": "demo", "host": "0.0.0.0"}, "ORDERFLOW_HOST=0.0.0.0"),
    ],
)
async def test_an_edge_that_would_let_everybody_in_does_not_start(settings: dict[str, str], named: str) -> None:
    with pytest.raises(StartRefused) as caught:
        await serve(EdgeSettings.model_validate(settings))
    assert caught.value.reasons[0].startswith(named)


def test_the_demo_profile_is_exposed_only_when_told() -> None:
    assert EdgeSettings(profile="demo").refusals() == []
    assert EdgeSettings(profile="demo", host="0.0.0.0", expose=True).refusals() == []


async def test_outside_the_demo_profile_nothing_is_assumed() -> None:
    async with edge(Applied(ORDER), profile="prod") as (client, script):
        order = await client.post("/api/v1/orders", data='{"items":[{"sku":"A","qty":1}],"order_id":"mine"}')
        receipt = await client.post("/api/v1/stock/receipts", data='{"sku":"A","qty":1}')
        faults = (await order.json(content_type=None))["errors"] + (await receipt.json(content_type=None))["errors"]
    assert {fault["pointer"] for fault in faults} == {"/order_id", "/channel", "/location_id"}
    assert script.asked == []
