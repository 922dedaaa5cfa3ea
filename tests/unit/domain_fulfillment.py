"""Fulfillments as far as a test needs them: posts, and an order whose fulfillment has come this far."""

from typing import Any

from domain_harness import NOW, Log, Outcome
from domain_orders import confirmed, item, placed

from orderflow.streams.domain.fulfillment_steps import (
    WAY,
)
from orderflow.streams.domain.order_records import (
    FulfillmentStatus,
    FulfillmentStatusChanged,
    LineQuantity,
    PostFulfillmentStatus,
    RecordDelivery,
    RecordStockAnswer,
)
from orderflow.streams.domain.parts import Qty

F = FulfillmentStatus
WORDS = ("picking", "picked", "packed", "shipped")


def post(status: str, *lines: LineQuantity, target: str = "o1") -> PostFulfillmentStatus:
    return PostFulfillmentStatus(target, status, None, lines)


def at_status(status: FulfillmentStatus, *lines: Any) -> Log:
    """A fulfillment that has come this far."""
    log = confirmed(*lines)
    for step in WAY[WAY.index(F.PICKING) : WAY.index(min(status, F.SHIPPED, key=WAY.index)) + 1]:
        log.when(post(step.lower()), command_id=f"to-{step}")
    if status is F.COMPLETED:
        log.when(RecordDelivery("", "", NOW))
    assert log.rows.fulfillment["o1~F1"].status is status
    return log


def two_locations() -> Log:
    """An order of 5 units, 3 of them in main and 2 in north."""
    log = placed(item(quantity=5))
    log.when(RecordStockAnswer("A~o1~1", "A", "reserved", 5, (Qty("main", "", 3), Qty("north", "", 2))))
    log.when(RecordStockAnswer("A~o1~1", "A", "committed", 5, (Qty("main", "", 3), Qty("north", "", 2))))
    return log


def ship(log: Log, target: str = "o1") -> None:
    """Everything a warehouse reports, one after the other."""
    for word in WORDS:
        log.when(post(word, target=target), command_id=f"{target} {word}")


def went(outcome: Outcome) -> list[tuple[str, bool]]:
    return [(event.new_status.lower(), event.implied) for event in outcome.events if isinstance(event, FulfillmentStatusChanged)]


def current(log: Log, name: str = "o1~F1") -> FulfillmentStatus:
    found: FulfillmentStatus = log.rows.fulfillment[name].status
    return found


def progress(log: Log, name: str = "o1~F1") -> list[tuple[str, int, int, int, int]]:
    return [(line.line_id, line.ordered, line.picked, line.packed, line.shipped) for line in log.rows.fulfillment[name].lines]
