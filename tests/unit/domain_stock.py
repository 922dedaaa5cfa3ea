"""A sku as far as a test needs it: stocked, reserved, committed, and what its cells and answers are."""

from typing import Any

from domain_harness import NOW, Log, seconds

from orderflow.streams.domain.contract import Send
from orderflow.streams.domain.order_records import RecordStockAnswer
from orderflow.streams.domain.parts import Holder, Qty
from orderflow.streams.domain.stock_records import (
    CommitReservation,
    ReceiveStock,
    ReserveStock,
)

SKU = "LIMITED-SKU"
DUE = NOW + seconds(420)
HOLDER = Holder("o1", 1)
ID = f"{SKU}~o1~1"


def units(quantity: int, location_id: str = "main") -> tuple[Qty, ...]:
    return (Qty(location_id, "", quantity),)


def stocked(quantity: int = 10, location_id: str = "main") -> Log:
    log = Log("stock", SKU)
    log.when(ReceiveStock(location_id, quantity, reference="r"), command_id="receipt")
    return log


def reserve(quantity: int = 4, order_id: str = "o1", attempt: int = 1, **more: Any) -> ReserveStock:
    more.setdefault("due_at", DUE)
    return ReserveStock(f"{SKU}~{order_id}~{attempt}", Holder(order_id, attempt), quantity, **more)


def reserved(quantity: int = 4, on_hand: int = 10) -> Log:
    log = stocked(on_hand)
    assert log.when(reserve(quantity)).refused is None
    return log


def committed(quantity: int = 4, on_hand: int = 10) -> Log:
    log = reserved(quantity, on_hand)
    assert log.when(CommitReservation(ID)).refused is None
    return log


def cell(log: Log, location_id: str = "main") -> Any:
    return next(each for each in log.snapshot("stock").cells if each.location_id == location_id)


def counters(log: Log, location_id: str = "main") -> tuple[int, int, int, int]:
    """on_hand, reserved, allocated, available."""
    found = cell(log, location_id)
    return found.on_hand, found.reserved, found.allocated, found.available


def answer(outcome: str, quantity: int, kept: int, available: int, **more: Any) -> list[Send]:
    allocations = units(kept) if kept else ()
    return [Send("orders", "o1", RecordStockAnswer(ID, SKU, outcome, quantity, allocations, available_after=available, **more))]
