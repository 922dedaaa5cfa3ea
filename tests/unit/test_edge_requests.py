"""Requests through the whole application: what is malformed is named and sends nothing, what is well formed becomes one command.

The gateway's port is replaced by a recorder that encodes every command with the real codecs, so a body that is taken can be written.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer
from msgspec import structs

from orderflow.http.calls import Parts
from orderflow.http.edge import Edge, build_app
from orderflow.http.gateway import Ask, Outcome
from orderflow.http.limits import Strangers
from orderflow.http.meters import Meters
from orderflow.http.owners import Owners
from orderflow.http.reads import Reads
from orderflow.http.settings import EdgeSettings
from orderflow.http.timeline import Timeline
from orderflow.schemas.catalog import Catalog
from orderflow.streams.domain.contract import ReplyTo
from orderflow.streams.records import Records

RECORDS = Records(Catalog(), {subject.name: number for number, subject in enumerate(Catalog().subjects(), 1)})
ITEMS = '{"items":[{"sku":"A","qty":1}]}'


class Recorder:
    """The gateway's port: keeps what was asked."""

    in_flight = 0

    def __init__(self) -> None:
        self.asked: list[Ask] = []

    async def start(self) -> None: ...
    async def close(self) -> None: ...

    async def ask(self, ask: Ask) -> Outcome | None:
        self.asked.append(ask)
        meta = structs.replace(ask.meta, reply_to=ReplyTo("edge", 0, "request"))
        space = RECORDS.of(ask.space)
        assert space.decode_command(space.encode_command(meta, ask.key, ask.command)) == (meta, ask.key, ask.command)
        return None

    async def alive(self) -> bool:
        return True

    async def failed(self) -> None:
        await asyncio.Event().wait()


@asynccontextmanager
async def edge(**changed: Any) -> AsyncIterator[tuple[TestClient, Recorder]]:
    settings = EdgeSettings.model_validate({"profile": "demo", **changed})
    recorder = Recorder()
    parts = Parts(
        settings,
        recorder,
        Reads(Owners({"orders": 4, "stock": 4}), settings),
        Timeline(settings, RECORDS),
        Meters(),
        asyncio.Event(),
        Strangers(1000),
    )
    async with TestClient(TestServer(build_app(Edge(parts, (parts.reads, recorder))))) as client:
        yield client, recorder


# -- what is malformed ----------------------------------------------------------------------------------------------------------------
LINE = '{"sku":"A","qty":1}'


def order(line: str) -> str:
    return '{"items":[' + line + "]}"


ORDER_ROWS = [
    ("nothing", "", 400, "SCHEMA_INVALID", "/items"),
    ("not JSON", "{", 400, "SCHEMA_INVALID", ""),
    ("text after JSON", ITEMS + "x", 400, "SCHEMA_INVALID", ""),
    ("form fields", "items=1", 400, "SCHEMA_INVALID", ""),
    ("an array", "[]", 400, "SCHEMA_INVALID", ""),
    ("null", "null", 400, "SCHEMA_INVALID", ""),
    ("not UTF-8", b'{"items":"\xff"}', 400, "SCHEMA_INVALID", ""),
    ("UTF-16", ITEMS.encode("utf-16"), 400, "SCHEMA_INVALID", ""),
    ("too deep to parse", "[" * 100_000, 400, "SCHEMA_INVALID", ""),
    ("deep", '{"attributes":' * 20 + "1" + "}" * 20, 400, "SCHEMA_INVALID", "/attributes" * 8),
    ("a name twice", '{"items":[],"items":[]}', 400, "SCHEMA_INVALID", ""),
    ("a name twice inside", order('{"sku":"A","qty":1,"qty":2}'), 400, "SCHEMA_INVALID", ""),
    ("NaN", order('{"sku":"A","qty":NaN}'), 400, "SCHEMA_INVALID", ""),
    ("Infinity", order('{"sku":"A","qty":-Infinity}'), 400, "SCHEMA_INVALID", ""),
    ("5000 digits", order('{"sku":"A","qty":' + "9" * 5000 + "}"), 400, "SCHEMA_INVALID", ""),
    ("no items", "{}", 400, "SCHEMA_INVALID", "/items"),
    ("empty items", '{"items":[]}', 400, "EMPTY_LINES", "/items"),
    ("items is an object", '{"items":{}}', 400, "SCHEMA_INVALID", "/items"),
    ("items is null", '{"items":null}', 400, "SCHEMA_INVALID", "/items"),
    ("a line is text", '{"items":["A"]}', 400, "SCHEMA_INVALID", "/items/0"),
    ("both spellings of items", '{"items":[' + LINE + '],"lines":[' + LINE + "]}", 400, "SCHEMA_INVALID", "/lines"),
    ("both spellings of qty", order('{"sku":"A","qty":1,"quantity":1}'), 400, "SCHEMA_INVALID", "/items/0/quantity"),
    ("101 lines", order(",".join(f'{{"sku":"S{n}","qty":1}}' for n in range(101))), 422, "LINE_LIMIT", "/items"),
    ("no sku", order('{"qty":1}'), 400, "SCHEMA_INVALID", "/items/0/sku"),
    ("no quantity", order('{"sku":"A"}'), 400, "SCHEMA_INVALID", "/items/0/qty"),
    ("zero", order('{"sku":"A","qty":0}'), 422, "QUANTITY_INVALID", "/items/0/qty"),
    ("negative", order('{"sku":"A","qty":-1}'), 422, "QUANTITY_INVALID", "/items/0/qty"),
    ("fractional", order('{"sku":"A","qty":1.5}'), 422, "QUANTITY_INVALID", "/items/0/qty"),
    ("fractional in form", order('{"sku":"A","qty":1.0}'), 422, "QUANTITY_INVALID", "/items/0/qty"),
    ("beyond floats", order('{"sku":"A","qty":1e400}'), 422, "QUANTITY_INVALID", "/items/0/qty"),
    ("more than a line may ask", order('{"sku":"A","quantity":1000}'), 422, "QUANTITY_LIMIT", "/items/0/quantity"),
    ("beyond 64 bits", order('{"sku":"A","qty":9223372036854775808}'), 422, "QUANTITY_LIMIT", "/items/0/qty"),
    ("more than a sku may be asked", order('{"sku":"A","qty":51}'), 422, "QUANTITY_LIMIT", "/items"),
    ("that much in two lines", order('{"sku":"A","qty":50},' + LINE), 422, "QUANTITY_LIMIT", "/items"),
    ("quantity is text", order('{"sku":"A","qty":"1"}'), 400, "SCHEMA_INVALID", "/items/0/qty"),
    ("quantity is true", order('{"sku":"A","qty":true}'), 400, "SCHEMA_INVALID", "/items/0/qty"),
    ("quantity is null", order('{"sku":"A","qty":null}'), 400, "SCHEMA_INVALID", "/items/0/qty"),
    ("sku is a number", order('{"sku":1,"qty":1}'), 400, "SCHEMA_INVALID", "/items/0/sku"),
    ("sku is empty", order('{"sku":"","qty":1}'), 400, "SCHEMA_INVALID", "/items/0/sku"),
    ("sku of 65", order('{"sku":"' + "x" * 65 + '","qty":1}'), 400, "SCHEMA_INVALID", "/items/0/sku"),
    ("sku with a child mark", order('{"sku":"A~F1","qty":1}'), 400, "SCHEMA_INVALID", "/items/0/sku"),
    ("sku of another tenant", order('{"sku":"other/A","qty":1}'), 400, "SCHEMA_INVALID", "/items/0/sku"),
    ("sku with a space", order('{"sku":"A ","qty":1}'), 400, "SCHEMA_INVALID", "/items/0/sku"),
    ("sku with an accent", order('{"sku":"\\u00e9","qty":1}'), 400, "SCHEMA_INVALID", "/items/0/sku"),
    ("sku with a line feed", order('{"sku":"A\\n","qty":1}'), 422, "INPUT_UNSAFE", "/items/0/sku"),
    ("sku with NUL", order('{"sku":"A\\u0000","qty":1}'), 422, "INPUT_UNSAFE", "/items/0/sku"),
    ("a lone surrogate", order('{"sku":"\\ud800","qty":1}'), 422, "INPUT_UNSAFE", "/items/0/sku"),
    ("not NFC", ITEMS[:-1] + ',"attributes":{"a":"e\\u0301"}}', 422, "INPUT_UNSAFE", "/attributes/a"),
    ("reversed text", ITEMS[:-1] + ',"attributes":{"a":"\\u202e"}}', 422, "INPUT_UNSAFE", "/attributes/a"),
    ("an unprintable name", ITEMS[:-1] + ',"a\\u0007":1}', 422, "INPUT_UNSAFE", ""),
    ("an unknown field", ITEMS[:-1] + ',"total":1}', 400, "SCHEMA_INVALID", "/total"),
    ("an unknown field of a line", order('{"sku":"A","qty":1,"price":1}'), 400, "SCHEMA_INVALID", "/items/0/price"),
    ("a name to escape", ITEMS[:-1] + ',"a/b~":1}', 400, "SCHEMA_INVALID", "/a~1b~0"),
    ("a line id twice", order('{"sku":"A","qty":1,"line_id":"x"},{"sku":"B","qty":1,"line_id":"x"}'), 400, "SCHEMA_INVALID", "/items"),
    ("money as a float", order('{"sku":"A","qty":1,"unit_price":1.5}'), 400, "SCHEMA_INVALID", "/items/0/unit_price"),
    (
        "a fraction of a minor unit",
        order('{"sku":"A","qty":1,"unit_price":{"amount_minor":1.5,"currency":"VND"}}'),
        400,
        "SCHEMA_INVALID",
        "/items/0/unit_price/amount_minor",
    ),
    (
        "a currency in lower case",
        order('{"sku":"A","qty":1,"unit_price":{"amount_minor":1,"currency":"vnd"}}'),
        400,
        "SCHEMA_INVALID",
        "/items/0/unit_price/currency",
    ),
    ("an over-long order id", ITEMS[:-1] + ',"order_id":"' + "x" * 65 + '"}', 400, "SCHEMA_INVALID", "/order_id"),
    ("an order id with a mark", ITEMS[:-1] + ',"order_id":"a~F1"}', 400, "SCHEMA_INVALID", "/order_id"),
    ("an e-mail address as customer", ITEMS[:-1] + ',"customer_ref":"a@b.vn"}', 400, "SCHEMA_INVALID", "/customer_ref"),
    ("an unknown zone", ITEMS[:-1] + ',"time_zone":"Mars/Olympus"}', 400, "SCHEMA_INVALID", "/time_zone"),
    ("a zone that is a path", ITEMS[:-1] + ',"time_zone":"../../etc/passwd"}', 400, "SCHEMA_INVALID", "/time_zone"),
    ("an unknown policy", ITEMS[:-1] + ',"partial_policy":"some"}', 400, "SCHEMA_INVALID", "/partial_policy"),
    ("an attribute that is a number", ITEMS[:-1] + ',"attributes":{"a":1}}', 400, "SCHEMA_INVALID", "/attributes/a"),
    ("an attribute name with a space", ITEMS[:-1] + ',"attributes":{"a b":"1"}}', 400, "SCHEMA_INVALID", "/attributes/a b"),
]
OTHER_ROWS = [
    ("/api/v1/orders/o~F1/cancel", "{}", 400, "SCHEMA_INVALID", "id"),
    ("/api/v1/orders/" + "x" * 65 + "/cancel", "{}", 400, "SCHEMA_INVALID", "id"),
    ("/api/v1/orders/o/cancel", '{"lines":[{"line_id":"1","qty":0}]}', 422, "QUANTITY_INVALID", "/lines/0/qty"),
    ("/api/v1/orders/o/cancel", '{"why":"x"}', 400, "SCHEMA_INVALID", "/why"),
    ("/api/v1/fulfillment/o/status", "{}", 400, "SCHEMA_INVALID", "/status"),
    ("/api/v1/fulfillment/o/status", '{"status":"Picking!"}', 400, "SCHEMA_INVALID", "/status"),
    ("/api/v1/fulfillment/o/status", '{"status":"picking","seq":-1}', 400, "SCHEMA_INVALID", "/seq"),
    ("/api/v1/fulfillment/o~1/status", '{"status":"picking"}', 400, "SCHEMA_INVALID", "id"),
    ("/api/v1/fulfillment/o%2Fp/status", '{"status":"picking"}', 400, "SCHEMA_INVALID", "id"),
    ("/api/v1/orders/o/delivery", '{"delivered_at":"yesterday"}', 400, "SCHEMA_INVALID", "/delivered_at"),
    ("/api/v1/orders/o/delivery", '{"delivered_at":"2026-01-23T10:00:00"}', 400, "SCHEMA_INVALID", "/delivered_at"),
    ("/api/v1/stock/receipts", '{"sku":"A","qty":0}', 422, "QUANTITY_INVALID", "/qty"),
    ("/api/v1/stock/receipts", '{"sku":"A","qty":1000000001}', 422, "QUANTITY_LIMIT", "/qty"),
    ("/api/v1/stock/receipts", '{"sku":"A","qty":1,"location_id":""}', 400, "SCHEMA_INVALID", "/location_id"),
    ("/api/v1/stock/receipts", '{"sku":"A","qty":1,"expires_on":"soon"}', 400, "SCHEMA_INVALID", "/expires_on"),
    ("/api/v1/stock/receipts", '{"sku":"A","qty":1,"disposition":"lost"}', 400, "SCHEMA_INVALID", "/disposition"),
    ("/api/v1/stock/adjust", '{"sku":"A","delta":0,"reason":"count"}', 422, "QUANTITY_INVALID", "/delta"),
    ("/api/v1/stock/adjust", '{"sku":"A","delta":0.5,"reason":"count"}', 422, "QUANTITY_INVALID", "/delta"),
    ("/api/v1/stock/adjust", '{"sku":"A","delta":-1}', 400, "SCHEMA_INVALID", "/reason"),
]


@pytest.mark.parametrize(("body", "status", "code", "pointer"), [row[1:] for row in ORDER_ROWS], ids=[row[0] for row in ORDER_ROWS])
async def test_a_malformed_order_is_named_and_sends_nothing(body: str | bytes, status: int, code: str, pointer: str) -> None:
    await refuses("/api/v1/orders", body, status, code, pointer)


@pytest.mark.parametrize(("path", "body", "status", "code", "where"), OTHER_ROWS)
async def test_other_malformed_requests_are_named_and_send_nothing(path: str, body: str, status: int, code: str, where: str) -> None:
    await refuses(path, body, status, code, where)


async def refuses(path: str, body: str | bytes, status: int, code: str, where: str) -> None:
    async with edge() as (client, recorder):
        answer = await client.post(path, data=body)
        problem = await answer.json(content_type="application/problem+json")
    assert recorder.asked == []
    assert (answer.status, problem["status"], problem["code"]) == (status, status, code), problem
    assert where in [fault.get("pointer", fault.get("parameter")) for fault in problem["errors"]], problem
    assert problem["type"] == "urn:orderflow:problem:" + code.lower().replace("_", "-")
    assert problem["title"]
    assert problem["request_id"] == answer.headers["X-Request-Id"]


async def test_every_wrong_field_is_named_at_once() -> None:
    async with edge() as (client, _):
        answer = await client.post("/api/v1/orders", data='{"items":[{"sku":"","qty":0},{"sku":"A","qty":1.5,"x":1}],"y":2}')
        problem = await answer.json(content_type="application/problem+json")
    assert problem["code"] == "SCHEMA_INVALID"
    assert {fault["pointer"] for fault in problem["errors"]} == {"/items/0/sku", "/items/0/qty", "/items/1/qty", "/items/1/x", "/y"}


async def test_sizes_are_refused_before_anything_is_read() -> None:
    async with edge(body_bytes_max=2048, url_bytes_max=1024, header_bytes_max=2048) as (client, recorder):
        large = await client.post("/api/v1/orders", data=" " * 3000)
        chunked = await client.post("/api/v1/orders", data=chunks())
        long = await client.get("/api/v1/orders?sku=" + "x" * 2000)
        wide = await client.get("/api/v1/orders", headers={"X-Much": "x" * 3000})
    assert [answer.status for answer in (large, chunked, long, wide)] == [413, 413, 414, 431]
    assert {answer.content_type for answer in (large, chunked, long, wide)} == {"application/problem+json"}
    assert recorder.asked == []


async def chunks() -> AsyncIterator[bytes]:
    for _ in range(30):
        yield b" " * 100


async def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    async def never() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(30)

    async with edge(body_timeout_s=0.05) as (client, recorder):
        answer = await client.post("/api/v1/orders", data=never())
    assert answer.status == 408
    assert recorder.asked == []


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://shop.example"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Host": "shop.example"},
        {"Host": "shop.example:8080", "Origin": "http://shop.example:8080"},
    ],
)
async def test_a_page_of_another_site_cannot_use_a_browser_here(headers: dict[str, str]) -> None:
    async with edge() as (client, recorder):
        answer = await client.post("/api/v1/orders", data=ITEMS, headers=headers)
    assert answer.status == 403
    assert recorder.asked == []


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=501", "limit=x", "sku=a%20b", "status=PENDING", "size=1", "limit=1&limit=2", "sku=%00"]
)
async def test_a_malformed_query_is_named(query: str) -> None:
    async with edge() as (client, _):
        answer = await client.get("/api/v1/orders?" + query)
        problem = await answer.json(content_type="application/problem+json")
    assert answer.status == 400
    assert problem["errors"][0]["parameter"] == query.partition("=")[0]


async def test_what_is_not_there_is_a_problem_too() -> None:
    async with edge() as (client, _):
        missing, method = await client.get("/api/v2/orders"), await client.delete("/api/v1/orders")
        problems = [await answer.json(content_type="application/problem+json") for answer in (missing, method)]
    assert [problem["code"] for problem in problems] == ["NOT_FOUND", "METHOD_NOT_ALLOWED"]
    assert method.headers["Allow"] == "GET,HEAD,POST"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("orders", ITEMS),
        ("orders", order(",".join(f'{{"sku":"S{n}","qty":50}}' for n in range(100)))),
        ("orders", ITEMS[:-1] + ',"order_id":"' + "x" * 64 + '","attributes":{"note":"chào"},"ship_to":{"country":"VN"}}'),
        ("orders/o-1/cancel", ""),
        ("orders/o-1/delivery", "{}"),
        ("fulfillment/o-1~F1/status", '{"status":"packed","lines":[{"line_id":"1","qty":1}]}'),
        ("stock/receipts", '{"sku":"A","qty":1000000000,"unit_cost":{"amount_minor":9007199254740991,"currency":"VND"}}'),
        ("stock/adjust", '{"sku":"A","delta":-1000000000,"reason":"recount"}'),
    ],
)
async def test_what_is_taken_can_be_written(path: str, body: str) -> None:
    async with edge() as (client, recorder):
        answer = await client.post("/api/v1/" + path, data=body)
    assert answer.status == 202, await answer.text()
    assert len(recorder.asked) == 1
