"""The way of an order as data, the one event that moves it, and the labels people see (domain.md 2.2)."""

from collections.abc import Collection, Iterable

from orderflow.streams.domain import fulfillment_steps, money
from orderflow.streams.domain.contract import MICROS_PER_S, Turn
from orderflow.streams.domain.order_records import FulfillmentStatus, OrderStatus, OrderStatusChanged
from orderflow.streams.domain.order_rows import Hold, OrderLine, OrderRow
from orderflow.streams.domain.transitions import Transition, Transitions

PENDING, CONFIRMED, PROCESSING = OrderStatus.PENDING, OrderStatus.CONFIRMED, OrderStatus.PROCESSING
SHIPPED, DELIVERED, COMPLETED = OrderStatus.SHIPPED, OrderStatus.DELIVERED, OrderStatus.COMPLETED
REJECTED, CANCEL_PENDING, CANCELED = OrderStatus.REJECTED, OrderStatus.CANCEL_PENDING, OrderStatus.CANCELED
EXPIRED, FAILED = OrderStatus.EXPIRED, OrderStatus.FAILED

TRANSITIONS = Transitions(
    "order",
    (
        Transition("", PENDING, "PlaceOrder"),
        Transition(PENDING, CONFIRMED, "every sku reserved, and the payment authorized where terms are prepaid"),
        Transition(PENDING, REJECTED, "a sku refused, the last payment declined, or give-up"),
        Transition(PENDING, FAILED, "the payment declined, and another try is allowed"),
        Transition(FAILED, PENDING, "RetryPayment"),
        Transition(FAILED, EXPIRED, "the payment window is over, or a reservation expired first"),
        Transition(FAILED, REJECTED, "units lost"),
        Transition(FAILED, CANCEL_PENDING, "CancelOrder"),
        Transition(PENDING, EXPIRED, "a reservation expired first, or the payment window is over"),
        Transition(PENDING, CANCEL_PENDING, "CancelOrder"),
        Transition(CONFIRMED, PROCESSING, "first fulfillment is planned"),
        Transition(CONFIRMED, CANCEL_PENDING, "CancelOrder, or units lost"),
        Transition(PROCESSING, SHIPPED, "every open fulfillment shipped"),
        Transition(PROCESSING, CANCEL_PENDING, "CancelOrder, or units lost"),
        Transition(SHIPPED, DELIVERED, "nothing is on its way, and a fulfillment was delivered"),
        Transition(SHIPPED, CANCELED, "nothing of it was delivered, no money kept"),
        Transition(DELIVERED, COMPLETED, "seven days later"),
        Transition(CANCEL_PENDING, CANCELED, "every owner answered, no money kept"),
        Transition(CANCEL_PENDING, SHIPPED, "every owner answered, a part was shipped"),
    ),
)
OPEN = frozenset({PENDING, FAILED, CONFIRMED, PROCESSING, CANCEL_PENDING})
"""Orders that stock answers can still move."""
COMPLETE = "complete"
"""The step of a delivered order that waits for its end."""
SYSTEM = "system"
"""Who changed it when nobody asked for it."""


def status_changed(
    order: OrderRow,
    previous: OrderStatus,
    new: OrderStatus,
    statuses: Iterable[FulfillmentStatus] = (),
    reason: str = "",
    changed_by: str = SYSTEM,
    due_at: int | None = None,
) -> OrderStatusChanged:
    """The event of one step; `statuses` are those of the order's fulfillments at that moment."""
    assert TRANSITIONS.allows(previous, new), f"no rule leads from {previous} to {new}"
    found = tuple(statuses)
    sums = money.totals(order.lines, order.currency)
    return OrderStatusChanged(
        order.order_number,
        previous,
        new,
        label(new, found, order.holds, order.lines),
        reason,
        changed_by,
        order.financial_status,
        fulfillment_steps.label(found),
        sums.total if sums else None,
        due_at,
    )


def delivered(order: OrderRow, statuses: Iterable[FulfillmentStatus], turn: Turn) -> OrderStatusChanged:
    """Everything that was shipped has arrived; the order completes by itself after a while."""
    due_at = turn.at + turn.settings.complete_after_s * MICROS_PER_S
    return status_changed(order, SHIPPED, DELIVERED, statuses, due_at=due_at)


def label(status: OrderStatus, statuses: Iterable[FulfillmentStatus], holds: Collection[Hold] = (), lines: Iterable[OrderLine] = ()) -> str:
    """The one word people see: a rejected order is canceled, one that is held says so, one in work shows how far its fulfillments are, and
    one of which a part was canceled says that until the warehouse begins.
    """
    if status is REJECTED:
        return "canceled"
    if holds and status in (PENDING, CONFIRMED, PROCESSING):
        return "on_hold"
    if status not in (PROCESSING, SHIPPED):
        return status.lower()
    found = fulfillment_steps.label(statuses)
    if found not in ("", "pending", "planning", "canceled", "completed"):
        return found
    return "partially_canceled" if status is PROCESSING and any(line.canceled for line in lines) else status.lower()
