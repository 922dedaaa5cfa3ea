"""Shortages: what becomes of an order when stock has fewer units than it wants, by its partial policy (domain.md section 4, slot D34).

Under `reject` it ends. Under the others each owner keeps what it has; when all have answered, the units that nobody has are canceled and
the order goes on with the rest: at once under `ship_available`, when the customer says so under `ask`. Under `backorder`, and where the order
must be accepted, the owner's reservation waits for what it has not got, and the order with it.
"""

from collections.abc import Iterable, Iterator

from msgspec.structs import replace

from orderflow.streams.domain import order_lines, payment
from orderflow.streams.domain.contract import MICROS_PER_S, Settings, Shortage, Turn
from orderflow.streams.domain.order_records import AnswerShortage, OrderBackordered, OrderCreated, OrderLineCanceled, ShortageAsked
from orderflow.streams.domain.order_rows import OrderLine, OrderRow, StockAnswerRow
from orderflow.streams.domain.order_status import PENDING
from orderflow.streams.domain.parts import units
from orderflow.streams.domain.reasons import Reason
from orderflow.streams.domain.stock_answers import QUEUED, is_whole

SHIP_AVAILABLE, BACKORDER, ASK = "ship_available", "backorder", "ask"
CANCEL = "cancel"
CHOICES = (SHIP_AVAILABLE, CANCEL)
"""What a customer may answer."""
SHORT = "SHORT"
"""The hold of an order that waits for its customer, or for units."""
ASKED, BACKORDERED = "shortage", "backorder"
"""The step of an order that waits for its customer; for units."""
WINDOW, BACKORDER_WINDOW = "shortage_window", "backorder_window"
"""Kinds of the timers that end these waits."""


def takes_less(order: OrderRow) -> bool:
    """May an owner keep fewer units than the order wants?"""
    return order.partial_policy in (SHIP_AVAILABLE, ASK)


def takes_backorder(order: OrderRow | OrderCreated) -> bool:
    """May an owner's reservation wait for units?"""
    return order.partial_policy == BACKORDER or order.must_accept


def kept_s(settings: Settings, order: OrderRow | OrderCreated) -> int:
    """How long an order may wait for its customer, or for units, while others keep what they have for it."""
    asks_s = settings.shortage_window_s if order.partial_policy == ASK else 0
    return asks_s + (settings.backorder_window_s if takes_backorder(order) else 0)


def is_short(row: StockAnswerRow) -> bool:
    """Did its owner have fewer units than were asked for, or none?"""
    if row.outcome == "refused":
        return row.reason == Reason.INSUFFICIENT_STOCK
    return row.outcome == "reserved" and not is_whole(row)


def listed(rows: Iterable[StockAnswerRow]) -> tuple[Shortage, ...]:
    """What was wanted of each sku, and what there is of it."""
    return tuple(Shortage(row.sku, row.quantity, units(row.allocations) or row.available_after) for row in rows)


def granted(rows: Iterable[StockAnswerRow]) -> dict[str, StockAnswerRow]:
    """By sku, what owners keep, as if no more had been asked for."""
    return {row.sku: replace(row, quantity=units(row.allocations)) for row in rows if row.outcome == "reserved" and row.allocations}


def cut(order: OrderRow, rows: Iterable[StockAnswerRow]) -> tuple[tuple[OrderLineCanceled, ...], OrderRow]:
    """The units that nobody has come off the order, its last lines first; and the order as it is then."""
    missing = {row.sku: row.quantity - units(row.allocations) for row in rows if is_short(row)}
    events: list[OrderLineCanceled] = []
    lines: list[OrderLine] = []
    for line in reversed(order.lines):
        less = min(missing.get(line.sku, 0), order_lines.remaining(line)) if line.kind == "item" else 0
        if less:
            missing[line.sku] -= less
            events.append(OrderLineCanceled(line.line_id, line.sku, less, Reason.INSUFFICIENT_STOCK))
            line = replace(line, canceled=line.canceled + less)
        lines.append(line)
    holds = tuple(hold for hold in order.holds if hold.hold != SHORT)
    return tuple(reversed(events)), replace(order, lines=tuple(reversed(lines)), holds=holds)


def asked(order: OrderRow, rows: Iterable[StockAnswerRow], turn: Turn) -> ShortageAsked:
    """Ask the customer."""
    found = tuple(rows)
    short = listed(row for row in found if is_short(row))
    return ShortageAsked(short, _until(order, found, turn.settings.shortage_window_s, 0, turn))


def backordered(order: OrderRow, rows: Iterable[StockAnswerRow], turn: Turn) -> OrderBackordered:
    """Wait for units, with the time left in which a customer may be asked about others."""
    found = tuple(rows)
    asks_s = turn.settings.shortage_window_s if order.partial_policy == ASK else 0
    short = listed(row for row in found if row.outcome == QUEUED)
    return OrderBackordered(short, _until(order, found, turn.settings.backorder_window_s, asks_s, turn))


def _until(order: OrderRow, rows: Iterable[StockAnswerRow], window_s: int, later_s: int, turn: Turn) -> int:
    """The end of a wait: never so late that a reservation could end before what comes after it, the payment at last."""
    settings = turn.settings
    margin = (settings.reservation_margin_s + payment.window_s(settings, order) + later_s) * MICROS_PER_S
    ends = (row.due_at - margin for row in rows if row.due_at is not None and (row.allocations or row.outcome == QUEUED))
    return min((turn.at + window_s * MICROS_PER_S, *ends))


def faults(order: OrderRow, command: AnswerShortage) -> Iterator[tuple[Reason, dict[str, str]]]:
    """What is wrong with the customer's answer, in the order of the reasons."""
    if command.choice not in CHOICES:
        yield Reason.SCHEMA_INVALID, {"field": "choice", "possible": ", ".join(CHOICES)}
    if order.status is not PENDING or order.step != ASKED:
        yield Reason.ILLEGAL_TRANSITION, {"status": order.status.lower(), "asked": "nothing"}
