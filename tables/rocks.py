"""The store of one worker: one RocksDB, one column family per partition of a key space. Written only after a commit."""

import fcntl
import json
import os
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

from msgspec import Struct
from rocksdict import BlockBasedOptions, Cache, Options, Rdict, WriteBatch, WriteBufferManager, WriteOptions

FORMAT = 1
META_KEY = b"\x00meta"
WRITE_BUFFER_BYTES = 32 << 20
WRITE_BUFFERS_TOTAL_BYTES = 256 << 20
BLOCK_CACHE_BYTES = 64 << 20


class StoreError(Exception):
    """The data directory cannot be used as it is; the message says why and what to do."""


class Position(Struct, frozen=True):
    """How far a partition's rows have come: next offset of the command topic, next offset per changelog, turn time in microseconds."""

    source_offset: int = 0
    turn_time: int = 0
    changelogs: Mapping[str, int] = {}

    def pack(self) -> bytes:
        return json.dumps([self.source_offset, self.turn_time, dict(self.changelogs)]).encode()

    @classmethod
    def unpack(cls, data: bytes | None) -> "Position":
        return cls(*json.loads(data)) if data else cls()


class Family:
    """One partition's rows on disk: committed bytes only. Reads are safe from any thread."""

    def __init__(self, db: Rdict, name: str) -> None:
        self.name = name
        self.handle: Any = db.get_column_family_handle(name)
        self._rows: Any = db.get_column_family(name)

    def get(self, key: bytes) -> bytes | None:
        value: bytes | None = self._rows.get(key)
        return value

    def multi_get(self, keys: list[bytes]) -> list[bytes | None]:
        values: list[bytes | None] = self._rows.get(keys)
        return values

    def scan(self, prefix: bytes, start: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        """Pairs whose key starts with `prefix`, in key order, from `start` on."""
        for key, value in self._rows.items(from_key=start or prefix):
            if not key.startswith(prefix):
                return
            yield key, value

    def position(self) -> Position:
        return Position.unpack(self.get(META_KEY))

    def close(self) -> None:
        """Let go of the database: RocksDB keeps its lock while anybody holds a handle."""
        self._rows.close()
        self._rows = self.handle = None


class Batch:
    """Changes of several partitions that reach the disk together."""

    def __init__(self) -> None:
        self._batch = WriteBatch(raw_mode=True)

    def put(self, family: Family, key: bytes, value: bytes) -> None:
        self._batch.put(key, value, family.handle)

    def delete(self, family: Family, key: bytes) -> None:
        self._batch.delete(key, family.handle)

    def position(self, family: Family, position: Position) -> None:
        self._batch.put(META_KEY, position.pack(), family.handle)


class Store:
    """A worker's data directory: lock, identity, RocksDB. `open` it once per process; every method may raise StoreError."""

    def __init__(self, path: Path, *, instance: str = "", lock_wait_s: float = 10.0) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        self._lock = _take_lock(path / "LOCK", lock_wait_s)
        self.identity = _identity(path / "orderflow.json", instance)
        self.instance: str = self.identity["instance"]
        self._mutex = threading.Lock()
        self._write_options = WriteOptions()
        db_path = str(path / "rocksdb")
        names = Rdict.list_cf(db_path, _options()) if os.path.exists(db_path) else []
        self._db = Rdict(db_path, _options(), column_families={name: _options() for name in names if name != "default"})
        self._families: dict[str, Family] = {}

    def family(self, space: str, partition: int) -> Family:
        """The column family of a partition, made when it is new."""
        name = f"{space}.{partition}"
        with self._mutex:
            family = self._families.get(name)
            if family is None:
                try:
                    family = Family(self._db, name)
                except Exception:  # rocksdict raises a bare Exception for an unknown column family
                    self._db.create_column_family(name, _options()).close()
                    family = Family(self._db, name)
                self._families[name] = family
            return family

    def wipe(self, space: str, partition: int) -> Family:
        """Forget a partition's rows (another topic's life, too old, damaged) and start it empty."""
        name = f"{space}.{partition}"
        self.family(space, partition)
        with self._mutex:
            self._families.pop(name).close()
            self._db.drop_column_family(name)
        return self.family(space, partition)

    def batch(self) -> Batch:
        """An empty batch for `write`."""
        return Batch()

    def write(self, batch: Batch) -> None:
        self._db.write(batch._batch, self._write_options)

    def claim_topics(self, topic_ids: Mapping[str, str], owners: Mapping[str, tuple[str, int]]) -> list[str]:
        """Remember each topic's id; a topic that was made anew wipes the partitions in `owners` {topic: (space, partitions)}. Returns their names."""
        known: dict[str, str] = self.identity.setdefault("topics", {})
        changed = [topic for topic, uid in topic_ids.items() if known.get(topic, uid) != uid]
        for space, partitions in {owners[topic] for topic in changed if topic in owners}:
            for partition in range(partitions):
                self.wipe(space, partition)
        known.update(topic_ids)
        self._save_identity()
        return changed

    def claim_schemas(self, fingerprints: Mapping[int, str]) -> None:
        """Refuse ids that mean another schema than the rows on disk were written with."""
        known: dict[str, str] = self.identity.setdefault("schemas", {})
        for schema_id, fingerprint in fingerprints.items():
            before = known.setdefault(str(schema_id), fingerprint)
            if before != fingerprint:
                raise StoreError(
                    f"{self.path}: schema id {schema_id} is another schema here than at the registry: these rows belong to another registry. "
                    "Use that registry, or an empty data directory (state is restored from the changelogs)."
                )
        self._save_identity()

    def _save_identity(self) -> None:
        _write_json(self.path / "orderflow.json", self.identity)

    def close(self) -> None:
        with self._mutex:
            for family in self._families.values():
                family.close()
            self._families.clear()
            self._db.close()
        os.close(self._lock)


def destroy(path: Path) -> None:
    """Remove a data directory nobody uses."""
    shutil.rmtree(path, ignore_errors=True)


def _take_lock(path: Path, wait_s: float) -> int:
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(handle)
                raise StoreError(f"{path.parent}: another worker uses this data directory; give each worker its own --data") from None
            time.sleep(0.1)
        else:
            return handle


def _identity(path: Path, instance: str) -> dict[str, Any]:
    if path.exists():
        identity: dict[str, Any] = json.loads(path.read_text())
        if identity.get("format") != FORMAT:
            raise StoreError(
                f"{path.parent}: data format {identity.get('format')}, this version reads {FORMAT}; use an empty data directory"
            )
        if instance and identity["instance"] != instance:
            identity["instance"] = instance
            _write_json(path, identity)
        return identity
    identity = {"format": FORMAT, "instance": instance or f"w-{uuid4().hex[:8]}"}
    _write_json(path, identity)
    return identity


def _write_json(path: Path, value: object) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(value, indent=1, sort_keys=True))
    os.replace(temporary, path)


def _options() -> Options:
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.create_missing_column_families(True)
    options.set_write_buffer_size(WRITE_BUFFER_BYTES)
    options.set_write_buffer_manager(_WRITE_BUFFERS)
    options.set_max_write_buffer_number(3)
    options.set_max_background_jobs(2)
    options.set_keep_log_file_num(2)
    table = BlockBasedOptions()
    table.set_bloom_filter(10, False)
    table.set_block_cache(_BLOCK_CACHE)
    options.set_block_based_table_factory(table)
    return options


_BLOCK_CACHE = Cache(BLOCK_CACHE_BYTES)
_WRITE_BUFFERS = WriteBufferManager(WRITE_BUFFERS_TOTAL_BYTES, False)
