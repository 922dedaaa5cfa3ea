"""Arithmetic over the cells of a sku: where units are, and from where an order gets them. A cell is one location's counters."""

from collections.abc import Iterable

from msgspec.structs import replace

from orderflow.streams.domain.parts import Qty
from orderflow.streams.domain.stock_rows import Cell

Cells = tuple[Cell, ...]


def cell_at(cells: Cells, location_id: str) -> Cell:
    """The location's cell; a location without one has no units."""
    for cell in cells:
        if cell.location_id == location_id:
            return cell
    return Cell(location_id, 0)


def with_cell(cells: Cells, cell: Cell) -> Cells:
    """These cells with this one in its place; they stay sorted by location."""
    if len(cells) == 1 and cells[0].location_id == cell.location_id:
        return (cell,)
    others = [each for each in cells if each.location_id != cell.location_id]
    return tuple(sorted((*others, cell), key=lambda each: each.location_id))


def shifted(cells: Cells, allocations: Iterable[Qty], *, reserved: int = 0, allocated: int = 0, on_hand: int = 0) -> Cells:
    """Move the allocated units between counters: each factor (-1, 0, 1) says what happens to that counter."""
    found = cells
    for qty in allocations:
        cell = cell_at(found, qty.location_id)
        moved = replace(
            cell,
            on_hand=cell.on_hand + on_hand * qty.quantity,
            reserved=cell.reserved + reserved * qty.quantity,
            allocated=cell.allocated + allocated * qty.quantity,
        )
        found = with_cell(found, moved)
    return found


def moved_on_hand(cell: Cell, after: int, *, damaged: int = 0, quality_control: int = 0) -> Cell:
    """The cell with `after` units on hand, some of the new ones not good.

    A count below what is set aside takes from quality control, then from damaged; the safety stock is what is left of its target.
    """
    room = max(0, after - cell.allocated - cell.reserved)
    bad = min(cell.damaged + damaged, room)
    checking = min(cell.quality_control + quality_control, room - bad)
    found = replace(cell, on_hand=after, damaged=bad, quality_control=checking, safety_stock=0)
    return replace(found, safety_stock=max(0, min(found.safety_target, found.free)))


def allowed(cells: Cells, preferred: tuple[str, ...], allow_other: bool) -> Cells:
    """The cells an order may get units from, in the order they are tried: the preferred, then the fullest, ties by location."""
    if len(cells) == 1 and not preferred:
        return cells if allow_other else ()
    by_location = {cell.location_id: cell for cell in cells}
    first = tuple(by_location.pop(location_id) for location_id in dict.fromkeys(preferred) if location_id in by_location)
    if not allow_other:
        return first
    return first + tuple(sorted(by_location.values(), key=lambda cell: (-cell.available, cell.location_id)))


def allocate(candidates: Cells, quantity: int, preferred: tuple[str, ...] = ()) -> tuple[Qty, ...] | None:
    """Where to take `quantity` units from, or None when there are not enough: all or nothing, preferred first, fewest splits.

    One preferred location that has all of it; else the preferred together; else any one location; else all, fullest first.
    """
    chosen = [cell for cell in candidates if cell.location_id in preferred]
    for cells in (chosen, candidates):
        for cell in cells:
            if cell.available >= quantity:
                return (Qty(cell.location_id, "", quantity),)
        if sum(cell.available for cell in cells) >= quantity:
            return _greedy(cells, quantity)
    return None


def _greedy(cells: Iterable[Cell], quantity: int) -> tuple[Qty, ...]:
    found = []
    for cell in cells:
        taken = min(cell.available, quantity)
        if taken > 0:
            found.append(Qty(cell.location_id, "", taken))
            quantity -= taken
    return tuple(found)


def beyond(allocations: tuple[Qty, ...], kept: Iterable[Qty]) -> tuple[Qty, ...]:
    """What allocations have beyond what is kept, location by location."""
    keeps = {(qty.location_id, qty.lot): qty.quantity for qty in kept}
    over = ((qty, qty.quantity - keeps.get((qty.location_id, qty.lot), 0)) for qty in allocations)
    return tuple(Qty(qty.location_id, qty.lot, quantity) for qty, quantity in over if quantity > 0)


def without(allocations: tuple[Qty, ...], taken: Iterable[Qty]) -> tuple[Qty, ...]:
    """What is left of allocations after some of their units are gone."""
    left = {(qty.location_id, qty.lot): qty.quantity for qty in allocations}
    for qty in taken:
        key = (qty.location_id, qty.lot)
        left[key] = left.get(key, 0) - qty.quantity
    return tuple(Qty(location_id, lot, quantity) for (location_id, lot), quantity in left.items() if quantity > 0)
