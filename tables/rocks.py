"""The store of one worker: one RocksDB, one column family per partition of a key space. Written only after a commit.

Rows are a cache of the changelogs. So what cannot be trusted is never repaired: a damaged database is set aside and restored.
"""

import fcntl
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import structlog
from msgspec import Struct
from rocksdict import BlockBasedOptions, Cache, Checkpoint, Options, Rdict, WriteBatch, WriteBufferManager, WriteOptions

from orderflow.tables.identity import EMPTY_IS_FINE, Identity, StoreError

log = structlog.get_logger(__name__)

META_KEY = b"\x00meta"
WRITE_BUFFER_BYTES_MAX = 32 << 20
CACHED_ROW_BYTES = 512
"""What a row in the cache of decoded rows takes, on average: a head row takes less, an order more."""
DAMAGE = ("Corruption", "No such file or directory", "Input/output error")
"""Words of RocksDB's errors after which no byte of the database is trusted any more. A full disk is not among them."""
SUSPECT = "DAMAGED"
"""A file beside the database: what was found wrong while it was in use. The next start sets the database aside."""


class StoreFailed(StoreError, OSError):
    """RocksDB failed while it was in use. The machine's fault and no input's, so the process ends instead of parking the record."""


class Memory(Struct, frozen=True):
    """One budget in MiB for everything a worker keeps of its rows in memory: half of it for what is not on disk yet, an eighth for blocks
    of the disk (indexes and filters among them), the rest for decoded rows."""

    total_mb: int = 512

    @property
    def write_buffers_bytes(self) -> int:
        return (self.total_mb << 20) // 2

    @property
    def write_buffer_bytes(self) -> int:
        """Of one partition, before it goes to disk."""
        return min(WRITE_BUFFER_BYTES_MAX, self.write_buffers_bytes // 8)

    @property
    def block_cache_bytes(self) -> int:
        return (self.total_mb << 20) // 8

    @property
    def cached_rows(self) -> int:
        """Decoded rows of all partitions together."""
        return ((self.total_mb << 20) * 3 // 8) // CACHED_ROW_BYTES


class Position(Struct, frozen=True):
    """How far a partition's rows have come: next offset of the command topic, next offset per changelog, turn time in microseconds, and
    when (this machine's clock, microseconds) that was written: 0 in directories of format 1. `digest`: what the last owner said its rows
    come to, 0 when it did not."""

    source_offset: int = 0
    turn_time: int = 0
    changelogs: Mapping[str, int] = {}
    written_at: int = 0
    digest: int = 0

    def pack(self) -> bytes:
        return json.dumps([self.source_offset, self.turn_time, dict(self.changelogs), self.written_at, self.digest]).encode()

    @classmethod
    def unpack(cls, data: bytes | None) -> "Position":
        return cls(*json.loads(data)) if data else cls()


class Family:
    """One partition's rows on disk: committed bytes only. Reads are safe from any thread and raise StoreFailed."""

    def __init__(self, db: Rdict, name: str, failed: Callable[[Exception], StoreFailed]) -> None:
        self.name = name
        self.handle: Any = db.get_column_family_handle(name)
        self._rows: Any = db.get_column_family(name)
        self._failed = failed
        self.reads = 0
        """Rows asked of RocksDB: those that were not in the cache of decoded rows."""

    def get(self, key: bytes) -> bytes | None:
        self.reads += 1
        try:
            value: bytes | None = self._rows.get(key)
        except Exception as error:  # rocksdict raises nothing finer
            raise self._failed(error) from error
        return value

    def multi_get(self, keys: list[bytes]) -> list[bytes | None]:
        self.reads += len(keys)
        try:
            values: list[bytes | None] = self._rows.get(keys)
        except Exception as error:
            raise self._failed(error) from error
        return values

    def scan(self, prefix: bytes, start: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        """Pairs whose key starts with `prefix`, in key order, from `start` on."""
        return self._checked(self._rows.items(from_key=start or prefix), start or prefix, prefix)

    def _checked(self, pairs: Iterator[tuple[bytes, bytes]], last: bytes, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        try:
            for key, value in pairs:
                if not key.startswith(prefix):
                    return
                yield key, value
                last = key
            self._check_end(last)
        except Exception as error:
            raise self._failed(error) from error

    def _check_end(self, last: bytes) -> None:
        """rocksdict's iterators end without a word at a block they cannot read: is there really nothing behind this key?"""
        rows = self._rows.iter()
        rows.seek(last)
        if rows.valid() and rows.key() == last:
            rows.next()
        if not rows.valid():
            rows.status()

    def position(self) -> Position:
        return Position.unpack(self.get(META_KEY))

    def frozen(self) -> tuple[Position, Iterator[tuple[bytes, bytes]]]:
        """The position and everything behind it, index entries and rows, as they were together at one moment between two writes.

        One iterator sees one moment; rocksdict's snapshots do not hold for the iterators of a column family.
        """
        pairs = self._checked(self._rows.items(from_key=META_KEY), META_KEY, b"")
        first = next(pairs, None)
        if first is None:
            return Position(), pairs
        if first[0] != META_KEY:
            return Position(), chain((first,), pairs)
        return Position.unpack(first[1]), pairs

    def size(self) -> tuple[int, int]:
        """About how many keys (index entries among them) and bytes there are."""
        keys, data, memory = (
            self._rows.property_int_value(f"rocksdb.{name}") or 0
            for name in ("estimate-num-keys", "estimate-live-data-size", "cur-size-all-mem-tables")
        )
        return int(keys), int(data + memory)

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

    def change(self, family: Family, changes: Mapping[bytes, bytes | None]) -> None:
        """Put every pair; a key whose value is None is deleted. In the order of the keys, which RocksDB takes a quarter faster."""
        put, delete, handle = self._batch.put, self._batch.delete, family.handle
        for key in sorted(changes):
            value = changes[key]
            if value is None:
                delete(key, handle)
            else:
                put(key, value, handle)

    def position(self, family: Family, position: Position) -> None:
        self._batch.put(META_KEY, position.pack(), family.handle)


class Store:
    """A worker's data directory: lock, identity, RocksDB. `open` it once per process; every method may raise StoreError."""

    def __init__(self, path: Path, *, instance: str = "", lock_wait_s: float = 10.0, memory: Memory = Memory()) -> None:  # noqa: B008  (frozen)
        self.path, self.memory = path, memory
        path.mkdir(parents=True, exist_ok=True)
        self._lock = _take_lock(path / "LOCK", lock_wait_s)
        self._mutex = threading.Lock()
        self._write_options = WriteOptions()
        self._block_cache = Cache(memory.block_cache_bytes)
        self._write_buffers = WriteBufferManager(memory.write_buffers_bytes, False)
        self._families: dict[str, Family] = {}
        self.set_aside = ""
        """Why the database that was here is not used any more; empty when it is."""
        try:
            self.identity = Identity(path, instance)
            self._db = self._open()
        except BaseException:
            os.close(self._lock)
            raise

    @property
    def instance(self) -> str:
        return self.identity.instance

    def memory_used(self) -> dict[str, int]:
        """Bytes in use by RocksDB, by part of the budget."""
        return {"block_cache": self._block_cache.get_usage(), "write_buffers": self._write_buffers.get_usage()}

    # -- opening ------------------------------------------------------------------------------------------------------------------
    def _open(self) -> Rdict:
        suspect = self.path / SUSPECT
        if suspect.exists():
            self._put_aside(suspect.read_text().strip() or "found damaged while it was in use")
        elif self.identity.is_new and (self.path / "rocksdb").exists():
            self._put_aside("there was no orderflow.json beside it, so nobody knows what its rows mean")
        try:
            return self._open_database()
        except Exception as error:  # rocksdict raises nothing finer
            if not _is_damage(error):
                raise StoreError(f"{self.path}: RocksDB cannot be opened: {error}") from error
            self._put_aside(str(error))
            return self._open_database()

    def _open_database(self) -> Rdict:
        db_path = str(self.path / "rocksdb")
        names = Rdict.list_cf(db_path, self._options()) if os.path.exists(db_path) else []
        return Rdict(db_path, self._options(), column_families={name: self._options() for name in names if name != "default"})

    def _put_aside(self, why: str) -> None:
        """Keep the database for whoever wants to look at it, the latest one only, and start with an empty one."""
        for older in self.path.glob("rocksdb.damaged-*"):
            shutil.rmtree(older, ignore_errors=True)
        aside = self.path / f"rocksdb.damaged-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
        if (self.path / "rocksdb").exists():
            os.replace(self.path / "rocksdb", aside)
        self.identity.forget_rows()
        (self.path / SUSPECT).unlink(missing_ok=True)
        self.set_aside = why
        log.error("store.set_aside", directory=str(aside), why=why, then="every partition is restored from its changelogs")

    def _options(self) -> Options:
        options = Options(raw_mode=True)
        options.create_if_missing(True)
        options.create_missing_column_families(True)
        options.set_write_buffer_size(self.memory.write_buffer_bytes)
        options.set_write_buffer_manager(self._write_buffers)
        options.set_max_write_buffer_number(3)
        options.set_max_background_jobs(2)
        options.set_keep_log_file_num(2)
        options.set_memtable_prefix_bloom_ratio(0.05)  # most commands are new: a row that is not there is looked for at every one
        options.set_memtable_whole_key_filtering(True)
        table = BlockBasedOptions()
        table.set_bloom_filter(10, False)
        table.set_block_cache(self._block_cache)
        table.set_cache_index_and_filter_blocks(True)  # else they are outside of the budget
        table.set_pin_l0_filter_and_index_blocks_in_cache(True)
        options.set_block_based_table_factory(table)
        return options

    def _failed(self, error: Exception) -> StoreFailed:
        """What to raise for an error of RocksDB. After damage the next start begins with an empty database."""
        if _is_damage(error):
            (self.path / SUSPECT).write_text(f"{error}\n")
            return StoreFailed(f"{self.path}: the database is damaged and will be set aside at the next start: {error}")
        return StoreFailed(f"{self.path}: RocksDB: {error}")

    # -- partitions ---------------------------------------------------------------------------------------------------------------
    def family(self, space: str, partition: int) -> Family:
        """The column family of a partition, made when it is new."""
        name = f"{space}.{partition}"
        with self._mutex:
            family = self._families.get(name)
            if family is None:
                try:
                    family = Family(self._db, name, self._failed)
                except Exception:  # rocksdict raises a bare Exception for an unknown column family
                    self._db.create_column_family(name, self._options()).close()
                    family = Family(self._db, name, self._failed)
                self._families[name] = family
            return family

    def wipe(self, space: str, partition: int) -> Family:
        """Forget a partition's rows (another topic's life, too old, not what its last owner had) and start it empty."""
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
        try:
            self._db.write(batch._batch, self._write_options)
        except Exception as error:
            raise self._failed(error) from error

    def checkpoint(self, to: Path) -> None:
        """Make `to`, which must not exist, a data directory with the rows of this one as they are now, for another worker to start with.

        On the same file system the files are linked, not copied. It has no instance id: the worker that starts in it makes its own.
        """
        if to.exists():
            raise StoreError(f"{to} exists already: a checkpoint needs a directory of its own")
        to.mkdir(parents=True)
        try:
            Checkpoint(self._db).create_checkpoint(str(to / "rocksdb"))
        except Exception as error:
            shutil.rmtree(to, ignore_errors=True)
            raise self._failed(error) from error
        self.identity.copy_to(to)

    # -- claims -------------------------------------------------------------------------------------------------------------------
    def claim_place(self, cluster: str, prefix: str) -> None:
        """Refuse a directory of another Kafka cluster or another topic prefix."""
        self.identity.claim_place(cluster, prefix)

    def claim_topics(self, topic_ids: Mapping[str, str], owners: Mapping[str, tuple[str, int]]) -> list[str]:
        """Remember each topic's id; a topic that was made anew wipes the partitions in `owners` {topic: (space, partitions)}. Returns their names."""
        changed = self.identity.claim_topics(topic_ids)
        for space, partitions in {owners[topic] for topic in changed if topic in owners}:
            for partition in range(partitions):
                self.wipe(space, partition)
        self.identity.save()
        return changed

    def claim_schemas(self, fingerprints: Mapping[int, str]) -> None:
        """Refuse ids that mean another schema than the rows on disk were written with."""
        self.identity.claim_schemas(fingerprints)

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


def _is_damage(error: Exception) -> bool:
    return any(words in str(error) for words in DAMAGE)


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


__all__ = ["EMPTY_IS_FINE", "Batch", "Family", "Memory", "Position", "Store", "StoreError", "StoreFailed", "destroy"]
