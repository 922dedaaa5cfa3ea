"""What a payment provider can do, whoever it is: perform one operation, once, however often it is asked under the same key."""

from typing import Protocol

from msgspec import Struct


class Operation(Struct, frozen=True):
    """One operation on the money of an order. `payment_ref` is our name of the payment, `provider_ref` the provider's, once it has one: of
    an authorization, since the buyer was sent to act. `method` is what kind of payment it is, `method_ref` the buyer's payment method as the
    provider names it.

    An increase is more of the same authorization, which then holds that much more. A cancel ends an authorization that waits for its buyer:
    it succeeds when nothing of it is, or will be, authorized.
    """

    key: str
    operation: str
    amount_minor: int
    currency: str
    payment_ref: str
    provider_ref: str = ""
    method_ref: str = ""
    method: str = "card"


class Outcome(Struct, frozen=True):
    """What the provider answered: it did it (`succeeded`) or will not. The amount is the one it reports, `valid_until` in microseconds."""

    succeeded: bool
    provider_ref: str
    amount_minor: int
    currency: str
    valid_until: int | None = None
    code: str = ""


class ActionRequired(Exception):
    """The buyer has to act before the provider can answer, at `action_url`: 3-D Secure, or an approval. Ask again, under the same key."""

    def __init__(self, action_url: str, provider_ref: str = "") -> None:
        super().__init__("the buyer has to act")
        self.action_url, self.provider_ref = action_url, provider_ref


class Unanswered(Exception):
    """Nobody knows whether the operation happened: no connection, no answer in time, or an answer that says nothing of it."""


class Inexpressible(ValueError):
    """The provider has no amount like this."""


def declined(operation: Operation, code: str, provider_ref: str = "") -> Outcome:
    """The provider will not do the operation."""
    return Outcome(False, provider_ref or operation.provider_ref, operation.amount_minor, operation.currency, None, code)


class Provider(Protocol):
    """The port. Laws, which test_payment_provider.py, test_stripe.py and test_paypal.py prove of each adapter: the same key is one effect and one answer; no
    more is captured than was authorized, no more refunded than was captured; a call ends within its deadline, one way or the other.
    """

    async def start(self) -> None: ...
    async def close(self) -> None: ...

    async def perform(self, operation: Operation) -> Outcome:
        """Ask for the operation, or for what became of it.

        Raises:
            ActionRequired: the buyer is to be sent there; ask again, with the provider's name of the payment.
            Unanswered: ask again, under the same key.
        """
