"""The orders key space: one order with its stock answers, its fulfillments and its payment, decided by one writer.

This module only says which rule file a command or an event belongs to: order.py, order_lines.py, order_edits.py, sourcing.py (with
shortages.py), holds.py, fulfillment.py, payment.py, payment_webhook.py (with disputes.py), cod.py;
the folds are order_fold.py and payment_fold.py.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, assert_never

from msgspec import Struct
from msgspec.structs import replace

from orderflow.streams.domain import (
    cod,
    disputes,
    fulfillment,
    holds,
    order,
    order_edits,
    order_fold,
    order_lines,
    payment,
    payment_webhook,
    sourcing,
)
from orderflow.streams.domain.channel import channel_key
from orderflow.streams.domain.claims import ClaimValue
from orderflow.streams.domain.contract import EventMeta, Get, Range, Refused, Send, Settle, Snapshot, TimerDue, Turn
from orderflow.streams.domain.fulfillment_steps import COMPENSATED
from orderflow.streams.domain.ids import answer_key, answers_prefix, fulfillments_prefix, reference_key
from orderflow.streams.domain.order_records import (
    AnswerShortage,
    CancelOrder,
    DeliveryConfirmed,
    DeliveryFailed,
    EditOrder,
    FulfillmentCreated,
    FulfillmentReduced,
    FulfillmentSnapshot,
    FulfillmentStatusBuffered,
    FulfillmentStatusChanged,
    FulfillmentStatusIgnored,
    OrderBackordered,
    OrderCreated,
    OrderEdited,
    OrderEditFailed,
    OrderEditRequested,
    OrderHoldPlaced,
    OrderHoldReleased,
    OrderLineCanceled,
    OrderRejected,
    OrderSnapshot,
    OrderStatusChanged,
    PlaceHold,
    PlaceOrder,
    PostFulfillmentStatus,
    RecordDelivery,
    RecordStockAnswer,
    RecordUndelivered,
    ReleaseHold,
    ShortageAsked,
    StockAnswerRecorded,
    StockAsked,
)
from orderflow.streams.domain.order_rows import FulfillmentRow, OrderRow, State, StockAnswerRow
from orderflow.streams.domain.order_status import CANCEL_PENDING, CONFIRMED, EXPIRED, FAILED, PENDING
from orderflow.streams.domain.order_views import fulfillment_snapshot, order_snapshot, payment_snapshot
from orderflow.streams.domain.payment_records import (
    CapturePayment,
    ConfirmCod,
    ConfirmCodCollection,
    DisputeClosed,
    DisputeOpened,
    PaymentActionRequired,
    PaymentAuthorized,
    PaymentCanceled,
    PaymentCaptured,
    PaymentFailed,
    PaymentRefunded,
    PaymentRequested,
    PaymentUnknown,
    PaymentVoided,
    RecordProviderResult,
    RecordWebhook,
    RefundPayment,
    RetryPayment,
    VoidPayment,
    WebhookRecorded,
)
from orderflow.streams.domain.reasons import Reason

ANSWERS_MAX = 1000
"""More stock answers than an order can have: two rounds of its skus and the waits of the second."""
FULFILLMENTS_MAX = 256
"""More fulfillments than an order can have: one per location (domain.md 2.4 allows 256 cells)."""


class ConcludeAnswers(Struct, frozen=True, gc=False):
    """The order's own follow-up when no answer is open: look at all of them together. Never on a log."""


PeopleAsk: TypeAlias = CapturePayment | VoidPayment | RefundPayment
Command: TypeAlias = (
    PlaceOrder
    | RecordStockAnswer
    | CancelOrder
    | EditOrder
    | AnswerShortage
    | PlaceHold
    | ReleaseHold
    | PostFulfillmentStatus
    | RecordDelivery
    | RecordUndelivered
    | RecordProviderResult
    | RecordWebhook
    | RetryPayment
    | ConfirmCod
    | ConfirmCodCollection
    | PeopleAsk
    | TimerDue
    | ConcludeAnswers
)
Event: TypeAlias = order_fold.Event
COMMANDS = (
    PlaceOrder,
    RecordStockAnswer,
    CancelOrder,
    EditOrder,
    AnswerShortage,
    PlaceHold,
    ReleaseHold,
    PostFulfillmentStatus,
    RecordDelivery,
    RecordUndelivered,
    RecordProviderResult,
    RecordWebhook,
    RetryPayment,
    ConfirmCod,
    ConfirmCodCollection,
    CapturePayment,
    VoidPayment,
    RefundPayment,
    TimerDue,
)
EVENTS = (
    OrderCreated,
    OrderStatusChanged,
    OrderRejected,
    OrderEditRequested,
    OrderEdited,
    OrderEditFailed,
    OrderLineCanceled,
    ShortageAsked,
    OrderBackordered,
    OrderHoldPlaced,
    OrderHoldReleased,
    StockAsked,
    StockAnswerRecorded,
    FulfillmentCreated,
    FulfillmentStatusChanged,
    FulfillmentReduced,
    FulfillmentStatusIgnored,
    FulfillmentStatusBuffered,
    DeliveryConfirmed,
    DeliveryFailed,
    PaymentRequested,
    PaymentAuthorized,
    PaymentCaptured,
    PaymentVoided,
    PaymentRefunded,
    PaymentCanceled,
    PaymentFailed,
    PaymentUnknown,
    PaymentActionRequired,
    WebhookRecorded,
    DisputeOpened,
    DisputeClosed,
    Refused,
)
INITIAL = State()
DUE: Mapping[str, Callable[[Any], tuple[str, int] | None]] = {"order": sourcing.due, "fulfillment": fulfillment.due}


def reads(key: str, command: Command) -> tuple[Get | Range, ...]:
    """An answer reads its own row only, so that 100 lines stay linear; what looks at all of them reads all of them once."""
    row = Get("order", key)
    match command:
        case PlaceOrder():
            return (row, Get("channel", channel_key(command.channel)))
        case RecordStockAnswer():
            return (row, Get("stock-answer", answer_key(key, command.reservation_id)))
        case PostFulfillmentStatus() | RecordDelivery() | RecordUndelivered() | RecordProviderResult() | RecordWebhook():
            return (row, _fulfillments(key), Get("payment", key))
        case PlaceHold():
            return (row, _fulfillments(key))
        case ReleaseHold():
            return (row,)
        case RetryPayment() | ConfirmCod() | ConfirmCodCollection() | CapturePayment() | VoidPayment() | RefundPayment():
            return (row, Get("payment", key))
        case TimerDue() if command.kind == fulfillment.BUFFERED_POST:
            return (row, _fulfillments(key))
        case CancelOrder() | EditOrder() | AnswerShortage() | ConcludeAnswers() | TimerDue():
            return (row, Range("stock-answer", answers_prefix(key), ANSWERS_MAX), _fulfillments(key), Get("payment", key))
        case _:
            assert_never(command)


def _fulfillments(key: str) -> Range:
    return Range("fulfillment", fulfillments_prefix(key), FULFILLMENTS_MAX)


def recall(state: State, command: Command) -> tuple[Send, ...] | None:
    """Repeats are met by the order's rows in `decide`, which then says nothing, or by the stored answer."""
    return None


def decide(state: State, command: Command, turn: Turn) -> tuple[Event, ...]:
    """What happens, by the file the command belongs to."""
    match command:
        case PlaceOrder():
            return order.place(state, command, turn)
        case RecordStockAnswer():
            return sourcing.record_answer(state, command)
        case ConcludeAnswers():
            return sourcing.conclude(state, turn)
        case CancelOrder():
            return order.cancel(state, command, turn)
        case EditOrder():
            return order_edits.edit(state, command, turn)
        case AnswerShortage():
            return sourcing.answer_shortage(state, command, turn)
        case PlaceHold():
            return holds.place(state, command, turn)
        case ReleaseHold():
            return holds.release(state, command, turn)
        case PostFulfillmentStatus():
            return fulfillment.post(state, command, turn)
        case RecordDelivery():
            return fulfillment.deliver(state, command, turn)
        case RecordUndelivered():
            return fulfillment.undelivered(state, command)
        case RecordProviderResult():
            return _result_recorded(state, command)
        case RecordWebhook():
            return _webhook_recorded(state, command, turn)
        case RetryPayment():
            return payment.retry(state, command, turn)
        case ConfirmCod():
            return cod.confirm(state, command, turn)
        case ConfirmCodCollection():
            return cod.collected(state, command, turn)
        case CapturePayment():
            return payment.capture(state, command, turn)
        case VoidPayment():
            return payment.void(state, command, turn)
        case RefundPayment():
            return payment.refund(state, command, turn)
        case TimerDue() if command.kind == fulfillment.BUFFERED_POST:
            return fulfillment.give_up_post(state, command)
        case TimerDue():
            return sourcing.timer_due(state, command, turn)
        case _:
            assert_never(command)


def _result_recorded(state: State, command: RecordProviderResult) -> tuple[Event, ...]:
    """What the provider says of an operation becomes a fact; a capture that was declined also ends the posts that wait for it."""
    return _told(state, payment.record_result(state, command))


def _webhook_recorded(state: State, command: RecordWebhook, turn: Turn) -> tuple[Event, ...]:
    """What the provider says by itself becomes a fact, and the outcome of the operation under way if it names it; with a dispute that is
    decided the money goes back that waited for it.
    """
    events = _told(state, payment_webhook.record_webhook(state, command))
    row = state.payment
    for event in events:
        if row is not None and isinstance(event, DisputeOpened | DisputeClosed):
            row = disputes.evolve(row, event, turn.at)
    if row is state.payment or state.order is None:
        return events
    return (*events, *payment.undone(replace(state, payment=row), state.order))


def _told(state: State, events: tuple[Event, ...]) -> tuple[Event, ...]:
    """A capture that was declined, an answer about other money than was asked for, or a dispute holds the order for people."""
    found = list(events)
    for event in events:
        if isinstance(event, PaymentFailed) and event.operation == payment.CAPTURE:
            found += (*fulfillment.not_handed_over(state, Reason.PAYMENT_DECLINED), *holds.placed(state.order, holds.PAYMENT, event.code))
        elif isinstance(event, Refused) and event.reason in payment.MISMATCHES:
            found += holds.placed(state.order, holds.PAYMENT, event.reason)
        elif isinstance(event, DisputeOpened):
            held = tuple(holds.placed(state.order, holds.PAYMENT, event.code or disputes.DISPUTE))
            found += (*held, *(fulfillment.not_handed_over(state, Reason.HOLD_ACTIVE) if held else ()))
    return tuple(found)


def evolve(state: State, event: Event, meta: EventMeta) -> State:
    """The rows after the event."""
    return order_fold.evolve(state, event, meta)


def react(state: State, event: Event, meta: EventMeta) -> tuple[Send | Settle, ...]:
    """What to ask of stock, and which waiting commands have their answer."""
    match event:
        case StockAsked():
            return tuple(sourcing.asked_of_stock(state, event))
        case StockAnswerRecorded():
            if sourcing.is_unwanted(state, event):
                return (sourcing.given_back(state, event),)
            return (Send("orders", state.key, ConcludeAnswers()),) if sourcing.concludes(state, event) else ()
        case OrderRejected():
            waiting = state.order.waiting if state.order else ()
            return tuple(Settle(command_id, event.reason, event.shortages) for command_id in waiting)
        case OrderStatusChanged():
            return (*_ended(state, event), *_concluded(state, event.new_status in payment.ENDING))
        case PaymentAuthorized():
            return (*payment.settled(event), *_concluded(state, True), *_claimed(state, event))
        case PaymentActionRequired():
            return (*payment.settled(event), *_placed(state), *_concluded(state, True), *_claimed(state, event))
        case OrderBackordered():
            return tuple(_placed(state))
        case PaymentCaptured() | PaymentVoided() | PaymentRefunded() | PaymentCanceled() | PaymentFailed():
            return (*payment.settled(event), *_concluded(state, True))
        case FulfillmentStatusChanged():
            ended = (Send("orders", state.key, ConcludeAnswers()),) if event.new_status is COMPENSATED else ()
            return (*fulfillment.asked_of_stock(state, event), *fulfillment.settled(state, event, meta), *ended)
        case FulfillmentStatusIgnored():
            return tuple(fulfillment.settled(state, event, meta))
        case OrderEditRequested():
            return (Send("orders", state.key, ConcludeAnswers()),)
        case OrderEdited():
            return (Settle(event.command_id), Send("orders", state.key, ConcludeAnswers()))
        case OrderEditFailed():
            return (Settle(event.command_id, event.reason, event.shortages), Send("orders", state.key, ConcludeAnswers()))
        case FulfillmentReduced():
            return tuple(order_lines.given_back(state, event))
        case OrderHoldReleased():
            is_free = state.order is not None and state.order.status is CONFIRMED and not state.order.holds
            return (Send("orders", state.key, ConcludeAnswers()),) if is_free else ()
        case (
            OrderCreated()
            | OrderLineCanceled()
            | ShortageAsked()
            | OrderHoldPlaced()
            | FulfillmentCreated()
            | FulfillmentStatusBuffered()
            | DeliveryConfirmed()
            | DeliveryFailed()
        ):
            return ()
        case PaymentRequested() | PaymentUnknown() | WebhookRecorded() | DisputeOpened() | DisputeClosed() | Refused():
            return ()  # connectors read the request; nothing is asked of another key
        case _:
            assert_never(event)


def _concluded(state: State, moves: bool) -> tuple[Send, ...]:
    """An order with money looks at all of it again when it ends, hands over, or hears of its payment, and so does one of which something
    was undelivered.
    """
    failed = any(row.status is COMPENSATED for row in state.fulfillment.values())
    if not moves or state.order is None or not (state.order.financial_status or failed):
        return ()
    return (Send("orders", state.key, ConcludeAnswers()),)


def _placed(state: State) -> list[Settle]:
    """The place has its answer before the order is confirmed: it is there, and waits for its buyer, or for units."""
    return (
        [Settle(command_id) for command_id in state.order.waiting[:1]] if state.order is not None and state.order.status is PENDING else []
    )


def _claimed(state: State, event: PaymentAuthorized | PaymentActionRequired) -> tuple[Send, ...]:
    """The provider's own name of the payment is this order's: what it says later may name nothing else."""
    if state.payment is None or not event.provider_ref:
        return ()
    return (Send("references", reference_key(state.payment.attempts[-1].provider, event.provider_ref), ClaimValue(state.key)),)


def _ended(state: State, event: OrderStatusChanged) -> list[Settle]:
    """The commands that this status answers: the place when the order is confirmed, its payment declined, or it ends before; with it a
    try to pay that came too late; a cancel when it is over.
    """
    if state.order is None:
        return []
    placed, canceled = state.order.waiting[:1], state.order.waiting[1:]
    if event.new_status is CONFIRMED:
        return [Settle(command_id) for command_id in placed]
    if event.new_status in (EXPIRED, FAILED):
        retried = state.payment.attempts[-1:] if state.payment and event.new_status is EXPIRED else ()
        asked = (*placed, *(attempt.command_id for attempt in retried if attempt.command_id))
        return [Settle(command_id, event.reason) for command_id in asked]
    if event.previous_status is not CANCEL_PENDING:
        return []
    answered = canceled if state.order.confirmed_at is not None else placed + canceled
    return [Settle(command_id) for command_id in answered]


def waits(state: State, command: Command, command_id: str) -> bool:
    """A place waits until the order is confirmed or ends, a cancel until every owner has answered, a post for its predecessor or its
    money, what people ask of a payment for the provider.
    """
    row = state.order
    if isinstance(command, PostFulfillmentStatus):
        return fulfillment.waits(state, command_id)
    if isinstance(command, RetryPayment | CapturePayment | VoidPayment | RefundPayment):
        return payment.waits(state, command_id)
    if isinstance(command, EditOrder):
        return row is not None and row.edit is not None and row.edit.command_id == command_id
    if row is None or command_id not in row.waiting:
        return False
    if command_id == row.waiting[0]:
        return row.status is PENDING or (row.status is CANCEL_PENDING and row.confirmed_at is None)
    return row.status is CANCEL_PENDING


def violations(state: State) -> tuple[str, ...]:
    """What may never be true of an order: more units than were ordered, a step that nobody did (I20), money from nowhere."""
    found = []
    row = state.order
    for line in row.lines if row else ():
        if min(line.fulfilled, line.shipped, line.delivered, line.canceled) < 0 or line.delivered > line.shipped:
            found.append(f"counters of line {line.line_id} contradict each other")
        if line.shipped + line.canceled > line.quantity or line.shipped > line.fulfilled:
            found.append(f"line {line.line_id} shipped more than was ordered")
    if row is not None and row.answers_open < 0:
        found.append("more answers than were asked for")
    for each in state.fulfillment.values():
        for part in each.lines:
            if not 0 <= part.shipped <= part.packed <= part.picked <= part.ordered:
                found.append(f"line {part.line_id} of {each.fulfillment_id} passed a step nobody did")
    return (*found, *payment.violations(state))


def view(key: str) -> tuple[Get | Range, ...]:
    """The order, all its fulfillments and its payment."""
    return (Get("order", key), _fulfillments(key), Get("payment", key))


def snapshots(before: State, after: State, head_sequence: int, at: int) -> tuple[Snapshot, ...]:
    """The order when it changed, its payment, and each fulfillment that did. `after` must hold all rows of `view`."""
    found = []
    if after.order is not None and (before.order is None or before.order.version != after.order.version):
        found.append(Snapshot("order", after.key, order_snapshot(after, after.order, head_sequence, at)))
    money = after.payment
    if money is not None and (before.payment is None or before.payment.version != money.version):
        found.append(Snapshot("payment", after.key, payment_snapshot(after.key, money, head_sequence, at)))
    for name, row in after.fulfillment.items():
        earlier = before.fulfillment.get(name)
        if earlier is None or earlier.version != row.version:
            found.append(Snapshot("fulfillment", name, fulfillment_snapshot(after.key, row, head_sequence, at)))
    return tuple(found)


__all__ = [
    "ANSWERS_MAX",
    "COMMANDS",
    "DUE",
    "EVENTS",
    "INITIAL",
    "Command",
    "ConcludeAnswers",
    "Event",
    "FulfillmentRow",
    "FulfillmentSnapshot",
    "OrderRow",
    "OrderSnapshot",
    "State",
    "StockAnswerRow",
    "decide",
    "evolve",
    "react",
    "reads",
    "recall",
    "snapshots",
    "view",
    "violations",
    "waits",
]
