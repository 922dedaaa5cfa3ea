"""The money of an order: asked of a provider, recorded as it answers, given back when the order ends (domain.md 2.3).

The turn never calls anybody. It records the operation, which is what connectors consume, and learns the outcome by a command; until then
nobody knows. One operation of a payment is under way at a time. Money follows the goods: what is captured is the share of what has left.
What is paid on delivery has no provider to ask: people say what happened (cod.py), so a void or refund has its outcome at once.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from msgspec.structs import replace

from orderflow.streams.domain import payment_ledger
from orderflow.streams.domain.channel import PAYMENT_METHODS
from orderflow.streams.domain.contract import MICROS_PER_S, Refused, Settings, Settle, Turn
from orderflow.streams.domain.ids import attempt_id, operation_key
from orderflow.streams.domain.order_records import OrderCreated, OrderStatusChanged
from orderflow.streams.domain.order_rows import FulfillmentRow, OrderRow, State
from orderflow.streams.domain.order_status import (
    CANCEL_PENDING,
    CANCELED,
    COMPLETED,
    CONFIRMED,
    DELIVERED,
    EXPIRED,
    FAILED,
    PENDING,
    PROCESSING,
    REJECTED,
    SHIPPED,
    status_changed,
)
from orderflow.streams.domain.parts import Money
from orderflow.streams.domain.payment_records import (
    CapturePayment,
    Ledger,
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
)
from orderflow.streams.domain.payment_rows import Attempt, PaymentRow
from orderflow.streams.domain.reasons import Reason
from orderflow.streams.domain.refusals import UnknownValue, refusal, untimely
from orderflow.streams.domain.transitions import Transition, Transitions

PREPAID, COD = "prepaid", "cod"
"""The payment terms under which an order waits for a yes to its money: its provider's, or for cash on delivery that of people."""
TERMS = frozenset({PREPAID, COD})
CARD, WALLET, INSTALLMENT, BANK_TRANSFER = PAYMENT_METHODS
AUTHORIZE, CAPTURE, VOID, REFUND, CANCEL, INCREASE = "authorize", "capture", "void", "refund", "cancel", "increase"
OPERATIONS = (AUTHORIZE, CAPTURE, VOID, REFUND, CANCEL, INCREASE)
BACK = frozenset({VOID, REFUND, CANCEL})
"""The compensations: money goes back, or is not taken any more."""
REQUESTED, SUCCEEDED, DECLINED, UNKNOWN, REQUIRES_ACTION = "requested", "succeeded", "declined", "unknown", "requires_action"
ANSWERS = (SUCCEEDED, DECLINED, UNKNOWN, REQUIRES_ACTION)
"""What a connector may say of an operation."""
MISMATCHES = frozenset({Reason.AMOUNT_MISMATCH, Reason.CURRENCY_MISMATCH})
"""Why an answer about other money than was asked for is not believed."""
NEVER_CONFIRMED = "never_confirmed"
"""Why the authorization of what is paid on delivery failed: the order ended before anybody confirmed it."""
WINDOW = "payment_window"
"""Kind of the order's timer that ends the wait for its payment."""
ENDING = frozenset({CANCEL_PENDING, CANCELED, EXPIRED, REJECTED, SHIPPED, DELIVERED, COMPLETED})
"""Orders of which nothing more will leave: money beyond what has left goes back."""
SELLING = frozenset({CONFIRMED, PROCESSING, SHIPPED, DELIVERED})

TRANSITIONS = Transitions(
    "payment attempt",
    (
        Transition("", REQUESTED, "an authorization is asked of the provider"),
        Transition(REQUESTED, SUCCEEDED, "the provider did it"),
        Transition(REQUESTED, DECLINED, "the provider will not"),
        Transition(REQUESTED, UNKNOWN, "no answer: the request is repeated under its key"),
        Transition(UNKNOWN, SUCCEEDED, "a repeat was answered"),
        Transition(UNKNOWN, DECLINED, "a repeat was answered"),
        Transition(REQUESTED, REQUIRES_ACTION, "the buyer has to act: 3-D Secure, an approval"),
        Transition(UNKNOWN, REQUIRES_ACTION, "a repeat was answered: the buyer has to act"),
        Transition(REQUIRES_ACTION, SUCCEEDED, "the buyer did, and the provider said yes"),
        Transition(REQUIRES_ACTION, DECLINED, "the buyer did, or did not, and the provider said no"),
        Transition(REQUIRES_ACTION, REQUESTED, "the order ends: the attempt is canceled"),
        Transition(SUCCEEDED, REQUESTED, "the next operation: capture, void, refund"),
        Transition(DECLINED, REQUESTED, "the next operation of an authorized payment"),
    ),
)

Result = (
    PaymentAuthorized
    | PaymentCaptured
    | PaymentVoided
    | PaymentRefunded
    | PaymentCanceled
    | PaymentFailed
    | PaymentUnknown
    | PaymentActionRequired
)
Event = PaymentRequested | Result


def is_open(row: PaymentRow | None) -> bool:
    """Is an operation under way whose outcome nobody knows yet?"""
    return row is not None and row.attempts[-1].outcome in (REQUESTED, UNKNOWN, REQUIRES_ACTION)


def waits_for_buyer(row: PaymentRow | None) -> bool:
    """Has the buyer to act at the provider before it can answer?"""
    return row is not None and row.attempts[-1].outcome == REQUIRES_ACTION


def label(row: PaymentRow) -> str:
    """The one word for the payment, in lower case: that of its counters, or that its buyer has to act."""
    return REQUIRES_ACTION if waits_for_buyer(row) else payment_ledger.label(row.ledger)


def is_cod(row: PaymentRow) -> bool:
    """Is it paid on delivery? Then no provider is asked."""
    return row.method == COD


def is_authorized(row: PaymentRow | None) -> bool:
    """Did the provider say yes to the order's whole amount?"""
    return row is not None and row.ledger.authorized > 0


def is_declined(row: PaymentRow | None) -> bool:
    """Did the provider say no?"""
    return row is not None and row.ledger.authorized == 0 and row.attempts[-1].outcome == DECLINED


# -- asking ---------------------------------------------------------------------------------------------------------------------------
def authorization(order_id: str, order: OrderRow, amount: Money, due_at: int) -> PaymentRequested:
    """Ask the channel's provider for the whole amount; the order waits until `due_at`."""
    name = attempt_id(order_id, 1)
    key = operation_key(name, AUTHORIZE, 1)
    method = COD if order.payment_terms == COD else order.payment_method or CARD
    return PaymentRequested(name, AUTHORIZE, 1, key, order.payment_provider, method, amount, due_at=due_at, token_ref=order.token_ref)


def _next(row: PaymentRow, operation: str, amount: int, command_id: str = "") -> PaymentRequested:
    """The payment's next operation; its number makes its key, so that two equal captures are two charges."""
    attempt = row.attempts[-1]
    assert TRANSITIONS.allows(attempt.outcome, REQUESTED), f"{operation} while one is {attempt.outcome}"
    number = attempt.operation_no + 1
    return PaymentRequested(
        attempt.attempt_id,
        operation,
        number,
        operation_key(attempt.attempt_id, operation, number),
        attempt.provider,
        row.method,
        Money(amount, row.ledger.currency),
        attempt.provider_ref,
        None,
        command_id,
    )


def missing(row: PaymentRow | None, order: OrderRow) -> int:
    """What the order, as it is to be, costs beyond what is authorized; below zero where there is more than it needs."""
    return 0 if row is None else payment_ledger.wanted(order) - (row.ledger.authorized - row.ledger.voided)


def increase(payment_id: str, row: PaymentRow, amount: int) -> tuple[Event, ...]:
    """Ask for so much more."""
    return done(payment_id, row, INCREASE, amount) if is_cod(row) else (_next(row, INCREASE, amount),)


def done(payment_id: str, row: PaymentRow, operation: str, amount: int, code: str = "") -> tuple[Event, ...]:
    """The next operation of what is paid on delivery: nobody is asked, so it is requested and has its outcome at once."""
    asked = _next(row, operation, amount)
    before = payment_ledger.requested(row.ledger, operation, amount)
    attempt = replace(row.attempts[-1], operation=operation, operation_no=asked.operation_no, amount=asked.amount)
    return asked, _result(payment_id, replace(row, ledger=before), attempt, SUCCEEDED, code)


def answered(payment_id: str, row: PaymentRow, outcome: str, code: str = "") -> Result:
    """The operation under way of what is paid on delivery has this outcome: people say so, or nobody will any more."""
    return _result(payment_id, row, row.attempts[-1], outcome, code)


def undone(state: State, order: OrderRow) -> tuple[Event, ...]:
    """What still has to go back of the money of an order that ends: what was not captured, then what was captured for nothing. An
    authorization that waits for its buyer is canceled.

    A compensation that was declined is not asked again by itself: people decide. Nothing is refunded while a dispute is open, and what was
    paid on delivery goes back from hand to hand.
    """
    row = state.payment
    if row is None or order.status not in ENDING:
        return ()
    attempt = row.attempts[-1]
    if waits_for_buyer(row):
        return (_next(row, CANCEL, attempt.amount.amount_minor),)
    if is_open(row):
        return (answered(state.key, row, DECLINED, NEVER_CONFIRMED),) if is_cod(row) else ()
    if attempt.outcome == DECLINED and attempt.operation in BACK:
        return ()
    rest = _uncollectable(row, order)
    if rest > 0:
        return done(state.key, row, VOID, rest) if is_cod(row) else (_next(row, VOID, rest),)
    kept = _kept(row, order)
    return (_next(row, REFUND, kept),) if kept > 0 and not is_cod(row) else ()


def _uncollectable(row: PaymentRow, order: OrderRow) -> int:
    """Authorized money that will never be ours: beyond what is still to be collected for what has left, as it is on delivery."""
    return payment_ledger.capturable(row.ledger) - max(0, payment_ledger.owed(order, {}) - row.ledger.captured)


def _kept(row: PaymentRow, order: OrderRow) -> int:
    """Captured money that is due back now: beyond what has left, and not before an open dispute is decided."""
    if row.ledger.disputed_pending:
        return 0
    return payment_ledger.refundable(row.ledger) - payment_ledger.owed(order, {})


def is_undone(state: State, order: OrderRow) -> bool:
    """Has all money gone back that must? What people have refunded beyond it does not matter."""
    return state.payment is None or _is_undone(state.payment, order)


def _is_undone(row: PaymentRow, order: OrderRow) -> bool:
    return not is_open(row) and _uncollectable(row, order) <= 0 and _kept(row, order) <= 0


def is_settled(order: OrderRow, row: PaymentRow | None) -> bool:
    """Is all collected that was to be paid on delivery, and given back what was collected beyond it? Other money settles by itself."""
    return row is None or not is_cod(row) or (payment_ledger.capturable(row.ledger) <= 0 and _is_undone(row, order))


class Handover:
    """The shipments of one decision: each may leave only when its share of the order's total is captured."""

    def __init__(self, state: State, order: OrderRow) -> None:
        self.order, self.row = order, state.payment
        self.is_open = is_open(state.payment)
        self._leaving: dict[str, int] = {}
        self._short: dict[str, int] = {}

    def allows(self, fulfillment: FulfillmentRow) -> bool:
        """May these units leave, beside those that were allowed before? An order without a payment asks for none, nor does one that is
        paid on delivery.
        """
        if self.row is None or is_cod(self.row):
            return True
        leaving = _sum(self._leaving, fulfillment)
        if payment_ledger.owed(self.order, leaving) <= self.row.ledger.captured:
            self._leaving = leaving
            return True
        self._short = _sum(self._short, fulfillment)
        return False

    def is_expired(self, turn: Turn) -> bool:
        """Is the authorization over? Then a capture is not even tried."""
        return self.row is not None and _is_expired(self.row, turn)

    def asked(self) -> tuple[PaymentRequested, ...]:
        """The capture of all that was not allowed; nothing while another operation is under way: its outcome asks again."""
        if self.row is None or not self._short or self.is_open:
            return ()
        together = {line: self._leaving.get(line, 0) + self._short.get(line, 0) for line in (*self._leaving, *self._short)}
        missing = payment_ledger.owed(self.order, together) - self.row.ledger.captured
        amount = min(missing, payment_ledger.capturable(self.row.ledger))
        return (_next(self.row, CAPTURE, amount),) if amount > 0 else ()


def _sum(units: Mapping[str, int], fulfillment: FulfillmentRow) -> dict[str, int]:
    found = dict(units)
    for line in fulfillment.lines:
        found[line.line_id] = found.get(line.line_id, 0) + line.shipped
    return found


def _is_expired(row: PaymentRow, turn: Turn) -> bool:
    until = row.attempts[-1].valid_until
    return until is not None and until < turn.at


def may_retry(order: OrderRow, row: PaymentRow | None) -> bool:
    """May the buyer try again after the latest attempt?"""
    return row is not None and len(row.attempts) < order.payment_attempts


def retry(state: State, command: RetryPayment, turn: Turn) -> tuple[OrderStatusChanged | PaymentRequested | Refused, ...]:
    """One more attempt at the whole amount, under a key of its own, within the window of the first; maybe with another payment method."""
    order, row = state.order, state.payment
    if order is None or row is None:
        return refusal(command, Reason.NOT_FOUND)
    reason = untimely(turn, order.version)
    if reason is not None:
        return refusal(command, reason)
    if order.status is not FAILED:
        return refusal(command, Reason.ILLEGAL_TRANSITION, status=order.status.lower())
    if order.due_at is not None and order.due_at <= turn.at:
        return refusal(command, Reason.METHOD_EXPIRED)
    before = row.attempts[-1]
    name, number = attempt_id(state.key, len(row.attempts) + 1), before.operation_no + 1
    return (
        status_changed(order, FAILED, PENDING),
        PaymentRequested(
            name,
            AUTHORIZE,
            number,
            operation_key(name, AUTHORIZE, number),
            before.provider,
            row.method,
            before.amount,
            due_at=order.due_at,
            command_id=turn.meta.command_id,
            token_ref=command.token_ref or order.token_ref,
        ),
    )


# -- commands of people ---------------------------------------------------------------------------------------------------------------
def capture(state: State, command: CapturePayment, turn: Turn) -> tuple[Event | Refused, ...]:
    """Take authorized money now, beside what handing over goods takes by itself."""
    return _asked_by_people(state, command, CAPTURE, turn)


def void(state: State, command: VoidPayment, turn: Turn) -> tuple[Event | Refused, ...]:
    """Give the rest of the authorization back. Only of an order that ends: otherwise cancel it."""
    return _asked_by_people(state, command, VOID, turn)


def refund(state: State, command: RefundPayment, turn: Turn) -> tuple[Event | Refused, ...]:
    """Give captured money back, at most what was captured and is still ours."""
    return _asked_by_people(state, command, REFUND, turn)


PeopleAsk = CapturePayment | VoidPayment | RefundPayment


def _asked_by_people(state: State, command: PeopleAsk, operation: str, turn: Turn) -> tuple[Event | Refused, ...]:
    row, order = state.payment, state.order
    if row is None or order is None:
        return refusal(command, Reason.NOT_FOUND)
    reason = untimely(turn, row.version)
    if reason is not None:
        return refusal(command, reason)
    left = payment_ledger.refundable(row.ledger) if operation == REFUND else payment_ledger.capturable(row.ledger)
    amount = left if command.amount is None else command.amount.amount_minor
    for reason, detail in _faults(command, operation, order, row, amount, left, turn):
        return refusal(command, reason, **detail)
    if is_cod(row):
        return done(state.key, row, operation, amount)
    return (_next(row, operation, amount, turn.meta.command_id),)


def _faults(
    command: PeopleAsk, operation: str, order: OrderRow, row: PaymentRow, amount: int, left: int, turn: Turn
) -> Iterator[tuple[Reason, dict[str, str]]]:
    """Everything that is wrong with it, in the order of the reasons."""
    if command.amount is not None and command.amount.currency != row.ledger.currency:
        yield Reason.CURRENCY_UNSUPPORTED, {"currency": command.amount.currency, "possible": row.ledger.currency}
    if command.amount is not None and amount <= 0:
        yield Reason.AMOUNT_OUT_OF_RANGE, {"amount": str(amount)}
    if is_open(row):
        yield Reason.ILLEGAL_TRANSITION, {"under_way": row.attempts[-1].operation}
    if operation == CAPTURE and is_cod(row):
        yield Reason.ILLEGAL_TRANSITION, {"payment_terms": COD, "possible": "record what was collected"}
    if (operation == CAPTURE and order.status not in SELLING) or (operation == VOID and order.status not in ENDING):
        yield Reason.ILLEGAL_TRANSITION, {"status": order.status.lower()}
    if operation == CAPTURE and order.holds:
        yield Reason.HOLD_ACTIVE, {"holds": order.held_by}
    if operation == REFUND and row.ledger.disputed_pending:
        yield Reason.DISPUTE_OPEN, {"disputed": str(row.ledger.disputed_pending)}
    window_s = turn.settings.refund_window_s
    if operation == REFUND and not is_cod(row) and row.captured_at is not None and turn.at > row.captured_at + window_s * MICROS_PER_S:
        yield Reason.REFUND_WINDOW_CLOSED, {"window_s": str(window_s)}
    if row.ledger.authorized == 0 or amount == 0:
        yield Reason.NOT_AUTHORIZED_STATE, {"payment": payment_ledger.label(row.ledger)}
    if operation == CAPTURE and _is_expired(row, turn):
        yield Reason.AUTHORIZATION_EXPIRED, {"attempt_id": row.attempts[-1].attempt_id}
    if amount > left:
        exceeds = Reason.REFUND_EXCEEDS_CAPTURED if operation == REFUND else Reason.CAPTURE_EXCEEDS_AUTHORIZED
        yield exceeds, {"asked": str(amount), "possible": str(left)}


# -- what the provider says -----------------------------------------------------------------------------------------------------------
def record_result(state: State, command: RecordProviderResult) -> tuple[Result | Refused, ...]:
    """The outcome of the operation that is under way becomes a fact; one of another operation, or a repeat, is nothing."""
    if command.operation not in OPERATIONS or command.outcome not in ANSWERS:
        raise UnknownValue(f"{command.operation!r} with the outcome {command.outcome!r}")
    if command.outcome == REQUIRES_ACTION and command.operation != AUTHORIZE:
        raise UnknownValue(f"a {command.operation} for which the buyer has to act")
    row = state.payment
    if row is None or all(attempt.attempt_id != command.attempt_id for attempt in row.attempts):
        return refusal(command, Reason.NOT_FOUND, attempt_id=command.attempt_id)
    attempt = row.attempts[-1]
    same = (command.attempt_id, command.operation, command.operation_no) == (attempt.attempt_id, attempt.operation, attempt.operation_no)
    return believed(state.key, row, command) if same else ()


Said = RecordProviderResult | RecordWebhook


def believed(payment_id: str, row: PaymentRow, said: Said) -> tuple[Result | Refused, ...]:
    """What the provider says of the operation under way as a fact, unless it says it again, or something that was not asked."""
    attempt = row.attempts[-1]
    if not TRANSITIONS.allows(attempt.outcome, said.outcome):
        return ()
    reason = _mismatch(attempt, said)
    if reason is not None:
        return refusal(said, reason, attempt_id=attempt.attempt_id, asked=str(attempt.amount.amount_minor))
    action_url = said.action_url if isinstance(said, RecordProviderResult) else ""
    return (_result(payment_id, row, attempt, said.outcome, said.code, said.provider_ref, said.valid_until, action_url),)


def _mismatch(attempt: Attempt, command: Said) -> Reason | None:
    """Money moves only as it was asked: what the provider reports must be the operation's amount (slot D74)."""
    if command.amount is None:
        return Reason.AMOUNT_MISMATCH if command.outcome == SUCCEEDED else None
    if command.amount.currency != attempt.amount.currency:
        return Reason.CURRENCY_MISMATCH
    return Reason.AMOUNT_MISMATCH if command.amount.amount_minor != attempt.amount.amount_minor else None


def _result(
    payment_id: str,
    row: PaymentRow,
    attempt: Attempt,
    outcome: str,
    code: str = "",
    provider_ref: str = "",
    valid_until: int | None = None,
    action_url: str = "",
) -> Result:
    said = (
        payment_id,
        attempt.attempt_id,
        attempt.operation,
        attempt.operation_no,
        attempt.amount,
        ledger_after(row.ledger, attempt, outcome),
        row.method,
        code,
        provider_ref or attempt.provider_ref,
        valid_until if attempt.operation == AUTHORIZE else attempt.valid_until,
        attempt.command_id,
    )
    if outcome == DECLINED:
        return PaymentFailed(*said)
    if outcome == UNKNOWN:
        return PaymentUnknown(*said)
    if outcome == REQUIRES_ACTION:
        return PaymentActionRequired(*said, action_url)
    return _done(attempt.operation, said)


def _done(operation: str, said: tuple[Any, ...]) -> Result:
    """What says that the operation was done."""
    if operation in (AUTHORIZE, INCREASE):
        return PaymentAuthorized(*said)
    if operation == CAPTURE:
        return PaymentCaptured(*said)
    if operation == CANCEL:
        return PaymentCanceled(*said)
    return PaymentVoided(*said) if operation == VOID else PaymentRefunded(*said)


SAID: Mapping[type, str] = {PaymentFailed: DECLINED, PaymentUnknown: UNKNOWN, PaymentActionRequired: REQUIRES_ACTION}


def outcome_of(event: Result) -> str:
    """What the event says of its operation."""
    return SAID.get(type(event), SUCCEEDED)


def ledger_after(ledger: Ledger, attempt: Attempt, outcome: str) -> Ledger:
    """The counters once the operation under way has this outcome."""
    if outcome in (UNKNOWN, REQUIRES_ACTION):
        return ledger
    change = payment_ledger.succeeded if outcome == SUCCEEDED else payment_ledger.failed
    return change(ledger, attempt.operation, attempt.amount.amount_minor)


def settled(event: Result) -> Iterable[Settle]:
    """The command that waited for the operation, if one did, has its outcome: also that it is the buyer's turn."""
    if event.command_id and not isinstance(event, PaymentUnknown):
        yield Settle(event.command_id, Reason.PAYMENT_DECLINED if isinstance(event, PaymentFailed) else "")


def waits(state: State, command_id: str) -> bool:
    """Does the operation under way have the answer of this command?"""
    row = state.payment
    return row is not None and is_open(row) and row.attempts[-1].command_id == command_id


def window_s(settings: Settings, order: OrderCreated | OrderRow) -> int:
    """How long an order may wait for its payment: by its terms, and by the method it is paid with."""
    if order.payment_terms == COD:
        return settings.cod_window_s
    if order.payment_terms != PREPAID:
        return 0
    windows = {WALLET: settings.wallet_window_s, INSTALLMENT: settings.installment_window_s, BANK_TRANSFER: settings.bank_transfer_window_s}
    return windows.get(order.payment_method, settings.payment_window_s)


def window_end(order: OrderRow, turn: Turn, dues: Iterable[int]) -> int:
    """When the order stops waiting for its payment: its window, but never so late that a reservation could end first (bug 7)."""
    margin = turn.settings.reservation_margin_s * MICROS_PER_S
    return min((turn.at + window_s(turn.settings, order) * MICROS_PER_S, *(due - margin for due in dues)))


def expiring_at(state: State, turn: Turn) -> int | None:
    """When people are to be told that the authorization is about to end: a day before, or after half of a shorter time."""
    row = state.payment
    until = row.attempts[-1].valid_until if row is not None else None
    if until is None:
        return None
    return until - min(turn.settings.authorization_warning_s * MICROS_PER_S, max(0, until - turn.at) // 2)


def violations(state: State) -> Iterator[str]:
    """What may never be true of an order's money."""
    row, order = state.payment, state.order
    if row is None:
        return
    yield from payment_ledger.faults(row.ledger)
    last = row.attempts[-1]
    declined = row.disputes and (last.operation, last.outcome) == (REFUND, DECLINED)  # it waited for a dispute: people decide
    if order is not None and order.status is CANCELED and not is_open(row) and not is_undone(state, order) and not declined:
        yield "the order is canceled and its money was kept"
