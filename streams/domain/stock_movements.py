"""Movements: the three ways on_hand changes - units arrive, leave, or turn out to be more or fewer than the books say.

They are facts. A count below what is promised takes units from reservations, unpaid youngest first, then committed youngest.
"""

from collections.abc import Iterator

from orderflow.streams.domain.cells import cell_at, moved_on_hand
from orderflow.streams.domain.contract import Get, Range, Refused, Send, Turn
from orderflow.streams.domain.ids import is_id
from orderflow.streams.domain.parts import Qty, units
from orderflow.streams.domain.reasons import Reason
from orderflow.streams.domain.refusals import refusal, untimely
from orderflow.streams.domain.stock_records import (
    AdjustStock,
    AllocationLost,
    MovementRecorded,
    ReceiveStock,
    ReservationReleased,
    ShipStock,
    StockChanged,
    StockShipped,
)
from orderflow.streams.domain.stock_rows import Cell, ReservationRow, ReservationStatus, State

DISPOSITIONS = ("available", "damaged", "quality_control")
TAKEN_FROM_MAX = 1000
"""How many open reservations one count may look at; a larger shrinkage is posted in several counts."""
_YOUNGEST_FIRST = 10**19
"""Above every time in microseconds that fits a long, so that the difference sorts the youngest first."""

Moved = MovementRecorded | StockChanged


def taking_order(row: ReservationRow) -> str | None:
    """Index entry of an open reservation: sorts in the order in which a shrinkage takes units."""
    if row.status is ReservationStatus.ACTIVE:
        rank = "0"
    elif row.status is ReservationStatus.COMMITTED:
        rank = "1"
    else:
        return None
    return f"{row.sku}~{rank}~{_YOUNGEST_FIRST - row.created_at:020d}"


def reads_to_adjust(key: str, command: AdjustStock) -> tuple[Get | Range, ...]:
    """The sku; and when it shrinks, its open reservations in the order in which they lose units."""
    if command.delta >= 0:
        return (Get("stock", key),)
    return (Get("stock", key), Range("reservation", f"{key}~", TAKEN_FROM_MAX, "open"))


def receive(state: State, command: ReceiveStock, turn: Turn) -> tuple[Moved | Refused, ...]:
    """Units arrive. The first receipt of an unknown sku introduces it; damaged ones are on hand but not for sale."""
    if not is_id(turn.key):
        return refusal(command, Reason.SCHEMA_INVALID, field="sku")
    if command.disposition not in DISPOSITIONS:
        return refusal(command, Reason.SCHEMA_INVALID, field="disposition")
    if not 1 <= command.quantity <= turn.settings.receipt_quantity_max:
        return refusal(command, Reason.QUANTITY_INVALID, quantity=str(command.quantity))
    if command.location_id not in turn.settings.locations:
        return refusal(command, Reason.UNKNOWN_LOCATION, location_id=command.location_id)
    cell = _cell(state, command.location_id)
    good = command.quantity if command.disposition == "available" else 0
    after = moved_on_hand(
        cell,
        cell.on_hand + command.quantity,
        damaged=command.quantity if command.disposition == "damaged" else 0,
        quality_control=command.quantity if command.disposition == "quality_control" else 0,
    )
    assert after.free == cell.free + good, "what is not good must not be free"
    return (
        MovementRecorded(
            _movement_id(turn, "receive", command.location_id),
            command.location_id,
            command.lot,
            "receive",
            command.quantity,
            cell.on_hand,
            after.on_hand,
            command.disposition,
            command.reference,
            "receive",
            command.unit_cost,
        ),
        _changed(cell, after, "RECEIVED", command.reference),
    )


def adjust(state: State, command: AdjustStock, turn: Turn) -> tuple[Moved | AllocationLost | Refused, ...]:
    """A count or breakage corrects on_hand; units that were promised and are not there are lost by their reservations first."""
    reason = untimely(turn, state.stock.version if state.stock else 0)
    if reason is not None:
        return refusal(command, reason)
    if not command.reason:
        return refusal(command, Reason.SCHEMA_INVALID, field="reason")
    if command.delta == 0 or abs(command.delta) > turn.settings.receipt_quantity_max:
        return refusal(command, Reason.QUANTITY_INVALID, delta=str(command.delta))
    if state.stock is None:
        return refusal(command, Reason.UNKNOWN_SKU)
    if command.location_id not in turn.settings.locations:
        return refusal(command, Reason.UNKNOWN_LOCATION, location_id=command.location_id)
    cell = _cell(state, command.location_id)
    if command.expected is not None and command.expected != cell.on_hand:
        return refusal(command, Reason.VERSION_CONFLICT, expected=str(command.expected), on_hand=str(cell.on_hand))
    if cell.on_hand + command.delta < 0:
        return refusal(command, Reason.WOULD_GO_NEGATIVE, on_hand=str(cell.on_hand), delta=str(command.delta))
    missing = max(0, -(cell.free + command.delta))
    lost = tuple(_losses(state, command, missing))
    taken = sum(event.quantity for event in lost)
    if missing - taken > cell.damaged + cell.quality_control:  # more open reservations than one count may look at
        return refusal(command, Reason.QUANTITY_EXCEEDED, most=str(-command.delta - missing + taken))
    reserved = sum(event.quantity for event in lost if state.reservation[event.reservation_id].status is ReservationStatus.ACTIVE)
    left = Cell(
        cell.location_id,
        cell.on_hand,
        cell.allocated - (taken - reserved),
        cell.reserved - reserved,
        cell.incoming,
        cell.damaged,
        cell.quality_control,
        cell.safety_target,
        cell.safety_stock,
        cell.backordered,
    )
    after = moved_on_hand(left, cell.on_hand + command.delta)
    return (
        *lost,
        MovementRecorded(
            _movement_id(turn, "adjust", command.location_id),
            command.location_id,
            command.lot,
            "adjust",
            command.delta,
            cell.on_hand,
            after.on_hand,
            command.reason,
            command.reference,
            "adjust",
        ),
        _changed(cell, after, "ADJUSTED", command.reference),
    )


def _losses(state: State, command: AdjustStock, missing: int) -> Iterator[AllocationLost]:
    """Take the missing units from open reservations that keep some at this location."""
    rows = [(order, row.reservation_id, row) for row in state.reservation.values() if (order := taking_order(row)) is not None]
    for _, _, row in sorted(rows, key=lambda entry: entry[:2]):
        if missing <= 0:
            return
        taken = []
        for qty in row.allocations:
            if qty.location_id == command.location_id and missing > 0:
                taken.append(Qty(qty.location_id, qty.lot, min(qty.quantity, missing)))
                missing -= taken[-1].quantity
        if taken:
            yield AllocationLost(row.reservation_id, row.holder, units(taken), tuple(taken), row.due_at, "", command.reason)


def ship(state: State, command: ShipStock, turn: Turn) -> tuple[Moved | StockShipped | ReservationReleased | Refused, ...]:
    """Units have left. At each named location the reservation is settled: picked units are fulfilled, the rest is released.

    Units that left although their reservation has ended are a fact too: they come off the shelf.
    """
    row = state.reservation.get(command.reservation_id)
    if row is None:
        return refusal(command, Reason.NOT_FOUND, reservation_id=command.reservation_id)
    if row.status is ReservationStatus.ACTIVE:
        return refusal(command, Reason.ILLEGAL_TRANSITION, reservation_id=command.reservation_id)
    if row.status is ReservationStatus.FULFILLED:
        return refusal(command, Reason.RESERVATION_FINAL, reservation_id=command.reservation_id)
    if not command.picked or any(qty.quantity < 0 for qty in command.picked):
        return refusal(command, Reason.QUANTITY_INVALID, reservation_id=command.reservation_id)
    for qty in command.picked:
        if qty.location_id not in turn.settings.locations:
            return refusal(command, Reason.UNKNOWN_LOCATION, location_id=qty.location_id)
    shipped: list[Moved | StockShipped] = []
    rest: list[Qty] = []
    for location_id in dict.fromkeys(qty.location_id for qty in command.picked):
        picked = sum(qty.quantity for qty in command.picked if qty.location_id == location_id)
        kept = sum(qty.quantity for qty in row.allocations if qty.location_id == location_id)
        if picked:
            shipped += _shipped(state, command, turn, row, Qty(location_id, "", min(picked, kept)), picked)
        if kept > picked:
            rest.append(Qty(location_id, "", kept - picked))
    if not rest:
        return tuple(shipped)
    short = ReservationReleased(row.reservation_id, row.holder, units(rest), tuple(rest), None, command.fulfillment_id, "SHORT_SHIPPED")
    return (*shipped, short)


def _shipped(
    state: State, command: ShipStock, turn: Turn, row: ReservationRow, from_reservation: Qty, picked: int
) -> list[Moved | StockShipped]:
    """The events of units leaving one location; what the reservation no longer kept there is found at the shelf by a count."""
    events: list[Moved | StockShipped] = [
        StockShipped(row.reservation_id, row.holder, picked, (from_reservation,), None, command.fulfillment_id)
    ]
    quantity = from_reservation.quantity
    if quantity:
        cell = _cell(state, from_reservation.location_id)
        events.append(
            MovementRecorded(
                _movement_id(turn, "ship", cell.location_id),
                cell.location_id,
                "",
                "ship",
                -quantity,
                cell.on_hand,
                cell.on_hand - quantity,
                "shipped",
                command.fulfillment_id,
                "ship",
            )
        )
        available, on_hand = cell.available, cell.on_hand - quantity
        events.append(StockChanged(cell.location_id, available, available, on_hand, "SHIPPED", command.fulfillment_id))
    return events


def found_at_the_shelf(state: State, event: StockShipped) -> tuple[Send, ...]:
    """Units that left although the reservation had lost them: they came from the shelf, so the shelf is corrected."""
    excess = event.quantity - units(event.allocations)
    if excess <= 0:
        return ()
    location_id = event.allocations[0].location_id
    correction = AdjustStock(location_id, delta=-excess, reason="shipped_unreserved", reference=event.fulfillment_id)
    return (Send("stock", state.key, correction),)


def _cell(state: State, location_id: str) -> Cell:
    return cell_at(state.stock.cells if state.stock else (), location_id)


def _movement_id(turn: Turn, kind: str, location_id: str) -> str:
    """Unique among the movements of a sku; a rule does not know the sequence its event will get."""
    return f"{turn.meta.command_id}:{kind}:{location_id}"


def _changed(before: Cell, after: Cell, change: str, reference: str) -> StockChanged:
    return StockChanged(before.location_id, after.available, before.available, after.on_hand, change, reference)
