"""Editing an order: other quantities of its lines, until a warehouse begins to pick (domain.md 2.2, slot D35).

Only the difference moves. More units are asked of their owners first, all of them or none, then more money of the provider; then the order
changes in one step: fewer units come off their fulfillments, more become fulfillments of their own. Until then, and when it is refused, the
order is as it was.
"""

from collections.abc import Iterator

from msgspec.structs import replace

from orderflow.streams.domain import fulfillment, money, order_lines, payment, reasons
from orderflow.streams.domain.contract import MICROS_PER_S, Refused, Shortage, Turn
from orderflow.streams.domain.fulfillment_steps import CANCELED, PICKING, RANKS
from orderflow.streams.domain.ids import parse_reservation, reservation_id
from orderflow.streams.domain.order_records import (
    EditOrder,
    FulfillmentCreated,
    FulfillmentStatusChanged,
    LineDelta,
    LineQuantity,
    OrderEdited,
    OrderEditFailed,
    OrderEditRequested,
    StockAsked,
)
from orderflow.streams.domain.order_rows import OrderLine, OrderRow, State, StockAnswerRow
from orderflow.streams.domain.order_status import COMPLETED, CONFIRMED, DELIVERED, FAILED, PENDING, PROCESSING, SHIPPED
from orderflow.streams.domain.parts import Money
from orderflow.streams.domain.payment_fold import MORE_MONEY
from orderflow.streams.domain.reasons import Reason
from orderflow.streams.domain.refusals import refusal, untimely
from orderflow.streams.domain.stock_answers import MORE, demand, is_whole, live

GOING = frozenset({PENDING, FAILED, CONFIRMED, PROCESSING})
ANSWERS_MAX = 500
"""An order that has asked for stock so often is not edited any more."""
Event = (
    OrderEditRequested
    | OrderEdited
    | OrderEditFailed
    | StockAsked
    | FulfillmentCreated
    | FulfillmentStatusChanged
    | order_lines.Event
    | payment.Event
)


def edit(state: State, command: EditOrder, turn: Turn) -> tuple[OrderEditRequested | Refused, ...]:
    """Accept the quantities as what the order is to become. Those that it has already are answered as done."""
    order = state.order
    if order is None:
        return refusal(command, Reason.NOT_FOUND)
    if order.edit is not None and order.edit.command_id == turn.meta.command_id:
        return ()
    reason = untimely(turn, order.version)
    if reason is not None:
        return refusal(command, reason)
    if order.edit is not None:
        return refusal(command, Reason.EDIT_NOT_ALLOWED, under_way="edit")
    for reason, detail in _faults(state, order, command.lines, turn):
        return refusal(command, reason, **detail)
    if not _changes(order, command.lines):
        return ()
    return (OrderEditRequested(command.lines, turn.meta.command_id, command.reason),)


def _changes(order: OrderRow, lines: tuple[LineQuantity, ...]) -> dict[str, int]:
    """Line -> units more, or less below zero."""
    before = {line.line_id: line.quantity for line in order.lines}
    return {each.line_id: each.quantity - before[each.line_id] for each in lines if each.quantity != before[each.line_id]}


def _edited(order: OrderRow, changes: dict[str, int]) -> tuple[OrderLine, ...]:
    return tuple(replace(line, quantity=line.quantity + changes.get(line.line_id, 0)) for line in order.lines)


def _faults(state: State, order: OrderRow, lines: tuple[LineQuantity, ...], turn: Turn) -> Iterator[tuple[Reason, dict[str, str]]]:
    """What is wrong with these quantities, in the order of the reasons."""
    items = {line.line_id: line for line in order.lines if line.kind == "item"}
    settings = turn.settings
    if not lines:
        yield Reason.EMPTY_LINES, {}
    if len({each.line_id for each in lines}) != len(lines) or any(each.quantity < 1 for each in lines):
        yield Reason.QUANTITY_INVALID, {}
    for each in lines:
        if each.quantity > settings.quantity_per_line_max:
            yield Reason.QUANTITY_LIMIT, {"line_id": each.line_id, "most": str(settings.quantity_per_line_max)}
    for each in lines:
        if each.line_id not in items:
            yield Reason.LINE_UNKNOWN, {"line_id": each.line_id}
    changes = _changes(order, lines)
    edited = _edited(order, changes)
    for sku, quantity in demand(edited).items():
        if quantity > settings.quantity_per_sku_max:
            yield Reason.QUANTITY_LIMIT, {"sku": sku, "most": str(settings.quantity_per_sku_max)}
    sums = money.totals(edited, order.currency)
    if sums is not None and sums.total.amount_minor > money.AMOUNT_MINOR_MAX:
        yield Reason.AMOUNT_OVERFLOW, {"total": str(sums.total.amount_minor)}
    if order.status in (SHIPPED, DELIVERED, COMPLETED):
        yield Reason.ALREADY_SHIPPED, {"status": order.status.lower()}
    if order.status not in GOING:
        yield Reason.ALREADY_FINAL, {"status": order.status.lower()}
    if order.holds:
        yield Reason.HOLD_ACTIVE, {"holds": order.held_by}
    if order.status is not PROCESSING:
        yield Reason.EDIT_NOT_ALLOWED, {"status": order.status.lower()}
    going = [row for row in state.fulfillment.values() if row.status is not CANCELED]
    begun = [row.fulfillment_id for row in going if RANKS.get(row.status, RANKS[PICKING]) >= RANKS[PICKING]]
    if begun:
        yield Reason.EDIT_NOT_ALLOWED, {"picking": ", ".join(begun)}
    if len(state.stock_answer) > ANSWERS_MAX:
        yield Reason.EDIT_NOT_ALLOWED, {"edits": "too many"}
    for line in edited:
        if line.line_id in changes and any(each is not None and each.amount_minor for each in (line.discount, line.tax)):
            yield Reason.EDIT_NOT_ALLOWED, {"line_id": line.line_id, "possible": "lines without discount and tax"}
    left = {line.line_id: line.fulfilled + min(0, changes.get(line.line_id, 0)) for line in items.values()}
    if min(left.values()) < 0 or not sum(left.values()):
        yield Reason.QUANTITY_EXCEEDED, {"possible": "less is a cancel"}


def _money_delta(order: OrderRow, edited: tuple[OrderLine, ...]) -> Money | None:
    """What the order costs more, or less below zero; None when it has no prices."""
    before, after = money.totals(order.lines, order.currency), money.totals(edited, order.currency)
    return Money(after.total.amount_minor - before.total.amount_minor, order.currency) if before and after else None


# -- going on -------------------------------------------------------------------------------------------------------------------------
def go_on(state: State, order: OrderRow, turn: Turn) -> tuple[Event, ...]:
    """No answer is open: ask for more units, or change the order, or leave it as it was."""
    assert order.edit is not None, "only an edit goes on"
    found = _rows(state, order) if order.step in (MORE, MORE_MONEY) else []
    failed = [row for row in found if row.outcome != "reserved" or not is_whole(row)]
    if failed:
        named = reasons.first([row.reason or Reason.INSUFFICIENT_STOCK for row in failed])
        return _refused(state, order, named, tuple(Shortage(row.sku, row.quantity, row.available_after) for row in failed))
    for reason, _ in _faults(state, order, order.edit.lines, turn):  # much may have happened meanwhile
        return _refused(state, order, reason)
    more = demand(_more(order))
    if more and not found:
        attempt = order.attempt + 1
        due_at = turn.at + turn.settings.give_up_s * MICROS_PER_S
        ids = tuple(reservation_id(sku, state.key, attempt) for sku in more)
        return (StockAsked(MORE, attempt, ids, due_at, due_at + turn.settings.reservation_margin_s * MICROS_PER_S),)
    missing = payment.missing(state.payment, replace(order, lines=_edited(order, _changes(order, order.edit.lines))))
    if state.payment is None or missing <= 0:
        return _applied(state, order, {row.sku: row for row in found})
    if payment.is_open(state.payment):
        return ()  # its outcome, or that of another operation, comes back here
    if order.step == MORE_MONEY:
        return _refused(state, order, Reason.PAYMENT_DECLINED)
    return payment.increase(state.key, state.payment, missing)


def _more(order: OrderRow) -> tuple[OrderLine, ...]:
    """The lines that grow, with the units that are missing."""
    changes = _changes(order, order.edit.lines) if order.edit else {}
    grown = (line for line in order.lines if changes.get(line.line_id, 0) > 0)
    return tuple(replace(line, quantity=changes[line.line_id], canceled=0) for line in grown)


def _rows(state: State, order: OrderRow) -> list[StockAnswerRow]:
    """What the owners answered to this edit."""
    rows = ((row, parse_reservation(row.reservation_id)) for row in state.stock_answer.values())
    return [row for row, parsed in rows if parsed is not None and parsed[2] == order.attempt]


def _applied(state: State, order: OrderRow, granted: dict[str, StockAnswerRow]) -> tuple[Event, ...]:
    assert order.edit is not None, "only an edit is applied"
    changes = _changes(order, order.edit.lines)
    skus = {line.line_id: line.sku for line in order.lines}
    delta = tuple(LineDelta(line_id, skus[line_id], units) for line_id, units in changes.items())
    edited = OrderEdited(order.version + 1, delta, _money_delta(order, _edited(order, changes)), order.edit.command_id)
    fewer, _ = order_lines.taken_off(state, {line_id: -units for line_id, units in changes.items() if units < 0})
    created = fulfillment.created(state.key, replace(order, lines=_more(order)), granted)
    ids = tuple(row.reservation_id for row in granted.values())
    committed = (StockAsked("commit", order.attempt, ids),) if ids else ()
    return (edited, *fewer, *committed, *created, *(fulfillment.planned(each) for each in created))


def _refused(state: State, order: OrderRow, reason: str, shortages: tuple[Shortage, ...] = ()) -> tuple[Event, ...]:
    """The order stays as it was; what was granted for the edit goes back."""
    assert order.edit is not None, "only an edit is refused"
    granted = live(_rows(state, order)) if order.step in (MORE, MORE_MONEY) else ()
    release = (StockAsked("release", order.attempt, granted),) if granted else ()
    return (OrderEditFailed(reason, shortages, order.edit.command_id), *release)


def given_up(state: State, order: OrderRow) -> tuple[Event, ...]:
    """An owner did not answer in time: it is asked to release."""
    return _refused(state, order, Reason.STEP_TIMED_OUT)


def ended(order: OrderRow, reason: str) -> tuple[OrderEditFailed, ...]:
    """The order ends, and its edit with it."""
    return (OrderEditFailed(reason, (), order.edit.command_id),) if order.edit is not None else ()


def asks_for(order: OrderRow, attempt: int) -> bool:
    """Are grants of this attempt for an edit that is under way?"""
    return order.edit is not None and order.step in (MORE, MORE_MONEY) and attempt == order.attempt
