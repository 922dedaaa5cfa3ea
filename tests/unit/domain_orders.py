"""Orders as far as a test needs them: lines, answers of stock, and an order in each status on the way that leads there."""

from typing import Any

from domain_harness import NOW, Log, seconds
from msgspec.structs import replace

from orderflow.streams.domain import orders
from orderflow.streams.domain.channel import BOX
from orderflow.streams.domain.order_records import (
    CancelOrder,
    PlacedLine,
    PlaceHold,
    PlaceOrder,
    PostFulfillmentStatus,
    RecordDelivery,
    RecordStockAnswer,
)
from orderflow.streams.domain.parts import Money, Qty
from orderflow.streams.domain.payment_records import RecordProviderResult
from orderflow.streams.domain.reasons import Reason

GIVE_UP = NOW + seconds(120)
UNTIL = NOW + seconds(420)


def item(line_id: str = "1", sku: str = "A", quantity: int = 1, **more: Any) -> PlacedLine:
    return PlacedLine(line_id, sku, quantity, **more)


def place(*lines: PlacedLine, channel: str = "box", **more: Any) -> PlaceOrder:
    return PlaceOrder(channel, lines=lines or (item(),), **more)


def answer(outcome: str, sku: str = "A", quantity: int = 1, attempt: int = 1, location_id: str = "main", **more: Any) -> RecordStockAnswer:
    keeps = outcome in ("reserved", "committed")
    kept = (Qty(location_id, "", quantity),) if keeps else ()
    return RecordStockAnswer(f"{sku}~o1~{attempt}", sku, outcome, quantity, more.pop("allocations", kept), **more)


def refused(sku: str = "A", quantity: int = 1, available: int = 0, reason: str = Reason.INSUFFICIENT_STOCK) -> RecordStockAnswer:
    return answer("refused", sku, quantity, available_after=available, reason=reason)


def placed(*lines: PlacedLine, **more: Any) -> Log:
    log = Log("orders", "o1")
    assert log.when(place(*lines, **more), command_id="place").refused is None
    return log


def confirmed(*lines: PlacedLine, committed: bool = True) -> Log:
    log = placed(*lines)
    for outcome in ("reserved", "committed") if committed else ("reserved",):
        for sku, quantity in orders.sourcing.demand(log.rows.order.lines).items():
            log.when(answer(outcome, sku, quantity))
    return log


def shipped(*lines: PlacedLine) -> Log:
    log = confirmed(*lines)
    for status in ("picking", "picked", "packed", "shipped"):
        log.when(PostFulfillmentStatus("o1", status), command_id=status)
    return log


def in_status(status: str) -> Log:
    """An order in this status, on the way that leads there."""
    match status:
        case "PENDING":
            return placed()
        case "REJECTED":
            log = placed()
            log.when(refused())
        case "FAILED":
            log = Log("orders", "o1", channel=replace(BOX, payment_attempts=2))
            log.when(place(item(unit_price=Money(500, "EUR")), payment_terms="prepaid"), command_id="place")
            log.when(answer("reserved"))
            log.when(RecordProviderResult("o1~A1", "authorize", 1, "declined"))
        case "EXPIRED":
            log = placed(item(), item("2", "B"))
            for each in (answer("reserved"), answer("expired"), answer("reserved", "B")):
                log.when(each)
        case "CONFIRMED":
            log = placed()
            for each in (PlaceHold("MANUAL"), answer("reserved"), answer("committed")):
                log.when(each)
        case "PROCESSING":
            return confirmed()
        case "CANCEL_PENDING":
            log = confirmed()
            log.when(CancelOrder(), command_id="cancel")
        case "CANCELED":
            log = confirmed()
            log.when(CancelOrder(), command_id="cancel")
            log.when(answer("released"))
        case "SHIPPED":
            return shipped()
        case "DELIVERED":
            log = shipped()
            log.when(RecordDelivery("", "", NOW))
        case "COMPLETED":
            log = in_status("DELIVERED")
            log.when(next(log.timers()))
        case _:
            raise KeyError(status)
    return log


REACHED = (
    *("PENDING", "FAILED", "REJECTED", "EXPIRED", "CONFIRMED", "PROCESSING"),
    *("CANCEL_PENDING", "CANCELED", "SHIPPED", "DELIVERED", "COMPLETED"),
)
"""Statuses an order rests in; in CONFIRMED it does while it is held."""
