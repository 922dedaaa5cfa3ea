"""The payment provider and its connector in a simulated run: they read requests from the committed log and answer with commands.

The provider's book is what really happened: each key once. The connector forgets everything now and then and begins anew from the
log, asks twice, says late, first says that it does not know, or says nothing and asks again: all of it under the same key. Beside that the
provider tells by webhooks, of which some come twice, some late, and some never.
"""

from random import Random

from orderflow.streams.domain.contract import CommandMeta
from orderflow.streams.domain.payment_records import PaymentRequested, PaymentUnknown, RecordProviderResult, RecordWebhook
from simulation.clients import partition_of_key
from simulation.edges import Edge
from simulation.scheduler import Actor

AGAIN_US = 3_000_000
NO_HEADERS = (("", b""),)
FORGETS = 0.01
VALID_US = 120_000_000
"""A simulated week, after which an authorization is worth nothing."""


class Bank:
    """Hears of requests as soon as they are committed; `book` is key -> was it done, `open` what the log does not show as answered."""

    def __init__(self, edge: Edge) -> None:
        system = edge.system
        self.edge, self.system, self.sim = edge, system, edge.sim
        self.records = edge.records.of("orders")
        self.random = Random(f"bank {edge.seed}")
        self.webhooks = Random(f"webhooks {edge.seed}")
        self.book: dict[str, bool] = {}
        self.open: dict[str, tuple[str, PaymentRequested]] = {}
        self._logs = [system.broker.logs[self.records.events, number] for number in range(system.partitions)]
        self._position = [0] * system.partitions
        self.actor = Actor("bank", self._hear)
        for log in self._logs:
            log.watchers[self] = lambda: self.sim.wake(self.actor, 1_000)

    def _hear(self) -> int | None:
        if self.edge.faulty and self.random.random() < FORGETS:
            self._position = [log.base for log in self._logs]
            self.open.clear()
        fresh = {}
        for number, log in enumerate(self._logs):
            found, self._position[number] = log.read(self._position[number], 100_000, True)
            for record in found:
                name, value = (record.headers() or NO_HEADERS)[0]
                if name != "ce_type" or not value.lower().startswith(b"payment"):
                    continue
                _, order_id, event = self.records.decode_event(record.value() or b"")
                if isinstance(event, PaymentRequested):
                    fresh[event.idempotency_key] = self.open[event.idempotency_key] = (order_id, event)
                elif not isinstance(event, PaymentUnknown):
                    key = f"{event.attempt_id}:{event.operation}:{event.operation_no}"
                    self.open.pop(key, None)
                    fresh.pop(key, None)
        for key in fresh:
            self._ask(key)
        return None

    def _ask(self, key: str) -> None:
        """Ask the provider, tell the order, and look again later whether the log shows it."""
        if key not in self.open:
            return
        order_id, event = self.open[key]
        way = self.random.random() if self.edge.faulty else 1.0
        if way >= 0.1:
            may_decline = event.operation in ("authorize", "capture")
            if key not in self.book:
                self.book[key] = not (may_decline and Random(key).random() < 0.15)
                self._webhook(order_id, event, "succeeded" if self.book[key] else "declined")
        if way >= 0.2:
            self._tell(order_id, event, "succeeded" if self.book[key] else "declined")
        elif way >= 0.05:
            self._tell(order_id, event, "unknown")
        self.sim.later(AGAIN_US + self.random.randrange(AGAIN_US), lambda: self._ask(key))

    def _tell(self, order_id: str, event: PaymentRequested, word: str) -> None:
        amount = None if word == "unknown" else event.amount
        ref = event.provider_ref or f"ref-{event.attempt_id}"
        until = self.system.clock_us() + VALID_US if self.edge.load.holds and event.operation == "authorize" else None
        command = RecordProviderResult(event.attempt_id, event.operation, event.operation_no, word, amount, event.provider, ref, until)
        late = int(self.random.expovariate(1 / 400_000)) if self.edge.faulty else 20_000
        for _ in range(2 if self.edge.faulty and self.random.random() < 0.1 else 1):
            self.sim.later(late, lambda: self._append(order_id, command, f"{event.idempotency_key}:{word}"))

    def _webhook(self, order_id: str, event: PaymentRequested, word: str) -> None:
        ref = event.provider_ref or f"ref-{event.attempt_id}"
        command = RecordWebhook(
            event.provider, f"evt {event.idempotency_key}", f"payment.{event.operation}.{word}", event.idempotency_key, event.operation, word,
            event.amount, ref,
        )  # fmt: skip
        for _ in range(self.webhooks.choice((0, 1, 1, 2)) if self.edge.faulty else 1):
            late = int(self.webhooks.expovariate(1 / 400_000)) if self.edge.faulty else 20_000
            self.sim.later(late, lambda: self._append(order_id, command, f"webhook:{command.provider_event_id}"))

    def _append(self, order_id: str, command: RecordProviderResult | RecordWebhook, command_id: str) -> None:
        meta = CommandMeta(command_id, self.system.clock_us(), actor="bank", principal="payments:local")
        value = self.records.encode_command(meta, order_id, command)
        log = self.system.broker.logs[self.records.commands, partition_of_key(order_id.encode(), self.system.partitions)]
        self.system.broker.append(log, order_id.encode(), value, None, None)
