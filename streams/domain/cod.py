"""Cash on delivery: an order that people confirm, whose money a courier collects (domain.md 2.3, slot D101).

It is a payment like any other, whose provider is people: they say yes within the window, and what was collected after goods have left.
Nothing is captured before, nothing holds the handover up, and what will never be collected is voided.
"""

from collections.abc import Iterator

from orderflow.streams.domain import holds, payment, payment_ledger
from orderflow.streams.domain.contract import Refused, Turn
from orderflow.streams.domain.order_records import OrderHoldPlaced
from orderflow.streams.domain.order_rows import OrderRow, State
from orderflow.streams.domain.order_status import PENDING
from orderflow.streams.domain.payment_records import ConfirmCod, ConfirmCodCollection
from orderflow.streams.domain.payment_rows import PaymentRow
from orderflow.streams.domain.reasons import Reason
from orderflow.streams.domain.refusals import refusal, untimely

MISMATCH = "cod_mismatch"
"""Code of a collection that is not what was due: people look at it."""

Fault = tuple[Reason, dict[str, str]]


def confirm(state: State, command: ConfirmCod, turn: Turn) -> tuple[payment.Event | Refused, ...]:
    """The buyer wants it: the order goes on as one whose payment is authorized. A repeat is answered as done."""
    order, row = state.order, state.payment
    for reason, detail in _faults(order, row, order.version if order else 0, turn):
        return refusal(command, reason, **detail)
    assert order is not None and row is not None, "an order without is a fault"
    if payment.is_authorized(row) and order.status in payment.SELLING:
        return ()
    if order.status is not PENDING or not payment.is_open(row):
        return refusal(command, Reason.ILLEGAL_TRANSITION, status=order.status.lower())
    if order.due_at is not None and order.due_at <= turn.at:
        return refusal(command, Reason.METHOD_EXPIRED)
    return (payment.answered(state.key, row, payment.SUCCEEDED),)


def collected(state: State, command: ConfirmCodCollection, turn: Turn) -> tuple[payment.Event | OrderHoldPlaced | Refused, ...]:
    """The courier brought this much. Another amount than was due is recorded as it is, and said to be another."""
    order, row = state.order, state.payment
    for reason, detail in (*_faults(order, row, row.version if row else 0, turn), *_faults_of_amount(order, row, command)):
        return refusal(command, reason, **detail)
    assert order is not None and row is not None, "an order without is a fault"
    amount = command.amount.amount_minor
    code = "" if amount == due(order, row) else MISMATCH
    held = holds.placed(order, holds.PAYMENT, code) if code else ()
    return (*payment.done(state.key, row, payment.CAPTURE, amount, code), *held)


def due(order: OrderRow, row: PaymentRow) -> int:
    """What is still to be collected for the goods that have left."""
    return payment_ledger.owed(order, {}) - row.ledger.captured


def _faults(order: OrderRow | None, row: PaymentRow | None, version: int, turn: Turn) -> Iterator[Fault]:
    """What is wrong whatever people say of it."""
    if order is None:
        yield Reason.NOT_FOUND, {}
        return
    reason = untimely(turn, version)
    if reason is not None:
        yield reason, {}
    if row is None or not payment.is_cod(row):
        yield Reason.ILLEGAL_TRANSITION, {"payment_terms": order.payment_terms, "status": order.status.lower()}


def _faults_of_amount(order: OrderRow | None, row: PaymentRow | None, command: ConfirmCodCollection) -> Iterator[Fault]:
    """What is wrong with the money, in the order of the reasons."""
    if order is None or row is None:
        return
    amount, left = command.amount.amount_minor, payment_ledger.capturable(row.ledger)
    if command.amount.currency != row.ledger.currency:
        yield Reason.CURRENCY_UNSUPPORTED, {"currency": command.amount.currency, "possible": row.ledger.currency}
    if amount <= 0:
        yield Reason.AMOUNT_OUT_OF_RANGE, {"amount": str(amount)}
    if not any(line.shipped for line in order.lines):
        yield Reason.ILLEGAL_TRANSITION, {"status": order.status.lower(), "shipped": "nothing"}
    if amount > left:
        yield Reason.CAPTURE_EXCEEDS_AUTHORIZED, {"asked": str(amount), "possible": str(left)}
