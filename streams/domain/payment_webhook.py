"""A provider's webhook about an order's money (domain.md 2.3): recorded whatever it says, and believed of the operation under way, and of
disputes, alone.

The edge has verified who sent it. It comes late, twice, out of order, or before the provider's own answer: all the same to the rules.
"""

from msgspec import structs

from orderflow.streams.domain import disputes, payment
from orderflow.streams.domain.contract import Refused
from orderflow.streams.domain.ids import operation_key
from orderflow.streams.domain.order_rows import State
from orderflow.streams.domain.payment_records import RecordWebhook, WebhookRecorded
from orderflow.streams.domain.payment_rows import Attempt
from orderflow.streams.domain.reasons import Reason
from orderflow.streams.domain.refusals import UnknownValue, refusal

OUTCOMES = ("", payment.SUCCEEDED, payment.DECLINED)


Event = WebhookRecorded | payment.Result | disputes.Event


def record_webhook(state: State, command: RecordWebhook) -> tuple[Event | Refused, ...]:
    """The webhook as a fact, with the outcome it brings; one that no payment of this key knows is refused, which records it too."""
    about_dispute = command.operation == disputes.DISPUTE
    known = (disputes.DISPUTE, "", *payment.OPERATIONS)
    if command.operation not in known or command.outcome not in (disputes.OUTCOMES if about_dispute else OUTCOMES):
        raise UnknownValue(f"{command.operation!r} with the outcome {command.outcome!r}")
    if state.payment is None:
        return refusal(
            command,
            Reason.UNKNOWN_REFERENCE,
            provider=command.provider,
            event=command.provider_event_id,
            kind=command.kind,
            reference=command.provider_ref,
        )
    if about_dispute:
        return (WebhookRecorded(**structs.asdict(command)), *disputes.told(state.key, state.payment, command))
    attempt = state.payment.attempts[-1]
    told = payment.believed(state.key, state.payment, command) if _concerns(attempt, command) else ()
    moved = bool(told) and not any(isinstance(event, Refused) for event in told)
    return (WebhookRecorded(**structs.asdict(command), moved=moved), *told)


def _concerns(attempt: Attempt, command: RecordWebhook) -> bool:
    """Is it about the operation under way? Only its key tells, for two captures can be equal; a void, which has none at some providers
    and of which there is one, is known by the payment.
    """
    if command.provider != attempt.provider or not command.outcome:
        return False
    if command.idempotency_key:
        return command.idempotency_key == operation_key(attempt.attempt_id, attempt.operation, attempt.operation_no)
    return command.operation == payment.VOID == attempt.operation and command.provider_ref == attempt.provider_ref
