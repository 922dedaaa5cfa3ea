"""Backorders at the owner of a sku: reservations that wait for units which are not there yet (domain.md 2.4, slot D110).

Such a reservation is active and keeps nothing; `wanted` says how much it waits for. Whatever makes units available serves the queue in the
same turn, by priority, then age: who comes later gets only what the queue does not want. It ends like any other, released or at its due time.
"""

from collections.abc import Iterable, Iterator

from orderflow.streams.domain.cells import allocate, allowed, shifted
from orderflow.streams.domain.contract import Get, Range
from orderflow.streams.domain.stock_records import BackorderAllocated, BackorderQueued, ReserveStock
from orderflow.streams.domain.stock_rows import Cell, ReservationRow, ReservationStatus, State, StockRow

QUEUE_MAX = 5_000
"""So many that wait are looked at when units become available; the next movement looks at the others."""
_MOST_URGENT_FIRST = 10**9
"""No priority is higher, so that the difference sorts the highest first; none is below 0."""


def queue_order(row: ReservationRow) -> str | None:
    """Index entry of a reservation that waits: by priority, then age."""
    if not row.wanted or row.status is not ReservationStatus.ACTIVE:
        return None
    priority = min(max(row.priority, 0), _MOST_URGENT_FIRST)
    return f"{row.sku}~{_MOST_URGENT_FIRST - priority:010d}~{row.waits_since:020d}"


def reads(key: str) -> tuple[Get | Range, ...]:
    """The sku, and who waits for its units, first come first."""
    return (Get("stock", key), Range("reservation", f"{key}~", QUEUE_MAX, "queue"))


def ahead(cells: Iterable[Cell]) -> int:
    """Units that the queue wants of these cells: nobody who comes later gets them."""
    return sum(cell.backordered for cell in cells)


def queued(command: ReserveStock) -> BackorderQueued:
    """Wait for what is not there."""
    wanted = command.reservation_id, command.holder, command.quantity
    return BackorderQueued(
        *wanted, (), command.due_at, priority=command.priority, preferred=command.preferred, allow_other=command.allow_other
    )


def serve(state: State) -> Iterator[BackorderAllocated]:
    """Give what there is to those who wait, in their order. Who cannot be served keeps the locations they wait for to themselves."""
    cells = state.stock.cells if state.stock else ()
    kept: set[str] = set()
    rows = ((order, row) for row in state.reservation.values() if (order := queue_order(row)) is not None)
    for _, row in sorted(rows, key=lambda entry: (entry[0], entry[1].reservation_id)):
        possible = tuple(cell for cell in allowed(cells, row.preferred, row.allow_other) if cell.location_id not in kept)
        found = allocate(possible, row.wanted, row.preferred)
        if found is None:
            kept.update(cell.location_id for cell in possible)
            continue
        cells = shifted(cells, found, reserved=1)
        yield BackorderAllocated(row.reservation_id, row.holder, row.wanted, found, row.due_at)


def is_waited_for(row: StockRow | None) -> bool:
    """Does somebody wait for units of this sku?"""
    return row is not None and any(cell.backordered for cell in row.cells)
