"""I8: what must be true of the money in any history, counted again from the events alone (see checkers.py).

It knows the records and nothing of the rules: shares are fractions here, counters a dictionary.
"""

from collections.abc import Iterator
from fractions import Fraction
from math import floor
from typing import Any

COUNTERS = {"authorize": "authorized", "capture": "captured", "void": "voided", "refund": "refunded"}
CANCEL = "cancel"
"""Ends an authorization that waits for its buyer; no counter has it."""
OUTCOMES = {
    "PaymentAuthorized": "authorize",
    "PaymentCaptured": "capture",
    "PaymentVoided": "void",
    "PaymentRefunded": "refund",
    "PaymentCanceled": CANCEL,
}
INCREASE = "increase"
"""More of an authorization, for an order that becomes more: how much more is looked at when it has."""
MOST = 2**63
OPEN = ("PaymentUnknown", "PaymentActionRequired")
"""Answers after which the operation is still under way."""
ENDED = ("REJECTED", "CANCELED", "EXPIRED", "SHIPPED", "DELIVERED", "COMPLETED")


class Payment:
    """The money of one order as its events tell it. `take` says what is wrong with the next event, `rest` with the end of the history."""

    def __init__(self) -> None:
        self.moved = dict.fromkeys(COUNTERS, 0)
        self.disputes: dict[str, int] = {}
        """What buyers' banks keep until each is decided."""
        self.lost = 0
        self.open: Any = None
        self.at_buyer = False
        """The operation under way waits for its buyer: the one thing that may be canceled."""
        self.number = 0
        self.total = 0
        self.values: dict[str, tuple[int, int]] = {}
        """Line -> (price of a unit, units), items only."""
        self.shipped: dict[str, int] = {}
        self.wanted: dict[str, int] = {}
        """Line -> units that were not canceled before the money was asked for."""
        self.status = ""
        self.exists = self.on_delivery = False

    @property
    def owed(self) -> int:
        """What the units that have left are worth of the order's total."""
        return self._worth(self.shipped)

    def _worth(self, units: dict[str, int]) -> int:
        free = not any(price for price, _ in self.values.values())
        whole = sum(count * (1 if free else price) for price, count in self.values.values())
        part = sum(units.get(line, 0) * (1 if free else price) for line, (price, _) in self.values.items())
        return floor(Fraction(self.total * part, whole) + Fraction(1, 2)) if whole else 0

    @property
    def left(self) -> int:
        """Authorized and still there to be taken."""
        return self.moved["authorize"] - self.moved["capture"] - self.moved["void"]

    def take(self, event: Any) -> Iterator[str]:
        name = type(event).__name__
        if name == "OrderCreated":
            self.total = event.totals.total.amount_minor if event.totals else 0
            items = [line for line in event.lines if line.kind == "item"]
            self.values = {line.line_id: (line.unit_price.amount_minor if line.unit_price else 0, line.quantity) for line in items}
            self.wanted = {line.line_id: line.quantity for line in items}
        elif name == "OrderLineCanceled":
            self.wanted[event.line_id] -= event.quantity
        elif name == "OrderEdited":
            self.total += event.money_delta.amount_minor if event.money_delta else 0
            changes = {line.line_id: line.quantity_delta for line in event.delta}
            self.values = {line: (price, units + changes.get(line, 0)) for line, (price, units) in self.values.items()}
            self.wanted = {line: units + changes.get(line, 0) for line, units in self.wanted.items()}
            if self.exists and self.moved["authorize"] - self.moved["void"] < self._worth(self.wanted):
                yield f"edited to goods worth {self._worth(self.wanted)}, {self.moved['authorize']} are authorized"
        elif name == "PaymentRequested":
            yield from self._asked(event)
        elif name in OUTCOMES or name in OPEN or name == "PaymentFailed":
            yield from self._answered(name, event)
        elif name in ("DisputeOpened", "DisputeClosed"):
            yield from self._disputed(name, event)
        elif name == "FulfillmentStatusChanged" and event.new_status == "SHIPPED":
            for line in event.lines:
                self.shipped[line.line_id] = self.shipped.get(line.line_id, 0) + line.shipped
            if self.exists and not self.on_delivery and self.moved["capture"] < self.owed:
                yield f"{self.moved['capture']} was captured when goods worth {self.owed} left"
        elif name == "FulfillmentStatusChanged" and event.new_status == "COMPENSATED":
            for line in event.lines:
                self.shipped[line.line_id] -= line.shipped
        elif name == "OrderStatusChanged":
            self.status = str(event.new_status)
            if self.status == "CANCELED" and self.exists:
                yield from self.rest()

    def _asked(self, event: Any) -> Iterator[str]:
        amount = event.amount.amount_minor
        self.exists, self.on_delivery, self.number = True, event.method == "cod", self.number + 1
        if event.operation == CANCEL and not (self.open and self.at_buyer and self.status in (*ENDED, "CANCEL_PENDING")):
            yield "a cancel is asked of what does not wait for its buyer, or of an order that goes on"
        elif event.operation != CANCEL and self.open is not None:
            yield f"{event.operation} is asked while {self.open.operation} has no answer"
        if event.operation_no != self.number or event.idempotency_key != f"{event.attempt_id}:{event.operation}:{event.operation_no}":
            yield f"the key {event.idempotency_key} is not that of operation {self.number}"
        goods = self._worth(self.wanted)
        back = 0 if self.disputes else max(0, self.moved["capture"] - self.moved["refund"] - self.lost)
        asked = self.open.amount.amount_minor if self.open else 0
        most = {"authorize": goods, "refund": back, CANCEL: asked, INCREASE: MOST}.get(event.operation, self.left)
        if not 0 < amount <= most or (event.operation in ("authorize", CANCEL) and amount != most):
            yield f"{event.operation} of {amount} where {most} is possible"
        self.open, self.at_buyer = event, False

    def _answered(self, name: str, event: Any) -> Iterator[str]:
        asked = self.open
        if asked is None or (asked.operation, asked.operation_no, asked.amount) != (event.operation, event.operation_no, event.amount):
            yield f"{name} of {event.operation} {event.operation_no}, which was not asked"
            return
        self.at_buyer = name == "PaymentActionRequired"
        if name not in OPEN:
            self.open = None
        if name in OUTCOMES:
            moved = "authorize" if event.operation == INCREASE else event.operation
            if OUTCOMES[name] != moved:
                yield f"{name} answers {event.operation}"
            if moved != CANCEL:
                self.moved[moved] += event.amount.amount_minor
        told = {operation: getattr(event.totals, counter) for operation, counter in COUNTERS.items()}
        pending = {operation: getattr(event.totals, f"{counter}_pending") for operation, counter in COUNTERS.items()}
        under_way = "authorize" if asked.operation in (CANCEL, INCREASE) else asked.operation
        waits = {operation: asked.amount.amount_minor if self.open and operation == under_way else 0 for operation in COUNTERS}
        if told != self.moved or pending != waits:
            yield f"{name} says {told} and {pending} pending, counted are {self.moved} and {waits}"

    def _disputed(self, name: str, event: Any) -> Iterator[str]:
        known, amount = event.dispute_ref in self.disputes, event.amount.amount_minor
        if known is not (name == "DisputeClosed"):
            yield f"{name} of {event.dispute_ref}, which is {'open' if known else 'not open'}"
        elif known:
            self.disputes.pop(event.dispute_ref)
            self.lost += amount if event.outcome == "lost" else 0
        else:
            self.disputes[event.dispute_ref] = amount
        told, counted = (event.totals.disputed, event.totals.disputed_pending), (self.lost, sum(self.disputes.values()))
        if told != counted:
            yield f"{name} says {told} disputed, counted are {counted}"

    def rest(self) -> Iterator[str]:
        """Nothing is under way, and an order that ended keeps the money of what has left and no more; a dispute is decided first."""
        if self.open is not None:
            yield f"{self.open.operation} has no answer"
        kept = 0 if self.disputes else self.moved["capture"] - self.moved["refund"] - self.lost
        left, most = self.left, self.owed
        if self.on_delivery:  # what has left may still be collected; people give back what was collected beyond it
            left -= max(0, self.owed - self.moved["capture"])
            most = max(most, kept) if self.status not in ("CANCELED", "COMPLETED") else most
        if self.on_delivery and self.status == "COMPLETED" and self.left:
            yield f"COMPLETED and {self.left} is still to be collected"
        if self.status in ENDED and (left > 0 or kept > most):
            yield f"{self.status} and {kept} kept, {self.left} still authorized, for goods worth {self.owed}"
