"""What a provider's webhook says, in our words, and the command that records it."""

import hashlib
import re

from msgspec import Struct

from orderflow.streams.domain.claims import EarlyFact, RecordEarlyFact
from orderflow.streams.domain.ids import is_id, reference_key
from orderflow.streams.domain.parts import Money
from orderflow.streams.domain.payment_records import RecordWebhook

_NOT_IN_AN_ID = re.compile(r"[^A-Za-z0-9._-]+")


class Notice(Struct, frozen=True):
    """One event of a provider. `kind` is its own type; `payment_ref` our name of the payment and `key` our key of the operation, empty
    where it names none; `operation` and `outcome` stay empty for what is no operation of ours and no dispute. Times are microseconds.
    """

    event_id: str
    kind: str
    payment_ref: str = ""
    key: str = ""
    operation: str = ""
    outcome: str = ""
    amount_minor: int | None = None
    currency: str = ""
    provider_ref: str = ""
    code: str = ""
    occurred_at: int = 0
    valid_until: int | None = None
    dispute_ref: str = ""


class Fact(Struct, frozen=True):
    """A verified webhook as a command for the owner of `key` in a key space."""

    event_id: str
    space: str
    tenant: str
    key: str
    command: RecordWebhook | RecordEarlyFact


def fact(provider: str, notice: Notice, raw: bytes) -> Fact:
    """The command that records the notice: for the order that it names; for whoever claims the provider's reference, where that is all it
    names; one that names neither goes to a key made of its id, where it is refused as UNKNOWN_REFERENCE and so recorded.
    """
    tenant, _, order_id = notice.payment_ref.rpartition("/")
    said = (
        provider,
        notice.event_id,
        notice.kind,
        notice.key.removeprefix(f"{tenant}/") if tenant else notice.key,
        notice.operation,
        notice.outcome,
        None if notice.amount_minor is None else Money(notice.amount_minor, notice.currency),
        notice.provider_ref,
        notice.valid_until,
        notice.code,
        notice.occurred_at or None,
        hashlib.sha256(raw).hexdigest(),
        notice.dispute_ref,
    )
    if is_id(order_id):
        return Fact(notice.event_id, "orders", tenant or "main", order_id, RecordWebhook(*said))
    if notice.provider_ref:
        return Fact(notice.event_id, "references", "main", reference_key(provider, notice.provider_ref), RecordEarlyFact(EarlyFact(*said)))
    return Fact(notice.event_id, "orders", "main", _NOT_IN_AN_ID.sub("-", f"{provider}-{notice.event_id}")[:64], RecordWebhook(*said))
