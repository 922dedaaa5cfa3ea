"""The sums of a payment: what each operation does to its counters, the label they read as, and what an order owes for what has left.

Everything is whole minor units. Shares are cumulative: the captures of all shipments together are the total, never a unit off.
"""

from collections.abc import Mapping

from msgspec.structs import replace

from orderflow.streams.domain import money
from orderflow.streams.domain.order_rows import OrderRow
from orderflow.streams.domain.payment_records import Ledger

COUNTERS: Mapping[str, str] = {
    "authorize": "authorized",
    "capture": "captured",
    "void": "voided",
    "refund": "refunded",
    "increase": "authorized",
}
"""The counter that each operation moves: an increase is more of the same authorization."""
CANCEL = "cancel"
"""The operation that moves none: it ends an authorization that never was, which is pending until then."""


AUTHORIZED, PARTIALLY_CAPTURED, DISPUTED = "authorized", "partially_captured", "disputed"
"""Labels that rules ask for: nothing is captured, not all is, a dispute is open."""


def requested(ledger: Ledger, operation: str, amount: int) -> Ledger:
    """The provider is asked for it."""
    return ledger if operation == CANCEL else _moved(ledger, f"{COUNTERS[operation]}_pending", amount)


def succeeded(ledger: Ledger, operation: str, amount: int) -> Ledger:
    """The provider did what it was asked."""
    return (
        failed(ledger, operation, amount) if operation == CANCEL else _moved(failed(ledger, operation, amount), COUNTERS[operation], amount)
    )


def failed(ledger: Ledger, operation: str, amount: int) -> Ledger:
    """The provider did not, and will not."""
    return _moved(ledger, f"{COUNTERS['authorize' if operation == CANCEL else operation]}_pending", -amount)


def disputed(ledger: Ledger, amount: int) -> Ledger:
    """A buyer's bank keeps it for now."""
    return _moved(ledger, "disputed_pending", amount)


def decided(ledger: Ledger, amount: int, lost: int) -> Ledger:
    """A dispute of this amount is over, and so much of it is lost."""
    return _moved(_moved(ledger, "disputed_pending", -amount), "disputed", lost)


def _moved(ledger: Ledger, counter: str, amount: int) -> Ledger:
    return replace(ledger, **{counter: getattr(ledger, counter) + amount})


def capturable(ledger: Ledger) -> int:
    """Authorized, and neither captured nor given back nor asked to be."""
    return ledger.authorized - ledger.captured - ledger.captured_pending - ledger.voided - ledger.voided_pending


def refundable(ledger: Ledger) -> int:
    """Captured, and neither given back nor asked to be, nor taken or kept by a buyer's bank."""
    return max(0, _unrefunded(ledger) - ledger.disputed - ledger.disputed_pending)


def _unrefunded(ledger: Ledger) -> int:
    return ledger.captured - ledger.refunded - ledger.refunded_pending


def label(ledger: Ledger) -> str:
    """The one word for the payment, in lower case."""
    if ledger.authorized == 0:
        return "pending" if ledger.authorized_pending else "failed"
    if ledger.disputed_pending:
        return DISPUTED
    if ledger.captured == 0:
        return "voided" if ledger.voided == ledger.authorized else AUTHORIZED
    back = ledger.refunded + ledger.disputed
    if back:
        return "refunded" if back >= ledger.captured else "partially_refunded"
    return "captured" if ledger.captured + ledger.voided == ledger.authorized else PARTIALLY_CAPTURED


def faults(ledger: Ledger) -> tuple[str, ...]:
    """What may never be true: money from nowhere (domain.md 2.3)."""
    found = []
    counters = {*COUNTERS.values(), "disputed"}
    if min(getattr(ledger, f"{name}{pending}") for name in counters for pending in ("", "_pending")) < 0:
        found.append("a payment's counter is below zero")
    if capturable(ledger) < 0:
        found.append("more is captured or given back than was authorized")
    if _unrefunded(ledger) < 0:
        found.append("more is refunded than was captured")
    return tuple(found)


def wanted(order: OrderRow) -> int:
    """What the order is worth of its whole total without the units that were canceled: the amount to authorize."""
    return owed(order, {line.line_id: line.quantity - line.canceled - line.shipped for line in order.lines if line.kind == "item"})


def owed(order: OrderRow, leaving: Mapping[str, int]) -> int:
    """What the order's units that have left, and those that leave now (line id -> units), are worth of its whole total.

    round(total x share), half up, cumulative over all shipments; the share is of the items' prices, or of units where all are free.
    """
    sums = money.totals(order.lines, order.currency)
    if sums is None:
        return 0
    items = [line for line in order.lines if line.kind == "item"]
    prices = {line.line_id: line.unit_price.amount_minor if line.unit_price else 0 for line in items}
    free = not any(prices.values())
    part = sum((1 if free else prices[line.line_id]) * (line.shipped + leaving.get(line.line_id, 0)) for line in items)
    whole = sum((1 if free else prices[line.line_id]) * line.quantity for line in items)
    return (2 * sums.total.amount_minor * part + whole) // (2 * whole)
