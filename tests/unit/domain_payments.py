"""Prepaid orders as far as a test needs them, and a provider that is a dictionary: it does each key once and says whatever it is told to."""

from collections import Counter
from random import Random
from typing import Any

from domain_harness import Log, World
from domain_orders import answer, item
from msgspec.structs import replace

from orderflow.streams.domain import payment_ledger
from orderflow.streams.domain.channel import BOX
from orderflow.streams.domain.ids import operation_key
from orderflow.streams.domain.order_records import PlacedLine, PlaceOrder
from orderflow.streams.domain.parts import Money
from orderflow.streams.domain.payment_records import PaymentRequested, RecordProviderResult, RecordWebhook
from orderflow.streams.domain.stock_answers import demand

CURRENCY = "EUR"
PREPAID = replace(BOX, payment_terms="prepaid")


def priced(line_id: str = "1", sku: str = "A", quantity: int = 1, price: int = 1000, **more: Any) -> PlacedLine:
    return item(line_id, sku, quantity, unit_price=Money(price, CURRENCY), **more)


def place(*lines: PlacedLine) -> PlaceOrder:
    return PlaceOrder("box", lines=lines or (priced(),))


def reserved(*lines: PlacedLine, location_ids: tuple[str, ...] = ("main",), **log: Any) -> Log:
    """An order that waits for its authorization."""
    found = Log("orders", "o1", **{"channel": PREPAID, **log})
    found.when(place(*lines), command_id="place")
    for number, (sku, quantity) in enumerate(demand(found.rows.order.lines).items()):
        due_at = found.timers().__next__().due_at + 3_000_000_000
        found.when(answer("reserved", sku, quantity, location_id=location_ids[number % len(location_ids)], due_at=due_at))
    return found


def asked(log: Log) -> PaymentRequested:
    """The latest request to the provider."""
    found: PaymentRequested = log.named(PaymentRequested)[-1]
    return found


def said(request: PaymentRequested, outcome: str = "succeeded", **more: Any) -> RecordProviderResult:
    """The provider's answer to a request."""
    amount = more.pop("amount", None if outcome == "requires_action" else request.amount)
    return RecordProviderResult(
        request.attempt_id, request.operation, request.operation_no, outcome, amount, "local", more.pop("provider_ref", "ref-1"), **more
    )


def told(request: PaymentRequested, outcome: str = "succeeded", **more: Any) -> RecordWebhook:
    """The provider's webhook about a request."""
    key, operation = request.idempotency_key, request.operation
    values = {"idempotency_key": key, "operation": operation, "outcome": outcome, "amount": request.amount, "provider_ref": "ref-1"}
    return RecordWebhook(request.provider, f"evt {key} {outcome}", f"payment.{operation}.{outcome}", **{**values, **more})


def authorized(*lines: PlacedLine, committed: bool = True, **more: Any) -> Log:
    """A confirmed prepaid order."""
    log = reserved(*lines, **more)
    log.when(said(asked(log)))
    if committed:
        for sku, quantity in demand(log.rows.order.lines).items():
            row = next(row for row in log.rows.stock_answer.values() if row.sku == sku)
            log.when(answer("committed", sku, quantity, allocations=row.allocations))
    return log


def net(log: Log) -> int:
    """The money we have of the customer, and what still could be taken."""
    ledger = log.rows.payment.ledger
    return int(payment_ledger.refundable(ledger) + payment_ledger.capturable(ledger))


class Bank:
    """The provider of a world: every key has one effect, however often it is asked, and its own book of what it did."""

    def __init__(self, world: World, random: Random, declines: float, actions: float = 0.0) -> None:
        self.world, self.random, self.declines, self.actions = world, random, declines, actions
        self.book: dict[str, tuple[str, PaymentRequested]] = {}
        self.heard: Counter[str] = Counter()

    def listen(self) -> None:
        """Read the requests that are new in any order's events; answer some twice, some first with "unknown", some by webhook, or only so."""
        for (space, key), log in self.world.logs.items():
            if space != "orders":
                continue
            for event, meta in log.events[self.heard[key] :]:
                if isinstance(event, PaymentRequested):
                    assert event.idempotency_key not in self.book, "a key is asked for once"
                    outcome = "declined" if self.random.random() < self.declines else "succeeded"
                    if event.operation == "cancel":  # what its buyer did before is undone with it
                        outcome, before = "succeeded", operation_key(event.attempt_id, "authorize", event.operation_no - 1)
                        self.book[before] = ("canceled", event)
                    self.book[event.idempotency_key] = (outcome, event)
                    cause = f"bank {meta.event_id}"
                    webhooks = self.random.choice((0, 0, 1, 2))
                    for _ in range(webhooks):
                        self.world.send("orders", key, told(event, outcome), f"webhook {event.idempotency_key}", cause)
                    if webhooks and self.random.random() < 0.2:
                        continue
                    acts = event.operation == "authorize" and self.random.random() < self.actions
                    for number, word in enumerate((["requires_action"] if acts else []) + self._words(outcome)):
                        self.world.send("orders", key, said(event, word), f"bank {event.idempotency_key} {number}", cause)
            self.heard[key] = len(log.events)

    def _words(self, outcome: str) -> list[str]:
        words = ["unknown", outcome] if self.random.random() < 0.3 else [outcome]
        return words * 2 if self.random.random() < 0.2 else words

    def moved(self, order_id: str, operation: str) -> int:
        """How much money this operation really moved, by the bank's own book."""
        return sum(
            event.amount.amount_minor
            for outcome, event in self.book.values()
            if outcome == "succeeded" and event.operation == operation and event.attempt_id.startswith(f"{order_id}~")
        )
