"""What the orders key space hears, says and shows about the money of an order, in integer minor units of one currency (contracts.md 6).

Fields are in the order of the Avro records, without `meta` and the key. An order has one payment, whose id is the order's.
"""

from msgspec import Struct

from orderflow.streams.domain.parts import Money


class Ledger(Struct, frozen=True, gc=False):
    """The payment as counters: what the provider confirmed of each kind, and what it was asked for and has not answered (`*_pending`);
    what buyers' banks took back, and what they keep until a dispute is decided.
    """

    authorized: int = 0
    captured: int = 0
    refunded: int = 0
    voided: int = 0
    authorized_pending: int = 0
    captured_pending: int = 0
    refunded_pending: int = 0
    voided_pending: int = 0
    currency: str = ""
    disputed: int = 0
    disputed_pending: int = 0


class RecordProviderResult(Struct, frozen=True, gc=False):
    """What the provider says of one operation: succeeded, declined, unknown while nobody could be asked, or that the buyer has to act first,
    at `action_url`. A fact: it is never late.

    `amount` is what the provider reports, for it must be what was asked.
    """

    attempt_id: str
    operation: str
    operation_no: int
    outcome: str
    amount: Money | None = None
    provider: str = ""
    provider_ref: str = ""
    valid_until: int | None = None
    code: str = ""
    action_url: str = ""


class RecordWebhook(Struct, frozen=True, gc=False):
    """A verified webhook of the provider: what it says of an operation, of a dispute, or of something that we do not follow. Holds nothing
    personal.

    `kind` is the provider's own type of the event; `idempotency_key` our key of the operation, `dispute_ref` the provider's name of the
    dispute, empty where it is about none.
    """

    provider: str
    provider_event_id: str
    kind: str
    idempotency_key: str = ""
    operation: str = ""
    outcome: str = ""
    amount: Money | None = None
    provider_ref: str = ""
    valid_until: int | None = None
    code: str = ""
    happened_at: int | None = None
    raw_sha256: str = ""
    dispute_ref: str = ""


class RetryPayment(Struct, frozen=True, gc=False):
    """Try once more to pay for an order whose payment was declined; `token_ref` is the buyer's other payment method, if it is another."""

    token_ref: str = ""


class ConfirmCod(Struct, frozen=True, gc=False):
    """The buyer was asked and wants the order, which is paid on delivery."""

    note: str = ""


class ConfirmCodCollection(Struct, frozen=True, gc=False):
    """The courier has collected this much; `reference` is what the courier calls it."""

    amount: Money
    reference: str = ""


class CapturePayment(Struct, frozen=True, gc=False):
    """Take authorized money; without an amount all that is left of the authorization. Handing goods over asks for it by itself."""

    amount: Money | None = None
    reason: str = ""
    reference: str = ""


class VoidPayment(Struct, frozen=True, gc=False):
    """Give back what is authorized and was not captured, of an order that will take no more; it is asked by itself, this repairs."""

    amount: Money | None = None
    reason: str = ""
    reference: str = ""


class RefundPayment(Struct, frozen=True, gc=False):
    """Give captured money back; without an amount all of it."""

    amount: Money | None = None
    reason: str = ""
    reference: str = ""


class PaymentRequested(Struct, frozen=True, gc=False):
    """The provider is to be asked, once, under this key: what connectors consume. `due_at` ends the payment window, if there is one.

    `command_id` is the command that waits for the outcome, empty where the order asked by itself; `token_ref` the buyer's payment method
    as the provider names it.
    """

    attempt_id: str
    operation: str
    operation_no: int
    idempotency_key: str
    provider: str
    method: str
    amount: Money
    provider_ref: str = ""
    due_at: int | None = None
    command_id: str = ""
    token_ref: str = ""


class _Result(Struct, frozen=True, gc=False):
    """What the events about an operation's outcome share; `totals` is the ledger after it, `command_id` the command that waited for it."""

    payment_id: str
    attempt_id: str
    operation: str
    operation_no: int
    amount: Money
    totals: Ledger
    method: str = ""
    code: str = ""
    provider_ref: str = ""
    valid_until: int | None = None
    command_id: str = ""


class PaymentAuthorized(_Result, frozen=True, gc=False):
    """The provider keeps this amount for the order, until `valid_until`."""


class PaymentCaptured(_Result, frozen=True, gc=False):
    """The money is ours."""


class PaymentVoided(_Result, frozen=True, gc=False):
    """The rest of the authorization was given back."""


class PaymentRefunded(_Result, frozen=True, gc=False):
    """Captured money was given back."""


class PaymentFailed(_Result, frozen=True, gc=False):
    """The provider declined the operation; `code` is its word for why. No money moved."""


class PaymentUnknown(_Result, frozen=True, gc=False):
    """Nobody knows whether the operation happened; the same request is repeated under its key until the provider answers."""


class PaymentActionRequired(_Result, frozen=True, gc=False):
    """The provider authorizes when the buyer has done something there: they are to be sent to `action_url`."""

    action_url: str = ""


class PaymentCanceled(_Result, frozen=True, gc=False):
    """An authorization that waited for its buyer was given up: the provider keeps nothing, and takes nothing any more."""


class WebhookRecorded(RecordWebhook, frozen=True, gc=False):
    """The provider said this, and proved that it was the one who said it. `moved`: the operation under way got its outcome by it."""

    moved: bool = False


class DisputeOpened(Struct, frozen=True, gc=False):
    """A buyer disputes the payment: their bank keeps this much of it until it is decided."""

    payment_id: str
    dispute_ref: str
    provider: str
    amount: Money
    totals: Ledger
    code: str = ""


class DisputeClosed(Struct, frozen=True, gc=False):
    """A dispute is decided. `amount` is what went back to the buyer where it was lost, else what had been disputed."""

    payment_id: str
    dispute_ref: str
    provider: str
    amount: Money
    totals: Ledger
    outcome: str
    code: str = ""


class PaymentSnapshotAttempt(Struct, frozen=True, gc=False):
    """An attempt with its latest operation."""

    attempt_id: str
    operation: str
    operation_no: int
    outcome: str
    amount: Money
    provider: str = ""
    provider_ref: str = ""
    valid_until: int | None = None
    code: str = ""
    action_url: str = ""


class PaymentSnapshotDispute(Struct, frozen=True, gc=False):
    """A dispute about the payment."""

    dispute_ref: str
    outcome: str
    amount: Money
    provider: str
    code: str
    opened_at: int
    closed_at: int | None = None


class PaymentSnapshot(Struct, frozen=True, gc=False):
    """The present value of a payment; `label` is derived from the ledger."""

    payment_id: str
    tenant: str = "main"
    sequence: int = 0
    version: int = 0
    at: int = 0
    label: str = ""
    method: str = ""
    ledger: Ledger = Ledger()
    attempts: tuple[PaymentSnapshotAttempt, ...] = ()
    disputes: tuple[PaymentSnapshotDispute, ...] = ()
