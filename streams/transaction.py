"""Begin, send, offsets, commit: one Kafka transaction for everything a worker does between two commits.

What a failed call leads to is decided by the table in `outcomes.py` and raised as one of two: Aborted or Fatal.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import structlog
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from orderflow.streams.coordinator import CoordinatorWatch
from orderflow.streams.outcomes import ABORT, RETRY, outcome
from orderflow.tables.world import WORLD, World

log = structlog.get_logger(__name__)

COMMIT_TIMEOUT_S = 30.0
ABORT_TIMEOUT_S = 20.0
DELIVERY_TIMEOUT_S = 5.0
REPORT_POLL_S = 0.01
RETRIES_MAX = 10
RETRY_PAUSE_S = 0.1


class Aborted(Exception):
    """The open transaction is gone; nothing of it is visible; the worker goes back to its last committed positions."""


class Fatal(Exception):
    """This process may not go on: fenced, in doubt, or broken. It exits and is started again."""


class Transaction:
    """The one transactional producer of a worker. Only the kafka thread calls it."""

    def __init__(self, config: Mapping[str, Any], transactional_id: str, timeout_ms: int, world: World = WORLD) -> None:
        self.transactional_id, self._world = transactional_id, world
        self._coordinator = CoordinatorWatch()
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
                # Right after a commit the broker answers "concurrent transactions" for some milliseconds: asked again after 100, the default,
                # each hop of a saga would wait that long.
                "retry.backoff.ms": 5,
                # Bootstrapping anew replaces the broker's handle, and librdkafka 2.16 then waits on the old one for ever in send_offsets.
                "metadata.recovery.strategy": "none",
                **self._coordinator.config,
                **config,
            }
        )
        self.open = False
        self.produced = 0
        self._reports_due = 0

    def start(self) -> None:
        """Fence whoever used this id before and finish what it left open. Raises Fatal."""
        self._call("init", self._producer.init_transactions, COMMIT_TIMEOUT_S)
        self._insist_on_one_end()

    def begin(self) -> None:
        """Open a transaction if none is. Raises Fatal."""
        if not self.open:
            self._call("begin", lambda left_s: self._producer.begin_transaction(), COMMIT_TIMEOUT_S)
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
        """Produce into the open transaction. `position` is told (topic, partition, next offset); ask for it rarely: it costs a callback.

        Like the two below it raises Aborted (call `abort` next) or Fatal.
        """
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
            except KafkaException as raised:
                raise failed("produce", raised) from raised
            else:
                return

    def send_rows(self, topic: str, records: Iterable[tuple[bytes, bytes | None]], partition: int) -> None:
        """Produce many (key, value) of one partition without reports: the changelog's hot path."""
        produce = self._producer.produce
        for key, value in records:
            try:
                produce(topic, value, key, partition)
            except BufferError:
                self.send(topic, value, key, partition)
            except KafkaException as raised:
                raise failed("produce", raised) from raised
            else:
                self.produced += 1

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
            except KafkaException as raised:
                raise failed("produce", raised) from raised
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

    def commit(self, offsets: Iterable[TopicPartition], group: Any, within_s: float = COMMIT_TIMEOUT_S) -> None:
        """Records, offsets, then the commit, all within this time. Raises Aborted (call `abort` next) or Fatal."""
        clock = self._world.monotonic
        deadline = clock() + within_s
        positions = list(offsets)
        # Refused offsets drop what waits to be sent. librdkafka 2.16 then miscounts: one in four next transactions is refused too, and half a
        # second goes by until there is a new epoch. So nothing may wait.
        self._producer.flush(max(within_s, 0.0))
        self._call("send_offsets", lambda left_s: self._producer.send_offsets_to_transaction(positions, group, left_s), deadline - clock())
        self._call("commit", self._producer.commit_transaction, deadline - clock())
        self._await_reports()
        if self._reports_due:
            raise Fatal(f"{self._reports_due} records of a committed transaction have no delivery report after {DELIVERY_TIMEOUT_S:g} s")
        self._insist_on_one_end()
        self.open = False

    def abort(self) -> None:
        """Drop the open transaction. Raises Fatal."""
        self._call("abort", self._producer.abort_transaction, ABORT_TIMEOUT_S)
        self._await_reports()  # purged records still report
        self._reports_due = 0
        self._insist_on_one_end()
        self.open = False

    def _insist_on_one_end(self) -> None:
        """Go on only if no other end of a transaction of this epoch can be under way: it would end the next one. Raises Fatal."""
        self._producer.poll(0)
        if self._coordinator.lost:
            raise Fatal(f"an end of transaction may still be under way: {self._coordinator.lost}")

    def _await_reports(self) -> None:
        """Serve the reports that are due, at most DELIVERY_TIMEOUT_S."""
        waits = int(DELIVERY_TIMEOUT_S / REPORT_POLL_S)
        while self._reports_due > 0 and waits > 0:
            self._producer.poll(REPORT_POLL_S)
            waits -= 1

    def _call(self, call: str, function: Callable[[float], None], within_s: float) -> None:
        """Call with the seconds that are left, again while the table says so and they last. Raises Aborted or Fatal."""
        deadline = self._world.monotonic() + within_s
        for attempt in range(RETRIES_MAX + 1):
            left_s = deadline - self._world.monotonic()
            if left_s <= 0:
                raise Fatal(f"{call}: not done in time")
            try:
                function(left_s)
            except KafkaException as raised:
                error: KafkaError = raised.args[0]
                what = outcome(call, error)
                log.warning("transaction.failed", call=call, error=error.name(), outcome=what)
                if what == RETRY and attempt < RETRIES_MAX:
                    self._world.sleep(RETRY_PAUSE_S)
                    continue
                raise failed(call, raised) from raised
            else:
                return


def failed(call: str, raised: KafkaException) -> Aborted | Fatal:
    """The failure of a call as one of the two outcomes; a retry that is over is Fatal."""
    error: KafkaError = raised.args[0]
    kind = Aborted if outcome(call, error) == ABORT else Fatal
    return kind(f"{call}: {error.name()}: {error.str()}")


def fence(config: Mapping[str, Any], transactional_id: str, world: World = WORLD) -> None:
    """End whatever a dead owner left open, so that readers need not wait for its timeout. Raises KafkaException."""
    producer = world.producer({**config, "transactional.id": transactional_id})
    producer.init_transactions(COMMIT_TIMEOUT_S)
