"""Reservation rules: given what happened to a sku, when a command comes, then exactly these events - one row per reason, per transition."""

from typing import Any

import pytest
from domain_harness import NOW, Log, seconds
from domain_stock import DUE, HOLDER, ID, SKU, answer, committed, counters, reserve, reserved, stocked, units

from orderflow.streams.domain import stock
from orderflow.streams.domain.contract import TimerDue
from orderflow.streams.domain.parts import Holder
from orderflow.streams.domain.reasons import Reason
from orderflow.streams.domain.stock_records import (
    AdjustStock,
    CommitReservation,
    ExtendReservation,
    ReceiveStock,
    ReleaseReservation,
    ReservationCommitted,
    ReservationExpired,
    ReservationExtended,
    ReservationReleased,
    ReserveStock,
    ShipStock,
    StockRefused,
    StockReserved,
)
from orderflow.streams.domain.stock_rows import ReservationStatus


# -- reserving ------------------------------------------------------------------------------------------------------------------------
def test_reserve_keeps_units_and_tells_the_order() -> None:
    log = stocked()
    outcome = log.when(reserve(4))
    assert outcome.events == [StockReserved(ID, HOLDER, 4, units(4), DUE)]
    assert outcome.sends == answer("reserved", 4, 4, 6, due_at=DUE)
    assert counters(log) == (10, 4, 0, 6)


def test_reserve_takes_the_last_unit_and_refuses_one_more() -> None:
    log = reserved(10)
    outcome = log.when(reserve(1, "o2"))
    assert outcome.events == [StockRefused(f"{SKU}~o2~1", Holder("o2"), 1, 0, True, Reason.INSUFFICIENT_STOCK)]
    assert counters(log) == (10, 10, 0, 0)


@pytest.mark.parametrize(
    ("log", "command", "reason"),
    [
        (Log("stock", SKU), reserve(), Reason.UNKNOWN_SKU),
        (stocked(), reserve(0), Reason.QUANTITY_INVALID),
        (stocked(), reserve(-3), Reason.QUANTITY_INVALID),
        (stocked(), reserve(10**12), Reason.QUANTITY_INVALID),
        (stocked(), reserve(due_at=0), Reason.DUE_TIME_MISSING),
        (stocked(), reserve(due_at=NOW), Reason.DUE_TIME_MISSING),
        (stocked(), reserve(preferred=("nowhere",)), Reason.UNKNOWN_LOCATION),
        (stocked(), reserve(preferred=("",)), Reason.UNKNOWN_LOCATION),
        (stocked(), reserve(allow_other=False), Reason.UNKNOWN_LOCATION),
        (stocked(), reserve(11), Reason.INSUFFICIENT_STOCK),
        (stocked(), ReserveStock("other~o1~1", HOLDER, 1, DUE), Reason.SCHEMA_INVALID),
        (stocked(), ReserveStock(f"{SKU}~o1~2", HOLDER, 1, DUE), Reason.SCHEMA_INVALID),
        (stocked(), ReserveStock("gibberish", HOLDER, 1, DUE), Reason.SCHEMA_INVALID),
        (stocked(), reserve(attempt=0), Reason.SCHEMA_INVALID),
    ],
)
def test_reserve_refuses_with_the_first_reason_and_answers_the_order(log: Log, command: ReserveStock, reason: Reason) -> None:
    before = log.rows
    outcome = log.when(command)
    (event,) = outcome.events
    assert isinstance(event, StockRefused) and event.reason == reason
    assert [send.command.outcome for send in outcome.sends] == ["refused"]
    assert [send.command.reason for send in outcome.sends] == [reason]
    assert log.rows == before


def test_reserve_refuses_a_retired_sku() -> None:
    log = stocked()
    log.rows = log.folded = stock.State(SKU, stock.StockRow(5, retired=True, cells=log.rows.stock.cells))
    assert log.when(reserve()).refused.reason == Reason.SKU_RETIRED


def test_reserve_after_its_deadline_or_on_another_version_is_refused() -> None:
    assert stocked().when(reserve(), deadline_at=NOW - 1).refused.reason == Reason.DEADLINE_PASSED
    assert stocked().when(reserve(), expected_version=9).refused.reason == Reason.VERSION_CONFLICT
    assert stocked().when(reserve(), expected_version=1, deadline_at=NOW).refused is None


@pytest.mark.parametrize(
    ("open_units", "allocated", "wanted", "contended"), [(6, 0, 5, True), (6, 0, 10, True), (6, 0, 11, False), (0, 6, 5, False)]
)
def test_a_shortage_is_contended_when_open_reservations_hold_what_is_missing(
    open_units: int, allocated: int, wanted: int, contended: bool
) -> None:
    log = reserved(open_units) if open_units else committed(allocated)
    assert log.when(reserve(wanted, "o2")).refused.contended is contended


def test_a_repeated_reserve_gets_the_same_answer_and_no_event() -> None:
    log = reserved(4)
    outcome = log.when(reserve(4))
    assert outcome.recalled and outcome.events == []
    assert outcome.sends == answer("reserved", 4, 4, 6, due_at=DUE)


def test_release_before_reserve_is_harmless_and_final() -> None:
    log = stocked()
    outcome = log.when(ReleaseReservation(ID))
    assert outcome.events == [ReservationReleased(ID, HOLDER, 0)]
    assert outcome.sends == answer("released", 0, 0, 10)
    assert log.when(reserve(4)).refused.reason == Reason.RESERVATION_FINAL
    assert counters(log) == (10, 0, 0, 10)


def test_release_is_total_also_for_a_sku_nobody_knows() -> None:
    log = Log("stock", SKU)
    assert log.when(ReleaseReservation(ID)).events == [ReservationReleased(ID, HOLDER, 0)]
    assert log.rows.stock is None
    assert log.when(reserve(4)).refused.reason == Reason.RESERVATION_FINAL


@pytest.mark.parametrize("name", ["gibberish", "other~o1~1", f"{SKU}~o1~x", f"{SKU}~o1", f"{SKU}~o/1~1"])
def test_release_of_an_id_that_cannot_be_of_this_sku_is_not_found(name: str) -> None:
    assert stocked().when(ReleaseReservation(name)).refused.reason == Reason.NOT_FOUND


def test_units_come_from_preferred_locations_then_with_the_fewest_splits() -> None:
    log = stocked(3, "main")
    log.when(ReceiveStock("north", 5), command_id="2")
    log.when(ReceiveStock("south", 8), command_id="3")

    def taken(quantity: int, order_id: str, **more: Any) -> dict[str, int]:
        outcome = log.when(reserve(quantity, order_id, **more))
        event = outcome.events[0]
        if isinstance(event, StockReserved):
            log.when(ReleaseReservation(event.reservation_id))
            return {qty.location_id: qty.quantity for qty in event.allocations}
        return {}

    assert taken(2, "a") == {"south": 2}, "the fullest location alone"
    assert taken(2, "b", preferred=("main",)) == {"main": 2}
    assert taken(5, "c", preferred=("main", "north")) == {"north": 5}, "one preferred location that has all"
    assert taken(7, "d", preferred=("main", "north")) == {"main": 3, "north": 4}, "the preferred together"
    assert taken(6, "e", preferred=("main",)) == {"south": 6}, "one other location before a split"
    assert taken(12, "f", preferred=("main",)) == {"main": 3, "south": 8, "north": 1}
    assert taken(16, "g") == {"south": 8, "north": 5, "main": 3}
    assert taken(17, "h") == {}
    assert taken(4, "i", preferred=("main",), allow_other=False) == {}, "others only if allowed"
    assert taken(8, "j", preferred=("main", "north", "main"), allow_other=False) == {"main": 3, "north": 5}


@pytest.mark.parametrize("location_id", ["", "default", "nowhere"])
def test_bug_2_and_43_an_unknown_or_empty_location_is_refused_at_every_command(location_id: str) -> None:
    for command in (
        reserve(1, "o2", preferred=(location_id,)),
        reserve(1, "o2", preferred=("main", location_id)),
        ReceiveStock(location_id, 1),
        AdjustStock(location_id, delta=1, reason="count"),
        ShipStock(ID, "o1~F1", units(1, location_id)),
    ):
        log = committed(4)
        before = log.rows
        assert log.when(command, command_id="step").refused.reason == Reason.UNKNOWN_LOCATION
        assert log.rows == before


@pytest.mark.parametrize("due_at", [0, -1, NOW - 1, NOW])
def test_bug_8_a_reservation_without_a_due_time_ahead_is_refused(due_at: int) -> None:
    log = stocked()
    assert log.when(reserve(due_at=due_at)).refused.reason == Reason.DUE_TIME_MISSING
    assert log.rows.reservation == {}


# -- transitions of a reservation, all pairs ------------------------------------------------------------------------------------------
def in_state(status: str) -> Log:
    log = reserved(4)
    if status in ("COMMITTED", "FULFILLED"):
        log.when(CommitReservation(ID))
    if status == "FULFILLED":
        log.when(ShipStock(ID, "o1~F1", units(4)), command_id="ship")
    if status == "RELEASED":
        log.when(ReleaseReservation(ID))
    if status == "EXPIRED":
        log.when(TimerDue("t", "expire", DUE, ID, 0))
    if status == "":
        log = stocked()
    return log


STATES = ("", "ACTIVE", "COMMITTED", "FULFILLED", "RELEASED", "EXPIRED")
STEPS: dict[str, Any] = {
    "reserve": reserve(4),
    "extend": ExtendReservation(ID, DUE + 5),
    "commit": CommitReservation(ID),
    "release": ReleaseReservation(ID),
    "ship": ShipStock(ID, "o1~F1", units(4)),
    "expire": TimerDue("t", "expire", DUE, ID, 0),
}
AFTER = {
    ("", "reserve"): "ACTIVE",
    ("", "release"): "RELEASED",
    ("ACTIVE", "extend"): "ACTIVE",
    ("ACTIVE", "commit"): "COMMITTED",
    ("ACTIVE", "release"): "RELEASED",
    ("ACTIVE", "expire"): "EXPIRED",
    ("COMMITTED", "ship"): "FULFILLED",
    ("COMMITTED", "release"): "RELEASED",
}
ANSWERED_AGAIN = {
    ("ACTIVE", "reserve"): "reserved",
    ("COMMITTED", "reserve"): "committed",
    ("COMMITTED", "commit"): "committed",
    ("FULFILLED", "reserve"): "shipped",
    ("FULFILLED", "commit"): "shipped",
    ("FULFILLED", "release"): "shipped",
    ("RELEASED", "release"): "released",
    ("EXPIRED", "release"): "expired",
}
REFUSED = {
    ("", "extend"): Reason.NOT_FOUND,
    ("", "commit"): Reason.NOT_FOUND,
    ("", "ship"): Reason.NOT_FOUND,
    ("ACTIVE", "ship"): Reason.ILLEGAL_TRANSITION,
    ("COMMITTED", "extend"): Reason.RESERVATION_FINAL,
    ("FULFILLED", "extend"): Reason.RESERVATION_FINAL,
    ("FULFILLED", "ship"): Reason.RESERVATION_FINAL,
    ("RELEASED", "reserve"): Reason.RESERVATION_FINAL,
    ("RELEASED", "extend"): Reason.RESERVATION_FINAL,
    ("RELEASED", "commit"): Reason.RESERVATION_FINAL,
    ("EXPIRED", "reserve"): Reason.RESERVATION_FINAL,
    ("EXPIRED", "extend"): Reason.RESERVATION_EXPIRED,
    ("EXPIRED", "commit"): Reason.RESERVATION_EXPIRED,
}
SHIPPED_FROM_THE_SHELF = {("RELEASED", "ship"), ("EXPIRED", "ship")}
"""The units left although the reservation is gone: a fact, so on_hand is corrected and the reservation stays as it ended."""


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("status", STATES)
def test_every_pair_of_reservation_state_and_step(status: str, step: str) -> None:
    log = in_state(status)
    before = log.rows
    outcome = log.when(STEPS[step], command_id="step", at=DUE - seconds(1) if step != "expire" else None)
    row = log.rows.reservation.get(ID)
    pair = (status, step)
    if pair in AFTER:
        assert outcome.refused is None and outcome.events
        assert row.status == AFTER[pair]
        assert stock.TRANSITIONS.allows(status, AFTER[pair])
    elif pair in ANSWERED_AGAIN:
        assert outcome.recalled and log.rows == before
        assert [send.command.outcome for send in outcome.sends] == [ANSWERED_AGAIN[pair]]
    elif pair in REFUSED:
        assert outcome.refused.reason == REFUSED[pair] and log.rows == before
    elif pair in SHIPPED_FROM_THE_SHELF:
        assert counters(log) == (6, 0, 0, 6) and row.status == status
    else:
        assert step == "expire" and outcome.events == [] and log.rows == before


def test_the_pairs_above_are_the_transition_table() -> None:
    assert {(source, target) for (source, _), target in AFTER.items()} == stock.TRANSITIONS.pairs
    assert stock.TRANSITIONS.finals == {"FULFILLED", "RELEASED", "EXPIRED"}


# -- committing, extending, releasing, expiring ---------------------------------------------------------------------------------------
def test_commit_moves_units_from_reserved_to_allocated_and_stops_the_clock() -> None:
    log = reserved(4)
    outcome = log.when(CommitReservation(ID))
    assert outcome.events == [ReservationCommitted(ID, HOLDER, 4, units(4))]
    assert outcome.sends == answer("committed", 4, 4, 6)
    assert counters(log) == (10, 0, 4, 6)
    assert list(log.timers()) == []


def test_commit_of_an_expired_or_released_reservation_tells_the_order_that_outcome() -> None:
    for status, outcome in (("EXPIRED", "expired"), ("RELEASED", "released")):
        sends = in_state(status).when(CommitReservation(ID)).sends
        assert [(send.key, send.command.outcome, send.command.allocations) for send in sends] == [("o1", outcome, ())]


def test_commit_and_release_of_other_quantities_than_all_are_refused() -> None:
    assert reserved(4).when(CommitReservation(ID, 5)).refused.reason == Reason.QUANTITY_EXCEEDED
    assert reserved(4).when(CommitReservation(ID, 3)).refused.reason == Reason.QUANTITY_INVALID
    assert reserved(4).when(CommitReservation(ID, 4)).refused is None
    assert reserved(4).when(ReleaseReservation(ID, 3)).refused.reason == Reason.QUANTITY_INVALID
    assert reserved(4).when(ReleaseReservation(ID, 9)).events == [ReservationReleased(ID, HOLDER, 4, units(4))]


def test_extend_moves_the_due_time_at_most_to_twice_its_duration() -> None:
    log = reserved(4)
    outcome = log.when(ExtendReservation(ID, NOW + seconds(840)))
    assert outcome.events == [ReservationExtended(ID, HOLDER, 4, units(4), NOW + seconds(840))]
    assert [timer.due_at for timer in log.timers()] == [NOW + seconds(840)]
    assert log.when(ExtendReservation(ID, NOW + seconds(840))).recalled, "a repeat is nothing"
    assert log.when(ExtendReservation(ID, NOW + seconds(841))).refused.reason == Reason.EXTENSION_LIMIT
    assert log.when(ExtendReservation(ID, DUE)).refused.reason == Reason.DUE_TIME_MISSING, "never shorter"


def test_release_of_a_committed_reservation_puts_its_units_back() -> None:
    log = committed(4)
    outcome = log.when(ReleaseReservation(ID, reason="canceled"))
    assert outcome.events == [ReservationReleased(ID, HOLDER, 4, units(4), reason="canceled")]
    assert outcome.sends == answer("released", 4, 0, 10, reason="canceled")
    assert counters(log) == (10, 0, 0, 10)


def test_a_reservation_expires_by_its_timer_only_and_the_order_hears_of_it() -> None:
    log = reserved(4)
    assert log.when(reserve(7, "o2", due_at=DUE + 9), at=DUE + 1).refused.contended, "due, but nobody expires it lazily"
    (timer,) = log.timers()
    outcome = log.when(timer)
    assert outcome.events == [ReservationExpired(ID, HOLDER, 4, units(4), DUE)]
    assert outcome.sends == answer("expired", 4, 0, 10)
    assert counters(log) == (10, 0, 0, 10)


@pytest.mark.parametrize(
    "timer",
    [
        TimerDue("t", "expire", DUE - 1, ID, 0),
        TimerDue("t", "warn", DUE, ID, 0),
        TimerDue("t", "expire", DUE, f"{SKU}~o9~1", 0),
    ],
)
def test_an_outdated_timer_is_nothing(timer: TimerDue) -> None:
    log = reserved(4)
    assert log.when(timer).events == []
    assert counters(log) == (10, 4, 0, 6)


# -- the rest of the contract ---------------------------------------------------------------------------------------------------------
def test_losers_on_a_hot_sku_move_the_sequence_and_not_the_version() -> None:
    log = reserved(10)
    version = log.snapshot("stock").version
    for number in range(40):
        log.when(reserve(1, f"loser-{number}"))
    assert log.snapshot("stock").version == version
    assert log.snapshot("stock").sequence == 43


def test_a_snapshot_shows_a_sku_only_when_it_changed() -> None:
    log = stocked(10)
    assert stock.snapshots(log.rows, log.rows, 3, NOW) == ()
    assert stock.snapshots(stock.INITIAL, stock.INITIAL, 0, NOW) == ()
    assert not stock.waits(log.rows, reserve(), "command")


def test_an_event_that_does_not_fit_leaves_the_rows_as_they_are() -> None:
    for event in (
        StockReserved(ID, HOLDER, 4, units(4), DUE),
        ReservationCommitted(ID, HOLDER, 4, units(4)),
        ReservationExtended(ID, HOLDER, 4, units(4), DUE + 9),
    ):
        log = committed(4)
        before = log.rows
        assert log.given(event).rows == before
    log = stocked()
    before = log.rows
    assert log.given(ReservationCommitted(ID, HOLDER, 4, units(4))).rows == before
    event, meta = ReservationReleased(ID, HOLDER, 4, units(4)), log.events[-1][1]
    assert stock.react(stock.INITIAL, event, meta) == ()
    ended = in_state("RELEASED")
    before = ended.rows
    assert ended.given(ReservationExpired(ID, HOLDER, 4, units(4), DUE)).rows == before


def test_violations_name_what_is_wrong() -> None:
    rows = stock.State(
        SKU,
        stock.StockRow(1, cells=(stock.stock_fold.moved_on_hand(stock.stock_movements.Cell("main", 0), -1),)),
        {ID: stock.ReservationRow(ID, SKU, HOLDER, ReservationStatus.RELEASED, 5, allocations=units(4))},
    )
    found = stock.violations(rows)
    assert len(found) == 4
    assert stock.violations(stock.INITIAL) == ()


def test_a_reservation_without_an_order_is_told_to_nobody() -> None:
    log = stocked()
    outcome = log.when(ReserveStock("gibberish", Holder(""), 1, DUE))
    assert outcome.refused is not None and outcome.sends == []
