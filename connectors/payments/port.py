"""What a payment provider can do, whoever it is: perform one operation, once, however often it is asked under the same key."""

from typing import Protocol

from msgspec import Struct


class Operation(Struct, frozen=True):
    """One operation on the money of an order. `payment_ref` is our name of the payment, `provider_ref` the provider's, once it has one;
    `method_ref` the buyer's payment method as the provider names it.
    """

    key: str
    operation: str
    amount_minor: int
    currency: str
    payment_ref: str
    provider_ref: str = ""
    method_ref: str = ""


class Outcome(Struct, frozen=True):
    """What the provider answered: it did it (`succeeded`) or will not. The amount is the one it reports, `valid_until` in microseconds."""

    succeeded: bool
    provider_ref: str
    amount_minor: int
    currency: str
    valid_until: int | None = None
    code: str = ""


class Unanswered(Exception):
    """Nobody knows whether the operation happened: no connection, no answer in time, or an answer that says nothing of it."""


class Inexpressible(ValueError):
    """The provider has no amount like this."""


def declined(operation: Operation, code: str, provider_ref: str = "") -> Outcome:
    """The provider will not do the operation."""
    return Outcome(False, provider_ref or operation.provider_ref, operation.amount_minor, operation.currency, None, code)


class Provider(Protocol):
    """The port. Laws, which tests/unit/test_payment_port.py runs against every adapter: the same key is one effect and one answer; no
    more is captured than was authorized, no more refunded than was captured; a call ends within its deadline, one way or the other.
    """

    async def start(self) -> None: ...
    async def close(self) -> None: ...

    async def perform(self, operation: Operation) -> Outcome:
        """Ask for the operation, or for what became of it.

        Raises:
            Unanswered: ask again, under the same key.
        """
