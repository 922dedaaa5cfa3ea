"""Changelogs -> store, for the partitions a worker has just been given, on a thread and a consumer of its own.

A partition is current when the *end-of-partition event* of every changelog (and of its meta topic) has reached the high watermark
seen after the last owner was fenced: positions do not pass control records, events do. Rows and positions reach the disk together,
so an interrupted restore goes on where it was. Rows on disk are built upon only while the changelogs can still tell everything that
happened since they were written; else, and when the result is not what the last owner had, the partition starts again from nothing.
"""

import queue
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import structlog
from confluent_kafka import IsolationLevel, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import OffsetSpec
from msgspec import Struct

from orderflow.schemas.catalog import CONFIG
from orderflow.tables.digest import UNKNOWN, digest, rows_of
from orderflow.tables.rocks import Family, Position, Store
from orderflow.tables.rows import Table
from orderflow.tables.world import World

log = structlog.get_logger(__name__)

BATCH_ROWS = 20_000
ADMIN_DEADLINE_S = 30.0
STALLED_S = 120.0
ROWS_VERSION = 1
"""Rows that need a reader of this version or an older one can be read here (MetaRow.min_reader)."""
DELETES_KEPT_US = int(CONFIG["changelog"]["delete.retention.ms"]) * 1000
"""How long a changelog is sure to tell that a row was deleted."""
SAFETY_US = 3600 * 1_000_000
"""Rows on disk count as too old this long before that: reading takes time, and clocks differ."""

AHEAD = "ahead"
STALE = "stale"
DIFFERS = "differs"
WHY = {
    AHEAD: "the rows on disk are ahead of the log: they belong to another life of it",
    STALE: "the rows on disk are older than the changelogs remember deletes (delete.retention.ms)",
    DIFFERS: "the rows are not what the last owner had: its digest is another one",
}
"""Reasons to forget a partition's rows and read its changelogs from the beginning."""


class RestoreError(Exception):
    """State could not be restored; the worker must not go on."""


class NewerRows(RestoreError):
    """The partition was written by a version whose rows this one could misread: only a newer worker may take it."""


class Meta(Struct, frozen=True):
    """What a partition's last owner said of it in its last transaction. Digest 0: it did not say."""

    source_offset: int
    turn_time: int
    owner: str
    """Its transactional id."""
    digest: int = UNKNOWN
    min_reader: int = 1


class Wanted(Struct, frozen=True):
    """A partition to restore: its tables and its meta topic, whose last record gives the source position."""

    space: str
    partition: int
    ticket: int
    """Which assignment asked; a result for an earlier one must not be used."""
    source_topic: str
    tables: tuple[Table, ...]
    meta_topic: str
    read_meta: Callable[[bytes], Meta]


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
    """Restores what is put in, one set of partitions at a time, and hands the result to `done` (called on the restore thread)."""

    def __init__(
        self,
        store: Store,
        config: Mapping[str, Any],
        *,
        fence: Callable[[str], None],
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
        """The partition went to another worker; a restore under way is dropped."""
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
        try:
            partitions = self._queue.get(block)
            if partitions is not None:
                self._restore(partitions)
        except queue.Empty:
            return False
        except Exception as error:
            self._failed(error)
            return False
        return partitions is not None

    def _restore(self, partitions: list[Wanted]) -> None:
        started = self._world.monotonic()
        admin = self._world.admin(self._config)
        jobs = [_Job(wanted, self._store.family(wanted.space, wanted.partition)) for wanted in partitions]
        sources = [TopicPartition(wanted.source_topic, wanted.partition) for wanted in partitions]
        ends = _end_offsets(self._world, admin, [*sources, *(tp for job in jobs for tp in job.topic_partitions())])
        for job in jobs:
            self._plan(job, ends)
        self._reached("during_restore")
        self._read_all(jobs)
        wrong = [job for job in jobs if job.ticket not in self._canceled and not job.as_published()]
        for job in wrong:
            self._wipe(job, DIFFERS)
            self._plan(job, ends)
        self._read_all(wrong)
        for job in wrong:
            if job.ticket not in self._canceled and not job.as_published():
                raise RestoreError(
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

    def _plan(self, job: "_Job", ends: Mapping[tuple[str, int], int]) -> None:
        why = job.plan(ends, self._world.now_us())
        if why:
            self._wipe(job, why)
            job.plan(ends, self._world.now_us())
        self.progress[job.id] = (0, job.total)

    def _wipe(self, job: "_Job", why: str) -> None:
        say = log.error if why == DIFFERS else log.warning
        say("restore.wiped", space=job.wanted.space, partition=job.wanted.partition, why=WHY[why], then="read again from the changelogs")
        self.wiped[why] += 1
        job.family = self._store.wipe(job.wanted.space, job.wanted.partition)

    def _read_all(self, jobs: list["_Job"]) -> None:
        if any(job.todo for job in jobs):
            self._read(jobs)

    def _read(self, jobs: list["_Job"]) -> None:
        by_topic = {(topic, job.wanted.partition): job for job in jobs for topic in job.ends}
        consumer = self._world.consumer(
            {
                **self._config,
                "group.id": "orderflow-restore",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "enable.partition.eof": True,
                "auto.offset.reset": "earliest",
                "fetch.queue.backoff.ms": 5,
                "queued.min.messages": 100_000,
                "queued.max.messages.kbytes": 65_536,
                "fetch.wait.max.ms": 10,
            }
        )
        consumer.assign([TopicPartition(topic, job.wanted.partition, job.start(topic)) for job in jobs for topic in job.todo])
        last_progress = self._world.monotonic()
        try:
            while any(job.todo for job in jobs if job.ticket not in self._canceled):
                messages = consumer.consume(10_000, 0.05)
                for message in messages:
                    job = by_topic[message.topic(), message.partition()]
                    error = message.error()
                    if error is None:
                        job.take(message.topic(), message.key(), message.value(), message.offset())
                    elif error.code() == KafkaError._PARTITION_EOF:
                        job.reached(message.topic(), message.offset())
                    else:
                        raise KafkaException(error)
                for job in jobs:
                    self.progress[job.id] = (job.records, job.total)
                    if len(job.pending) >= BATCH_ROWS or (job.pending and not job.todo):
                        job.write(self._store, self._world.now_us())
                if messages:
                    last_progress = self._world.monotonic()
                elif self._world.monotonic() - last_progress > 0.3:
                    self._fence_last_owners(jobs)
                    if self._world.monotonic() - last_progress > STALLED_S:
                        raise RestoreError(f"no progress for {STALLED_S:.0f} s; still to read: {[job.todo for job in jobs]}")
        finally:
            consumer.close()
        for job in jobs:
            job.write(self._store, self._world.now_us())

    def _fence_last_owners(self, jobs: list["_Job"]) -> None:
        """A dead owner's open transaction holds back the last stable offset: end it instead of waiting for its timeout."""
        for job in jobs:
            if job.todo and job.meta.owner and not job.fenced:
                job.fenced = True
                self._fence(job.meta.owner)


class _Job:
    """One partition under restore: where each topic stands, where it must come to, and what is not on disk yet."""

    def __init__(self, wanted: Wanted, family: Family) -> None:
        self.wanted, self.family = wanted, family
        self.id = (wanted.space, wanted.partition)
        self.ticket = (wanted.space, wanted.partition, wanted.ticket)
        self.tables = {table.changelog: table for table in wanted.tables}
        self.ends: dict[str, int] = {}
        self.todo: set[str] = set()
        self.pending: dict[bytes, tuple[Table, str, bytes | None]] = {}
        self.records = self.total = 0
        self.fenced = False
        self.meta = Meta(0, 0, "")
        self._positions: dict[str, int] = {}
        self._written_at = 0

    def topic_partitions(self) -> list[TopicPartition]:
        return [TopicPartition(topic, self.wanted.partition) for topic in (*self.tables, self.wanted.meta_topic)]

    def plan(self, ends: Mapping[tuple[str, int], int], now: int) -> str:
        """Compare the disk's positions with the log's ends. The reason when its rows must be forgotten first, else empty."""
        position = self.family.position()
        self._positions, self._written_at = dict(position.changelogs), position.written_at
        self.meta = Meta(position.source_offset, position.turn_time, "")
        self.ends = {tp.topic: ends[tp.topic, tp.partition] for tp in self.topic_partitions()}
        self.todo = {topic for topic, end in self.ends.items() if self._positions.get(topic, 0) < end}
        self.total = sum(max(0, end - self._positions.get(topic, 0)) for topic, end in self.ends.items())
        self.pending = {}
        if any(self._positions.get(topic, 0) > end for topic, end in self.ends.items()):
            return AHEAD
        is_stale = not -SAFETY_US < now - position.written_at < DELETES_KEPT_US - SAFETY_US
        return STALE if self._positions and self.todo & self.tables.keys() and is_stale else ""

    def as_published(self) -> bool:
        """Are the rows what the last owner had? True when it did not say, or said it before what is on disk here."""
        if self.meta.digest == UNKNOWN:
            return True
        found = digest(rows_of(self.family, self.wanted.tables))
        return found is not None and found.value == self.meta.digest

    def start(self, topic: str) -> int:
        return self._positions.get(topic, 0)

    def take(self, topic: str, key: bytes, value: bytes | None, offset: int) -> None:
        self.records += 1
        self._positions[topic] = offset + 1
        if topic == self.wanted.meta_topic:
            if value is not None:
                self.meta = self.wanted.read_meta(value)
                if self.meta.min_reader > ROWS_VERSION:
                    raise NewerRows(
                        f"{self.wanted.space}[{self.wanted.partition}] was written by a newer version: its rows need a reader of version "
                        f"{self.meta.min_reader}, this one is {ROWS_VERSION}. Start the newer version here; this one would misread them."
                    )
            return
        table = self.tables[topic]
        self.pending[table.prefix + key] = (table, key.decode(), value)

    def reached(self, topic: str, offset: int) -> None:
        """The end-of-partition event of a topic; its offset is past control records."""
        self._positions[topic] = offset
        if offset >= self.ends[topic]:
            self.todo.discard(topic)

    def write(self, store: Store, now: int) -> None:
        """Rows, their index entries and the positions, together. The source position counts only when all is read."""
        batch, pending = store.batch(), self.pending
        indexed = [raw for raw, (table, _, _) in pending.items() if table.due is not None or table.indexes]
        before = dict(zip(indexed, self.family.multi_get(indexed), strict=True)) if indexed else {}
        for raw, (table, key, value) in pending.items():
            old = before.get(raw)
            if old is not None:
                for entry in table.index_entries(key, table.decode(old)):
                    batch.delete(self.family, entry)
            if value is None:
                batch.delete(self.family, raw)
                continue
            batch.put(self.family, raw, value)
            if raw in before:
                for entry, target in table.index_entries(key, table.decode(value)).items():
                    batch.put(self.family, entry, target)
        self._written_at = now
        batch.position(self.family, self.position())
        store.write(batch)
        self.pending = {}

    def position(self) -> Position:
        """Until all is read, meta does not count as read: whoever goes on from here must see it again and compare with it."""
        positions = {topic: offset for topic, offset in self._positions.items() if not self.todo or topic != self.wanted.meta_topic}
        return Position(self.meta.source_offset, self.meta.turn_time, positions, self._written_at)


def _end_offsets(world: World, admin: Any, partitions: list[TopicPartition]) -> dict[tuple[str, int], int]:
    """High watermarks, open transactions included; asked again while a new topic has no leader."""
    deadline = world.monotonic() + ADMIN_DEADLINE_S
    while True:
        try:
            futures = admin.list_offsets({tp: OffsetSpec.latest() for tp in partitions}, isolation_level=IsolationLevel.READ_UNCOMMITTED)
            return {(tp.topic, tp.partition): future.result().offset for tp, future in futures.items()}
        except KafkaException as error:
            if world.monotonic() > deadline:
                raise RestoreError(f"the changelogs' ends are not to be had: {error.args[0].str()}") from error
            world.sleep(0.1)
