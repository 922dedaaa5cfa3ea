"""What the orders key space remembers of an order's money: one row, the attempts inside of it."""

from msgspec import Struct

from orderflow.streams.domain.parts import Money
from orderflow.streams.domain.payment_records import Ledger


class Attempt(Struct, frozen=True, gc=False):
    """One try at a payment, and its latest operation at the provider: at most one is under way at a time.

    `operation_no` counts the operations, so that two equal captures have two keys; `command_id` waits for the outcome, the buyer is sent to
    `action_url` while they have to act.
    """

    attempt_id: str
    operation: str
    operation_no: int
    outcome: str
    amount: Money
    provider: str = ""
    provider_ref: str = ""
    valid_until: int | None = None
    code: str = ""
    command_id: str = ""
    action_url: str = ""


class Dispute(Struct, frozen=True, gc=False):
    """A dispute about the payment; it is open until `closed_at`. Times are turn times in microseconds."""

    dispute_ref: str
    outcome: str
    amount: Money
    provider: str
    code: str
    opened_at: int
    closed_at: int | None = None


class PaymentRow(Struct, frozen=True, gc=False):
    """The payment of an order; key is the order's id. `captured_at`: when its money was captured last, in microseconds."""

    version: int
    method: str = ""
    ledger: Ledger = Ledger()
    attempts: tuple[Attempt, ...] = ()
    disputes: tuple[Dispute, ...] = ()
    captured_at: int | None = None
