"""Changelogs -> store, for the partitions a worker has just been given, on a thread and a consumer of its own.

A partition is current when the *end-of-partition event* of every changelog (and of its meta topic) has reached the high watermark
seen after a last owner that is gone was fenced: positions do not pass control records, events do. Rows and positions reach the disk together,
so an interrupted restore goes on where it was. Rows on disk are built upon only while the changelogs can still tell everything that
happened since they were written; else, and when the result is not what the last owner had, the partition starts again from nothing.
"""

import queue
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from typing import Any

import structlog
from confluent_kafka import KafkaError, KafkaException, TopicPartition
from msgspec import Struct

from orderflow.tables.catchup import DIFFERS, WHY, DisputedRows, Job, RestoreError, Wanted, end_offsets
from orderflow.tables.rocks import Position, Store
from orderflow.tables.takeover import last_metas, unfinished
from orderflow.tables.world import World

log = structlog.get_logger(__name__)

BATCH_ROWS = 20_000
STALLED_S = 120.0
LEADERS_S = 5.0
ADVICE_STALLED = (
    "If the brokers are well, a transaction that never ends holds the rest back: find it with Kafka's `kafka-transactions.sh find-hanging`, and see "
    '"Kafka 4.3 and 4.4 can forget the end of a committed transaction" in docs/proof.md before you abort it.'
)


def _learn_leaders(consumer: Any, topics: set[str]) -> None:
    """Ask who leads them before they are assigned: librdkafka looks for leaders that it does not know once a second only, and a partition
    that moves would stand still for so long. What does not answer here is told by the requests that follow.
    """
    with suppress(KafkaException):
        for topic in sorted(topics):
            consumer.list_topics(topic, timeout=LEADERS_S)


class Restored(Struct, frozen=True):
    """A partition whose rows are current."""

    space: str
    partition: int
    ticket: int
    position: Position
    backlog_end: int
    """The command topic's end when the restore began: a timer is sent only after all before it is consumed."""
    records: int
    seconds: float


class Restorer:
    """Restores what is put in, one set of partitions at a time, and hands the result to `done` (called on the restore thread).

    Before each set `fence` is told the transactional ids of former owners that may have left a transaction open.
    """

    def __init__(
        self,
        store: Store,
        config: Mapping[str, Any],
        *,
        fence: Callable[[set[str]], None],
        done: Callable[[Restored], None],
        failed: Callable[[BaseException], None],
        reached: Callable[[str], None],
        world: World,
    ) -> None:
        self._store, self._world = store, world
        self._config = dict(config)
        self._fence, self._done, self._failed, self._reached = fence, done, failed, reached
        self._queue: queue.Queue[list[Wanted] | None] = queue.Queue()
        self._canceled: set[tuple[str, int, int]] = set()
        self._writing = threading.Lock()
        self.progress: dict[tuple[str, int], tuple[int, int]] = {}
        """(space, partition) -> (changelog records read, records there are), while it is being restored."""
        self.wiped: Counter[str] = Counter()
        """How often rows on disk were not used, by reason (AHEAD, STALE, DIFFERS)."""
        self.records = 0
        """Changelog records read since the start."""
        self._thread = world.thread("restore", self._run)

    def want(self, partitions: list[Wanted]) -> None:
        self._queue.put(partitions)

    def cancel(self, space: str, partition: int, ticket: int) -> None:
        """The partition went to another worker; a restore under way is dropped, and nothing of it is written any more."""
        with self._writing:
            self._canceled.add((space, partition, ticket))
        self.progress.pop((space, partition), None)

    def stop(self) -> None:
        self._queue.put(None)
        self._thread.join(timeout=10)

    def _run(self) -> None:
        while self.serve(block=True):
            pass

    def serve(self, *, block: bool) -> bool:
        """Restore what is asked for next. False when told to stop, or when nothing waits and `block` is false."""
        if not block and self._queue.empty():
            return False
        try:
            partitions = self._queue.get()
            if partitions is not None:
                self._restore(partitions)
        except Exception as error:
            self._failed(error)
            return False
        return partitions is not None

    def _restore(self, partitions: list[Wanted]) -> None:
        started = self._world.monotonic()
        admin = self._world.admin(self._config)
        jobs = [Job(wanted, self._store.family(wanted.space, wanted.partition)) for wanted in partitions]
        with closing(self._world.consumer(self._reading())) as consumer:
            _learn_leaders(consumer, {tp.topic for job in jobs for tp in job.topic_partitions()})
            self._fence(unfinished(last_metas(self._world, admin, consumer, partitions)))
            sources = [TopicPartition(wanted.source_topic, wanted.partition) for wanted in partitions]
            ends = end_offsets(self._world, admin, [*sources, *(tp for job in jobs for tp in job.topic_partitions())])
            for job in jobs:
                self._plan(job, ends)
            self._reached("during_restore")
            self._read(consumer, jobs)
            wrong = [job for job in jobs if job.ticket not in self._canceled and not job.as_published()]
            for job in wrong:
                self._wipe(job, DIFFERS)
                self._plan(job, ends)
            self._read(consumer, wrong)
        for job in wrong:
            if job.ticket not in self._canceled and not job.as_published():
                raise DisputedRows(
                    f"{job.wanted.space}[{job.wanted.partition}]: also rows read from the changelogs alone are not what the last owner "
                    f"({job.meta.owner}) had. Compare with `orderflow tables verify`; do not start another worker before."
                )
        for job in jobs:
            self.progress.pop(job.id, None)
            self.records += job.records
            if job.ticket not in self._canceled:
                seconds = round(self._world.monotonic() - started, 3)
                backlog_end = ends[job.wanted.source_topic, job.wanted.partition]
                space, partition, ticket = job.ticket
                self._done(Restored(space, partition, ticket, job.position(), backlog_end, job.records, seconds))

    def _plan(self, job: Job, ends: Mapping[tuple[str, int], int]) -> None:
        why = job.plan(ends, self._world.now_us())
        if why:
            self._wipe(job, why)
            job.plan(ends, self._world.now_us())
        self.progress[job.id] = (0, job.total)

    def _wipe(self, job: Job, why: str) -> None:
        say = log.error if why == DIFFERS else log.warning
        say("restore.wiped", space=job.wanted.space, partition=job.wanted.partition, why=WHY[why], then="read again from the changelogs")
        self.wiped[why] += 1
        job.family = self._store.wipe(job.wanted.space, job.wanted.partition)

    def _reading(self) -> dict[str, Any]:
        return {
            **self._config,
            "group.id": "orderflow-restore",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
            "fetch.queue.backoff.ms": 5,
            "queued.min.messages": 20_000,
            "queued.max.messages.kbytes": 16_384,
            "fetch.wait.max.ms": 10,
        }

    def _read(self, consumer: Any, jobs: list[Job]) -> None:
        if not any(job.todo for job in jobs):
            return
        by_topic = {(topic, job.wanted.partition): job for job in jobs for topic in job.ends}
        consumer.assign([TopicPartition(topic, job.wanted.partition, job.start(topic)) for job in jobs for topic in sorted(job.todo)])
        last_progress = self._world.monotonic()
        while any(job.todo for job in jobs if job.ticket not in self._canceled):
            messages = consumer.consume(10_000, 0.05)
            for message in messages:
                topic, error = message.topic(), message.error()
                job = by_topic[topic, message.partition()]
                if error is None:
                    job.take(topic, message.key(), message.value(), message.offset())
                elif error.code() == KafkaError._PARTITION_EOF:
                    job.reached(topic, message.offset())
                else:
                    raise KafkaException(error)
            for job in jobs:
                self.progress[job.id] = (job.records, job.total)
                if len(job.pending) >= BATCH_ROWS or (job.pending and not job.todo):
                    self._write(job)
            if messages:
                last_progress = self._world.monotonic()
            elif self._world.monotonic() - last_progress > STALLED_S:
                raise RestoreError(f"no progress for {STALLED_S:.0f} s; still to read: {[job.todo for job in jobs]}. {ADVICE_STALLED}")
        for job in jobs:
            self._write(job)

    def _write(self, job: Job) -> None:
        with self._writing:
            if job.ticket in self._canceled:  # somebody else writes this partition now
                job.pending.clear()
            else:
                job.write(self._store, self._world.now_us())
