"""A whole system without Kafka: the real processors, rows on a real RocksDB, and a log that is a list.

`Flow.send` appends a command; `Flow.run` lets the processors decide everything, follow-ups included, in rounds of batches.
"""

from collections import defaultdict
from pathlib import Path
from typing import Any

from msgspec import Struct

from orderflow.schemas.catalog import Catalog
from orderflow.streams.batch import Batch, Headers, Output
from orderflow.streams.domain.channel import BOX, ChannelRow
from orderflow.streams.domain.contract import CommandMeta, ReplyTo, Settings
from orderflow.streams.domain.sagas import End
from orderflow.streams.processor import Processor
from orderflow.streams.records import Records
from orderflow.streams.replay import Tables, fold
from orderflow.streams.topology import SPACES
from orderflow.streams.worker import bind_tables
from orderflow.tables.rocks import Batch as Write
from orderflow.tables.rocks import Position, Store
from orderflow.tables.rows import Rows
from orderflow.tables.timers import deadlines

START_MS = 1_800_000_000_000
NAMES = Catalog()


def local_ids() -> dict[str, int]:
    """Schema ids as a registry would give them: equal schemas share one."""
    ids: dict[str, int] = {}
    by_schema: dict[str, int] = {}
    for subject in NAMES.subjects():
        ids[subject.name] = by_schema.setdefault(subject.record, len(by_schema) + 1)
    return ids


RECORDS = Records(NAMES, local_ids())


class Message(Struct):
    """A record of the list-log; the shape of confluent_kafka.Message."""

    of_topic: str
    of_partition: int
    of_offset: int
    at_ms: int
    of_key: bytes | None
    of_value: bytes | None
    of_headers: Headers | None = None

    def topic(self) -> str:
        return self.of_topic

    def partition(self) -> int:
        return self.of_partition

    def offset(self) -> int:
        return self.of_offset

    def timestamp(self) -> tuple[int, int]:
        return 1, self.at_ms

    def key(self) -> bytes | None:
        return self.of_key

    def value(self) -> bytes | None:
        return self.of_value

    def headers(self) -> Headers | None:
        return self.of_headers


class Flow:
    """All key spaces with one partition each. Time moves only when told."""

    def __init__(self, path: Path, settings: Settings = Settings()) -> None:  # noqa: B008  (frozen)
        self.store = Store(path / "flow")
        lookups = {"channel": {"channel:box": ChannelRow(1, BOX)}}
        self.processors = {space.name: Processor(space, RECORDS, settings, lookups, "test") for space in SPACES}
        self.rows = {space.name: Rows(self.store.family(space.name, 0), bind_tables(space, RECORDS.of(space.name))) for space in SPACES}
        self.turn_time = dict.fromkeys(self.rows, 0)
        self.offsets: dict[str, int] = defaultdict(int)
        self.waiting: dict[str, list[Message]] = defaultdict(list)
        self.outputs: list[Output] = []
        self.ended: list[End] = []
        self.now_ms = START_MS
        self._commands = {RECORDS.of(space.name).commands: space.name for space in SPACES}

    def append(self, space: str, key: bytes | None, value: bytes | None, headers: Headers | None = None) -> None:
        self.now_ms += 1
        self.waiting[space].append(Message(RECORDS.of(space).commands, 0, self.offsets[space], self.now_ms, key, value, headers))
        self.offsets[space] += 1

    def send(self, space: str, key: str, command: Any, command_id: str, **meta: Any) -> None:
        meta.setdefault("reply_to", ReplyTo("edge", 0, command_id))
        full = CommandMeta(command_id, self.now_ms * 1000, **meta)
        tenant = full.tenant
        named = key if tenant == "main" else f"{tenant}/{key}"
        self.append(space, named.encode(), RECORDS.of(space).encode_command(full, key, command))

    def run(self) -> None:
        """Until nothing waits; commands that the turns send are decided too."""
        for _ in range(1000):
            busy = [space for space, records in self.waiting.items() if records]
            if not busy:
                return
            for space in busy:
                self.step(space)
        raise AssertionError("the system does not come to rest")

    def step(self, space: str) -> None:
        records, self.waiting[space] = self.waiting[space], []
        rows = self.rows[space]
        result = self.processors[space].run(Batch(0, records, rows, self.turn_time[space]))
        self.turn_time[space] = result.turn_time
        for output in result.outputs:
            target = self._commands.get(output.topic)
            if target is not None:
                self.append(target, output.key, output.value, output.headers)
        self.outputs.extend(result.outputs)
        self.ended.extend(result.ended)
        rows.changelog()
        write = Write()
        rows.write(write, Position(self.offsets[space], result.turn_time))
        self.store.write(write)
        rows.written()

    def pass_time(self, seconds: float) -> None:
        """Move the clock and append what is due then, oldest first, as the engine does."""
        self.now_ms += int(seconds * 1000)
        for space, rows in self.rows.items():
            tables = {table.number: table for table in rows.tables.values()}
            for deadline in list(deadlines(rows.family, self.now_ms * 1000, 500)):
                table = tables[deadline.table]
                _, key, value = RECORDS.of(space).timer(table, deadline.key, rows.get(table.name, deadline.key))
                self.append(space, key, value)
        self.run()

    # -- what came out ------------------------------------------------------------------------------------------------------------
    def events(self, space: str) -> list[tuple[Any, str, Any]]:
        topic = RECORDS.of(space).events
        return [RECORDS.of(space).decode_event(o.value or b"") for o in self.outputs if o.topic == topic]

    def replies(self, command_id: str = "") -> list[Any]:
        found = [RECORDS.decode_reply(o.value or b"") for o in self.outputs if o.topic == RECORDS.replies_topic]
        return [reply for reply in found if not command_id or reply.command_id == command_id]

    def parked(self, space: str) -> list[Output]:
        return [output for output in self.outputs if output.topic == RECORDS.of(space).dlq]

    def snapshots(self, aggregate: str) -> dict[str, Any]:
        topic = NAMES.status_topic(aggregate)
        return {o.key.decode(): RECORDS.unpack(o.value or b"").value for o in self.outputs if o.topic == topic and o.value}

    def tables(self, space: str) -> Tables:
        """The rows on disk, without head and answer."""
        rows = self.rows[space]
        return {
            name: {raw[1:].decode(): table.decode(value) for raw, value in rows.family.scan(table.prefix)}
            for name, table in rows.tables.items()
            if name not in ("head", "answer")
        }

    def check_fold(self) -> None:
        """Events are the truth: folding them gives the rows."""
        for space in SPACES:
            assert fold(space, self.events(space.name)) == self.tables(space.name), f"{space.name}: rows are not the fold of events"
