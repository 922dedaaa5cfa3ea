"""Fulfillments: one per location of a confirmed order, moved by what warehouses and carriers post (domain.md 2.5).

Posts may come in any order: a lower status is recorded and ignored, one ahead of its predecessor waits for it in a small buffer.
"""

from collections.abc import Iterable, Iterator, Mapping

from orderflow.streams.domain.contract import MICROS_PER_S, EventMeta, Refused, Send, Settle, TimerDue, Turn
from orderflow.streams.domain.fulfillment_steps import (
    CANCELED,
    COMPENSATED,
    COMPLETED,
    COUNTED,
    FINISHED,
    PENDING,
    PLANNING,
    POSTED,
    RANKS,
    SHIPPED,
    moved,
    status_named,
    steps_to,
)
from orderflow.streams.domain.ids import fulfillment_id
from orderflow.streams.domain.order_records import (
    AssignedLine,
    DeliveryConfirmed,
    DeliveryFailed,
    FulfillmentCreated,
    FulfillmentStatus,
    FulfillmentStatusBuffered,
    FulfillmentStatusChanged,
    FulfillmentStatusIgnored,
    LineProgress,
    LineQuantity,
    OrderStatusChanged,
    PostFulfillmentStatus,
    RecordDelivery,
    RecordUndelivered,
)
from orderflow.streams.domain.order_rows import BufferedPost, FulfillmentRow, OrderRow, State, StockAnswerRow
from orderflow.streams.domain.order_status import CANCELED as ORDER_CANCELED
from orderflow.streams.domain.order_status import CONFIRMED as ORDER_CONFIRMED
from orderflow.streams.domain.order_status import PENDING as ORDER_PENDING
from orderflow.streams.domain.order_status import PROCESSING, delivered, status_changed
from orderflow.streams.domain.order_status import SHIPPED as ORDER_SHIPPED
from orderflow.streams.domain.parts import Qty
from orderflow.streams.domain.payment import Handover
from orderflow.streams.domain.payment_records import PaymentRequested
from orderflow.streams.domain.reasons import Reason
from orderflow.streams.domain.refusals import refusal, untimely
from orderflow.streams.domain.stock_records import ShipStock

UNDELIVERED = ("returned_to_sender", "lost", "refused")
"""Why a carrier will not hand a fulfillment over any more."""
BUFFERED_POST = "buffered_post"
"""Kind of the timer that gives a waiting post up."""
PREDECESSORS = {"picked": "ordered", "packed": "picked", "shipped": "packed"}
"""A counter never passes the one before it."""

Event = (
    FulfillmentStatusChanged
    | FulfillmentStatusIgnored
    | FulfillmentStatusBuffered
    | DeliveryConfirmed
    | DeliveryFailed
    | OrderStatusChanged
    | PaymentRequested
    | Refused
)
Rows = Mapping[str, FulfillmentRow]


# -- creating -------------------------------------------------------------------------------------------------------------------------
def created(order_id: str, order: OrderRow, granted: Mapping[str, StockAnswerRow]) -> tuple[FulfillmentCreated, ...]:
    """One fulfillment for each location that keeps units for the order; units go to the lines in their order, each first from the
    location it names.
    """
    kept = {sku: {qty.location_id: qty.quantity for qty in row.allocations} for sku, row in granted.items()}
    by_location: dict[str, list[AssignedLine]] = {}
    for line in order.lines:
        wanted = line.quantity - line.canceled if line.kind == "item" else 0
        units = kept.get(line.sku, {})
        for location_id in sorted(units, key=lambda name: (name != line.location_id, name)):
            taken = min(wanted, units[location_id])
            if taken > 0:
                assigned = AssignedLine(line.line_id, line.sku, taken, granted[line.sku].reservation_id)
                by_location.setdefault(location_id, []).append(assigned)
                units[location_id] -= taken
                wanted -= taken
    first = order.fulfillment_count + 1
    return tuple(
        FulfillmentCreated(fulfillment_id(order_id, number), location_id, tuple(lines))
        for number, (location_id, lines) in enumerate(sorted(by_location.items()), first)
    )


def planned(event: FulfillmentCreated) -> FulfillmentStatusChanged:
    """Its first step; capacity is unlimited, so it is taken at once."""
    lines = tuple(LineProgress(line.line_id, line.quantity) for line in event.lines)
    return FulfillmentStatusChanged(event.fulfillment_id, event.location_id, PENDING, PLANNING, False, lines)


def canceled(row: FulfillmentRow) -> FulfillmentStatusChanged:
    """Nothing of it will be sent."""
    lines = tuple(LineProgress(line.line_id, line.ordered, line.picked, line.packed, line.shipped) for line in row.lines)
    return FulfillmentStatusChanged(row.fulfillment_id, row.location_id, row.status, CANCELED, False, lines)


# -- posts ----------------------------------------------------------------------------------------------------------------------------
def post(state: State, command: PostFulfillmentStatus, turn: Turn) -> tuple[Event, ...]:
    """Take the fulfillment to the posted status, over steps nobody has to report; or let the post wait for what is missing."""
    order = state.order
    if order is None or (command.target_id not in ("", state.key) and command.target_id not in state.fulfillment):
        return refusal(command, Reason.NOT_FOUND, target_id=command.target_id)
    row, missing = _target(state, order, command.target_id)
    reason = untimely(turn, row.version if row else 0)
    if reason is not None:
        return refusal(command, reason)
    target = status_named(command.status)
    if target is None:
        return refusal(command, Reason.UNKNOWN_STATUS, status=command.status)
    if row is None:
        return refusal(command, missing, target_id=command.target_id)
    reason = _quantity_reason(row, target, command.lines)
    if reason is not None:
        return refusal(command, reason, fulfillment_id=row.fulfillment_id)
    if target is row.status:
        return ()
    if target not in RANKS or row.status not in RANKS:
        return refusal(command, Reason.ILLEGAL_TRANSITION, status=row.status.lower(), posted=target.lower())
    if RANKS[target] < RANKS[row.status]:
        return (FulfillmentStatusIgnored(row.fulfillment_id, target.lower(), Reason.STALE_STATUS),)
    if target not in POSTED:
        return refusal(command, Reason.ILLEGAL_TRANSITION, status=row.status.lower(), posted=target.lower())
    if target is SHIPPED and order.holds:
        return refusal(command, Reason.HOLD_ACTIVE, holds=order.held_by)
    if _exceeds(row, command.lines):
        return refusal(command, Reason.QUANTITY_EXCEEDED, fulfillment_id=row.fulfillment_id)
    steps = steps_to(row.status, target)
    if steps is None or (target is SHIPPED and awaits_commit(order)):
        return _buffered(row, command, target, turn, own=steps is not None)
    reached = _reached(row, steps, command.lines)
    if reached is None:
        return refusal(command, Reason.QUANTITY_EXCEEDED, fulfillment_id=row.fulfillment_id)
    handover = Handover(state, order)
    if target is SHIPPED and not handover.allows(reached[0]):
        if handover.is_expired(turn):
            return refusal(command, Reason.AUTHORIZATION_EXPIRED, fulfillment_id=row.fulfillment_id)
        return (*_buffered(row, command, target, turn, own=True), *handover.asked())
    row, changes = reached
    row, more = served(order, row, turn, handover)
    return (*changes, *more, *handover.asked(), *order_moved(state, order, {row.fulfillment_id: row}))


def _target(state: State, order: OrderRow, target_id: str) -> tuple[FulfillmentRow | None, Reason]:
    """The fulfillment a post is about, or why there is none: an order's id will do as long as one fulfillment is open."""
    if target_id in state.fulfillment:
        return state.fulfillment[target_id], Reason.NOT_FOUND
    rows = [row for row in state.fulfillment.values() if row.status is not CANCELED]
    unfinished = [row for row in rows if row.status not in FINISHED]
    if not rows:
        if order.status is ORDER_CONFIRMED and order.holds:
            return None, Reason.HOLD_ACTIVE
        early = order.status in (ORDER_PENDING, ORDER_CONFIRMED)
        return None, Reason.PREDECESSOR_MISSING if early else Reason.ILLEGAL_TRANSITION
    if len(unfinished) == 1:
        return unfinished[0], Reason.NOT_FOUND
    return (rows[0] if len(rows) == 1 else None), Reason.AMBIGUOUS_FULFILLMENT


def awaits_commit(order: OrderRow) -> bool:
    """Has stock not answered yet that the units are the order's for good?"""
    return order.step == "commit" and order.answers_open > 0


def _quantity_reason(row: FulfillmentRow, target: FulfillmentStatus, lines: tuple[LineQuantity, ...]) -> Reason | None:
    """What is wrong with posted quantities by themselves."""
    if not lines:
        return None
    ordered = {line.line_id: line.ordered for line in row.lines}
    posted = {line.line_id: line.quantity for line in lines}
    if not posted.keys() <= ordered.keys():
        return Reason.LINE_UNKNOWN
    if target not in COUNTED or len(posted) != len(lines) or min(posted.values()) < 0:
        return Reason.QUANTITY_INVALID
    if target is SHIPPED and not any(posted.values()):
        return Reason.QUANTITY_INVALID  # nothing left: that is a cancel
    return None


def _exceeds(row: FulfillmentRow, lines: tuple[LineQuantity, ...]) -> bool:
    """More than was ordered, whatever comes before."""
    ordered = {line.line_id: line.ordered for line in row.lines}
    return any(line.quantity > ordered[line.line_id] for line in lines)


def _buffered(
    row: FulfillmentRow, command: PostFulfillmentStatus, target: FulfillmentStatus, turn: Turn, *, own: bool
) -> tuple[FulfillmentStatusBuffered | Refused, ...]:
    """The post waits: for another post a moment, for our own commit or capture (`own`) as long as a saga waits for any answer."""
    settings = turn.settings
    if sum(waiting.at > 0 for waiting in row.buffered) >= settings.buffered_posts_max:
        return refusal(command, Reason.PREDECESSOR_MISSING, status=row.status.lower(), posted=target.lower())
    due_at = turn.at + (settings.give_up_s if own else settings.buffered_post_s) * MICROS_PER_S
    return (FulfillmentStatusBuffered(row.fulfillment_id, target.lower(), turn.meta.command_id, due_at, command.lines),)


def _reached(
    row: FulfillmentRow, steps: Iterable[FulfillmentStatus], lines: tuple[LineQuantity, ...]
) -> tuple[FulfillmentRow, list[FulfillmentStatusChanged]] | None:
    """The fulfillment after these steps, the last of them posted with these quantities; None when they exceed what came before."""
    events: list[FulfillmentStatusChanged] = []
    *implied, target = steps
    for step in (*implied, target):
        progress = _progress(row, step, lines if step is target else ())
        if progress is None:
            return None
        events.append(FulfillmentStatusChanged(row.fulfillment_id, row.location_id, row.status, step, step is not target, progress))
        row = moved(row, events[-1])
    return row, events


def _progress(row: FulfillmentRow, step: FulfillmentStatus, lines: tuple[LineQuantity, ...]) -> tuple[LineProgress, ...] | None:
    """Every line's counters after the step. Without quantities all that came before went on; a line not named did not."""
    counter = COUNTED.get(step)
    posted = {line.line_id: line.quantity for line in lines}
    found = []
    for line in row.lines:
        counts = {"picked": line.picked, "packed": line.packed, "shipped": line.shipped}
        if counter is not None:
            most = line.ordered if counter == "picked" else counts[PREDECESSORS[counter]]
            counts[counter] = posted.get(line.line_id, 0) if lines else most
            if counts[counter] > most:
                return None
        found.append(LineProgress(line.line_id, line.ordered, **counts))
    return tuple(found)


def served(order: OrderRow, row: FulfillmentRow, turn: Turn, handover: Handover) -> tuple[FulfillmentRow, list[Event]]:
    """Apply the waiting posts whose turn has come, lowest first. One that now waits for our own commit or capture may wait longer."""
    events: list[Event] = []
    for waiting, target in _open_posts(row):
        if RANKS[target] <= RANKS[row.status]:
            continue  # the step it reports has been taken: the fold settles it
        steps = steps_to(row.status, target)
        if steps is None:
            break
        if target is SHIPPED and awaits_commit(order):
            due_at = turn.at + turn.settings.give_up_s * MICROS_PER_S
            events.append(FulfillmentStatusBuffered(row.fulfillment_id, waiting.status, waiting.command_id, due_at, waiting.lines))
            break
        if target is SHIPPED and order.holds:
            events.append(FulfillmentStatusIgnored(row.fulfillment_id, waiting.status, Reason.HOLD_ACTIVE))
            break
        reached = _reached(row, steps, waiting.lines)
        if reached is None:
            events.append(FulfillmentStatusIgnored(row.fulfillment_id, waiting.status, Reason.QUANTITY_EXCEEDED))
            continue
        if target is SHIPPED and not handover.allows(reached[0]):
            if handover.is_expired(turn):
                events.append(FulfillmentStatusIgnored(row.fulfillment_id, waiting.status, Reason.AUTHORIZATION_EXPIRED))
            elif not handover.is_open:
                due_at = turn.at + turn.settings.give_up_s * MICROS_PER_S
                events.append(FulfillmentStatusBuffered(row.fulfillment_id, waiting.status, waiting.command_id, due_at, waiting.lines))
            break
        row, changes = reached
        events += changes
    return row, events


def _open_posts(row: FulfillmentRow) -> list[tuple[BufferedPost, FulfillmentStatus]]:
    """Posts that still wait, the lowest status first, in the order they came."""
    named = [(waiting, status_named(waiting.status)) for waiting in row.buffered if waiting.at > 0]
    return sorted(((waiting, status) for waiting, status in named if status in RANKS), key=lambda each: RANKS[each[1]])


def order_moved(state: State, order: OrderRow, changed: Rows) -> tuple[OrderStatusChanged, ...]:
    """The order is shipped when every fulfillment that was not canceled is, and none is about to be added."""
    statuses = [changed.get(row.fulfillment_id, row).status for row in state.fulfillment.values()]
    going = [status for status in statuses if status is not CANCELED]
    left = (SHIPPED, COMPLETED, COMPENSATED)
    if order.status is PROCESSING and order.edit is None and going and all(status in left for status in going):
        return (status_changed(order, PROCESSING, ORDER_SHIPPED, statuses),)
    return ()


def not_handed_over(state: State, reason: str) -> tuple[FulfillmentStatusIgnored, ...]:
    """Posts of `shipped` that wait for a capture or a commit wait in vain: nothing is handed over, and whoever posted hears why."""
    return tuple(
        FulfillmentStatusIgnored(row.fulfillment_id, SHIPPED.lower(), reason)
        for row in state.fulfillment.values()
        if any(target is SHIPPED and steps_to(row.status, target) is not None for _, target in _open_posts(row))
    )


def give_up_post(state: State, command: TimerDue) -> tuple[FulfillmentStatusIgnored, ...]:
    """What a waiting post waited for did not come. An outdated timer changes nothing."""
    row = state.fulfillment.get(command.entity_id)
    if row is None or due(row) != (command.kind, command.due_at):
        return ()
    late = {waiting.status: target for waiting, target in _open_posts(row) if waiting.at <= command.due_at}
    return tuple(
        FulfillmentStatusIgnored(
            row.fulfillment_id,
            posted,
            Reason.PREDECESSOR_MISSING if steps_to(row.status, target) is None else Reason.STEP_TIMED_OUT,
        )
        for posted, target in late.items()
    )


def due(row: FulfillmentRow) -> tuple[str, int] | None:
    """The earliest end of a waiting post."""
    ends = [waiting.at for waiting in row.buffered if waiting.at > 0]
    return (BUFFERED_POST, min(ends)) if ends else None


# -- delivery -------------------------------------------------------------------------------------------------------------------------
def deliver(state: State, command: RecordDelivery, turn: Turn) -> tuple[Event, ...]:
    """One fulfillment has reached its receiver, or all that are shipped; the order is delivered when none is on its way."""
    order = state.order
    if order is None or _is_unknown(state, command):
        return refusal(command, Reason.NOT_FOUND, fulfillment_id=command.fulfillment_id)
    if command.delivered_at <= 0:
        return refusal(command, Reason.SCHEMA_INVALID, field="delivered_at")
    arrived = _on_their_way(state, command)
    if not arrived:
        return _as_before(state, order, command, COMPLETED)
    events: list[Event] = []
    for row in arrived:
        events.append(DeliveryConfirmed(command.shipment_id, row.fulfillment_id, command.delivered_at))
        progress = _progress(row, COMPLETED, ())
        events.append(FulfillmentStatusChanged(row.fulfillment_id, row.location_id, SHIPPED, COMPLETED, False, progress or ()))
    ids = {row.fulfillment_id for row in arrived}
    statuses = [COMPLETED if row.fulfillment_id in ids else row.status for row in state.fulfillment.values()]
    if order.status is ORDER_SHIPPED and all(status in FINISHED for status in statuses):
        events.append(delivered(order, statuses, turn))
    return tuple(events)


def undelivered(state: State, command: RecordUndelivered) -> tuple[Event, ...]:
    """One fulfillment will never reach its receiver, or none of those that are shipped. The order then looks at what is left of it."""
    order = state.order
    if order is None or _is_unknown(state, command):
        return refusal(command, Reason.NOT_FOUND, fulfillment_id=command.fulfillment_id)
    if command.reason not in UNDELIVERED:
        return refusal(command, Reason.SCHEMA_INVALID, field="reason", possible=", ".join(UNDELIVERED))
    if command.failed_at <= 0:
        return refusal(command, Reason.SCHEMA_INVALID, field="failed_at")
    events: list[Event] = []
    for row in _on_their_way(state, command):
        events.append(DeliveryFailed(command.reason, command.shipment_id, row.fulfillment_id, command.failed_at))
        progress = _progress(row, COMPENSATED, ())
        events.append(FulfillmentStatusChanged(row.fulfillment_id, row.location_id, SHIPPED, COMPENSATED, False, progress or ()))
    return tuple(events) or _as_before(state, order, command, COMPENSATED)


def _is_unknown(state: State, command: RecordDelivery | RecordUndelivered) -> bool:
    return command.fulfillment_id not in ("", state.key) and command.fulfillment_id not in state.fulfillment


def _meant(state: State, command: RecordDelivery | RecordUndelivered) -> list[FulfillmentRow]:
    named = state.fulfillment.get(command.fulfillment_id)
    return [named] if named else list(state.fulfillment.values())


def _on_their_way(state: State, command: RecordDelivery | RecordUndelivered) -> list[FulfillmentRow]:
    return [row for row in _meant(state, command) if row.status is SHIPPED]


def _as_before(
    state: State, order: OrderRow, command: RecordDelivery | RecordUndelivered, reached: FulfillmentStatus
) -> tuple[Refused, ...]:
    """Nothing of it is on its way: a repeat is answered as done, anything else refused."""
    if any(row.status is reached for row in _meant(state, command)):
        return ()
    return refusal(command, Reason.ILLEGAL_TRANSITION, status=order.status.lower())


def ended(state: State, order: OrderRow, turn: Turn, *, is_undone: bool) -> tuple[OrderStatusChanged, ...]:
    """A shipped order of which nothing is on its way any more: delivered, or canceled once all its money has gone back."""
    statuses = [row.status for row in state.fulfillment.values()]
    if order.status is not ORDER_SHIPPED or any(status not in FINISHED for status in statuses):
        return ()
    if COMPLETED in statuses:
        return (delivered(order, statuses, turn),)
    return (status_changed(order, ORDER_SHIPPED, ORDER_CANCELED, statuses, Reason.UNDELIVERED),) if is_undone else ()


# -- what follows ---------------------------------------------------------------------------------------------------------------------
def asked_of_stock(state: State, event: FulfillmentStatusChanged) -> Iterator[Send]:
    """A fulfillment that shipped takes its units from stock: one ShipStock per reservation, quantities of 0 included."""
    row = state.fulfillment.get(event.fulfillment_id)
    if row is None or event.new_status is not SHIPPED:
        return
    picked: dict[tuple[str, str], int] = {}
    for line in row.lines:
        picked[line.sku, line.reservation_id] = picked.get((line.sku, line.reservation_id), 0) + line.shipped
    for (sku, reservation_id), quantity in picked.items():
        yield Send("stock", sku, ShipStock(reservation_id, row.fulfillment_id, (Qty(row.location_id, "", quantity),)))


def settled(state: State, event: FulfillmentStatusChanged | FulfillmentStatusIgnored, meta: EventMeta) -> Iterator[Settle]:
    """The waiting posts that this event ended: taken, or refused with a reason."""
    row = state.fulfillment.get(event.fulfillment_id)
    if isinstance(event, FulfillmentStatusIgnored):
        reason = event.reason
    else:
        reason = Reason.ILLEGAL_TRANSITION if event.new_status is CANCELED else ""
    for waiting in row.buffered if row else ():
        if waiting.at == -meta.sequence:
            yield Settle(waiting.command_id, reason)


def waits(state: State, command_id: str) -> bool:
    """Does a post with this id wait?"""
    return any(waiting.at > 0 and waiting.command_id == command_id for row in state.fulfillment.values() for waiting in row.buffered)
