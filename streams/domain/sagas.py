"""Sagas: which talks of an order with others are under way, whom each waits for, how each ended (domain.md 4, slots D17 and INT-P1-03).

Nothing is kept for them: an order's rows say where its talks stand, and the sagas are read off these rows. An order that is with its
warehouse owes nobody an answer and is none.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from msgspec import Struct

from orderflow.streams.domain import holds, payment, shortages, sourcing
from orderflow.streams.domain.contract import MICROS_PER_S
from orderflow.streams.domain.fulfillment_steps import SHIPPED as HANDED_OVER
from orderflow.streams.domain.fulfillment_steps import status_named
from orderflow.streams.domain.order_records import OrderEdited, OrderEditFailed, OrderStatus, OrderStatusChanged
from orderflow.streams.domain.order_rows import OrderRow, State
from orderflow.streams.domain.order_status import (
    CANCEL_PENDING,
    CANCELED,
    CONFIRMED,
    DELIVERED,
    EXPIRED,
    FAILED,
    PENDING,
    REJECTED,
    SHIPPED,
)
from orderflow.streams.domain.payment_fold import MORE_MONEY, PAY
from orderflow.streams.domain.payment_records import PaymentCanceled, PaymentCaptured, PaymentFailed, PaymentRefunded, PaymentVoided
from orderflow.streams.domain.payment_rows import PaymentRow
from orderflow.streams.domain.stock_answers import AWAITED, MORE, QUEUED

PLACE, EDIT, CANCEL, HANDOVER, PAYMENT = "place", "edit", "cancel", "handover", "payment"
TYPES = (PLACE, EDIT, CANCEL, HANDOVER, PAYMENT)
"""From the order's lines to its commit or to all units given back; more units of an order in work; until a cancel is answered by everybody; a capture that goods wait for;
any other operation on the money of an order."""
COMPLETED, COMPENSATED, REFUSED = "completed", "compensated", "refused"
RESULTS = (COMPLETED, COMPENSATED, REFUSED)
"""How a saga ends: as it was meant, with all given back, or because a rule, a provider or goods that had left said no."""
CUSTOMER = "customer"
"""Whom a place waits for when stock has less than was wanted, when a payment was declined that may be tried again, while they have to act at
the provider, and until a buyer who pays on delivery was asked."""
PEOPLE = "people"
"""Whom a saga waits for after a compensation was declined: it is not asked again by itself."""
TILL = "till"
"""Whom a saga waits for that is to give back by hand what was collected on delivery."""
OVERDUE, UNANSWERED, DECLINED, BY_HAND = "overdue", "unanswered", "declined", "by_hand"
"""Why a saga is stuck: its time is over and nothing happened, somebody does not answer, a compensation was declined, only people can do it."""


class Saga(Struct, frozen=True, gc=False):
    """One talk under way. Times in microseconds: `since` the order last asked somebody, `due_at` when it gives up by itself, where it does.

    `waits_for` names owners as `stock SKU` or `provider NAME`, the customer or people; `compensating`: what was done is being given back.
    """

    saga_id: str
    saga_type: str
    step: str
    since: int
    due_at: int | None = None
    waits_for: tuple[str, ...] = ()
    compensating: bool = False


class Patience(Struct, frozen=True, gc=False):
    """When a saga counts as stuck: so many seconds after its time was over, or without the answer it waits for."""

    late_s: int = 30
    unanswered_s: int = 300


class End(Struct, frozen=True, gc=False):
    """A saga ended, so many microseconds after its last step began."""

    saga_type: str
    outcome: str
    step_us: int


# -- under way ------------------------------------------------------------------------------------------------------------------------
def sagas(state: State) -> tuple[Saga, ...]:
    """What is under way. `state` must hold the order, its stock answers, its fulfillments and its payment."""
    order = state.order
    if order is None:
        return ()
    return (*_with_stock(state, order), *_with_provider(state, order))


def _with_stock(state: State, order: OrderRow) -> Iterator[Saga]:
    """The place, or the cancel that has taken over; both also talk with the provider."""
    canceling = order.status is CANCEL_PENDING
    if not (canceling or order.status in (PENDING, FAILED) or order.answers_open):
        return
    money = _owed_by_provider(state, order) if canceling or order.step == PAY else ()
    timer = sourcing.waits_until(order)
    saga_type = CANCEL if canceling else EDIT if order.step == MORE else PLACE
    yield Saga(
        f"{state.key}~{saga_type}",
        saga_type,
        state.payment.attempts[-1].operation if money and state.payment and not order.answers_open else order.step,
        _since(order),
        timer[1] if timer else None,
        (*_owed_by_stock(state, order), *_owed_by_customer(order), *money),
        canceling or order.step == "release",
    )


def _with_provider(state: State, order: OrderRow) -> Iterator[Saga]:
    """Money that moves beside the two: for goods that are handed over, for people, or back from an order that has ended."""
    owed = _owed_by_provider(state, order)
    if not owed or state.payment is None or order.status in (PENDING, FAILED, CANCEL_PENDING):
        return
    name, operation = _of_money(state), payment.REFUND if TILL in owed else state.payment.attempts[-1].operation
    back = operation in payment.BACK or (operation == payment.AUTHORIZE and order.status in payment.ENDING)
    yield Saga(f"{state.key}~{name}", name, operation, _since(order), None, owed, back)


def _since(order: OrderRow) -> int:
    return order.placed_at if order.asked_at is None else order.asked_at


def _owed_by_stock(state: State, order: OrderRow) -> tuple[str, ...]:
    awaited = QUEUED if order.step == shortages.BACKORDERED else AWAITED.get(order.step)
    if not order.answers_open and awaited != QUEUED:
        return ()
    return tuple(f"stock {row.sku}" for row in state.stock_answer.values() if row.outcome == awaited)


def _owed_by_customer(order: OrderRow) -> tuple[str, ...]:
    """An answer to a shortage, or another try to pay."""
    return (CUSTOMER,) if order.status is FAILED or (order.status is PENDING and order.step == shortages.ASKED) else ()


def _owed_by_provider(state: State, order: OrderRow) -> tuple[str, ...]:
    """The provider, or people where it will not give back what it has to."""
    row = state.payment
    if row is None:
        return ()
    attempt = row.attempts[-1]
    if payment.is_open(row):
        return (CUSTOMER if payment.is_cod(row) or payment.waits_for_buyer(row) else f"provider {attempt.provider}",)
    if order.status not in payment.ENDING or payment.is_undone(state, order):
        return ()
    refused = attempt.outcome == payment.DECLINED and attempt.operation in payment.BACK
    return (TILL,) if payment.is_cod(row) else (PEOPLE,) if refused else ()


def _of_money(state: State) -> str:
    """Whether goods wait at the door for the operation under way."""
    if state.payment is None or state.payment.attempts[-1].operation != payment.CAPTURE:
        return PAYMENT
    posts = (post for row in state.fulfillment.values() for post in row.buffered)
    return HANDOVER if any(post.at > 0 and status_named(post.status) is HANDED_OVER for post in posts) else PAYMENT


def stuck(saga: Saga, now: int, patience: Patience) -> str:
    """Why nothing will happen without people; empty while something may. Only true of a partition that has consumed its backlog."""
    if PEOPLE in saga.waits_for:
        return DECLINED
    if TILL in saga.waits_for:
        return BY_HAND
    if saga.due_at is not None and now > saga.due_at + patience.late_s * MICROS_PER_S:
        return OVERDUE
    asks_provider = any(name.startswith("provider ") for name in saga.waits_for)
    if (saga.due_at is None or asks_provider) and now > saga.since + patience.unanswered_s * MICROS_PER_S:
        return UNANSWERED
    return ""


# -- found again ----------------------------------------------------------------------------------------------------------------------
def open_order(key: str, row: OrderRow) -> str | None:
    """Sort key of the orders that wait for stock or for an end, the one that asked first before the others; of what is paid on delivery also
    those of which more may have been collected than is due.
    """
    is_open = row.status in (PENDING, FAILED, CANCEL_PENDING) or row.answers_open > 0 or _may_owe(row)
    return f"{_since(row):020d}" if is_open else None


def _may_owe(row: OrderRow) -> bool:
    if row.payment_terms != payment.COD or row.status not in (SHIPPED, DELIVERED):
        return False
    return any(line.canceled for line in row.lines) or any(hold.hold == holds.PAYMENT for hold in row.holds)


def open_payment(key: str, row: PaymentRow) -> str | None:
    """Sort key of the payments with an operation under way, or whose provider would not give money back."""
    attempt = row.attempts[-1]
    refused = attempt.outcome == payment.DECLINED and attempt.operation in (payment.VOID, payment.REFUND)
    return "" if refused or payment.is_open(row) else None


# -- ended ----------------------------------------------------------------------------------------------------------------------------
OUTCOMES: Mapping[tuple[OrderStatus, OrderStatus], tuple[str, str]] = {
    (PENDING, CONFIRMED): (PLACE, COMPLETED),
    (PENDING, REJECTED): (PLACE, REFUSED),
    (PENDING, EXPIRED): (PLACE, COMPENSATED),
    (PENDING, CANCEL_PENDING): (PLACE, COMPENSATED),
    (FAILED, REJECTED): (PLACE, REFUSED),
    (FAILED, EXPIRED): (PLACE, COMPENSATED),
    (FAILED, CANCEL_PENDING): (PLACE, COMPENSATED),
    (CANCEL_PENDING, CANCELED): (CANCEL, COMPLETED),
    (CANCEL_PENDING, SHIPPED): (CANCEL, REFUSED),
}
"""The changes of an order that end a saga, and how. A cancel is refused by goods that had left."""


def _by_status(state: State, event: OrderStatusChanged, at: int) -> End | None:
    found = OUTCOMES.get((event.previous_status, event.new_status))
    return End(*found, _step_us(state, at)) if found else None


Done = PaymentCaptured | PaymentVoided | PaymentRefunded | PaymentCanceled | PaymentFailed


def _by_provider(state: State, event: Done, at: int) -> End | None:
    """Within a place or a cancel it is a step, and the order's change tells how it ended."""
    if state.order is None or state.order.status in (PENDING, FAILED, CANCEL_PENDING):
        return None
    if isinstance(event, PaymentFailed):
        outcome = REFUSED
    else:
        outcome = COMPENSATED if event.operation in payment.BACK else COMPLETED
    return End(_of_money(state), outcome, _step_us(state, at))


def _step_us(state: State, at: int) -> int:
    return 0 if state.order is None else max(0, at - _since(state.order))


def _by_edit(state: State, event: OrderEdited | OrderEditFailed, at: int) -> End | None:
    if state.order is None or state.order.step not in (MORE, MORE_MONEY):
        return None  # it asked nobody
    return End(EDIT, COMPLETED if isinstance(event, OrderEdited) else REFUSED, _step_us(state, at))


ENDS: Mapping[type, Callable[[State, Any, int], End | None]] = {
    OrderStatusChanged: _by_status,
    OrderEdited: _by_edit,
    OrderEditFailed: _by_edit,
    PaymentCaptured: _by_provider,
    PaymentVoided: _by_provider,
    PaymentRefunded: _by_provider,
    PaymentCanceled: _by_provider,
    PaymentFailed: _by_provider,
}
"""Event -> the saga that it ends, if it does, from the state before it and the turn's time in microseconds."""
