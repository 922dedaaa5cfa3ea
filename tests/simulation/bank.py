"""The payment provider and its connector in a simulated run: they read requests from the committed log and answer with commands.

The provider's book is what really happened: each key once. The connector forgets everything now and then and begins anew from the
log, asks twice, says late, first says that it does not know, or says nothing and asks again: all of it under the same key. Beside that the
provider tells by webhooks, of which some come twice, some late, and some never. Some buyers dispute what was captured: that is told under
the provider's own name of the payment alone, and decided later. Some buyers have to act before an authorization is decided: of those some
never do, and the order that ends meanwhile cancels it.
"""

from random import Random
from typing import Any

from msgspec.structs import replace

from orderflow.streams.domain.claims import EarlyFact, RecordEarlyFact
from orderflow.streams.domain.contract import CommandMeta
from orderflow.streams.domain.ids import operation_key, reference_key
from orderflow.streams.domain.payment_records import (
    PaymentAuthorized,
    PaymentCanceled,
    PaymentCaptured,
    PaymentFailed,
    PaymentRefunded,
    PaymentRequested,
    PaymentVoided,
    RecordProviderResult,
    RecordWebhook,
)
from orderflow.streams.records import SpaceRecords
from simulation.clients import partition_of_key
from simulation.edges import Edge
from simulation.scheduler import Actor

AGAIN_US = 3_000_000
NO_HEADERS = (("", b""),)
FORGETS = 0.01
FINAL = PaymentAuthorized | PaymentCaptured | PaymentVoided | PaymentRefunded | PaymentCanceled | PaymentFailed
ACT_US = 8_000_000
"""How long a buyer takes to act, about; so many of ten do."""
ACTS = 8
DISPUTE_US = 4_000_000
"""How long a bank takes to decide, about."""
VALID_US = 120_000_000
"""A simulated week, after which an authorization is worth nothing."""


class Bank:
    """Hears of requests as soon as they are committed; `book` is key -> was it done, `open` what the log does not show as answered."""

    def __init__(self, edge: Edge) -> None:
        system = edge.system
        self.edge, self.system, self.sim = edge, system, edge.sim
        self.records, self.claims = edge.records.of("orders"), edge.records.of("references")
        self.random = Random(f"bank {edge.seed}")
        self.webhooks = Random(f"webhooks {edge.seed}")
        self.disputes = Random(f"disputes {edge.seed}")
        self.buyers = Random(f"buyers {edge.seed}")
        self.asked: set[str] = set()
        """Authorizations whose buyer was sent to act."""
        self.canceled: set[str] = set()
        """Of those, what will not be authorized any more."""
        self.undecided: set[str] = set()
        """Disputes that are open or about to be."""
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
                if isinstance(event, PaymentRequested | FINAL) and event.method == "cod":
                    continue  # people say what became of it
                if isinstance(event, PaymentRequested):
                    fresh[event.idempotency_key] = self.open[event.idempotency_key] = (order_id, event)
                    if event.operation == "cancel":
                        self.open.pop(_canceled_by(event), None)
                        fresh.pop(_canceled_by(event), None)
                elif isinstance(event, FINAL):
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
            may_decline = event.operation in ("authorize", "capture", "increase")
            if key not in self.book and self._asks_buyer(order_id, event):
                pass
            elif key not in self.book:
                if event.operation == "cancel":  # nothing of it is authorized, whatever its buyer has just done
                    self.canceled.add(_canceled_by(event))
                    self.book.pop(_canceled_by(event), None)
                self.book[key] = not (may_decline and Random(key).random() < 0.15)
                self._webhook(order_id, event, "succeeded" if self.book[key] else "declined")
                if event.operation == "capture" and self.book[key] and self.disputes.random() < self.edge.load.disputes:
                    self._dispute(event)
        if way >= 0.2:
            self._tell(order_id, event, {True: "succeeded", False: "declined", None: "requires_action"}[self.book.get(key)])
        elif way >= 0.05:
            self._tell(order_id, event, "unknown")
        self.sim.later(AGAIN_US + self.random.randrange(AGAIN_US), lambda: self._ask(key))

    def _asks_buyer(self, order_id: str, event: PaymentRequested) -> bool:
        """Has its buyer to act first? The first time this is seen they are sent to."""
        key = event.idempotency_key
        if event.operation != "authorize" or Random(f"buyer of {key}").random() >= self.edge.load.actions:
            return False
        if key not in self.asked:
            self.asked.add(key)
            wait, acts = int(self.buyers.expovariate(1 / ACT_US)), self.buyers.randrange(10) < ACTS
            if acts:
                self.sim.later(wait, lambda: self._act(order_id, event))
        return True

    def _act(self, order_id: str, event: PaymentRequested) -> None:
        """The buyer agrees, or does not, unless it is too late."""
        key = event.idempotency_key
        if key not in self.canceled:
            self.book[key] = self.buyers.random() < 0.8
            self._webhook(order_id, event, "succeeded" if self.book[key] else "declined")

    def _tell(self, order_id: str, event: PaymentRequested, word: str) -> None:
        amount = None if word in ("unknown", "requires_action") else event.amount
        ref = event.provider_ref or f"ref-{event.attempt_id}"
        until = self.system.clock_us() + VALID_US if self.edge.load.holds and event.operation == "authorize" else None
        command = RecordProviderResult(
            event.attempt_id, event.operation, event.operation_no, word, amount, event.provider, ref, until,
            action_url="https://bank.example/3ds" if word == "requires_action" else "",
        )  # fmt: skip
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

    def _dispute(self, event: PaymentRequested) -> None:
        """A buyer's bank takes the money of a capture back, and decides some time later; nobody knows which of both is heard first."""
        name = f"dp {event.idempotency_key}"
        self.undecided.add(name)
        wait = int(self.disputes.expovariate(1 / DISPUTE_US))
        after = wait + int(self.disputes.expovariate(1 / DISPUTE_US))
        self.sim.later(wait, lambda: self._tell_dispute(event, name, "opened"))
        self.sim.later(after, lambda: self._tell_dispute(event, name, self.disputes.choice(("won", "lost"))))

    def _tell_dispute(self, event: PaymentRequested, name: str, word: str) -> None:
        """Under a reference that nobody claims every tenth time first, which is about nothing of ours."""
        fact = EarlyFact(
            event.provider, f"evt {name} {word}", f"dispute.{word}", operation="dispute", outcome=word, amount=event.amount,
            provider_ref=event.provider_ref, dispute_ref=name,
        )  # fmt: skip
        if self.disputes.random() < 0.1:
            self._append_fact(reference_key("local", f"another {name}"), replace(fact, provider_event_id=f"evt another {name} {word}"))
        for _ in range(self.disputes.choice((1, 1, 2))):
            late = int(self.disputes.expovariate(1 / 400_000)) if self.edge.faulty else 20_000
            self.sim.later(late, lambda: self._append_fact(reference_key(event.provider, event.provider_ref), fact))
        if word != "opened":
            self.sim.later(1, lambda: self.undecided.discard(name))

    @property
    def is_at_rest(self) -> bool:
        return not self.open and not self.undecided

    def _append_fact(self, key: str, fact: EarlyFact) -> None:
        self._appended(self.claims, key, RecordEarlyFact(fact), f"webhook:{fact.provider_event_id}")

    def _append(self, order_id: str, command: RecordProviderResult | RecordWebhook, command_id: str) -> None:
        self._appended(self.records, order_id, command, command_id)

    def _appended(self, space: SpaceRecords, key: str, command: Any, command_id: str) -> None:
        meta = CommandMeta(command_id, self.system.clock_us(), actor="bank", principal="payments:local")
        log = self.system.broker.logs[space.commands, partition_of_key(key.encode(), self.system.partitions)]
        self.system.broker.append(log, key.encode(), space.encode_command(meta, key, command), None, None)


def _canceled_by(event: PaymentRequested) -> str:
    """The key of the authorization that a cancel ends: the operation before it."""
    return operation_key(event.attempt_id, "authorize", event.operation_no - 1)
