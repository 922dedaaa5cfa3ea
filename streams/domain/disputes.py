"""Disputes: a buyer's bank keeps captured money, and gives it back or does not (slot D105). The provider tells; nobody here decides.

While one is open no money of the payment is refunded, for a refund and a lost dispute would be paid twice, and a delivered order does not
complete. What has not left stays: the order gets the hold PAYMENT.
"""

from msgspec.structs import replace

from orderflow.streams.domain import payment_ledger
from orderflow.streams.domain.contract import Refused
from orderflow.streams.domain.payment_records import DisputeClosed, DisputeOpened, RecordWebhook
from orderflow.streams.domain.payment_rows import Dispute, PaymentRow
from orderflow.streams.domain.reasons import Reason
from orderflow.streams.domain.refusals import refusal

DISPUTE = "dispute"
"""What a webhook about one names as its operation."""
OPENED, WON, LOST = "opened", "won", "lost"
OUTCOMES = ("", OPENED, WON, LOST)

Event = DisputeOpened | DisputeClosed


def told(payment_id: str, row: PaymentRow, command: RecordWebhook) -> tuple[Event | Refused, ...]:
    """What the provider says of a dispute as facts: it comes twice and out of order, and what is decided stays decided."""
    known = named(row, command.dispute_ref)
    if (
        not command.outcome
        or (known is not None and command.outcome == known.outcome)
        or (known is not None and known.closed_at is not None)
    ):
        return ()
    if command.amount is None or command.amount.amount_minor <= 0:
        return refusal(command, Reason.AMOUNT_MISMATCH, dispute=command.dispute_ref)
    if command.amount.currency != row.ledger.currency:
        return refusal(command, Reason.CURRENCY_MISMATCH, dispute=command.dispute_ref, currency=command.amount.currency)
    said = payment_id, command.dispute_ref, command.provider, command.amount
    ledger, found = row.ledger, list[Event]()
    if known is None:
        ledger = payment_ledger.disputed(ledger, command.amount.amount_minor)
        found.append(DisputeOpened(*said, ledger, command.code))
    if command.outcome != OPENED:
        opened = command.amount if known is None else known.amount
        ledger = payment_ledger.decided(ledger, opened.amount_minor, command.amount.amount_minor if command.outcome == LOST else 0)
        found.append(DisputeClosed(*said, ledger, command.outcome, command.code))
    return tuple(found)


def evolve(row: PaymentRow, event: Event, at: int) -> PaymentRow:
    """The payment after it, from the event's own amount; what was heard already changes nothing."""
    known = named(row, event.dispute_ref)
    amount = event.amount.amount_minor
    if isinstance(event, DisputeOpened):
        if known is not None:
            return row
        each = Dispute(event.dispute_ref, OPENED, event.amount, event.provider, event.code, at)
        return replace(row, version=row.version + 1, ledger=payment_ledger.disputed(row.ledger, amount), disputes=(*row.disputes, each))
    if known is None or known.closed_at is not None:
        return row
    ledger = payment_ledger.decided(row.ledger, known.amount.amount_minor, amount if event.outcome == LOST else 0)
    closed = replace(known, outcome=event.outcome, amount=event.amount, code=event.code or known.code, closed_at=at)
    disputes = tuple(closed if each is known else each for each in row.disputes)
    return replace(row, version=row.version + 1, ledger=ledger, disputes=disputes)


def named(row: PaymentRow, dispute_ref: str) -> Dispute | None:
    """The dispute that the provider calls so."""
    return next((each for each in row.disputes if each.dispute_ref == dispute_ref), None)
