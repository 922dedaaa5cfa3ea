"""Laws of the talk between orders and stock, over random interleavings, repeats and restarts of time.

Records of one sender to one key stay in order, everything else may arrive in any order; with `repeat` any record may come again later.
"""

from collections import Counter
from random import Random
from typing import Any

import pytest
from domain_harness import NOW, Log, Seeded, World, seconds
from domain_payments import said
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from orderflow.streams import topology
from orderflow.streams.domain import claims, fulfillment, sourcing
from orderflow.streams.domain.claims import EarlyFact, RecordEarlyFact
from orderflow.streams.domain.contract import Settings
from orderflow.streams.domain.order_records import (
    CancelOrder,
    OrderStatus,
    OrderStatusChanged,
    PlacedLine,
    PlaceOrder,
    PostFulfillmentStatus,
    RecordDelivery,
)
from orderflow.streams.domain.order_status import TRANSITIONS
from orderflow.streams.domain.parts import Money, units
from orderflow.streams.domain.payment_records import PaymentRequested
from orderflow.streams.domain.stock_records import AdjustStock, ReleaseReservation
from orderflow.streams.domain.stock_rows import ReservationStatus

SOON = NOW + seconds(60)
"""After every retry, before any order gives up or any reservation expires."""


randoms = st.integers(0, 2**32 - 1).map(Seeded)
WON = (OrderStatus.PROCESSING, OrderStatus.SHIPPED, OrderStatus.DELIVERED)


def order_logs(world: World) -> list[Log]:
    return [log for (space, _), log in world.logs.items() if space == "orders" and log.rows.order is not None]


def status(world: World, order_id: str) -> OrderStatus:
    found: OrderStatus = world.log("orders", order_id).rows.order.status
    return found


def won(world: World) -> list[str]:
    return [log.key for log in order_logs(world) if log.rows.order.status in WON]


def check(world: World) -> None:
    """What must hold once everything has arrived: stock and orders agree, every command has one answer."""
    kept: Counter[str] = Counter()
    for (space, sku), log in world.logs.items():
        if space != "stock":
            continue
        for row in log.rows.reservation.values():
            if not row.allocations:
                continue
            kept[row.holder.order_id] += units(row.allocations)
            owner = world.log("orders", row.holder.order_id).rows.order
            assert owner is not None and owner.status in (*WON, OrderStatus.PENDING), f"{row.reservation_id} is kept for nobody"
            if owner.status in WON:
                assert row.status is ReservationStatus.COMMITTED, f"{row.reservation_id} of a confirmed order may still expire"
        cells = log.rows.stock.cells if log.rows.stock else ()
        held = sum(units(row.allocations) for row in log.rows.reservation.values())
        assert sum(cell.reserved + cell.allocated for cell in cells) == held, sku
    for log in order_logs(world):
        order = log.rows.order
        wanted = sum(line.quantity for line in order.lines)
        if order.status in WON:
            left = sum(line.quantity - line.shipped - line.canceled for line in order.lines)
            assert kept[log.key] == left, "a confirmed order keeps exactly what it has not shipped"
        elif order.status is not OrderStatus.PENDING:
            assert kept[log.key] == 0, "an order that ended keeps nothing"
            assert order.status is not OrderStatus.CANCELED or sum(line.canceled + line.shipped for line in order.lines) == wanted
        changes = [(event.previous_status, event.new_status) for event in log.named(OrderStatusChanged)]
        assert set(changes) <= TRANSITIONS.pairs and len(set(changes)) == len(changes), "one event per change, each once"
        assert [source for source, _ in changes[1:]] == [target for _, target in changes[:-1]]
    for command_id, settles in world.settled.items():
        assert len(settles) == 1, f"{command_id} was answered {len(settles)} times"


def placed(world: World, wishes: list[dict[str, int]]) -> None:
    for number, wish in enumerate(wishes, 1):
        world.place(f"o{number}", **wish)


wish = st.dictionaries(st.sampled_from("ABC"), st.integers(1, 3), min_size=1, max_size=3)
wishes = st.lists(wish, min_size=1, max_size=5)
shelves = st.fixed_dictionaries({sku: st.integers(0, 5) for sku in "ABC"})


@settings(max_examples=250, deadline=None)
@given(wishes, shelves, randoms, st.sampled_from([0.0, 0.3]))
def test_every_order_gets_all_or_nothing_and_nothing_stays_behind(
    wanted: list[dict[str, int]], shelf: dict[str, int], random: Random, repeat: float
) -> None:
    world = World(random)
    for sku, quantity in shelf.items():
        if quantity:
            world.stock(sku, quantity)
    world.repeat = repeat
    placed(world, wanted)
    world.settle()
    check(world)
    for number in range(1, len(wanted) + 1):
        assert status(world, f"o{number}") in (OrderStatus.PROCESSING, OrderStatus.REJECTED)
        assert f"place-o{number}" in world.settled
    sold: Counter[str] = Counter()
    for order_id in won(world):
        sold.update(wanted[int(order_id[1:]) - 1])
    for sku, quantity in shelf.items():
        if not quantity:
            assert sold[sku] == 0
            continue
        (cell,) = world.log("stock", sku).rows.stock.cells
        assert (cell.on_hand, cell.allocated, cell.reserved) == (quantity, sold[sku], 0)


@settings(max_examples=300, deadline=None)
@given(randoms, st.sampled_from([0.0, 0.3]), st.booleans())
def test_of_two_orders_for_the_same_two_units_exactly_one_wins(random: Random, repeat: float, crossed: bool) -> None:
    world = World(random).stock("A", 1).stock("B", 1)
    world.repeat = repeat
    world.place("o1", A=1, B=1)
    world.place("o2", **({"B": 1, "A": 1} if crossed else {"A": 1, "B": 1}))
    world.settle(until=SOON)
    assert len(won(world)) == 1
    assert sorted(log.rows.order.status for log in order_logs(world)) == ["PROCESSING", "REJECTED"]
    check(world)


@settings(max_examples=100, deadline=None)
@given(randoms)
def test_of_orders_in_a_circle_somebody_wins(random: Random) -> None:
    world = World(random).stock("A", 1).stock("B", 1).stock("C", 1)
    placed(world, [{"A": 1, "B": 1}, {"B": 1, "C": 1}, {"C": 1, "A": 1}])
    world.settle(until=SOON)
    assert len(won(world)) == 1
    check(world)


@settings(max_examples=40, deadline=None)
@given(randoms)
def test_bug_1_fifty_orders_for_ten_units_confirm_exactly_ten(random: Random) -> None:
    world = World(random).stock("LIMITED-SKU", 10)
    world.repeat = 0.1
    for number in range(50):
        world.send("orders", f"o{number}", PlaceOrder("box", lines=(PlacedLine("1", "LIMITED-SKU", 1),)), f"place-{number}")
    world.settle(until=SOON)
    assert len(won(world)) == 10
    assert sum(log.rows.order.status is OrderStatus.REJECTED for log in order_logs(world)) == 40
    assert world.log("stock", "LIMITED-SKU").snapshot("stock").cells[0].available == 0
    check(world)


@settings(max_examples=250, deadline=None)
@given(wishes, randoms, st.sampled_from([0.0, 0.3]))
def test_cancels_at_any_moment_leave_nothing_behind(wanted: list[dict[str, int]], random: Random, repeat: float) -> None:
    world = World(random)
    for sku in "ABC":
        world.stock(sku, 4)
    world.repeat = repeat
    placed(world, wanted)
    for number in range(1, len(wanted) + 1):
        for again in range(2):
            world.send("orders", f"o{number}", CancelOrder("staff"), f"cancel-{number}-{again}")
    world.settle()
    check(world)
    ends = {status(world, f"o{number}") for number in range(1, len(wanted) + 1)}
    assert ends <= {OrderStatus.CANCELED, OrderStatus.REJECTED, OrderStatus.PROCESSING}
    for sku in "ABC":
        (cell,) = world.log("stock", sku).rows.stock.cells
        assert cell.on_hand == 4, "canceling never moves on_hand (bug 14)"


@settings(max_examples=200, deadline=None)
@given(wishes, randoms, st.sampled_from([0.0, 0.2]))
def test_posts_cancels_and_deliveries_in_any_order_keep_the_books(wanted: list[dict[str, int]], random: Random, repeat: float) -> None:
    world = World(random)
    for sku in "ABC":
        world.stock(sku, 4, "main").stock(sku, 2, "north")
    world.repeat = repeat
    placed(world, wanted)
    for number in range(1, len(wanted) + 1):
        name = f"o{number}"
        for target in (name, f"{name}~F1", f"{name}~F2"):
            for word in ("picking", "picked", "packed", "shipped"):
                world.send("orders", name, PostFulfillmentStatus(target, word), f"{target}-{word}")
        world.send("orders", name, RecordDelivery("", f"{name}~F1", NOW), f"{name}-delivered")
        if random.random() < 0.5:
            world.send("orders", name, CancelOrder("staff"), f"{name}-cancel")
    world.settle()
    check(world)
    for sku in "ABC":
        shipped = sum(line.shipped for log in order_logs(world) for line in log.rows.order.lines if line.sku == sku)
        assert sum(cell.on_hand for cell in world.log("stock", sku).rows.stock.cells) == 6 - shipped, "what left was deducted once"


@settings(max_examples=200, deadline=None)
@given(wishes, randoms)
def test_counts_and_expiries_in_between_leave_no_promise_without_units(wanted: list[dict[str, int]], random: Random) -> None:
    """Nothing is shipped here, so a loss cancels; an order that stays confirmed has every unit it was promised."""
    world = World(random, Settings(locations=("main",), give_up_s=40, reservation_margin_s=1, contended_wait_s=30))
    for sku in "ABC":
        world.stock(sku, 5)
    placed(world, wanted)
    for sku in "ABC":
        world.send("stock", sku, AdjustStock("main", delta=-random.randint(1, 5), reason="count"), f"count-{sku}")
    while world.flying:
        world.arrive(random.choice(list(world.flying)))
        if random.random() < 0.2:
            world.tick()
    world.settle()
    check(world)


@settings(max_examples=150, deadline=None)
@given(wishes, randoms)
def test_an_order_gives_up_without_deciding_alone(wanted: list[dict[str, int]], random: Random) -> None:
    """Some skus do not answer before the order gives up; whatever arrives then, nothing stays reserved."""
    world = World(random)
    for sku in "ABC":
        world.stock(sku, 3)
    placed(world, wanted)
    slow = random.choice("ABC")
    while any(channel[2] != slow for channel in world.flying):
        world.arrive(random.choice([channel for channel in world.flying if channel[2] != slow]))
    world.tick()
    world.settle()
    check(world)
    for log in order_logs(world):
        assert log.rows.order.status in (OrderStatus.PROCESSING, OrderStatus.REJECTED)


@settings(max_examples=100, deadline=None)
@given(randoms)
def test_a_release_that_arrives_before_its_reservation_is_harmless(random: Random) -> None:
    world = World(random).stock("A", 2)
    world.send("stock", "A", ReleaseReservation("A~o1~1"), "early")
    world.place("o1", A=1)
    world.place("o2", A=1)
    world.settle(until=SOON)
    assert status(world, "o2") is OrderStatus.PROCESSING
    cell = world.log("stock", "A").snapshot("stock").cells[0]
    if status(world, "o1") is OrderStatus.REJECTED:
        assert cell.allocated == 1
    world.settle()
    check(world)


@pytest.mark.parametrize("seed", range(20))
def test_a_hundred_lines_stay_linear(seed: int) -> None:
    world = World(Random(seed))
    lines = tuple(PlacedLine(str(number), f"S{number}", 1) for number in range(100))
    for line in lines:
        world.stock(line.sku, 1)
    world.send("orders", "o1", PlaceOrder("box", lines=lines), "place")
    world.drain()
    assert status(world, "o1") is OrderStatus.PROCESSING
    events = Counter(type(event).__name__ for event, _ in world.log("orders", "o1").events)
    assert events["StockAnswerRecorded"] == 200 and sum(events.values()) == 207


def test_two_lines_of_one_sku_are_one_demand() -> None:
    world = World(Random(1)).stock("A", 5)
    world.send("orders", "o1", PlaceOrder("box", lines=(PlacedLine("1", "A", 3), PlacedLine("2", "A", 3))), "place")
    world.settle(until=SOON)
    assert status(world, "o1") is OrderStatus.REJECTED
    (settle,) = world.settled["place"]
    assert [(short.sku, short.requested, short.available) for short in settle.shortages] == [("A", 6, 5)]


def expire(world: World) -> None:
    """An order that is not heard of again: its units are for sale again when they are due."""
    world.place("o1", A=1)
    arrive(world, "o1")
    arrive(world, "A")
    world.flying.clear()
    world.at += seconds(419)
    world.tick()
    world.flying = {channel: sent for channel, sent in world.flying.items() if channel[1] == "stock"}
    assert not world.flying, "never before"
    while not world.flying:
        world.tick()
        world.flying = {channel: sent for channel, sent in world.flying.items() if channel[1] == "stock"}
        for log, timer in world.timers():
            if log.space.name == "orders":
                log.when(timer)


def give_up(world: World) -> None:
    """A sku that does not answer."""
    world.place("o1", A=1)
    arrive(world, "o1")
    world.flying.clear()
    world.tick()


def contended_retry(world: World) -> None:
    """Two orders of the same two units, of which one asks again before the other has heard its answers."""
    world.place("o1", A=1, B=1)
    world.place("o2", A=1, B=1)
    for key in ("o1", "o2"):
        arrive(world, key)
    for sender, key in (("o1", "A"), ("o2", "B"), ("o2", "A"), ("o1", "B")):
        arrive(world, key, f"orders {sender}")
    for key in ("o1", "o1", "A", "A", "o1", "o1"):
        arrive(world, key, "" if key != "A" else "orders o1")
    arrive(world, "B", "orders o1")
    arrive(world, "o1", "stock B")
    world.drain()
    world.tick()


def buffered_post(world: World) -> None:
    """A post whose predecessor never comes."""
    world.place("o1", A=1)
    world.drain()
    world.send("orders", "o1", PostFulfillmentStatus("o1", "shipped"), "early")
    world.drain()
    world.tick()


def arrive(world: World, key: str, sender: str = "") -> None:
    """The next record for this key arrives, of this sender if one is named."""
    world.arrive(next(channel for channel in world.flying if channel[2] == key and sender in channel[0]))


def payment_window(world: World) -> None:
    """A prepaid order whose provider says nothing."""
    line = PlacedLine("1", "A", 1, unit_price=Money(500, "EUR"))
    world.send("orders", "o1", PlaceOrder("box", payment_terms="prepaid", lines=(line,)), "place-o1")
    world.drain()
    world.tick()


def auto_complete(world: World) -> None:
    """Everything has arrived, and seven days pass."""
    world.place("o1", A=1)
    world.drain()
    for status in ("picking", "picked", "packed", "shipped"):
        world.send("orders", "o1", PostFulfillmentStatus("o1", status), status)
    world.drain()
    world.send("orders", "o1", RecordDelivery(delivered_at=1), "delivered")
    world.drain()
    world.tick()


def authorization_expiring(world: World) -> None:
    """A paid order that nobody picks, of an authorization that lasts seven days."""
    line = PlacedLine("1", "A", 1, unit_price=Money(500, "EUR"))
    world.send("orders", "o1", PlaceOrder("box", payment_terms="prepaid", lines=(line,)), "place-o1")
    world.drain()
    (request,) = world.log("orders", "o1").named(PaymentRequested)
    world.send("orders", "o1", said(request, valid_until=world.at + seconds(604_800)), "authorized")
    world.drain()
    world.tick()


def shortage_window(world: World) -> None:
    """Less than was wanted, and a customer who says nothing."""
    line = PlacedLine("1", "A", 3)
    world.send("orders", "o1", PlaceOrder("box", partial_policy="ask", lines=(line,)), "place-o1")
    world.drain()
    world.tick()


def early_fact(world: World) -> None:
    """A provider speaks of a payment that nobody has."""
    fact = EarlyFact("local", "evt 1", "dispute.opened", provider_ref="ref-9")
    world.send("references", "provider_ref:local:ref-9", RecordEarlyFact(fact), "webhook")
    world.drain()
    world.tick()


def backorder_window(world: World) -> None:
    world.send("orders", "o1", PlaceOrder("box", partial_policy="backorder", lines=(PlacedLine("1", "A", 2),)), "place-o1")
    world.drain()
    world.tick()


SCENES = {
    "early_fact": early_fact,
    "authorization_expiring": authorization_expiring,
    "auto_complete": auto_complete,
    "expire": expire,
    "give_up": give_up,
    "contended_retry": contended_retry,
    "buffered_post": buffered_post,
    "payment_window": payment_window,
    "shortage_window": shortage_window,
    "backorder_window": backorder_window,
}


@pytest.mark.parametrize("kind", SCENES)
def test_bug_9_every_kind_of_timer_fires_once(kind: str) -> None:
    world = World(Random(5)).stock("A", 1).stock("B", 1)
    SCENES[kind](world)
    due = [timer for channel, sent in world.flying.items() for _, timer in sent if channel[0].startswith("timers")]
    assert {timer.kind for timer in due} == {kind}
    world.drain()
    assert world.fired == {kind}
    log = next(log for log in world.logs.values() if log.key == due[0].entity_id.partition("~")[0])
    before = log.rows
    assert log.when(due[0], command_id=due[0].timer_id).events == [] and log.rows == before, "a second one is nothing"


def test_no_kind_of_timer_is_left_out() -> None:
    declared = {"expire", claims.WAIT, fulfillment.BUFFERED_POST, sourcing.AUTHORIZATION_EXPIRING, *sourcing.TIMERS.values()}
    assert set(SCENES) == declared
    with_timers = {table.name for space in topology.SPACES for table in space.tables if table.due is not None}
    assert with_timers == {"reservation", "order", "fulfillment", "claim"}


def test_a_world_that_repeats_nothing_and_one_that_repeats_everything_end_alike() -> None:
    ends: list[Any] = []
    for repeat in (0.0, 0.5):
        world = World(Random(11)).stock("A", 3)
        world.repeat = repeat
        for number in range(3):
            world.place(f"o{number}", A=1)
        world.settle()
        ends.append([replace(log.rows.order, placed_at=0, confirmed_at=0) for log in order_logs(world)])
        check(world)
    assert sorted(order.status for order in ends[0]) == sorted(order.status for order in ends[1])
