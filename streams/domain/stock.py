"""Stock: who gets units of a sku, decided by the sku's one writer (domain.md 2.4).

One row per sku with a cell per location, one row per reservation. on_hand moves only by receive, ship and adjust; reserving and
committing never move it. Who waits for units is served first (backorders.py). A count or breakage is a fact: it takes units from reservations, and only on_hand below zero is refused.
"""

from collections.abc import Callable, Mapping
from typing import TypeAlias, assert_never

from msgspec import Struct

from orderflow.streams.domain import backorders, stock_fold, stock_movements
from orderflow.streams.domain.cells import allocate, allowed, beyond
from orderflow.streams.domain.contract import EventMeta, Get, Range, Refused, Send, Settle, Snapshot, TimerDue, Turn
from orderflow.streams.domain.ids import is_id, parse_reservation, reservation_id
from orderflow.streams.domain.order_records import RecordStockAnswer
from orderflow.streams.domain.parts import Holder, units
from orderflow.streams.domain.reasons import Reason
from orderflow.streams.domain.refusals import refusal, untimely
from orderflow.streams.domain.stock_records import (
    AdjustStock,
    AllocationLost,
    BackorderAllocated,
    BackorderQueued,
    Cell,
    CommitReservation,
    ExtendReservation,
    MovementRecorded,
    ReceiveStock,
    ReleaseReservation,
    ReservationCommitted,
    ReservationExpired,
    ReservationExtended,
    ReservationReleased,
    ReserveStock,
    ShipStock,
    StockChanged,
    StockRefused,
    StockReserved,
    StockShipped,
    StockSnapshot,
)
from orderflow.streams.domain.stock_rows import ReservationRow, ReservationStatus, State, StockRow
from orderflow.streams.domain.transitions import Transition, Transitions


class ServeBackorders(Struct, frozen=True, gc=False):
    """The sku's own follow-up when units may have become available: those who wait get them. Never on a log."""


Command: TypeAlias = (
    ReserveStock
    | ExtendReservation
    | CommitReservation
    | ReleaseReservation
    | ShipStock
    | ReceiveStock
    | AdjustStock
    | TimerDue
    | ServeBackorders
)
Event: TypeAlias = stock_fold.Event
COMMANDS = (
    ReserveStock,
    ExtendReservation,
    CommitReservation,
    ReleaseReservation,
    ShipStock,
    ReceiveStock,
    AdjustStock,
    TimerDue,
)
EVENTS = (
    StockReserved,
    BackorderQueued,
    BackorderAllocated,
    ReservationExtended,
    ReservationCommitted,
    ReservationReleased,
    ReservationExpired,
    StockShipped,
    AllocationLost,
    StockRefused,
    MovementRecorded,
    StockChanged,
    Refused,
)
INITIAL = State()

ACTIVE, COMMITTED = ReservationStatus.ACTIVE, ReservationStatus.COMMITTED
FULFILLED, RELEASED, EXPIRED = ReservationStatus.FULFILLED, ReservationStatus.RELEASED, ReservationStatus.EXPIRED
TRANSITIONS = Transitions(
    "reservation",
    (
        Transition("", ACTIVE, "ReserveStock, also one that waits for its units"),
        Transition("", RELEASED, "ReleaseReservation of an unknown id"),
        Transition(ACTIVE, ACTIVE, "ExtendReservation, or the units it waited for have come"),
        Transition(ACTIVE, COMMITTED, "CommitReservation"),
        Transition(ACTIVE, RELEASED, "ReleaseReservation, or all units lost"),
        Transition(ACTIVE, EXPIRED, "due time"),
        Transition(COMMITTED, FULFILLED, "ShipStock"),
        Transition(COMMITTED, RELEASED, "ReleaseReservation, or all units lost"),
    ),
)
ANSWERS: Mapping[ReservationStatus, str] = {
    ACTIVE: "reserved",
    COMMITTED: "committed",
    FULFILLED: "shipped",
    RELEASED: "released",
    EXPIRED: "expired",
}
"""What an order is told about a reservation that stands like this."""
QUEUED = "queued"
"""What it is told about one that waits for its units."""

EXTENSION_FACTOR_MAX = 2
"""An extended reservation lasts at most this many times its first duration (domain.md 2.4)."""


def due(row: ReservationRow) -> tuple[str, int] | None:
    """An active reservation expires when it is due."""
    return ("expire", row.due_at) if row.status is ACTIVE and row.due_at is not None else None


DUE: Mapping[str, Callable[[ReservationRow], tuple[str, int] | None]] = {"reservation": due}
INDEXES: Mapping[str, Mapping[str, Callable[[ReservationRow], str | None]]] = {
    "reservation": {"open": stock_movements.taking_order, "queue": backorders.queue_order}
}


def reads(key: str, command: Command) -> tuple[Get | Range, ...]:
    """The sku's row, and the reservation a command names; a shrinking count also reads the reservations it may take from."""
    match command:
        case ReceiveStock():
            return (Get("stock", key),)
        case AdjustStock():
            return stock_movements.reads_to_adjust(key, command)
        case TimerDue():
            return (Get("stock", key), Get("reservation", command.entity_id))
        case ServeBackorders():
            return backorders.reads(key)
        case _:
            return (Get("stock", key), Get("reservation", command.reservation_id))


def recall(state: State, command: Command) -> tuple[Send, ...] | None:
    """A command whose effect the reservation's row already shows is answered by that row."""
    if isinstance(command, ReceiveStock | AdjustStock | ShipStock | TimerDue | ServeBackorders):
        return None
    row = state.reservation.get(command.reservation_id)
    if row is None:
        return None
    if isinstance(command, ReserveStock):
        done = row.status in (ACTIVE, COMMITTED, FULFILLED)
    elif isinstance(command, CommitReservation):
        done = row.status in (COMMITTED, FULFILLED)
    elif isinstance(command, ReleaseReservation):
        done = row.status in (RELEASED, EXPIRED, FULFILLED) or not (row.wanted or beyond(row.allocations, command.kept))
    else:
        return () if row.status is ACTIVE and row.due_at == command.due_at else None
    return _answer(state, row, _word(row), units(row.allocations)) if done else None


def _word(row: ReservationRow) -> str:
    return QUEUED if row.wanted else ANSWERS[row.status]


def decide(state: State, command: Command, turn: Turn) -> tuple[Event, ...]:
    """What happens to the sku."""
    match command:
        case ReserveStock():
            return _reserve(state, command, turn)
        case CommitReservation():
            return _commit(state, command)
        case ReleaseReservation():
            return _release(state, command, turn)
        case ExtendReservation():
            return _extend(state, command, turn)
        case ShipStock():
            return stock_movements.ship(state, command, turn)
        case ReceiveStock():
            return stock_movements.receive(state, command, turn)
        case AdjustStock():
            return stock_movements.adjust(state, command, turn)
        case TimerDue():
            return _expire(state, command)
        case ServeBackorders():
            return tuple(backorders.serve(state))
        case _:
            assert_never(command)


def _reserve(state: State, command: ReserveStock, turn: Turn) -> tuple[Event, ...]:
    """All units or none, or as many as there are where fewer will do, or wait for them. The first reason that holds is named; a shortage
    says whether open reservations of others cause it.
    """
    stock = state.stock
    cells = allowed(stock.cells, command.preferred, command.allow_other) if stock else ()
    reason = _reserve_reason(state, command, turn)
    available = max(0, sum(cell.available for cell in cells) - backorders.ahead(cells))
    if reason is None:
        quantity = min(command.quantity, available) if command.allow_partial and available > 0 else command.quantity
        allocations = allocate(cells, quantity, command.preferred) if quantity <= available else None
        if allocations is None and command.backorder:
            return (backorders.queued(command),)
        if allocations is not None:
            return (StockReserved(command.reservation_id, command.holder, quantity, allocations, command.due_at),)
        reason = Reason.INSUFFICIENT_STOCK
    held = sum(cell.reserved for cell in cells)
    contended = reason is Reason.INSUFFICIENT_STOCK and command.quantity <= available + held
    return (StockRefused(command.reservation_id, command.holder, command.quantity, available, contended, reason),)


def _reserve_reason(state: State, command: ReserveStock, turn: Turn) -> Reason | None:
    """Why this reservation cannot be made, short of the units themselves."""
    if command.reservation_id in state.reservation:
        return Reason.RESERVATION_FINAL  # a living one was answered by its row
    reason = untimely(turn, state.stock.version if state.stock else 0)
    if reason is not None:
        return reason
    holder = command.holder
    if not is_id(holder.order_id) or holder.attempt < 1:
        return Reason.SCHEMA_INVALID
    if command.reservation_id != reservation_id(turn.key, holder.order_id, holder.attempt):
        return Reason.SCHEMA_INVALID
    if not 1 <= command.quantity <= turn.settings.receipt_quantity_max:
        return Reason.QUANTITY_INVALID
    if command.due_at <= turn.at:
        return Reason.DUE_TIME_MISSING
    if state.stock is None:
        return Reason.UNKNOWN_SKU
    if not command.preferred and not command.allow_other:
        return Reason.UNKNOWN_LOCATION
    if command.preferred and not all(location_id in turn.settings.locations for location_id in command.preferred):
        return Reason.UNKNOWN_LOCATION
    if state.stock.retired:
        return Reason.SKU_RETIRED
    return None


def _closed(command: CommitReservation | ExtendReservation, row: ReservationRow) -> tuple[Event, ...] | None:
    """The refusal when a reservation has ended, or is past being extended."""
    if row.status is EXPIRED:
        return refusal(command, Reason.RESERVATION_EXPIRED, reservation_id=command.reservation_id)
    if row.status is not ACTIVE:
        return refusal(command, Reason.RESERVATION_FINAL, reservation_id=command.reservation_id)
    return None


def _commit(state: State, command: CommitReservation) -> tuple[Event, ...]:
    """Due or not: only its timer ends a reservation, so one that is still active is committed."""
    row = state.reservation.get(command.reservation_id)
    if row is None:
        return refusal(command, Reason.NOT_FOUND, reservation_id=command.reservation_id)
    closed = _closed(command, row)
    if closed is not None:
        return closed
    if row.wanted:
        return refusal(command, Reason.INSUFFICIENT_STOCK, reservation_id=command.reservation_id, wanted=str(row.wanted))
    kept = units(row.allocations)
    if command.quantity is not None and command.quantity != kept:
        reason = Reason.QUANTITY_EXCEEDED if command.quantity > kept else Reason.QUANTITY_INVALID
        return refusal(command, reason, reservation_id=command.reservation_id, kept=str(kept))
    return (ReservationCommitted(row.reservation_id, row.holder, kept, row.allocations, None, "", command.reason),)


def _release(state: State, command: ReleaseReservation, turn: Turn) -> tuple[Event, ...]:
    """Total. An id that never was is written as released, so that a reserve arriving later cannot leave an orphan."""
    row = state.reservation.get(command.reservation_id)
    if row is None:
        parsed = parse_reservation(command.reservation_id)
        if parsed is None or parsed[0] != turn.key:
            return refusal(command, Reason.NOT_FOUND, reservation_id=command.reservation_id)
        _, order_id, attempt = parsed
        return (ReservationReleased(command.reservation_id, Holder(order_id, attempt), 0, (), None, "", command.reason),)
    kept = units(row.allocations)
    if command.quantity is not None and command.quantity < kept:
        return refusal(command, Reason.QUANTITY_INVALID, reservation_id=command.reservation_id, kept=str(kept))
    given = beyond(row.allocations, command.kept)
    return (ReservationReleased(row.reservation_id, row.holder, units(given), given, None, "", command.reason),)


def _extend(state: State, command: ExtendReservation, turn: Turn) -> tuple[Event, ...]:
    row = state.reservation.get(command.reservation_id)
    if row is None:
        return refusal(command, Reason.NOT_FOUND, reservation_id=command.reservation_id)
    closed = _closed(command, row)
    if closed is not None:
        return closed
    if command.due_at <= max(turn.at, row.due_at or 0):
        return refusal(command, Reason.DUE_TIME_MISSING, reservation_id=command.reservation_id)
    longest = EXTENSION_FACTOR_MAX * ((row.original_due_at or 0) - row.created_at)
    if command.due_at > row.created_at + longest:
        return refusal(command, Reason.EXTENSION_LIMIT, reservation_id=command.reservation_id, latest=str(row.created_at + longest))
    return (ReservationExtended(row.reservation_id, row.holder, units(row.allocations), row.allocations, command.due_at),)


def _expire(state: State, command: TimerDue) -> tuple[Event, ...]:
    """Only a timer that is due for what the row says now; a late, double or outdated one is nothing."""
    row = state.reservation.get(command.entity_id)
    if row is None or due(row) != (command.kind, command.due_at):
        return ()
    return (ReservationExpired(row.reservation_id, row.holder, units(row.allocations), row.allocations, row.due_at),)


def evolve(state: State, event: Event, meta: EventMeta) -> State:
    """The rows after the event."""
    return stock_fold.evolve(state, event, meta)


def react(state: State, event: Event, meta: EventMeta) -> tuple[Send | Settle, ...]:
    """Every change of a reservation is told to the order it is for; units that become available go to those who wait."""
    match event:
        case StockReserved() | BackorderAllocated():
            return _answer(state, event, "reserved", event.quantity)
        case BackorderQueued():
            return _answer(state, event, QUEUED, event.quantity)
        case StockRefused():
            answer = RecordStockAnswer(
                event.reservation_id,
                state.key,
                "refused",
                event.requested,
                (),
                None,
                event.available,
                event.contended,
                event.reason,
            )
            return _told(event.holder, answer) if is_id(event.holder.order_id) else ()
        case ReservationCommitted():
            return _answer(state, event, "committed", event.quantity)
        case ReservationReleased():
            return (*_answer(state, event, "released", event.quantity, event.reason), *_served(state))
        case ReservationExpired():
            return (*_answer(state, event, "expired", event.quantity), *_served(state))
        case AllocationLost():
            return _answer(state, event, "lost", event.quantity, event.reason)
        case StockShipped():
            return _answer(state, event, "shipped", event.quantity) + stock_movements.found_at_the_shelf(state, event)
        case Refused(command_type="CommitReservation"):
            row = state.reservation.get(event.detail.get("reservation_id", ""))
            return _answer(state, row, _word(row), units(row.allocations)) if row else ()
        case MovementRecorded():
            return _served(state) if event.after > event.before else ()
        case ReservationExtended() | StockChanged() | Refused():
            return ()
        case _:
            assert_never(event)


def _served(state: State) -> tuple[Send, ...]:
    return (Send("stock", state.key, ServeBackorders()),) if backorders.is_waited_for(state.stock) else ()


def _answer(
    state: State,
    about: ReservationRow | stock_fold.ReservationEvent,
    outcome: str,
    quantity: int,
    reason: str = "",
) -> tuple[Send, ...]:
    """What the order is told: the outcome, and what its reservation keeps from now on."""
    row = state.reservation.get(about.reservation_id)
    if row is None:
        return ()
    available = sum(cell.available for cell in state.stock.cells) if state.stock else 0
    answer = RecordStockAnswer(row.reservation_id, state.key, outcome, quantity, row.allocations, row.due_at, available, False, reason)
    return _told(row.holder, answer)


def _told(holder: Holder, answer: RecordStockAnswer) -> tuple[Send, ...]:
    return (Send("orders", holder.order_id, answer),)


def waits(state: State, command: Command, command_id: str) -> bool:
    """Stock decides at once."""
    return False


def violations(state: State) -> tuple[str, ...]:
    """What may never be true of a sku: a negative counter, units sold twice, a reservation that does not add up (I1, I2, I3)."""
    found = []
    for cell in state.stock.cells if state.stock else ():
        if min(cell.on_hand, cell.allocated, cell.reserved, cell.damaged, cell.quality_control, cell.safety_stock, cell.backordered) < 0:
            found.append(f"a counter of {cell.location_id} is below zero: {cell}")
        if cell.available < 0:
            found.append(f"available at {cell.location_id} is {cell.available}")
    for row in state.reservation.values():
        if row.fulfilled + row.released + units(row.allocations) != row.quantity:
            found.append(f"units of {row.reservation_id} do not add up to {row.quantity}")
        if row.wanted and row.allocations:
            found.append(f"{row.reservation_id} waits for units and keeps some")
        if row.allocations and row.status not in (ACTIVE, COMMITTED):
            found.append(f"{row.reservation_id} is {row.status} and keeps units")
    return tuple(found)


def view(key: str) -> tuple[Get | Range, ...]:
    """The sku with all its cells."""
    return (Get("stock", key),)


def snapshots(before: State, after: State, head_sequence: int, at: int) -> tuple[Snapshot, ...]:
    """The sku, when its row changed."""
    row = after.stock
    if row is None or row is before.stock:
        return ()
    record = StockSnapshot(after.key, sequence=head_sequence, version=row.version, at=at, cells=shown(row))
    return (Snapshot("stock", after.key, record),)


def shown(row: StockRow) -> tuple[Cell, ...]:
    """The cells as the outside sees them."""
    return tuple(
        Cell(
            cell.location_id,
            cell.on_hand,
            cell.allocated,
            cell.reserved,
            cell.incoming,
            cell.damaged,
            cell.quality_control,
            cell.safety_target,
            cell.safety_stock,
            cell.backordered,
            cell.available,
        )
        for cell in row.cells
    )
