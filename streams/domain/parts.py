"""Parts that records of several key spaces share (Avro namespace `orderflow.common`), and the few sums over them."""

from collections.abc import Iterable

from msgspec import Struct


class Money(Struct, frozen=True, gc=False):
    """An amount in minor units of an ISO 4217 currency; never a float."""

    amount_minor: int
    currency: str


class Qty(Struct, frozen=True, gc=False):
    """Units at one location, of one lot where lots are tracked."""

    location_id: str
    lot: str = ""
    quantity: int = 0


class Holder(Struct, frozen=True, gc=False):
    """Whom a reservation is for: the order, and which of its rounds of asking."""

    order_id: str
    attempt: int = 1


def units(allocations: Iterable[Qty]) -> int:
    """How many units these are together."""
    return sum(each.quantity for each in allocations)
