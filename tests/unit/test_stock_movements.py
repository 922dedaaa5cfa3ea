"""Movements: receipts, counts and shipments are facts; what they do to on_hand, to reservations, and what is refused."""

from typing import Any

import pytest
from domain_harness import NOW, Log
from domain_stock import HOLDER, ID, SKU, answer, cell, committed, counters, reserve, stocked, units

from orderflow.streams.domain import stock
from orderflow.streams.domain.contract import Refused
from orderflow.streams.domain.reasons import Reason
from orderflow.streams.domain.stock_records import (
    AdjustStock,
    AllocationLost,
    CommitReservation,
    MovementRecorded,
    ReceiveStock,
    ReservationReleased,
    ShipStock,
    StockChanged,
    StockShipped,
)
from orderflow.streams.domain.stock_rows import ReservationStatus


# -- movements ------------------------------------------------------------------------------------------------------------------------
def test_the_first_receipt_introduces_a_sku() -> None:
    log = Log("stock", SKU)
    outcome = log.when(ReceiveStock("main", 10, reference="delivery 7"))
    assert outcome.events == [
        MovementRecorded("command:receive:main", "main", "", "receive", 10, 0, 10, "available", "delivery 7", "receive"),
        StockChanged("main", 10, 0, 10, "RECEIVED", "delivery 7"),
    ]
    assert outcome.sends == [] and counters(log) == (10, 0, 0, 10)
    assert log.snapshot("stock").version == 1


@pytest.mark.parametrize("disposition", ["damaged", "quality_control"])
def test_units_that_are_not_good_are_on_hand_and_not_for_sale(disposition: str) -> None:
    log = stocked(5)
    log.when(ReceiveStock("main", 3, disposition=disposition), command_id="2")
    assert counters(log) == (8, 0, 0, 5)
    assert getattr(cell(log), disposition) == 3


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (ReceiveStock("main", 0), Reason.QUANTITY_INVALID),
        (ReceiveStock("main", -1), Reason.QUANTITY_INVALID),
        (ReceiveStock("main", 10**10), Reason.QUANTITY_INVALID),
        (ReceiveStock("", 1), Reason.UNKNOWN_LOCATION),
        (ReceiveStock("default", 1), Reason.UNKNOWN_LOCATION),
        (ReceiveStock("main", 1, disposition="lost"), Reason.SCHEMA_INVALID),
        (AdjustStock("main", delta=0, reason="count"), Reason.QUANTITY_INVALID),
        (AdjustStock("main", delta=10**10, reason="count"), Reason.QUANTITY_INVALID),
        (AdjustStock("", delta=1, reason="count"), Reason.UNKNOWN_LOCATION),
        (AdjustStock("main", delta=1), Reason.SCHEMA_INVALID),
        (AdjustStock("main", delta=1, expected=9, reason="count"), Reason.VERSION_CONFLICT),
        (AdjustStock("main", delta=-11, reason="count"), Reason.WOULD_GO_NEGATIVE),
        (AdjustStock("north", delta=-1, reason="count"), Reason.WOULD_GO_NEGATIVE),
        (ShipStock(ID, "o1~F1"), Reason.QUANTITY_INVALID),
        (ShipStock(ID, "o1~F1", units(-1)), Reason.QUANTITY_INVALID),
        (ShipStock(ID, "o1~F1", units(1, "")), Reason.UNKNOWN_LOCATION),
        (ShipStock(ID, "o1~F1", units(1, "nowhere")), Reason.UNKNOWN_LOCATION),
    ],
)
def test_a_movement_is_refused_with_its_reason(command: Any, reason: Reason) -> None:
    log = committed(4)
    before = log.rows
    assert log.when(command).refused.reason == reason
    assert log.rows == before


def test_movements_of_unknown_skus_and_impossible_ids_are_refused() -> None:
    assert Log("stock", SKU).when(AdjustStock("main", delta=1, reason="count")).refused.reason == Reason.UNKNOWN_SKU
    assert Log("stock", "no such~id").when(ReceiveStock("main", 1)).refused.reason == Reason.SCHEMA_INVALID
    assert stocked().when(AdjustStock("main", delta=1, reason="c"), expected_version=7).refused.reason == Reason.VERSION_CONFLICT
    assert stocked().when(AdjustStock("main", delta=1, reason="c"), deadline_at=NOW - 1).refused.reason == Reason.DEADLINE_PASSED


def test_an_adjustment_corrects_on_hand_with_a_reason() -> None:
    log = stocked(10)
    outcome = log.when(AdjustStock("main", delta=-3, expected=10, reason="shrinkage", reference="count 4"))
    assert outcome.events == [
        MovementRecorded("command:adjust:main", "main", "", "adjust", -3, 10, 7, "shrinkage", "count 4", "adjust"),
        StockChanged("main", 7, 10, 7, "ADJUSTED", "count 4"),
    ]
    log.when(AdjustStock("main", delta=5, reason="found"), command_id="2")
    assert counters(log) == (12, 0, 0, 12)


def test_bug_60_a_count_below_what_is_promised_takes_unpaid_youngest_first_then_committed_youngest() -> None:
    log = stocked(12)
    for number, order_id in enumerate(("old", "young", "paid-old", "paid-young")):
        log.when(reserve(3, order_id), at=NOW + number)
    for order_id in ("paid-old", "paid-young"):
        log.when(CommitReservation(f"{SKU}~{order_id}~1"))
    outcome = log.when(AdjustStock("main", delta=-8, reason="breakage"))
    lost = [event for event in outcome.events if isinstance(event, AllocationLost)]
    assert [(event.holder.order_id, event.quantity) for event in lost] == [("young", 3), ("old", 3), ("paid-young", 2)]
    assert [send.command.outcome for send in outcome.sends] == ["lost"] * 3
    assert [sum(qty.quantity for qty in send.command.allocations) for send in outcome.sends] == [0, 0, 1]
    assert counters(log) == (4, 0, 4, 0)
    assert log.rows.reservation[f"{SKU}~old~1"].status is ReservationStatus.RELEASED
    assert isinstance(outcome.events[-2], MovementRecorded), "losses first, so that no cell is ever below zero"


def test_a_count_takes_only_what_is_missing_and_only_at_its_location() -> None:
    log = stocked(5)
    log.when(ReceiveStock("north", 5), command_id="2")
    log.when(reserve(4, "m", preferred=("main",), allow_other=False))
    log.when(reserve(4, "n", preferred=("north",), allow_other=False))
    outcome = log.when(AdjustStock("main", delta=-2, reason="breakage"))
    assert [(event.holder.order_id, event.quantity) for event in outcome.events if isinstance(event, AllocationLost)] == [("m", 1)]
    assert counters(log) == (3, 3, 0, 0) and counters(log, "north") == (5, 4, 0, 1)


def test_a_count_below_what_is_set_aside_takes_from_there_last() -> None:
    log = stocked(2)
    log.when(ReceiveStock("main", 3, disposition="damaged"), command_id="2")
    log.when(ReceiveStock("main", 2, disposition="quality_control"), command_id="3")
    log.when(reserve(2))
    outcome = log.when(AdjustStock("main", delta=-5, reason="fire"))
    assert [event.quantity for event in outcome.events if isinstance(event, AllocationLost)] == [2]
    found = cell(log)
    assert (found.on_hand, found.damaged, found.quality_control, found.available) == (2, 2, 0, 0)


def test_a_count_that_would_touch_too_many_reservations_asks_for_smaller_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stock.stock_movements, "TAKEN_FROM_MAX", 2)
    log = stocked(4)
    for number in range(4):
        log.when(reserve(1, f"o{number}"))
    refused = log.when(AdjustStock("main", delta=-3, reason="fire")).refused
    assert (refused.reason, refused.detail) == (Reason.QUANTITY_EXCEEDED, {"most": "2"})
    assert log.when(AdjustStock("main", delta=-2, reason="fire")).refused is None
    assert counters(log) == (2, 2, 0, 0)


def test_shipping_takes_units_off_hand_once() -> None:
    log = committed(4)
    outcome = log.when(ShipStock(ID, "o1~F1", units(4)))
    assert outcome.events == [
        StockShipped(ID, HOLDER, 4, units(4), None, "o1~F1"),
        MovementRecorded("command:ship:main", "main", "", "ship", -4, 10, 6, "shipped", "o1~F1", "ship"),
        StockChanged("main", 6, 6, 6, "SHIPPED", "o1~F1"),
    ]
    assert outcome.sends == answer("shipped", 4, 0, 6)
    assert counters(log) == (6, 0, 0, 6)


def test_bug_55_a_partial_ship_deducts_what_was_picked_and_releases_the_rest() -> None:
    log = committed(10)
    outcome = log.when(ShipStock(ID, "o1~F1", units(8)))
    assert outcome.events[-1] == ReservationReleased(ID, HOLDER, 2, units(2), None, "o1~F1", "SHORT_SHIPPED")
    assert counters(log) == (2, 0, 0, 2)
    row = log.rows.reservation[ID]
    assert (row.status, row.fulfilled, row.released, row.allocations) == (ReservationStatus.FULFILLED, 8, 2, ())


def test_each_location_of_a_reservation_ships_by_itself() -> None:
    log = stocked(3)
    log.when(ReceiveStock("north", 3), command_id="2")
    log.when(reserve(6))
    log.when(CommitReservation(ID))
    log.when(ShipStock(ID, "o1~F1", units(2)), command_id="s1")
    row = log.rows.reservation[ID]
    assert (row.status, row.fulfilled, row.released, row.allocations) == (ReservationStatus.COMMITTED, 2, 1, units(3, "north"))
    log.when(ShipStock(ID, "o1~F2", units(0, "north")), command_id="s2")
    assert log.rows.reservation[ID].status is ReservationStatus.FULFILLED
    assert counters(log) == (1, 0, 0, 1) and counters(log, "north") == (3, 0, 0, 3)


def test_units_that_left_although_they_were_lost_are_taken_from_the_shelf() -> None:
    log = committed(4, on_hand=5)
    log.when(AdjustStock("main", delta=-3, reason="count"), command_id="count")
    log.when(AdjustStock("main", delta=2, reason="found"), command_id="found")
    outcome = log.when(ShipStock(ID, "o1~F1", units(4)))
    assert StockShipped(ID, HOLDER, 4, units(2), None, "o1~F1") in outcome.events
    assert counters(log) == (0, 0, 0, 0)


def test_a_shipment_the_shelf_cannot_explain_is_recorded_and_never_makes_a_negative() -> None:
    log = committed(4, on_hand=4)
    log.when(AdjustStock("main", delta=-3, reason="count"), command_id="count")
    outcome = log.when(ShipStock(ID, "o1~F1", units(4)))
    assert [event.reason for event in outcome.events if isinstance(event, Refused)] == [Reason.WOULD_GO_NEGATIVE]
    assert counters(log) == (0, 0, 0, 0)
