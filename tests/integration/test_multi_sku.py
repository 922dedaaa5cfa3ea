"""Orders of several skus get all of them or none, whatever the order of arrival, and what they do not keep is for sale again."""

import asyncio
import uuid
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from integration_harness import ANSWERS, Answer, Rig, eventually, now, started, until

from orderflow.connectors.box.box import Servers
from orderflow.schemas.partitioner import partition_of
from orderflow.streams.domain.ids import reservation_id
from orderflow.streams.domain.parts import Holder
from orderflow.streams.domain.stock_records import ReleaseReservation, ReserveStock

pytestmark = pytest.mark.box

ORDERS = "/api/v1/orders"
ROUNDS = 24
ROUNDS_HELD = 8
HOUR_US = 3_600_000_000


@pytest.fixture(scope="module")
def rig(box: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """Two workers: what one of them asks of two skus arrives in one order, so only two can cross."""
    with started(box, tmp_path_factory.mktemp("multi"), "multi", workers=2, settings=ANSWERS) as running:
        yield running


def fresh(word: str) -> str:
    return f"{word}-{uuid.uuid4().hex[:10]}"


def items(*wanted: tuple[str, int]) -> dict[str, Any]:
    return {"items": [{"sku": sku, "qty": quantity} for sku, quantity in wanted]}


async def skus(rig: Rig, **units: int) -> list[str]:
    """Skus of this test's own with so many units each."""
    names = [fresh(word) for word in units]
    await asyncio.gather(*(rig.receive(sku, quantity) for sku, quantity in zip(names, units.values(), strict=True)))
    return names


async def outcome(rig: Rig, answer: Answer) -> dict[str, Any]:
    """The order behind an answer, once nothing is open: 201, 409 or, on a busy machine, 202."""
    assert answer.status in (201, 202, 409), answer
    order = await rig.decided(answer.json["order_id"])
    assert (answer.status, order["state"]) in {(201, "processing"), (409, "rejected"), (202, "processing"), (202, "rejected")}
    return order


def happened(rig: Rig, sku: str) -> list[str]:
    """What happened to the reservations of a sku."""
    moves = ("StockReserved", "StockRefused", "ReservationCommitted", "ReservationReleased", "ReservationExpired")
    return [event.name for event in rig.events("stock", sku) if event.name in moves]


async def test_all_skus_are_committed(rig: Rig) -> None:
    a, b, c = await skus(rig, A=2, B=2, C=2)
    order = await outcome(rig, await rig.post(ORDERS, items((a, 1), (b, 2), (c, 1))))
    assert order["state"] == "processing"
    await rig.stock_becomes(a, 2, 1, 0, 1)
    await rig.stock_becomes(b, 2, 0, 0, 2)
    await rig.stock_becomes(c, 2, 1, 0, 1)


async def test_none_is_kept_when_one_is_short(rig: Rig) -> None:
    a, b, c = await skus(rig, A=5, B=1, C=5)
    answer = await rig.post(ORDERS, items((a, 2), (b, 2), (c, 2)))
    assert (answer.status, answer.json["code"]) == (409, "INSUFFICIENT_STOCK")
    assert answer.json["shortages"] == [{"sku": b, "requested": 2, "available": 1}]
    await rig.stock_becomes(a, 5, 5, 0, 0)
    await rig.stock_becomes(c, 5, 5, 0, 0)
    assert await rig.stock(b) == (1, 1, 0, 0)
    assert happened(rig, a) == happened(rig, c) == ["StockReserved", "ReservationReleased"]
    assert happened(rig, b) == ["StockRefused"]
    assert (await outcome(rig, await rig.post(ORDERS, items((a, 5), (b, 1), (c, 5)))))["state"] == "processing", "all of it is for sale"


async def test_of_two_orders_that_want_the_last_two_units_crosswise_exactly_one_wins(rig: Rig) -> None:
    """{A, B} and {B, A}, one unit each, at the same moment: never both, never neither. Some skus share a partition, some do not."""
    pairs = await asyncio.gather(*(skus(rig, A=1, B=1) for _ in range(ROUNDS)))

    posts = [items(*wanted) for a, b in pairs for wanted in crosswise(a, b)]
    answers = await asyncio.gather(*(rig.post(ORDERS, body) for body in posts))

    await one_wins(rig, pairs, answers)
    both = [partition_of(a.encode(), rig.names.partitions) == partition_of(b.encode(), rig.names.partitions) for a, b in pairs]
    assert True in both and False in both


async def test_of_two_orders_that_hold_what_the_other_wants_exactly_one_wins(rig: Rig) -> None:
    """The same when each has its first unit already: the reservations under the orders' own ids are made before the orders come."""
    pairs = await asyncio.gather(*(skus(rig, A=1, B=1) for _ in range(ROUNDS_HELD)))
    ids = [(fresh("ord"), fresh("ord")) for _ in pairs]
    held = [(sku, order_id) for pair, orders in zip(pairs, ids, strict=True) for sku, order_id in zip(pair, orders, strict=True)]
    rig.produce(
        rig.command("stock", sku, ReserveStock(reservation_id(sku, order_id, 1), Holder(order_id), 1, now() + HOUR_US))
        for sku, order_id in held
    )
    for sku, _ in held:
        await rig.stock_becomes(sku, 1, 0, 1, 0)

    wanted = [
        {"order_id": order_id, **items(*lines)}
        for (a, b), orders in zip(pairs, ids, strict=True)
        for order_id, lines in zip(orders, crosswise(a, b), strict=True)
    ]
    answers = await asyncio.gather(*(rig.post(ORDERS, body) for body in wanted))

    await one_wins(rig, pairs, answers)
    asked_twice = [
        event for sku, _ in held for event in rig.events("stock", sku) if event.name == "StockReserved" and event.value.holder.attempt > 1
    ]
    assert asked_twice, "they were in each other's way"


def crosswise(a: str, b: str) -> tuple[tuple[tuple[str, int], ...], ...]:
    return ((a, 1), (b, 1)), ((b, 1), (a, 1))


async def one_wins(rig: Rig, pairs: list[list[str]], answers: list[Answer]) -> None:
    """Of each two orders one has both units and the other nothing."""
    orders = [await outcome(rig, answer) for answer in answers]
    states = [order["state"] for order in orders]
    rounds = Counter(tuple(sorted(pair)) for pair in zip(states[::2], states[1::2], strict=True))
    assert rounds == {("processing", "rejected"): len(pairs)}
    assert {order["reason"] for order in orders if order["state"] == "rejected"} == {"INSUFFICIENT_STOCK"}
    for sku in (sku for pair in pairs for sku in pair):
        await rig.stock_becomes(sku, 1, 0, 0, 1)


async def test_many_orders_over_three_skus_sell_every_unit_once(rig: Rig) -> None:
    """A ring of pairs: {A, B}, {B, C}, {C, A}. Whoever loses gives everything back, so what is left is what nobody won."""
    names = await skus(rig, A=4, B=4, C=4)
    pairs = [(names[n % 3], names[(n + 1) % 3]) for n in range(30)]

    answers = await asyncio.gather(*(rig.post(ORDERS, items((first, 1), (second, 1))) for first, second in pairs))

    orders = [await outcome(rig, answer) for answer in answers]
    sold = Counter(line["sku"] for order in orders if order["state"] == "processing" for line in order["lines"])
    assert sold
    for sku in names:
        await rig.stock_becomes(sku, 4, 4 - sold[sku], 0, sold[sku])


async def test_two_lines_of_one_sku_are_asked_for_together(rig: Rig) -> None:
    (sku,) = await skus(rig, S=4)
    short = await rig.post(ORDERS, items((sku, 2), (sku, 3)))
    assert (short.status, short.json["code"]) == (409, "INSUFFICIENT_STOCK")
    assert short.json["shortages"] == [{"sku": sku, "requested": 5, "available": 4}]
    assert await rig.stock(sku) == (4, 4, 0, 0)

    order = await outcome(rig, await rig.post(ORDERS, items((sku, 1), (sku, 3))))

    assert [(line["sku"], line["quantity"]) for line in order["lines"]] == [(sku, 1), (sku, 3)]
    await rig.stock_becomes(sku, 4, 0, 0, 4)
    assert [command.value.quantity for command in rig.commands("stock", sku) if command.name == "ReserveStock"] == [5, 4]


async def test_a_cancel_gives_every_unit_back_once(rig: Rig) -> None:
    a, b = await skus(rig, A=3, B=3)
    order_id = (await outcome(rig, await rig.post(ORDERS, items((a, 2), (b, 3)))))["order_id"]
    await rig.stock_becomes(b, 3, 0, 0, 3)

    for _ in range(3):
        canceled = await rig.post(f"{ORDERS}/{order_id}/cancel", {"reason": "changed my mind"})
        assert canceled.status in (200, 202), canceled

    assert (await rig.decided(order_id))["state"] == "canceled"
    await rig.stock_becomes(a, 3, 3, 0, 0)
    await rig.stock_becomes(b, 3, 3, 0, 0)
    assert happened(rig, a) == happened(rig, b) == ["StockReserved", "ReservationCommitted", "ReservationReleased"]


async def test_a_release_that_comes_before_its_reservation_is_harmless(rig: Rig) -> None:
    """The reservation that comes after it is refused, so nothing is kept that nobody would give back; others are served."""
    (sku,) = await skus(rig, S=3)
    order_id = fresh("ord")
    early = reservation_id(sku, order_id, 1)
    rig.produce([rig.command("stock", sku, ReleaseReservation(early)), rig.command("stock", sku, ReleaseReservation(early))])
    until(lambda: len(rig.events("orders", order_id)) == 2, "the order's log has heard of both and knows no such order")

    answer = await rig.post(ORDERS, {"order_id": order_id, **items((sku, 1))})

    assert (answer.status, answer.json["code"]) == (409, "RESERVATION_FINAL")
    assert happened(rig, sku) == ["ReservationReleased", "StockRefused"]
    assert await rig.stock(sku) == (3, 3, 0, 0)
    assert (await outcome(rig, await rig.post(ORDERS, items((sku, 3)))))["state"] == "processing"


async def test_a_grant_that_comes_after_the_refusal_is_given_back(rig: Rig) -> None:
    """The origin kept such units for ever (bug 3). Here a second attempt is granted that the rejected order never asked for."""
    a, b = await skus(rig, A=3, B=1)
    refused = await rig.post(ORDERS, items((a, 1), (b, 2)))
    assert refused.status == 409
    await rig.stock_becomes(a, 3, 3, 0, 0)

    order_id = refused.json["order_id"]
    late = ReserveStock(reservation_id(a, order_id, 2), Holder(order_id, 2), 2, now() + HOUR_US)
    rig.produce([rig.command("stock", a, late)])

    def is_over(found: list[str]) -> bool:
        return found[-2:] == ["StockReserved", "ReservationReleased"] and len(found) == 4

    async def look() -> list[str]:
        return happened(rig, a)

    await eventually(look, is_over)
    await rig.stock_becomes(a, 3, 3, 0, 0)
    kept = await rig.get("/api/v1/reservations?limit=500")
    assert order_id not in {each["order_id"] for each in kept.json["items"]}
