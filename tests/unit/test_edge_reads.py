"""Reading from owners over real HTTP: moves, restores and dead workers are retried, waited for or told, never guessed over."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer, unused_port

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
from orderflow.schemas.partitioner import partition_of
from orderflow.streams.domain.order_records import OrderSnapshot, OrderStatus
from orderflow.streams.domain.stock_records import Cell, StockSnapshot
from orderflow.streams.records import Records
from orderflow.streams.wire import Worker

RECORDS = Records(Catalog(), {subject.name: number for number, subject in enumerate(Catalog().subjects(), 1)})
DEAD = f"http://127.0.0.1:{unused_port()}"
Respond = Callable[[str, dict[str, str]], tuple[int, Any]]


class Silent:
    """The gateway's port when nothing is sent."""

    in_flight = 0

    async def start(self) -> None: ...
    async def close(self) -> None: ...

    async def ask(self, ask: Ask) -> Outcome | None:
        raise AssertionError("a read sends nothing")

    async def alive(self) -> bool:
        return True

    async def failed(self) -> None:
        await asyncio.Event().wait()


class Peer:
    """A worker's read endpoint: answers what it is told to, and keeps what it was asked."""

    def __init__(self, respond: Respond) -> None:
        self.respond = respond
        self.asked: list[str] = []
        self.address = ""

    async def handle(self, request: web.Request) -> web.Response:
        self.asked.append(request.path_qs)
        status, value = self.respond(request.path, dict(request.query))
        return web.Response(status=status, body=msgspec.json.encode(value), headers={"Retry-After": "7"} if status == 503 else {})


@asynccontextmanager
async def system(*responds: Respond, **changed: Any) -> AsyncIterator[tuple[TestClient, Owners, list[Peer]]]:
    """An edge and a worker for each of `responds`; who owns what is up to the test."""
    settings = EdgeSettings.model_validate({"profile": "demo", **changed})
    owners = Owners({"orders": 2, "stock": 2})
    peers = [Peer(respond) for respond in responds]
    async with AsyncExitStack() as running:
        for peer in peers:
            app = web.Application()
            app.router.add_get("/{path:.*}", peer.handle)
            server = await running.enter_async_context(TestServer(app))
            peer.address = str(server.make_url("")).rstrip("/")
        parts = Parts(settings, Silent(), Reads(owners, settings), Timeline(settings, RECORDS), Meters(), asyncio.Event(), Strangers(1000))
        client = await running.enter_async_context(TestClient(TestServer(build_app(Edge(parts, (parts.reads,))))))
        yield client, owners, peers


def own(owners: Owners, space: str, address: str, *partitions: int) -> None:
    for partition in partitions:
        owners.hear(f"{space}:{partition}", Worker(address, 1, "test"))


def order(order_id: str, placed_at: int = 0, status: OrderStatus = OrderStatus.CONFIRMED) -> OrderSnapshot:
    return OrderSnapshot(order_id, version=4, status=status, label=status.lower(), placed_at=placed_at)


def always(status: int, value: Any) -> Respond:
    return lambda path, query: (status, value)


async def test_a_row_is_read_from_the_owner_of_its_partition() -> None:
    async with system(always(200, order("o-1")), always(421, {})) as (client, owners, (owner, other)):
        partition = partition_of(b"o-1", 2)
        own(owners, "orders", owner.address, partition)
        own(owners, "orders", other.address, 1 - partition)
        answer = await client.get("/api/v1/orders/o-1")
        unchanged = await client.get("/api/v1/orders/o-1", headers={"If-None-Match": answer.headers["ETag"]})
        view = await answer.json()
    assert (answer.status, view["order_id"], view["status"], answer.headers["ETag"]) == (200, "o-1", "confirmed", '"4"')
    assert (unchanged.status, await unchanged.read()) == (304, b"")
    assert (owner.asked, other.asked) == (["/rows/order/o-1"] * 2, [])


async def test_a_missing_row_is_404() -> None:
    async with system(always(404, {})) as (client, owners, (owner,)):
        own(owners, "orders", owner.address, 0, 1)
        own(owners, "stock", owner.address, 0, 1)
        paths = ("orders/o-1", "orders/o-1/timeline", "stock/A", "inventory/A")
        answers = [await client.get("/api/v1/" + path) for path in paths]
        codes = [(await answer.json(content_type="application/problem+json"))["code"] for answer in answers]
    assert codes == ["NOT_FOUND"] * 4
    assert owner.asked == ["/rows/order/o-1", "/rows/order/o-1", "/rows/stock/A", "/rows/stock/A"]


async def test_stock_has_two_names() -> None:
    async with system(always(200, StockSnapshot("A", cells=(Cell("main", 10, reserved=4, available=6),)))) as (client, owners, (owner,)):
        own(owners, "stock", owner.address, 0, 1)
        stock, inventory = [await (await client.get(f"/api/v1/{name}/A")).json() for name in ("stock", "inventory")]
    assert stock == inventory
    assert (stock["available"], stock["quantity_available"], stock["quantity_reserved"]) == (6, 6, 4)


async def test_a_row_that_moved_is_read_from_its_new_owner_once_that_is_heard() -> None:
    def gone(path: str, query: dict[str, str]) -> tuple[int, Any]:
        asyncio.get_running_loop().call_later(0.02, lambda: own(owners, "orders", peers[1].address, 0, 1))
        return 421, {}

    async with system(gone, always(200, order("o-1"))) as (client, owners, peers):
        own(owners, "orders", peers[0].address, 0, 1)
        answer = await client.get("/api/v1/orders/o-1")
    assert answer.status == 200
    assert [len(peer.asked) for peer in peers] == [1, 1]


@pytest.mark.parametrize("address", ["", DEAD])
async def test_an_owner_that_is_gone_is_503_after_three_tries(address: str) -> None:
    async with system() as (client, owners, _):
        if address:
            own(owners, "orders", address, 0, 1)
        answer = await client.get("/api/v1/orders/o-1")
        problem = await answer.json(content_type="application/problem+json")
    assert (answer.status, answer.headers["Retry-After"], problem["code"]) == (503, "1", "PARTITION_MOVING")


async def test_an_owner_that_restores_says_when_to_come_back() -> None:
    async with system(always(503, {})) as (client, owners, (owner,)):
        own(owners, "orders", owner.address, 0, 1)
        answer = await client.get("/api/v1/orders/o-1")
        problem = await answer.json(content_type="application/problem+json")
    assert (answer.status, answer.headers["Retry-After"], problem["code"]) == (503, "7", "PARTITION_RESTORING")
    assert len(owner.asked) == 1


def part(partitions: tuple[int, ...], *orders: OrderSnapshot, **more: Any) -> Respond:
    labels: dict[str, int] = {}
    for each in orders:
        labels[each.label] = labels.get(each.label, 0) + 1
    return always(200, {"total": len(orders), "by_label": labels, "items": orders, "partitions": partitions, **more})


async def test_a_list_asks_every_owner_and_adds_up() -> None:
    first = part((0,), order("o-1", 10), order("o-2", 30, OrderStatus.SHIPPED))
    async with system(first, part((1,), order("o-3", 20))) as (client, owners, peers):
        own(owners, "orders", peers[0].address, 0)
        own(owners, "orders", peers[1].address, 1)
        answer = await client.get("/api/v1/orders?status_not=cancelled&sku=LIMITED-SKU&limit=2")
        view = await answer.json()
    assert (view["total"], view["by_label"], view["complete"], view["partitions_missing"]) == (3, {"confirmed": 2, "shipped": 1}, True, [])
    assert [item["order_id"] for item in view["items"]] == ["o-2", "o-3"]
    assert [peer.asked for peer in peers] == [["/list/orders?status_not=canceled&sku=LIMITED-SKU&limit=2"]] * 2


async def test_a_list_says_whom_it_did_not_hear() -> None:
    async with system(part((0,), order("o-1"))) as (client, owners, (owner,)):
        own(owners, "orders", owner.address, 0)
        own(owners, "orders", DEAD, 1)
        view = await (await client.get("/api/v1/orders")).json()
    assert (view["total"], view["complete"], view["partitions_missing"]) == (1, False, [1])


async def test_a_partition_that_two_answer_for_is_not_trusted() -> None:
    async with system(part((0, 1), order("o-1")), part((1,), order("o-1"))) as (client, owners, peers):
        own(owners, "orders", peers[0].address, 0)
        own(owners, "orders", peers[1].address, 1)
        view = await (await client.get("/api/v1/orders")).json()
    assert (view["complete"], view["partitions_missing"]) == (False, [1])


async def test_a_list_that_nobody_can_answer_is_503() -> None:
    """No owner, a dead one, or one that has just lost its partitions: a total of 0 would be a lie."""
    async with system(part(())) as (client, owners, (owner,)):
        own(owners, "orders", owner.address, 0, 1)
        own(owners, "stock", DEAD, 0, 1)
        answers = [await client.get("/api/v1/" + path) for path in ("orders", "reservations")]
    assert [answer.status for answer in answers] == [503, 503]


async def test_overdue_reservations_are_listed_the_latest_first() -> None:
    def item(sku: str, overdue_s: float) -> dict[str, Any]:
        row = {
            "reservation_id": f"{sku}~o-1~1",
            "sku": sku,
            "holder": {"order_id": "o-1", "attempt": 1},
            "quantity": 1,
            "due_at": 1_000_000,
        }
        return {**row, "status": "ACTIVE", "created_at": 0, "allocations": [], "overdue_s": overdue_s}

    def listed(partition: int, caught_up: bool, entry: dict[str, Any]) -> Respond:
        return always(200, {"total": 1, "items": [entry], "partitions": [partition], "caught_up": caught_up})

    async with system(listed(0, True, item("A", 1.5)), listed(1, False, item("B", 2.5))) as (client, owners, peers):
        own(owners, "stock", peers[0].address, 0)
        own(owners, "stock", peers[1].address, 1)
        view = await (await client.get("/api/v1/reservations?overdue=true")).json()
    assert (view["total"], view["caught_up"], view["complete"]) == (2, False, True)
    assert [(each["sku"], each["overdue_s"]) for each in view["items"]] == [("B", 2.5), ("A", 1.5)]
    assert (view["items"][0]["status"], view["items"][0]["order_id"]) == ("active", "o-1")
    assert view["items"][0]["due_at"] == "1970-01-01T00:00:01.000000Z"
    assert peers[0].asked == ["/list/reservations?overdue=true&limit=100"]


def saga(order_id: str, since: int, **more: Any) -> dict[str, Any]:
    return {"saga_id": f"{order_id}~place", "saga_type": "place", "order_id": order_id, "step": "reserve", "since": since, **more}


async def test_sagas_are_listed_the_longest_wait_first() -> None:
    def listed(partition: int, *items: dict[str, Any]) -> Respond:
        return always(200, {"total": len(items), "by_label": {"place": len(items)}, "items": items, "partitions": [partition]})

    first, second = listed(0, saga("o-1", 2_000_000)), listed(1, saga("o-2", 1_000_000, stuck="overdue"), saga("o-3", 3_000_000))
    async with system(first, second) as (client, owners, peers):
        own(owners, "orders", peers[0].address, 0)
        own(owners, "orders", peers[1].address, 1)
        view = await (await client.get("/api/v1/sagas?stuck=true&type=place&limit=2")).json()
        wrong = [await client.get(f"/api/v1/sagas?{query}") for query in ("type=nothing", "stuck=maybe", "cursor=1", "limit=501")]
    assert (view["total"], view["by_type"], view["complete"], view["caught_up"]) == (3, {"place": 3}, True, True)
    assert [(each["order_id"], each["stuck"]) for each in view["items"]] == [("o-2", "overdue"), ("o-1", "")]
    assert view["items"][0]["since"] == "1970-01-01T00:00:01.000000Z"
    assert peers[0].asked == ["/list/sagas?stuck=true&type=place&limit=2"]
    assert [answer.status for answer in wrong] == [400] * 4


async def test_the_sagas_of_an_order_are_asked_of_its_owner() -> None:
    found = {"order_id": "o-1", "status": "PENDING", "reason": "", "caught_up": True, "items": [saga("o-1", 0, waits_for=["stock A"])]}

    def respond(path: str, query: dict[str, str]) -> tuple[int, Any]:
        return (200, found) if path == "/sagas/o-1" else (404, {})

    async with system(respond) as (client, owners, (owner,)):
        own(owners, "orders", owner.address, 0, 1)
        view = await (await client.get("/api/v1/sagas/o-1")).json()
        missing = await client.get("/api/v1/sagas/o-2")
        problem = await missing.json(content_type="application/problem+json")
    assert (view["state"], view["items"][0]["waits_for"]) == ("pending", ["stock A"])
    assert (missing.status, problem["code"]) == (404, "NOT_FOUND")


async def test_owners_are_heard_and_forgotten() -> None:
    owners = Owners({"orders": 2})
    own(owners, "orders", "http://a", 0, 1)
    owners.hear("orders:1", None)
    owners.hear("not a partition", None)
    assert owners.missing("orders") == [1]
    assert owners.by_address("orders") == {"http://a": {0}}
    assert owners.partition("orders", "o-1~F2") == owners.partition("orders", "o-1")
