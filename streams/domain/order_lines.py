"""Lines of an order: canceling some of their units while the rest goes on (domain.md 2.2).

Only units that no warehouse has begun to pick can be canceled; each is taken off the fulfillment it was assigned to, and its reservation
keeps what is left. Money follows the goods: what is not sent is never captured.
"""

from collections.abc import Iterator

from msgspec.structs import replace

from orderflow.streams.domain import fulfillment
from orderflow.streams.domain.contract import Send
from orderflow.streams.domain.fulfillment_steps import CANCELED, PICKING, RANKS, SHIPPED, reduced
from orderflow.streams.domain.order_records import (
    CancelOrder,
    FulfillmentReduced,
    FulfillmentStatusChanged,
    LineProgress,
    OrderLineCanceled,
    OrderStatusChanged,
)
from orderflow.streams.domain.order_rows import FulfillmentRow, OrderLine, OrderRow, State
from orderflow.streams.domain.order_status import CONFIRMED, PROCESSING
from orderflow.streams.domain.parts import Qty
from orderflow.streams.domain.reasons import Reason
from orderflow.streams.domain.stock_records import ReleaseReservation

Event = OrderLineCanceled | FulfillmentReduced | FulfillmentStatusChanged | OrderStatusChanged


def remaining(line: OrderLine) -> int:
    """Units that have neither left nor been canceled."""
    return line.quantity - line.shipped - line.canceled


def is_whole(order: OrderRow, command: CancelOrder) -> bool:
    """Does it mean all that is left of the order? No lines mean that too."""
    named = {line.line_id: line.quantity for line in command.lines}
    items = [line for line in order.lines if line.kind == "item"]
    return not named or all(named.get(line.line_id, 0) == remaining(line) for line in items)


def faults(state: State, order: OrderRow, command: CancelOrder) -> Iterator[tuple[Reason, dict[str, str]]]:
    """What is wrong with the lines it names, in the order of the reasons."""
    lines = {line.line_id: line for line in order.lines if line.kind == "item"}
    if len({named.line_id for named in command.lines}) != len(command.lines) or any(named.quantity < 1 for named in command.lines):
        yield Reason.QUANTITY_INVALID, {}
    for named in command.lines:
        if named.line_id not in lines:
            yield Reason.LINE_UNKNOWN, {"line_id": named.line_id}
    if order.status is not PROCESSING:
        if order.status is CONFIRMED:
            yield Reason.HOLD_ACTIVE, {"holds": order.held_by}
        yield Reason.ILLEGAL_TRANSITION, {"status": order.status.lower()}
    for named in command.lines:
        left, free = remaining(lines[named.line_id]), _free(state, named.line_id)
        if free < named.quantity <= left:
            yield Reason.ILLEGAL_TRANSITION, {"line_id": named.line_id, "possible": str(free)}
        if named.quantity > left:
            yield Reason.QUANTITY_EXCEEDED, {"line_id": named.line_id, "possible": str(free)}


def _untouched(state: State) -> list[FulfillmentRow]:
    """Fulfillments that nobody has begun to pick, the last made first."""
    rows = [row for row in state.fulfillment.values() if row.status in RANKS and RANKS[row.status] < RANKS[PICKING]]
    return sorted(rows, key=lambda row: (len(row.fulfillment_id), row.fulfillment_id), reverse=True)


def _free(state: State, line_id: str) -> int:
    return sum(line.ordered for row in _untouched(state) for line in row.lines if line.line_id == line_id)


def cancel(state: State, order: OrderRow, command: CancelOrder) -> tuple[Event, ...]:
    """Take the units off their fulfillments; one with nothing left to send is canceled, and so the order may be all shipped."""
    skus = {line.line_id: line.sku for line in order.lines}
    events: list[Event] = [OrderLineCanceled(each.line_id, skus[each.line_id], each.quantity, command.reason) for each in command.lines]
    fewer, changed = taken_off(state, {each.line_id: each.quantity for each in command.lines})
    return (*events, *fewer, *fulfillment.order_moved(state, order, changed))


def taken_off(state: State, units: dict[str, int]) -> tuple[list[Event], dict[str, FulfillmentRow]]:
    """So many units of each line come off the fulfillments that nobody has begun, and those fulfillments as they are then."""
    left, events, changed = dict(units), list[Event](), dict[str, FulfillmentRow]()
    for row in _untouched(state):
        less = []
        for line in row.lines:
            taken = min(line.ordered, left.get(line.line_id, 0))
            if taken:
                left[line.line_id] -= taken
                less.append(LineProgress(line.line_id, line.ordered - taken, line.picked, line.packed, line.shipped))
        if not less:
            continue
        event = FulfillmentReduced(row.fulfillment_id, row.location_id, tuple(less))
        events.append(event)
        row = reduced(row, event)
        if not any(line.ordered for line in row.lines):
            events.append(fulfillment.canceled(row))
            row = replace(row, status=CANCELED)
        changed[row.fulfillment_id] = row
    return events, changed


def given_back(state: State, event: FulfillmentReduced) -> Iterator[Send]:
    """Each reservation keeps what fulfillments are still to send of it, wherever that is. Said as a whole, so that a repeat is nothing."""
    row = state.fulfillment.get(event.fulfillment_id)
    named = {line.line_id for line in event.lines}
    reservations = {line.reservation_id: line.sku for line in row.lines if line.line_id in named} if row is not None else {}
    for reservation_id, sku in reservations.items():
        kept: dict[str, int] = {}
        for each in state.fulfillment.values():
            if each.status in RANKS and RANKS[each.status] < RANKS[SHIPPED]:
                for line in each.lines:
                    if line.reservation_id == reservation_id and line.ordered:
                        kept[each.location_id] = kept.get(each.location_id, 0) + line.ordered
        keeps = tuple(Qty(location_id, "", quantity) for location_id, quantity in sorted(kept.items()))
        yield Send("stock", sku, ReleaseReservation(reservation_id, reason="REDUCED", kept=keeps))
