"""Holds: reasons why an order may not go on (domain.md 2.2). A set beside the status: each is placed and released by itself.

While there is one, nothing is handed to a warehouse or a carrier and no money is captured; the payment window keeps running and a cancel
stays possible. People place and release them; the rules place PAYMENT, PAYMENT_EXPIRING and SHORT themselves.
"""

from collections.abc import Iterator

from orderflow.streams.domain import fulfillment
from orderflow.streams.domain.contract import Refused, Turn
from orderflow.streams.domain.order_records import (
    FulfillmentStatusIgnored,
    OrderHoldPlaced,
    OrderHoldReleased,
    PlaceHold,
    ReleaseHold,
)
from orderflow.streams.domain.order_rows import OrderRow, State
from orderflow.streams.domain.order_status import COMPLETED, CONFIRMED, DELIVERED, FAILED, PENDING, PROCESSING, SHIPPED
from orderflow.streams.domain.reasons import Reason
from orderflow.streams.domain.refusals import refusal, untimely

PAYMENT, PAYMENT_EXPIRING = "PAYMENT", "PAYMENT_EXPIRING"
"""A capture was declined, or the provider spoke of other money than was asked for; the authorization is about to end."""
HOLDS = ("FRAUD_REVIEW", "ADDRESS_INVALID", PAYMENT, PAYMENT_EXPIRING, "CAPACITY", "SHORT", "MANUAL")
GOING = frozenset({PENDING, FAILED, CONFIRMED, PROCESSING})
"""Orders that a hold can stop."""


def place(state: State, command: PlaceHold, turn: Turn) -> tuple[OrderHoldPlaced | FulfillmentStatusIgnored | Refused, ...]:
    """Stop the order. What waits to be handed over hears of it. A hold that is there already is answered as done."""
    order = state.order
    for reason, detail in _faults(order, command, turn):
        return refusal(command, reason, **detail)
    assert order is not None, "an order that nobody knows is a fault"
    if command.hold in names(order):
        return ()
    if order.status not in GOING:
        final = Reason.ALREADY_SHIPPED if order.status in (SHIPPED, DELIVERED, COMPLETED) else Reason.ALREADY_FINAL
        return refusal(command, final, status=order.status.lower())
    return (OrderHoldPlaced(command.hold, command.reason), *fulfillment.not_handed_over(state, Reason.HOLD_ACTIVE))


def release(state: State, command: ReleaseHold, turn: Turn) -> tuple[OrderHoldReleased | Refused, ...]:
    """Take one reason away; without the last the order goes on. A hold that is not there is answered as done."""
    order = state.order
    for reason, detail in _faults(order, command, turn):
        return refusal(command, reason, **detail)
    assert order is not None, "an order that nobody knows is a fault"
    return (OrderHoldReleased(command.hold, command.reason),) if command.hold in names(order) else ()


def _faults(order: OrderRow | None, command: PlaceHold | ReleaseHold, turn: Turn) -> Iterator[tuple[Reason, dict[str, str]]]:
    """What is wrong with it, whatever the order's status."""
    if order is None:
        yield Reason.NOT_FOUND, {}
        return
    reason = untimely(turn, order.version)
    if reason is not None:
        yield reason, {}
    if command.hold not in HOLDS:
        yield Reason.SCHEMA_INVALID, {"field": "hold", "possible": ", ".join(HOLDS)}


def placed(order: OrderRow | None, hold: str, reason: str) -> Iterator[OrderHoldPlaced]:
    """The rules' own hold, where the order still goes and has none of this name."""
    if order is not None and order.status in GOING and hold not in names(order):
        yield OrderHoldPlaced(hold, reason)


def names(order: OrderRow) -> tuple[str, ...]:
    """The order's holds, in the order in which they were placed."""
    return tuple(hold.hold for hold in order.holds)
