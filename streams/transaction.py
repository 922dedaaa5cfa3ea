"""Begin, send, offsets, commit: one Kafka transaction for everything a worker does between two commits, and its error table.

librdkafka speaks the transaction protocol before KIP-890, in which a late end of transaction can hit the next one. So a failure has
two outcomes only: *abortable* (the transaction is aborted, positions go back, work goes on) and *everything else* (the process exits
and the normal restore finds out from the log what was committed).
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import structlog
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from orderflow.tables.world import WORLD, World

log = structlog.get_logger(__name__)

COMMIT_TIMEOUT_S = 30.0
ABORT_TIMEOUT_S = 20.0
DELIVERY_TIMEOUT_S = 5.0
RETRIES_MAX = 10
RETRY_PAUSE_S = 0.1

ABORTABLE: frozenset[tuple[str, str]] = frozenset(
    {
        # A rebalance moved the group on between our poll and our commit: normal at every cooperative join.
        ("send_offsets", "ILLEGAL_GENERATION"),
        ("send_offsets", "UNKNOWN_MEMBER_ID"),
        ("send_offsets", "REBALANCE_IN_PROGRESS"),
    }
)
"""(call, librdkafka code) that end in an abort even where librdkafka does not say so itself; all others follow `outcome`."""

NEVER_BETTER = frozenset({"MSG_SIZE_TOO_LARGE", "TOPIC_AUTHORIZATION_FAILED", "UNKNOWN_TOPIC_OR_PART"})
"""Codes that doing the batch again would meet again: to retry them would stop the worker without a word."""


class Aborted(Exception):
    """The open transaction is gone; nothing of it is visible; the worker goes back to its last committed positions."""


class Fatal(Exception):
    """This process may not go on: fenced, in doubt, or broken. It exits and is started again."""


def outcome(call: str, error: KafkaError) -> str:
    """`retry`, `abort` or `exit`: what a failed transactional call leads to."""
    if error.name() in NEVER_BETTER:
        return "exit"
    if error.retriable() and error.name() != "_TIMED_OUT":
        return "retry"
    if error.txn_requires_abort() or (call, error.name()) in ABORTABLE:
        return "abort"
    return "exit"


class Transaction:
    """The one transactional producer of a worker. Only the kafka thread calls it."""

    def __init__(self, config: Mapping[str, Any], transactional_id: str, timeout_ms: int, world: World = WORLD) -> None:
        self.transactional_id, self._world = transactional_id, world
        self._producer = world.producer(
            {
                "enable.idempotence": True,
                "acks": "all",
                "partitioner": "murmur2_random",
                "queue.buffering.max.messages": 1_000_000,
                "queue.buffering.max.kbytes": 262_144,
                "linger.ms": 5,
                "batch.size": 1 << 20,
                "batch.num.messages": 10_000,
                "message.max.bytes": 2_100_000,
                "transactional.id": transactional_id,
                "transaction.timeout.ms": timeout_ms,
                **config,
            }
        )
        self.open = False
        self.produced = 0
        self._reports_due = 0

    def start(self) -> None:
        """Fence whoever used this id before and finish what it left open. Raises Fatal."""
        try:
            self._producer.init_transactions(COMMIT_TIMEOUT_S)
        except KafkaException as error:
            raise Fatal(f"init_transactions of {self.transactional_id}: {error.args[0].str()}") from error

    def begin(self) -> None:
        if not self.open:
            self._producer.begin_transaction()
            self.open = True
            self.produced = 0

    def send(
        self,
        topic: str,
        value: bytes | None,
        key: bytes,
        partition: int = -1,
        headers: list[tuple[str, bytes]] | None = None,
        position: Callable[[str, int, int], None] | None = None,
    ) -> None:
        """Produce into the open transaction. `position` is told (topic, partition, next offset); ask for it rarely: it costs a callback."""
        self.produced += 1
        while True:
            try:
                if position is None:
                    self._producer.produce(topic, value, key, partition, headers=headers)
                else:
                    self._reports_due += 1
                    self._producer.produce(topic, value, key, partition, headers=headers, on_delivery=self._reporter(position))
            except BufferError:
                if position is not None:
                    self._reports_due -= 1
                self._producer.poll(0.05)
            else:
                return

    def send_all(self, outputs: Iterable[Any]) -> None:
        """Produce many (topic, value, key, partition, headers) without reports: the hot path."""
        produce = self._producer.produce
        for output in outputs:
            try:
                if output.headers is None:
                    produce(output.topic, output.value, output.key, output.partition)
                else:
                    produce(output.topic, output.value, output.key, output.partition, headers=output.headers)
            except BufferError:
                self.send(output.topic, output.value, output.key, output.partition, output.headers)
            self.produced += 1

    def _reporter(self, position: Callable[[str, int, int], None]) -> Callable[[Any, Any], None]:
        def report(error: Any, message: Any) -> None:
            self._reports_due -= 1
            if error is None:
                position(message.topic(), message.partition(), message.offset() + 1)

        return report

    def poll(self) -> None:
        """Serve delivery reports."""
        self._producer.poll(0)

    def commit(self, offsets: Iterable[TopicPartition], group: Any) -> None:
        """Offsets, then the commit. Raises Aborted (call `abort` next) or Fatal."""
        self._call("send_offsets", lambda: self._producer.send_offsets_to_transaction(list(offsets), group, COMMIT_TIMEOUT_S))
        self._call("commit", lambda: self._producer.commit_transaction(COMMIT_TIMEOUT_S))
        while self._reports_due > 0:
            self._producer.poll(0.01)
        self.open = False

    def abort(self) -> None:
        """Drop the open transaction. Raises Fatal."""
        try:
            self._producer.abort_transaction(ABORT_TIMEOUT_S)
        except KafkaException as error:
            raise Fatal(f"abort: {error.args[0].str()}") from error
        waits = int(DELIVERY_TIMEOUT_S / 0.01)
        while self._reports_due > 0 and waits > 0:  # purged records still report
            self._producer.poll(0.01)
            waits -= 1
        self._reports_due = 0
        self.open = False

    def _call(self, call: str, function: Callable[[], None]) -> None:
        for attempt in range(RETRIES_MAX + 1):
            try:
                function()
            except KafkaException as raised:
                error = raised.args[0]
                what = outcome(call, error)
                log.warning("transaction.failed", call=call, error=error.name(), outcome=what)
                if what == "retry" and attempt < RETRIES_MAX:
                    self._world.sleep(RETRY_PAUSE_S)
                    continue
                if what == "abort":
                    raise Aborted(f"{call}: {error.str()}") from raised
                raise Fatal(f"{call}: {error.str()}") from raised
            else:
                return


def fence(config: Mapping[str, Any], transactional_id: str, world: World = WORLD) -> None:
    """End whatever a dead owner left open, so that readers need not wait for its timeout. Raises KafkaException."""
    producer = world.producer({**config, "transactional.id": transactional_id})
    producer.init_transactions(COMMIT_TIMEOUT_S)
