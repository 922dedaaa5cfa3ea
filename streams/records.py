"""The one table: Avro record <-> domain class. Everything that is written or read goes through the codecs bound here.

A class is found by its record's name in the module its namespace belongs to; `bind` refuses one whose fields differ from the schema's.
"""

import time
from collections.abc import Callable, Mapping
from functools import cache, partial
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import structlog
from msgspec import Struct

from orderflow.schemas import avsc, catalog
from orderflow.schemas.avsc import Json
from orderflow.schemas.catalog import Catalog, ce_type
from orderflow.schemas.codec import CodecError, RecordCodec, compile_record, header_of, schema_id_of
from orderflow.schemas.registry import RegistryUnavailable, UnknownSchema, fetch_ids, schema_by_id
from orderflow.schemas.resolution import compile_resolution
from orderflow.streams import wire
from orderflow.streams.domain import (
    channel,
    claims,
    contract,
    order_records,
    order_rows,
    parts,
    payment_records,
    payment_rows,
    stock_records,
    stock_rows,
)
from orderflow.streams.domain.contract import CommandMeta, EventMeta, TimerDue
from orderflow.streams.wire import Reply, Worker
from orderflow.tables.rows import Table

MODULES: Mapping[str, tuple[ModuleType, ...]] = {
    "orderflow.common": (contract, parts),
    "orderflow.engine": (wire, contract),
    "orderflow.orders": (order_records, payment_records, contract),
    "orderflow.orders.rows": (order_rows, payment_rows, order_records),
    "orderflow.stock": (stock_records, contract),
    "orderflow.stock.rows": (stock_rows,),
    "orderflow.catalog": (channel, contract),
    "orderflow.catalog.rows": (channel,),
    "orderflow.claims": (claims, contract),
    "orderflow.claims.rows": (claims,),
}
"""Where the class of a record is looked for, by namespace."""

log = structlog.get_logger(__name__)

REGISTRY_TRIES_MAX = 6
WriterSchema = Callable[[int], Json]
"""schema id -> the schema it stands for, asked of the registry: for records that another version wrote."""


def class_of(full_name: str) -> type[Any]:
    """The class of a record or enum. LookupError names what is missing."""
    namespace, _, name = full_name.rpartition(".")
    for module in MODULES.get(namespace, ()):
        found = getattr(module, name, None)
        if isinstance(found, type):
            return found
    raise LookupError(f"no class for {full_name} in {[module.__name__ for module in MODULES.get(namespace, ())]}")


@cache
def makers() -> Mapping[str, type[Any]]:
    """Every record and enum of the schemas with its class."""
    return {full_name: class_of(full_name) for full_name in avsc.files()}


@cache
def code_version() -> str:
    """This version of the code, as it stands in owner records and dead letters."""
    return metadata.version("orderflow")


class Unpacked(Struct, frozen=True):
    """A record read from any topic; meta and key only where the record has them."""

    meta: Any
    key: str
    value: Any


class SpaceRecords:
    """The records of one key space, ready to write and read."""

    def __init__(self, records: "Records", space: catalog.Space) -> None:
        names = records.catalog
        self.space = space
        self.commands = names.commands_topic(space.name)
        self.events = names.events_topic(space.name)
        self.meta = names.meta_topic(space.name)
        self.dlq = names.dlq_topic(space.name)
        self.source = f"/orderflow/{space.name}".encode()
        self._records = records
        self._command_codecs = records.codecs(self.commands)
        self._event_codecs = records.codecs(self.events)
        self._commands_by_id = {records.id_of(self.commands, record): codec for record, codec in self._command_codecs.items()}
        self._encode_command = {class_of(record): codec.encode for record, codec in self._command_codecs.items()}
        self._encode_event = {class_of(record): codec.encode for record, codec in self._event_codecs.items()}
        self.refusals = tuple(class_of(record) for record in space.events if record.endswith("Refused"))
        self._ce_types = {class_of(record).__name__: ce_type(record).encode() for record in space.events}
        self._status = {
            aggregate.name: records.codecs(names.status_topic(aggregate.name))[aggregate.snapshot] for aggregate in space.aggregates
        }
        self.status = {name: (names.status_topic(name), codec.encode) for name, codec in self._status.items()}

    def encode_command(self, meta: CommandMeta, key: str, command: Any) -> bytes:
        return self._encode_command[type(command)](meta, key, command)

    def decode_command(self, data: bytes) -> tuple[CommandMeta, str, Any]:
        """Meta, key and command of a record of the command topic. Raises CodecError."""
        schema_id = schema_id_of(data)
        codec = self._commands_by_id.get(schema_id)
        if codec is None:
            found: tuple[CommandMeta, str, Any] = self._records.resolve(schema_id, self.space.commands, 2)(data)
            return found
        command: tuple[CommandMeta, str, Any] = codec.decode(data)
        return command

    def encode_event(self, meta: EventMeta, key: str, event: Any) -> bytes:
        return self._encode_event[type(event)](meta, key, event)

    def decode_event(self, data: bytes) -> tuple[EventMeta, str, Any]:
        unpacked = self._records.unpack(data)
        return unpacked.meta, unpacked.key, unpacked.value

    def decode_status(self, aggregate: str) -> Callable[[bytes], Any]:
        return self._status[aggregate].decode

    def ce_type(self, name: str) -> bytes:
        return self._ce_types[name]

    def changelog(self, table: str) -> str:
        return self._records.catalog.changelog_topic(self.space.name, table)

    def row(self, table: str) -> RecordCodec:
        """The codec of a table's rows."""
        (codec,) = self._records.codecs(self.changelog(table)).values()
        return codec

    def timer(self, table: Table, row_key: str, row: Any) -> tuple[str, bytes, bytes]:
        """(timer id, record key, TimerDue record) for a row whose deadline has passed."""
        assert table.due is not None, "only tables with deadlines have timers"
        kind, due_at = table.due(row)  # type: ignore[misc]  # the caller has seen that there is one
        tenant, _, entity = row_key.rpartition("/")
        owner = entity.partition("~")[0]
        timer_id = f"{entity}:{kind}:{due_at}"
        meta = CommandMeta(timer_id, due_at, tenant or "main", "timer")
        due = TimerDue(timer_id, kind, due_at, entity, getattr(row, "version", 0))
        return timer_id, (f"{tenant}/{owner}" if tenant else owner).encode(), self.encode_command(meta, owner, due)


class Records:
    """All records of one catalogue under the ids of one registry. `ids` maps subject to schema id; build it once per process."""

    def __init__(self, names: Catalog, ids: Mapping[str, int], writer_schema: WriterSchema | None = None) -> None:
        self.catalog, self._ids, self._writer_schema = names, ids, writer_schema
        self._codecs: dict[str, dict[str, RecordCodec]] = {}
        self._by_id: dict[int, tuple[int, RecordCodec]] = {}
        self._resolved: dict[tuple[int, int], Callable[[bytes], Any]] = {}
        for topic in names.topics():
            lead = 2 if topic.kind in ("commands", "events") else 0
            for record in topic.records:
                codec = self._compile(record, lead, self.id_of(topic.name, record))
                self._codecs.setdefault(topic.name, {})[record] = codec
                self._by_id[self.id_of(topic.name, record)] = (lead, codec)
        self._enveloped = {record for topic in names.topics() if topic.kind in ("commands", "events") for record in topic.records}
        self.replies_topic, self.workers_topic = names.replies, names.workers
        self._reply = self._only(names.replies)
        self._worker = self._only(names.workers)
        self._spaces = {space.name: SpaceRecords(self, space) for space in catalog.SPACES}

    @classmethod
    def load(cls, names: Catalog, registry_url: str, cache_file: Path) -> "Records":
        """With the registry's ids, or those in `cache_file` while it does not answer. Raises RegistryError."""
        return cls(names, fetch_ids(registry_url, names, cache_file).ids, partial(_patiently, registry_url))

    def id_of(self, topic: str, record: str) -> int:
        """The registry's id. LookupError names the subject that is not registered."""
        subject = self.catalog.topic(topic).subject(record)
        try:
            return self._ids[subject]
        except KeyError:
            raise LookupError(f"subject {subject} is not registered: run `orderflow schemas apply`") from None

    @property
    def fingerprints(self) -> dict[int, str]:
        """Schema id -> fingerprint of what this version writes under it."""
        return {self._ids[subject.name]: avsc.fingerprint(subject.schema) for subject in self.catalog.subjects()}

    def codecs(self, topic: str) -> Mapping[str, RecordCodec]:
        return self._codecs[topic]

    def _only(self, topic: str) -> RecordCodec:
        (codec,) = self._codecs[topic].values()
        return codec

    def of(self, space: str) -> SpaceRecords:
        return self._spaces[space]

    def resolve(self, schema_id: int, readers: tuple[str, ...], lead: int) -> Callable[[bytes], Any]:
        """How to read a record that another version wrote as one of `readers`. CodecError when its schema is none of theirs."""
        found = self._resolved.get((schema_id, lead))
        if found is None:
            writer = self._schema_of(schema_id)
            name = avsc.parse(writer).name
            if name not in readers:
                raise CodecError(f"schema id {schema_id} is {name}, which does not belong on this topic")
            found = compile_resolution(schema_id, writer, avsc.expanded(name), makers(), lead)
            self._resolved[schema_id, lead] = found
        return found

    def _schema_of(self, schema_id: int) -> Json:
        if self._writer_schema is None:
            raise CodecError(f"schema id {schema_id} is not one of ours")
        try:
            return self._writer_schema(schema_id)
        except UnknownSchema as error:
            raise CodecError(str(error)) from error

    def unpack(self, data: bytes) -> Unpacked:
        """Read a record of any topic, also one that another version wrote. Raises CodecError."""
        schema_id = schema_id_of(data)
        known = self._by_id.get(schema_id)
        if known is not None:
            lead, codec = known
            return Unpacked(*codec.decode(data)) if lead else Unpacked(None, "", codec.decode(data))
        name = avsc.parse(self._schema_of(schema_id)).name
        if name in self._enveloped:
            return Unpacked(*self.resolve(schema_id, (name,), 2)(data))
        return Unpacked(None, "", self.resolve(schema_id, (name,), 0)(data))

    def _compile(self, record: str, lead: int, schema_id: int) -> RecordCodec:
        """The codec of our schema; what another version wrote under its own id is read by resolution."""
        codec = compile_record(avsc.expanded(record), makers(), lead, header_of(schema_id))

        def decode(data: bytes) -> Any:
            try:
                return codec.decode(data)
            except CodecError:
                written = schema_id_of(data)
                if written == schema_id:
                    raise
                return self.resolve(written, (record,), lead)(data)

        return RecordCodec(codec.encode, decode)

    def encode_reply(self, reply: Reply) -> bytes:
        return self._reply.encode(reply)

    def decode_reply(self, data: bytes) -> Reply:
        reply: Reply = self._reply.decode(data)
        return reply

    def encode_worker(self, worker: Worker) -> bytes:
        return self._worker.encode(worker)

    def decode_worker(self, data: bytes) -> Worker:
        worker: Worker = self._worker.decode(data)
        return worker

    def meta(self, space: str) -> RecordCodec:
        """The codec of a key space's MetaRow."""
        return self._only(self.catalog.meta_topic(space))


def _patiently(registry_url: str, schema_id: int) -> Json:
    """Wait for the registry with backoff; a record whose schema cannot be asked for now is never parked."""
    for attempt in range(REGISTRY_TRIES_MAX - 1):
        try:
            return schema_by_id(registry_url, schema_id)
        except RegistryUnavailable as error:
            log.warning("registry.unavailable", schema_id=schema_id, error=str(error))
            time.sleep(min(2.0**attempt, 15.0))
    return schema_by_id(registry_url, schema_id)
