"""What an engine is made of: how it talks to Kafka, which command logs it reads, and the partitions it owns."""

from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct

from orderflow.streams.batch import Batch, Result
from orderflow.streams.parking import PARKED_MAX, PARKED_PERCENT_MAX, ParkRate
from orderflow.streams.wire import MetaRow
from orderflow.tables.rocks import Family, Memory, Position
from orderflow.tables.rows import Rows, Table
from orderflow.tables.timers import next_due


class EngineSettings(Struct, frozen=True):
    """How a worker talks to Kafka. Times in seconds unless named otherwise."""

    bootstrap: str
    group: str
    instance: str
    address: str = ""
    """Where this worker's rows can be read, e.g. http://127.0.0.1:6066."""
    code_version: str = "dev"
    static: bool = True
    """Static membership: a restart in place keeps its partitions; False for workers that come and go."""
    session_timeout_ms: int = 10_000
    transaction_timeout_ms: int = 10_000
    commit_interval_s: float = 0.1
    commit_records: int = 10_000
    idle_s: float = 0.005
    batch_records: int = 2_000
    cached_rows: int = Memory().cached_rows
    """Decoded rows in memory, shared evenly by the partitions."""
    parked_max: int = PARKED_MAX
    parked_percent_max: float = PARKED_PERCENT_MAX
    """A partition of which more was parked in a minute, in both measures, is stopped."""
    partitions: int = 0
    """Of each key space; 0: not known, so nobody looks for those without an owner."""
    standby: bool = False
    """Copy the partitions this worker does not own."""
    kafka: Mapping[str, Any] = {}
    """Settings for every client (security, for instance)."""

    @property
    def client(self) -> dict[str, Any]:
        return {"bootstrap.servers": self.bootstrap, "client.id": self.instance, **self.kafka}

    @property
    def transactional_id(self) -> str:
        return f"{self.group}-{self.instance}"


class Log(Struct, frozen=True):
    """One command log and the tables its key space keeps."""

    space: str
    topic: str
    tables: tuple[Table, ...]
    meta_topic: str
    write_meta: Callable[[MetaRow], bytes]
    read_meta: Callable[[bytes], MetaRow]
    timer: Callable[[Table, str, Any], tuple[str, bytes, bytes]] | None = None
    """(table, row key, row) -> (timer id, record key, TimerDue record) for a row whose deadline has passed."""
    owner: Callable[[int, str, int], tuple[str, bytes, bytes]] | None = None
    """(partition, address, generation) -> (topic, key, value) that says who owns the partition."""


class Partition:
    """One partition this worker owns, from its assignment to its revocation."""

    def __init__(self, source: Log, number: int, family: Family, ticket: int, park_rate: ParkRate | None = None) -> None:
        self.source, self.number, self.ticket = source, number, ticket
        self.family = family
        self.rows = Rows(family, source.tables)
        self.running = self.caught_up = self.touched = self.claimed = False
        self.stopped = False
        """Too much of it was parked: its rows are served, its log is not read."""
        self.park_rate = park_rate or ParkRate()
        self.position = self.turn_time = 0
        self.committed = Position()
        self.positions: dict[str, int] = {}
        self.backlog_end = 0
        self.digest = 0
        """Of its rows as they are on disk, while it is being handed over; else unknown."""
        self.next_due: int | None = None
        self.rescan_at = 0.0
        self.timers_sent: set[str] = set()
        self.oldest_answer: int | None = None

    def start(self, position: Position) -> None:
        self.committed = position
        self.position, self.turn_time = position.source_offset, position.turn_time
        self.positions = dict(position.changelogs)
        self.next_due = next_due(self.family)
        self.running = True

    def reload(self) -> None:
        """Back to the last commit: the open transaction never happened, and what it consumed of the backlog is to be consumed again."""
        self.rows.discard()
        self.position, self.turn_time = self.committed.source_offset, self.committed.turn_time
        self.caught_up = self.caught_up and self.position >= self.backlog_end
        self.positions = dict(self.committed.changelogs)
        self.timers_sent.clear()
        self.park_rate.clear()
        self.touched = False


class Work(Struct):
    """A batch on its way through the agent."""

    partition: Partition
    batch: Batch
    next_offset: int
    result: Result | None = None
