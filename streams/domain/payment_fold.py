"""How events change an order's payment: attempts and counters from each event's own amount, never from its totals."""

from msgspec.structs import replace

from orderflow.streams.domain import disputes, payment, payment_ledger
from orderflow.streams.domain.order_rows import OrderRow, State
from orderflow.streams.domain.payment_records import Ledger, PaymentActionRequired, PaymentCaptured, PaymentRequested
from orderflow.streams.domain.payment_rows import Attempt, PaymentRow

PAY = "pay"
"""The order's step while it waits for its authorization."""

MORE_MONEY = payment.INCREASE
"""The order's step while an edit waits for more money."""

PaymentEvent = PaymentRequested | payment.Result


def requested(state: State, order: OrderRow, event: PaymentRequested) -> State:
    """The operation is under way; of the first one the order waits for its outcome."""
    row = state.payment or PaymentRow(0, event.method, Ledger(currency=event.amount.currency))
    before = row.attempts[-1] if row.attempts and row.attempts[-1].attempt_id == event.attempt_id else None
    if before is not None and event.operation_no <= before.operation_no:
        return state
    attempt = Attempt(
        event.attempt_id,
        event.operation,
        event.operation_no,
        payment.REQUESTED,
        event.amount,
        event.provider,
        event.provider_ref,
        before.valid_until if before else None,
        "",
        event.command_id,
    )
    kept = row.attempts[:-1] if before is not None else row.attempts
    ledger = payment_ledger.requested(row.ledger, event.operation, event.amount.amount_minor)
    row = replace(row, version=row.version + 1, ledger=ledger, attempts=(*kept, attempt))
    if event.operation == payment.AUTHORIZE:
        order = replace(order, step=PAY, due_at=event.due_at)
    elif event.operation == payment.INCREASE:
        order = replace(order, step=MORE_MONEY, due_at=None)
    return _paid(state, order, row)


def resulted(state: State, order: OrderRow, event: payment.Result, at: int) -> State:
    """The operation under way has its outcome, or nobody knows it."""
    row = state.payment
    outcome = payment.outcome_of(event)
    attempt = row.attempts[-1] if row else None
    if row is None or attempt is None or (attempt.attempt_id, attempt.operation_no) != (event.attempt_id, event.operation_no):
        return state
    if not payment.TRANSITIONS.allows(attempt.outcome, outcome):
        return state
    ledger = payment.ledger_after(row.ledger, attempt, outcome)
    if ledger.authorized == ledger.captured + ledger.voided:
        order = replace(order, expiring_at=None)  # nothing of the authorization is left
    action_url = event.action_url if isinstance(event, PaymentActionRequired) else ""
    attempt = replace(
        attempt, outcome=outcome, provider_ref=event.provider_ref, valid_until=event.valid_until, code=event.code, action_url=action_url
    )
    captured_at = at if isinstance(event, PaymentCaptured) else row.captured_at
    attempts = (*row.attempts[:-1], attempt)
    return _paid(state, order, replace(row, version=row.version + 1, ledger=ledger, attempts=attempts, captured_at=captured_at))


def disputed(state: State, order: OrderRow, event: disputes.Event, at: int) -> State:
    """A dispute began, or is decided."""
    row = disputes.evolve(state.payment, event, at) if state.payment is not None else None
    return state if row is None or row is state.payment else _paid(state, order, row)


def _paid(state: State, order: OrderRow, row: PaymentRow) -> State:
    """The order shows its payment's label, so it changes with it."""
    order = replace(order, version=order.version + 1, financial_status=payment.label(row), unsettled=not payment.is_settled(order, row))
    return replace(state, order=order, payment=row)
