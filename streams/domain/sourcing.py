"""Sourcing: how an order gets its units, all of them or none (domain.md 2.4, section 4).

It asks every sku at once. When open orders of others are in the way it gives everything back and asks once more, one sku after the
other in sorted order, waiting a moment where units may come free; orders that wait only ever hold lower skus, so one of them wins.
It never decides alone that a reservation is gone: it asks the owner to release and waits for the owner's answer.
"""

from collections.abc import Iterator

from orderflow.streams.domain import fulfillment, holds, order_edits, payment, payment_ledger, reasons, shortages
from orderflow.streams.domain.contract import MICROS_PER_S, Refused, Send, Shortage, TimerDue, Turn
from orderflow.streams.domain.fulfillment_steps import PICKING, PLANNING, RANKS, SHIPPED
from orderflow.streams.domain.ids import answer_key, parse_reservation, reservation_id
from orderflow.streams.domain.order import asked_to_reserve, cancel_ended, canceling
from orderflow.streams.domain.order_records import (
    AnswerShortage,
    FulfillmentCreated,
    OrderBackordered,
    OrderHoldPlaced,
    OrderHoldReleased,
    OrderLineCanceled,
    OrderRejected,
    OrderStatusChanged,
    RecordStockAnswer,
    ShortageAsked,
    StockAnswerRecorded,
    StockAsked,
)
from orderflow.streams.domain.order_rows import OrderRow, State, StockAnswerRow
from orderflow.streams.domain.order_status import (
    CANCEL_PENDING,
    COMPLETE,
    COMPLETED,
    CONFIRMED,
    DELIVERED,
    EXPIRED,
    FAILED,
    OPEN,
    PENDING,
    PROCESSING,
    REJECTED,
    SYSTEM,
    status_changed,
)
from orderflow.streams.domain.order_status import SHIPPED as ORDER_SHIPPED
from orderflow.streams.domain.parts import Holder, Money, units
from orderflow.streams.domain.payment_fold import PAY
from orderflow.streams.domain.reasons import Reason
from orderflow.streams.domain.refusals import UnknownValue, refusal, untimely
from orderflow.streams.domain.stock_answers import MORE, OUTCOMES, QUEUED, demand, is_whole, latest, live, outcome_after
from orderflow.streams.domain.stock_records import CommitReservation, ReleaseReservation, ReserveStock

GIVE_UP = "give_up"
CONTENDED_RETRY = "contended_retry"
"""Kinds of the order's timers: stop waiting for answers; ask again. The third is the payment's window."""
AUTO_COMPLETE = "auto_complete"
"""Kind of the timer that ends a delivered order."""
AUTHORIZATION_EXPIRING = "authorization_expiring"
"""Kind of the timer that holds an order whose money is not captured and will not be for the taking much longer."""
TIMERS = {
    "reserve": GIVE_UP,
    MORE: GIVE_UP,
    "later": CONTENDED_RETRY,
    shortages.ASKED: shortages.WINDOW,
    shortages.BACKORDERED: shortages.BACKORDER_WINDOW,
    PAY: payment.WINDOW,
    COMPLETE: AUTO_COMPLETE,
}

Event = (
    fulfillment.Event
    | order_edits.Event
    | StockAsked
    | StockAnswerRecorded
    | OrderRejected
    | OrderBackordered
    | OrderHoldPlaced
    | OrderHoldReleased
    | OrderLineCanceled
    | ShortageAsked
    | FulfillmentCreated
    | payment.Event
)


def due(row: OrderRow) -> tuple[str, int] | None:
    """When the order stops waiting, asks again, is over, or is about to lose its authorization."""
    found = [each] if (each := waits_until(row)) is not None else []
    if row.expiring_at is not None and row.status in (CONFIRMED, PROCESSING):
        found.append((AUTHORIZATION_EXPIRING, row.expiring_at))
    return min(found, key=lambda each: each[1], default=None)


def waits_until(row: OrderRow) -> tuple[str, int] | None:
    """When it stops waiting for its talk with others, asks them again, or is over."""
    kind = TIMERS.get(row.step)
    if row.step == COMPLETE and (row.financial_status == payment_ledger.DISPUTED or row.unsettled or _is_uncollected(row)):
        return None  # it completes when the dispute is decided, and what was to be paid on delivery is collected or given back
    waits = row.status in {COMPLETE: (DELIVERED,), MORE: (PROCESSING,), PAY: (PENDING, FAILED)}.get(row.step, (PENDING,))
    return (kind, row.due_at) if kind is not None and row.due_at is not None and waits else None


def _is_uncollected(row: OrderRow) -> bool:
    """Is money still to be collected? Rows of earlier versions do not say that they are unsettled."""
    return row.payment_terms == payment.COD and row.financial_status in (payment_ledger.AUTHORIZED, payment_ledger.PARTIALLY_CAPTURED)


# -- answers --------------------------------------------------------------------------------------------------------------------------
def record_answer(state: State, command: RecordStockAnswer) -> tuple[StockAnswerRecorded | Refused, ...]:
    """An owner's answer becomes a fact of the order. A stale or repeated one is nothing; units nobody asked for are given back."""
    if command.outcome not in OUTCOMES:
        raise UnknownValue(f"a stock answer of outcome {command.outcome!r}")
    if state.order is None:
        return refusal(command, Reason.NOT_FOUND, reservation_id=command.reservation_id)
    row = state.stock_answer.get(answer_key(state.key, command.reservation_id))
    if row is not None and row.reservation_id != command.reservation_id:
        return ()  # about a reservation of somebody else, under this order's name
    unasked = row is None and command.outcome == "reserved"
    if not unasked and outcome_after(row, command) is None:
        return ()
    return (
        StockAnswerRecorded(
            command.reservation_id,
            command.sku,
            command.outcome,
            command.quantity,
            command.allocations,
            command.due_at,
            command.available_after,
            command.contended,
            command.reason,
        ),
    )


def is_unwanted(state: State, event: StockAnswerRecorded) -> bool:
    """Units were granted that the order does not want, or not any more."""
    row = state.stock_answer.get(answer_key(state.key, event.reservation_id))
    if event.outcome != "reserved" or state.order is None:
        return False
    parsed = parse_reservation(event.reservation_id)
    wanted = state.order.status in (PENDING, FAILED) or (parsed is not None and order_edits.asks_for(state.order, parsed[2]))
    return row is None or (row.outcome == "reserved" and not wanted)


def concludes(state: State, event: StockAnswerRecorded) -> bool:
    """Was this the last answer the order waited for, or a loss it must look at? To a cancel, units that left are an answer too."""
    order = state.order
    if order is None or order.status not in OPEN or order.answers_open:
        return False
    return event.outcome != "shipped" or order.status is CANCEL_PENDING


def conclude(state: State, turn: Turn) -> tuple[Event, ...]:
    """Every answer of stock is in, or one of the payment: go on with what they say together. Money that is due back goes first."""
    order = state.order
    if order is None:
        return ()
    undone = payment.undone(state, order)
    if order.status is ORDER_SHIPPED:
        return (*undone, *fulfillment.ended(state, order, turn, is_undone=payment.is_undone(state, order)))
    if undone or order.answers_open or order.status not in OPEN:
        return undone
    if order.status is CANCEL_PENDING:
        if not payment.is_undone(state, order):
            return ()
        return cancel_ended(order, [row.status for row in state.fulfillment.values()], order.reason, turn)
    if order.edit is not None:
        return order_edits.go_on(state, order, turn)
    if order.status not in (PENDING, FAILED):
        return _after_commit(state, order, turn)
    if order.step in ("reserve", shortages.BACKORDERED):
        return _after_reserve(state, order, turn)
    if order.step == PAY:
        return _after_payment(state, order, turn)
    if order.step == "release":
        return _rejected(state, order, Reason.STEP_TIMED_OUT)
    return ()


def _after_reserve(state: State, order: OrderRow, turn: Turn) -> tuple[Event, ...]:
    wanted = demand(order.lines)
    found = latest(state.stock_answer.values(), order.attempt)
    queued = [row for row in found.values() if row.outcome == QUEUED]
    failed = [row for row in found.values() if row.outcome != QUEUED and (row.outcome != "reserved" or not is_whole(row))]
    if failed and not (shortages.takes_less(order) and all(shortages.is_short(row) for row in failed)):
        return _after_refusal(state, order, turn, failed)
    for sku in wanted:
        if sku not in found:  # one after the other: its turn
            ids = (reservation_id(sku, state.key, order.attempt),)
            return (asked_to_reserve(turn, order.attempt, ids, order),)
    if queued:
        return _backordered(order, found, turn)
    if not shortages.granted(found.values()):
        return _after_refusal(state, order, turn, failed)
    if failed and order.partial_policy == shortages.ASK:
        asked = shortages.asked(order, found.values(), turn)
        return (asked, *holds.placed(order, shortages.SHORT, Reason.INSUFFICIENT_STOCK))
    return (*_unheld(order, ""), *_sourced(state, order, found, turn))


def _backordered(order: OrderRow, found: dict[str, StockAnswerRow], turn: Turn) -> tuple[Event, ...]:
    """Wait for units; a wait that is known already goes on."""
    if order.step == shortages.BACKORDERED:
        return ()
    return (shortages.backordered(order, found.values(), turn), *holds.placed(order, shortages.SHORT, Reason.INSUFFICIENT_STOCK))


def _unheld(order: OrderRow, reason: str) -> Iterator[OrderHoldReleased]:
    """The shortage is over."""
    return (OrderHoldReleased(hold.hold, reason) for hold in order.holds if hold.hold == shortages.SHORT)


def _sourced(state: State, order: OrderRow, found: dict[str, StockAnswerRow], turn: Turn) -> tuple[Event, ...]:
    """Go on with the units that there are, without those that nobody has: to the payment where one is due, else confirm."""
    canceled, order = shortages.cut(order, found.values())
    kept = shortages.granted(found.values())
    amount = payment_ledger.wanted(order) if order.payment_terms in payment.TERMS else 0
    if amount > 0:
        end = payment.window_end(order, turn, (row.due_at for row in kept.values() if row.due_at is not None))
        return (*canceled, payment.authorization(state.key, order, Money(amount, order.currency), end))
    return (*canceled, *_confirmed(state, order, kept, turn))


def answer_shortage(state: State, command: AnswerShortage, turn: Turn) -> tuple[Event | Refused, ...]:
    """The customer takes what there is, or nothing."""
    order = state.order
    if order is None:
        return refusal(command, Reason.NOT_FOUND)
    reason = untimely(turn, order.version)
    if reason is not None:
        return refusal(command, reason)
    for reason, detail in shortages.faults(order, command):
        return refusal(command, reason, **detail)
    if command.choice == shortages.CANCEL:
        return canceling(state, order, Reason.INSUFFICIENT_STOCK, "customer", turn)
    found = latest(state.stock_answer.values(), order.attempt)
    if not shortages.granted(found.values()):  # what there was is lost meanwhile
        return _ended(state, order, [row for row in found.values() if row.outcome != "reserved" or not is_whole(row)])
    return (*_unheld(order, command.choice), *_sourced(state, order, found, turn))


def _after_payment(state: State, order: OrderRow, turn: Turn) -> tuple[Event, ...]:
    """The order waits for its authorization: a yes confirms it, a no ends it where no other try is allowed, and so does the loss of its
    units meanwhile.
    """
    found = _wanted(state, order)
    lost = [row for row in found.values() if row.outcome != "reserved" or not is_whole(row)]
    if lost:
        return _ended(state, order, lost)
    if order.status is FAILED:
        return ()  # the buyer's turn
    if payment.is_declined(state.payment) and payment.may_retry(order, state.payment):
        return (status_changed(order, PENDING, FAILED, (), Reason.PAYMENT_DECLINED),)
    if payment.is_declined(state.payment):
        return (*_released(state, order), *_rejected(state, order, Reason.PAYMENT_DECLINED))
    return _confirmed(state, order, found, turn) if payment.is_authorized(state.payment) else ()


def _wanted(state: State, order: OrderRow) -> dict[str, StockAnswerRow]:
    """What stock said last of each sku, without those of which nothing is wanted any more."""
    return {sku: row for sku, row in latest(state.stock_answer.values(), order.attempt).items() if row.quantity}


def _confirmed(state: State, order: OrderRow, granted: dict[str, StockAnswerRow], turn: Turn) -> tuple[Event, ...]:
    """The last yes, of stock or of the payment, confirms, commits the units for good and hands the order to the warehouses, unless it is
    held.
    """
    ids = tuple(row.reservation_id for row in granted.values())
    return (
        status_changed(order, PENDING, CONFIRMED, due_at=payment.expiring_at(state, turn)),
        StockAsked("commit", order.attempt, ids),
        *(() if order.holds else _planned(state, order, granted)),
    )


def _planned(state: State, order: OrderRow, granted: dict[str, StockAnswerRow]) -> tuple[Event, ...]:
    """Each warehouse gets what it is to send."""
    created = fulfillment.created(state.key, order, granted)
    return (
        *created,
        *(fulfillment.planned(each) for each in created),
        status_changed(order, CONFIRMED, PROCESSING, [PLANNING for _ in created]),
    )


def _after_refusal(state: State, order: OrderRow, turn: Turn, failed: list[StockAnswerRow]) -> tuple[Event, ...]:
    """Open orders of others are in the way: once more in sorted order, then wait a little; anything else ends the order."""
    wanted = demand(order.lines)
    if len(wanted) > 1 and all(row.outcome == "refused" and row.contended for row in failed):
        if order.attempt == 1:
            first = reservation_id(next(iter(wanted)), state.key, 2)
            return (*_released(state, order), asked_to_reserve(turn, 2, (first,), order))
        if order.attempt - 2 < turn.settings.contended_waits_max:
            attempt = order.attempt + 1
            ids = tuple(reservation_id(row.sku, state.key, attempt) for row in failed)
            return (StockAsked("later", attempt, ids, turn.at + turn.settings.contended_wait_s * MICROS_PER_S),)
    return _ended(state, order, failed)


def _released(state: State, order: OrderRow) -> tuple[StockAsked, ...]:
    """All that stock keeps for the order goes back."""
    kept = live(state.stock_answer.values())
    return (StockAsked("release", order.attempt, kept),) if kept else ()


def _ended(state: State, order: OrderRow, failed: list[StockAnswerRow]) -> tuple[Event, ...]:
    """Stock could not keep these: the order expires where time was the reason, and is rejected where units were."""
    release = _released(state, order)
    refused = [row for row in failed if row.outcome != "expired"]
    if not refused:
        return (*release, status_changed(order, order.status, EXPIRED, (), Reason.RESERVATION_EXPIRED))
    named = [row.reason if row.outcome == "refused" else Reason.INSUFFICIENT_STOCK for row in refused]
    return (*release, *_rejected(state, order, reasons.first(named), shortages.listed(refused)))


def _rejected(state: State, order: OrderRow, reason: str, short: tuple[Shortage, ...] = ()) -> tuple[OrderRejected, OrderStatusChanged]:
    return OrderRejected(reason, short), status_changed(order, order.status, REJECTED, (), reason)


def _after_commit(state: State, order: OrderRow, turn: Turn) -> tuple[Event, ...]:
    """The units are the order's for good: a held order that is free goes to the warehouses, posts that waited go on. Units that went
    missing cancel what nobody has picked.
    """
    rows = tuple(state.fulfillment.values())
    answers = {row.reservation_id: row for row in state.stock_answer.values()}
    missing = [answers[name] for name, quantity in _promised(state) if name in answers and units(answers[name].allocations) < quantity]
    if missing:
        never_committed = order.step == "commit" and any(row.outcome in ("expired", "released") for row in missing)
        untouched = all(row.status not in RANKS or RANKS[row.status] < RANKS[PICKING] for row in rows)
        if never_committed or untouched:
            expired = any(row.outcome == "expired" for row in missing)
            reason = Reason.RESERVATION_EXPIRED if expired else Reason.INSUFFICIENT_STOCK
            return canceling(state, order, reason, SYSTEM, turn)
        return ()  # the pick will tell what is really there
    if order.status is CONFIRMED:
        return () if order.holds else _planned(state, order, _wanted(state, order))
    events: list[Event] = []
    changed = {}
    handover = payment.Handover(state, order)
    for row in rows:
        changed[row.fulfillment_id], more = fulfillment.served(order, row, turn, handover)
        events += more
    return (*events, *handover.asked(), *fulfillment.order_moved(state, order, changed))


def _promised(state: State) -> Iterator[tuple[str, int]]:
    """(reservation id, units) that fulfillments still have to ship, or that a held order is to get."""
    promised: dict[str, int] = {}
    if state.order is not None and state.order.status is CONFIRMED:
        promised = {row.reservation_id: row.quantity for row in _wanted(state, state.order).values()}
    for row in state.fulfillment.values():
        if row.status in RANKS and RANKS[row.status] < RANKS[SHIPPED]:
            for line in row.lines:
                promised[line.reservation_id] = promised.get(line.reservation_id, 0) + line.ordered
    return iter(promised.items())


# -- timers ---------------------------------------------------------------------------------------------------------------------------
def timer_due(state: State, command: TimerDue, turn: Turn) -> tuple[Event, ...]:
    """Give up waiting for stock or for the payment, ask stock again, hold, or complete. An outdated timer changes nothing."""
    order = state.order
    if order is None or due(order) != (command.kind, command.due_at):
        return ()
    if command.kind == AUTHORIZATION_EXPIRING:
        return (*holds.placed(order, holds.PAYMENT_EXPIRING, ""), *fulfillment.not_handed_over(state, Reason.HOLD_ACTIVE))
    if order.step == MORE:
        return order_edits.given_up(state, order)
    if order.step == "later":
        return _asked_again(state, order, turn)
    if order.step == COMPLETE:
        return (status_changed(order, DELIVERED, COMPLETED, [row.status for row in state.fulfillment.values()]),)
    if order.step == PAY:
        return (*_released(state, order), status_changed(order, order.status, EXPIRED, (), Reason.METHOD_EXPIRED))
    if order.step in (shortages.ASKED, shortages.BACKORDERED):
        found = latest(state.stock_answer.values(), order.attempt)
        return _ended(state, order, [row for row in found.values() if shortages.is_short(row) or row.outcome == QUEUED])
    ids = live(state.stock_answer.values())
    return (StockAsked("release", order.attempt, ids),) if ids else _rejected(state, order, Reason.STEP_TIMED_OUT)


def _asked_again(state: State, order: OrderRow, turn: Turn) -> tuple[Event, ...]:
    """The moment is over: ask for the sku that was refused, unless a lower one was lost meanwhile."""
    found = latest(state.stock_answer.values(), order.attempt)
    refused = [row for row in found.values() if row.outcome == "refused"]
    lost = [row for row in found.values() if row.outcome != "refused" and not (row.outcome == "reserved" and is_whole(row))]
    if lost:
        return _after_refusal(state, order, turn, lost)
    ids = tuple(reservation_id(row.sku, state.key, order.attempt) for row in refused)
    return (asked_to_reserve(turn, order.attempt, ids, order),)


# -- what follows ---------------------------------------------------------------------------------------------------------------------
def asked_of_stock(state: State, event: StockAsked) -> Iterator[Send]:
    """One command to each owner that was asked."""
    order = state.order
    for name in event.reservation_ids:
        parsed = parse_reservation(name)
        if parsed is None or order is None:
            continue
        sku = parsed[0]
        if event.ask in ("reserve", MORE):
            yield Send("stock", sku, _reserve(state, order, event, name))
        elif event.ask == "commit":
            yield Send("stock", sku, CommitReservation(name))
        elif event.ask == "release":
            yield Send("stock", sku, ReleaseReservation(name, reason=order.reason))


def _reserve(state: State, order: OrderRow, event: StockAsked, name: str) -> ReserveStock:
    """Lines of one sku are asked for together, from the locations they name; from others too if one of them names none."""
    row = state.stock_answer[answer_key(state.key, name)]
    lines = [line for line in order.lines if line.kind == "item" and line.sku == row.sku]
    preferred = tuple(dict.fromkeys(line.location_id for line in lines if line.location_id))
    return ReserveStock(
        name,
        Holder(state.key, event.attempt),
        row.quantity,
        event.reserved_until or 0,
        preferred,
        any(not line.location_id for line in lines),
        event.ask == "reserve" and shortages.takes_less(order),
        line_ids=tuple(line.line_id for line in lines),
        backorder=event.ask == "reserve" and shortages.takes_backorder(order),
    )


def given_back(state: State, event: StockAnswerRecorded) -> Send:
    """Units that were granted too late, or never asked for, go back to their owner."""
    return Send("stock", event.sku, ReleaseReservation(event.reservation_id, reason="UNWANTED"))
