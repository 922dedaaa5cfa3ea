"""How events change a sku's rows: the fold. It never refuses; an event that does not fit the rows leaves them as they are."""

from collections.abc import Mapping

from msgspec.structs import replace

from orderflow.streams.domain.cells import Cells, cell_at, moved_on_hand, shifted, with_cell, without
from orderflow.streams.domain.contract import EventMeta, Refused
from orderflow.streams.domain.parts import Qty, units
from orderflow.streams.domain.stock_records import (
    AllocationLost,
    BackorderAllocated,
    BackorderQueued,
    MovementRecorded,
    ReservationCommitted,
    ReservationExpired,
    ReservationExtended,
    ReservationReleased,
    StockChanged,
    StockRefused,
    StockReserved,
    StockShipped,
)
from orderflow.streams.domain.stock_rows import ReservationRow, ReservationStatus, State, StockRow

ACTIVE, COMMITTED = ReservationStatus.ACTIVE, ReservationStatus.COMMITTED

ReservationEvent = (
    StockReserved
    | BackorderQueued
    | BackorderAllocated
    | ReservationExtended
    | ReservationCommitted
    | ReservationReleased
    | ReservationExpired
    | StockShipped
    | AllocationLost
)


Event = ReservationEvent | StockRefused | MovementRecorded | StockChanged | Refused


def evolve(state: State, event: Event, meta: EventMeta) -> State:
    """The rows after the event."""
    if isinstance(event, StockRefused | StockChanged | Refused):
        return state
    if isinstance(event, MovementRecorded):
        return _moved(state, event)
    row = state.reservation.get(event.reservation_id)
    if row is None:
        return _begun(state, event, meta)
    if row.status not in (ACTIVE, COMMITTED):
        return state
    match event:
        case StockReserved() | BackorderQueued():
            return state
        case BackorderAllocated():
            if not row.wanted:
                return state
            cells = shifted(_waited_for(state, row), event.allocations, reserved=1)
            return _with(state, replace(row, quantity=row.wanted, wanted=0, allocations=event.allocations), cells)
        case ReservationExtended():
            return _with(state, replace(row, due_at=event.due_at)) if row.status is ACTIVE else state
        case ReservationCommitted():
            if row.status is not ACTIVE:
                return state
            cells = shifted(_cells(state), event.allocations, reserved=-1, allocated=1)
            return _with(state, replace(row, status=COMMITTED, due_at=None), cells)
        case StockShipped():
            cells = shifted(_cells(state), event.allocations, allocated=-1, on_hand=-1)
            left = replace(row, fulfilled=row.fulfilled + units(event.allocations))
            return _with(state, _less(left, event.allocations, ReservationStatus.RELEASED), cells)
        case ReservationReleased() | AllocationLost() | ReservationExpired():
            end = ReservationStatus.EXPIRED if isinstance(event, ReservationExpired) else ReservationStatus.RELEASED
            cells = shifted(_waited_for(state, row), event.allocations, **_counter(row))
            left = replace(row, wanted=0, released=row.released + units(event.allocations))
            return _with(state, _less(left, event.allocations, end), cells)


def _begun(state: State, event: ReservationEvent, meta: EventMeta) -> State:
    """The first event of a reservation: it was made, or waits for its units, or was released before it could be."""
    if isinstance(event, StockReserved | BackorderQueued):
        row = ReservationRow(
            event.reservation_id,
            state.key,
            event.holder,
            ACTIVE,
            event.quantity,
            allocations=event.allocations,
            due_at=event.due_at,
            created_at=meta.occurred_at,
            original_due_at=event.due_at,
        )
        if isinstance(event, StockReserved):
            return _with(state, row, shifted(_cells(state), event.allocations, reserved=1))
        waits = replace(
            row,
            quantity=0,
            wanted=event.quantity,
            priority=event.priority,
            preferred=event.preferred,
            allow_other=event.allow_other,
            waits_since=meta.sequence,
            waits_in=event.preferred[0] if event.preferred else _cells(state)[0].location_id,
        )
        return _with(state, waits, _waits(_cells(state), waits, waits.wanted))
    if isinstance(event, ReservationReleased):
        row = ReservationRow(event.reservation_id, state.key, event.holder, ReservationStatus.RELEASED, 0, created_at=meta.occurred_at)
        return _with(state, row)
    return state


def _waits(cells: Cells, row: ReservationRow, units: int) -> Cells:
    """So many more units are waited for, or fewer below zero."""
    cell = cell_at(cells, row.waits_in)
    return with_cell(cells, replace(cell, backordered=cell.backordered + units))


def _waited_for(state: State, row: ReservationRow) -> Cells:
    """The cells when this reservation waits no more."""
    return _waits(_cells(state), row, -row.wanted) if row.wanted else _cells(state)


def _counter(row: ReservationRow) -> Mapping[str, int]:
    """Which counter of its cells a reservation's units are in, going down."""
    return {"reserved": -1} if row.status is ACTIVE else {"allocated": -1}


def _less(row: ReservationRow, taken: tuple[Qty, ...], end: ReservationStatus) -> ReservationRow:
    """The reservation without these units. When none are left it ends: fulfilled if any were shipped, else as `end` says."""
    left = without(row.allocations, taken)
    if left:
        return replace(row, allocations=left)
    return replace(row, allocations=(), status=ReservationStatus.FULFILLED if row.fulfilled else end, due_at=None)


def _moved(state: State, event: MovementRecorded) -> State:
    """on_hand is what the movement says it is now; receipts of units that are not good are set aside."""
    cell = cell_at(_cells(state), event.location_id)
    received = event.quantity if event.kind == "receive" else 0
    moved = moved_on_hand(
        cell,
        event.after,
        damaged=received if event.reason == "damaged" else 0,
        quality_control=received if event.reason == "quality_control" else 0,
    )
    if moved == cell and state.stock is not None:
        return state
    return replace(state, stock=_stock(state, with_cell(_cells(state), moved)))


def _cells(state: State) -> Cells:
    return state.stock.cells if state.stock else ()


def _stock(state: State, cells: Cells) -> StockRow:
    if state.stock is None:
        return StockRow(1, cells=cells)
    return replace(state.stock, version=state.stock.version + 1, cells=cells)


def _with(state: State, row: ReservationRow, cells: Cells | None = None) -> State:
    """The state with this reservation, and with these cells where they changed."""
    stock = state.stock if cells is None else _stock(state, cells)
    return State(state.key, stock, {**state.reservation, row.reservation_id: row})
