"""Sums of an order's lines in integer minor units. One calculator: every total anybody sees comes from here."""

from collections.abc import Iterable

from orderflow.streams.domain.order_records import PlacedLine, Totals
from orderflow.streams.domain.order_rows import OrderLine
from orderflow.streams.domain.parts import Money

AMOUNT_MINOR_MAX = 2**53
"""Above it JSON numbers stop being exact (slot D20)."""


def moneys(line: PlacedLine | OrderLine) -> tuple[Money, ...]:
    """The amounts a line carries."""
    return tuple(money for money in (line.unit_price, line.discount, line.tax) if money is not None)


def totals(lines: Iterable[PlacedLine | OrderLine], currency: str) -> Totals | None:
    """The sums over all lines, or None when a line has no price. The amounts must be of this currency."""
    items = shipping = discount = tax = 0
    priced = False
    for line in lines:
        if line.unit_price is None:
            return None
        priced = True
        amount = line.unit_price.amount_minor * line.quantity
        if line.kind == "item":
            items += amount
        else:
            shipping += amount
        discount += line.discount.amount_minor if line.discount else 0
        tax += line.tax.amount_minor if line.tax else 0
    if not priced:
        return None
    sums = (items, discount, shipping, tax, items - discount + shipping + tax)
    return Totals(*(Money(amount, currency) for amount in sums))
