"""One partition's rows on their way to the end of its changelogs: what is read, what reaches the disk, and when rows are not built upon.

Rows and positions reach the disk together, so whoever goes on later goes on from there. Rows on disk are built upon only while the
changelogs can still tell everything that happened since they were written.
"""

from collections.abc import Callable, Mapping
from typing import Any

from confluent_kafka import IsolationLevel, KafkaException, TopicPartition
from confluent_kafka.admin import OffsetSpec
from msgspec import Struct

from orderflow.schemas.catalog import CONFIG
from orderflow.tables.digest import UNKNOWN, digest, rows_of
from orderflow.tables.rocks import Family, Position, Store
from orderflow.tables.rows import Table
from orderflow.tables.world import World

ADMIN_DEADLINE_S = 30.0
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


class Unusable(RestoreError):
    """Another start would end in the same way: a person has to look."""


class DisputedRows(Unusable):
    """Also what the changelogs alone say is not what the last owner had."""


class NewerRows(Unusable):
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


class Job:
    """One partition on its way: where each topic stands, where it must come to, and what is not on disk yet."""

    def __init__(self, wanted: Wanted, family: Family) -> None:
        self.wanted, self.family = wanted, family
        self.id = (wanted.space, wanted.partition)
        self.ticket = (wanted.space, wanted.partition, wanted.ticket)
        self.tables = {table.changelog: table for table in wanted.tables}
        self._prefixes = {table.changelog: table.prefix for table in wanted.tables}
        self._indexed = {table.prefix[0]: table for table in wanted.tables if table.due is not None or table.indexes}
        self.ends: dict[str, int] = {}
        self.todo: set[str] = set()
        self.pending: dict[bytes, bytes | None] = {}
        self.records = self.total = 0
        self.moved = False
        """Is there anything to write, be it a position only?"""
        self.meta = Meta(0, 0, "")
        self._positions: dict[str, int] = {}
        self.written_at = 0

    def topic_partitions(self) -> list[TopicPartition]:
        return [TopicPartition(topic, self.wanted.partition) for topic in (*self.tables, self.wanted.meta_topic)]

    def plan(self, ends: Mapping[tuple[str, int], int], now: int) -> str:
        """Compare the disk's positions with the log's ends. The reason when its rows must be forgotten first, else empty."""
        position = self.family.position()
        self._positions, self.written_at = dict(position.changelogs), position.written_at
        self.meta = Meta(position.source_offset, position.turn_time, "", position.digest)
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
        self.moved = True
        self._positions[topic] = offset + 1
        prefix = self._prefixes.get(topic)
        if prefix is not None:
            self.pending[prefix + key] = value
        elif value is not None:
            self.meta = self.wanted.read_meta(value)

    def reached(self, topic: str, offset: int) -> None:
        """The end-of-partition event of a topic; its offset is past control records. Raises NewerRows when the last meta record says so."""
        self.moved = True
        self._positions[topic] = offset
        if offset < self.ends[topic]:
            return
        self.todo.discard(topic)
        if topic == self.wanted.meta_topic and self.meta.min_reader > ROWS_VERSION:
            raise NewerRows(
                f"{self.wanted.space}[{self.wanted.partition}] was written by a newer version: its rows need a reader of version "
                f"{self.meta.min_reader}, this one is {ROWS_VERSION}. Start the newer version here; this one would misread them."
            )

    def write(self, store: Store, now: int) -> None:
        """Rows, their index entries and the positions, together. The source position counts only when all is read."""
        batch, pending = store.batch(), self.pending
        batch.change(self.family, pending)
        if self._indexed:
            batch.change(self.family, self._index_changes(pending))
        self.written_at = now
        batch.position(self.family, self.position())
        store.write(batch)
        self.pending, self.moved = {}, False

    def _index_changes(self, pending: Mapping[bytes, bytes | None]) -> dict[bytes, bytes | None]:
        """The index entries that come and go with these rows, from the rows on disk to them."""
        raws = [raw for raw in pending if raw[0] in self._indexed]
        changes: dict[bytes, bytes | None] = {}
        for raw, old in zip(raws, self.family.multi_get(raws), strict=True) if raws else ():
            table, key, new = self._indexed[raw[0]], raw[1:].decode(), pending[raw]
            if old is not None:
                changes.update(dict.fromkeys(table.index_entries(key, table.decode(old))))
            if new is not None:
                changes.update(table.index_entries(key, table.decode(new)))
        return changes

    def position(self) -> Position:
        """Until all is read, meta does not count as read: whoever goes on from here must see it again and compare with it."""
        positions = {topic: offset for topic, offset in self._positions.items() if not self.todo or topic != self.wanted.meta_topic}
        return Position(self.meta.source_offset, self.meta.turn_time, positions, self.written_at, self.meta.digest)


def end_offsets(world: World, admin: Any, partitions: list[TopicPartition]) -> dict[tuple[str, int], int]:
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
