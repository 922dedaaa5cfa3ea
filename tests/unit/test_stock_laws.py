"""Laws of stock over any history: never negative at any prefix, nothing lost or made, replay equals live, twice equals once.

`Log` itself checks after every event that no cell is negative and no reservation fails to add up, and after every command that
folding all events gives the rows that the turns wrote.
"""

from collections import Counter
from random import Random
from typing import Any

from domain_harness import NOW, Log, World, seconds
from hypothesis import given, settings
from hypothesis import strategies as st

from orderflow.streams.domain.cells import allocate, allowed
from orderflow.streams.domain.contract import Settings, TimerDue
from orderflow.streams.domain.parts import Holder, Qty, units
from orderflow.streams.domain.stock_records import (
    AdjustStock,
    CommitReservation,
    ExtendReservation,
    MovementRecorded,
    ReceiveStock,
    ReleaseReservation,
    ReserveStock,
    ShipStock,
    StockRefused,
    StockReserved,
)
from orderflow.streams.domain.stock_rows import Cell, ReservationStatus

SKU = "S"
LOCATIONS = ("main", "north", "south")
DUE = NOW + seconds(420)

locations = st.sampled_from(LOCATIONS)
orders = st.integers(1, 5)
quantities = st.integers(-1, 7)


def name(number: int) -> str:
    return f"{SKU}~o{number}~1"


def reserve(number: int, quantity: int, preferred: tuple[str, ...] = (), allow_other: bool = True, due_s: int = 420) -> ReserveStock:
    return ReserveStock(name(number), Holder(f"o{number}"), quantity, NOW + seconds(due_s), preferred, allow_other)


commands: st.SearchStrategy[Any] = st.one_of(
    st.builds(reserve, orders, quantities, st.lists(locations, max_size=2).map(tuple), st.booleans(), st.integers(0, 500)),
    st.builds(lambda number: CommitReservation(name(number)), orders),
    st.builds(lambda number: ReleaseReservation(name(number)), orders),
    st.builds(lambda number, due: ExtendReservation(name(number), NOW + seconds(due)), orders, st.integers(0, 1000)),
    st.builds(lambda number, due: TimerDue("t", "expire", NOW + seconds(due), name(number), 0), orders, st.integers(0, 500)),
    st.builds(
        lambda number, picked: ShipStock(name(number), f"o{number}~F1", tuple(Qty(place, "", n) for place, n in picked.items())),
        orders,
        st.dictionaries(locations, quantities, max_size=2),
    ),
    st.builds(
        lambda place, n, disposition: ReceiveStock(place, n, disposition=disposition),
        locations,
        quantities,
        st.sampled_from(["available", "available", "damaged", "quality_control"]),
    ),
    st.builds(lambda place, delta: AdjustStock(place, delta=delta, reason="count"), locations, st.integers(-8, 4)),
)
histories = st.lists(commands, max_size=40)


def stocked() -> Log:
    log = Log("stock", SKU)
    for place, quantity in zip(LOCATIONS, (6, 4, 3), strict=True):
        log.when(ReceiveStock(place, quantity), command_id=f"receipt {place}")
    return log


def run(history: list[Any], log: Log | None = None) -> Log:
    log = log or stocked()
    for number, command in enumerate(history):
        log.when(command, command_id=f"c{number}")
        due_now = [timer for timer in log.timers() if timer.due_at <= log.at]
        for timer in due_now:
            log.when(timer)
    return log


@settings(max_examples=300, deadline=None)
@given(histories)
def test_nothing_is_lost_made_or_sold_twice(history: list[Any]) -> None:
    log = run(history)
    cells = log.rows.stock.cells if log.rows.stock else ()
    held = Counter[tuple[str, ReservationStatus]]()
    for row in log.rows.reservation.values():
        for qty in row.allocations:
            held[qty.location_id, row.status] += qty.quantity
    moved = Counter[str]()
    for event in log.named(MovementRecorded):
        moved[event.location_id] += event.quantity
        assert event.after - event.before == event.quantity
    for cell in cells:
        assert cell.on_hand == moved[cell.location_id], "on_hand is what came in less what went out"
        assert cell.reserved == held[cell.location_id, ReservationStatus.ACTIVE]
        assert cell.allocated == held[cell.location_id, ReservationStatus.COMMITTED]
        parts = cell.available + cell.reserved + cell.allocated + cell.damaged + cell.quality_control + cell.safety_stock
        assert cell.on_hand == parts
    assert {location for location, _ in held} <= {cell.location_id for cell in cells}


@settings(max_examples=150, deadline=None)
@given(histories)
def test_a_reservation_ends_exactly_once(history: list[Any]) -> None:
    log = stocked()
    ended: dict[str, Any] = {}
    for number, command in enumerate(history):
        log.when(command, command_id=f"c{number}")
        for key, row in log.rows.reservation.items():
            if key in ended:
                assert row == ended[key], "an ended reservation never changes"
            if row.status not in (ReservationStatus.ACTIVE, ReservationStatus.COMMITTED):
                ended[key] = row


@settings(max_examples=150, deadline=None)
@given(histories, st.data())
def test_twice_equals_once_for_everything_a_row_answers(history: list[Any], data: st.DataObject) -> None:
    """Commands whose repeat no stored answer meets: their second arrival writes no fact, whenever it comes."""
    log = run(history)
    repeatable = [each for each in history if isinstance(each, CommitReservation | ReleaseReservation | ExtendReservation | TimerDue)]
    if not repeatable:
        return
    command = data.draw(st.sampled_from(repeatable))
    log.when(command)
    rows = log.rows
    outcome = log.when(command)
    assert log.rows == rows
    assert outcome.events == [] or outcome.refused is not None


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(orders, st.integers(1, 4)), min_size=1, max_size=12), st.integers(0, 12))
def test_reserves_are_granted_until_the_units_are_gone_and_never_beyond(wishes: list[tuple[int, int]], on_hand: int) -> None:
    log = Log("stock", SKU)
    if on_hand:
        log.when(ReceiveStock("main", on_hand), command_id="r")
    left, first = on_hand, {}
    for number, (order, quantity) in enumerate(wishes):
        outcome = log.when(reserve(order, quantity), command_id=f"c{number}")
        if order in first:
            assert outcome.recalled
            continue
        granted = isinstance(outcome.events[0], StockReserved)
        assert granted is (quantity <= left)
        if granted:
            left -= quantity
            first[order] = quantity
    assert left >= 0


def test_fifty_buyers_of_ten_units() -> None:
    log = Log("stock", SKU)
    log.when(ReceiveStock("main", 10), command_id="r")
    outcomes = [log.when(reserve(number, 1), command_id=f"c{number}").events[0] for number in range(50)]
    assert sum(isinstance(event, StockReserved) for event in outcomes) == 10
    assert sum(isinstance(event, StockRefused) for event in outcomes) == 40
    assert log.snapshot("stock").cells[0].available == 0


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(orders, st.integers(1, 4)), min_size=2, max_size=6, unique_by=lambda wish: wish[0]),
    st.randoms(use_true_random=False),
)
def test_any_interleaving_of_orders_equals_a_serial_history(wishes: list[tuple[int, int]], random: Random) -> None:
    """Several orders reserve, then commit or release, interleaved; taking them one after the other in the order of their reserves,
    with the refused ones refused, leaves the same rows.
    """
    chains = {
        order: [reserve(order, quantity), (CommitReservation if order % 2 else ReleaseReservation)(name(order))]
        for order, quantity in wishes
    }
    log = Log("stock", SKU)
    log.when(ReceiveStock("main", 8), command_id="r")
    order_of_reserves = []
    waiting = {order: list(chain) for order, chain in chains.items()}
    while waiting:
        order = random.choice(list(waiting))
        command = waiting[order].pop(0)
        if isinstance(command, ReserveStock):
            order_of_reserves.append(order)
        granted = log.when(command, command_id=f"{order}-{len(waiting[order])}").refused is None
        if not granted or not waiting[order]:
            del waiting[order]
    granted_ids = set(log.rows.reservation)
    serial = Log("stock", SKU)
    serial.when(ReceiveStock("main", 8), command_id="r")
    for order in order_of_reserves:
        if name(order) in granted_ids:
            for number, command in enumerate(chains[order]):
                assert serial.when(command, command_id=f"{order}-{number}").refused is None
    assert {cell.location_id: cell for cell in log.rows.stock.cells} == {cell.location_id: cell for cell in serial.rows.stock.cells}
    assert log.rows.reservation == serial.rows.reservation


@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=3),
    st.integers(1, 20),
    st.lists(locations, max_size=3, unique=True).map(tuple),
    st.booleans(),
)
def test_an_allocation_is_whole_from_allowed_cells_and_splits_least(
    shelves: list[tuple[int, int, int]], quantity: int, preferred: tuple[str, ...], allow_other: bool
) -> None:
    cells = tuple(
        Cell(place, free + reserved + allocated, reserved=reserved, allocated=allocated)
        for place, (free, reserved, allocated) in zip(LOCATIONS, shelves, strict=False)
    )
    candidates = allowed(cells, preferred, allow_other)
    found = allocate(candidates, quantity, preferred)
    possible = sum(cell.available for cell in candidates) >= quantity
    assert (found is not None) is possible
    if found is None:
        return
    assert units(found) == quantity
    by_location = {cell.location_id: cell.available for cell in candidates}
    assert all(0 < qty.quantity <= by_location[qty.location_id] for qty in found)
    chosen = [by_location[place] for place in preferred if place in by_location]
    if any(count >= quantity for count in chosen):
        assert len(found) == 1 and found[0].location_id in preferred


def test_every_due_reservation_expires_once_and_never_before() -> None:
    world = World(Random(3), Settings(locations=("main",)))
    world.stock(SKU, 9)
    log = world.log("stock", SKU)
    for number in range(1, 4):
        log.when(reserve(number, 3, due_s=100 * number), command_id=f"c{number}")
    world.settle(until=NOW + seconds(99))
    assert world.at < NOW + seconds(100) and log.snapshot("stock").cells[0].reserved == 9
    world.settle(until=NOW + seconds(200))
    assert log.snapshot("stock").cells[0].reserved == 3
    world.settle()
    assert log.snapshot("stock").cells[0].available == 9
    assert world.fired == {"expire"}
