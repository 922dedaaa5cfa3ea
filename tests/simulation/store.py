"""The simulated store: committed bytes of each partition in sorted order, one atomic write per batch, and what a crash leaves of it.

kill -9 leaves everything that was written; the machine's crash takes the batches the disk has not synced yet, the latest first;
`lose` takes the whole directory.
"""

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from orderflow.tables.rocks import META_KEY, Position

UNSYNCED_BATCHES_MAX = 40
Undo = list[tuple["SimFamily", bytes, bytes | None]]


class SimFamily:
    """One partition's rows. `name` as RocksDB's column family."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.rows: dict[bytes, bytes] = {}
        self.keys: dict[int, list[bytes]] = {}

    def get(self, key: bytes) -> bytes | None:
        return self.rows.get(key)

    def multi_get(self, keys: list[bytes]) -> list[bytes | None]:
        rows = self.rows
        return [rows.get(key) for key in keys]

    def scan(self, prefix: bytes, start: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        keys, rows = self.keys.get(prefix[0], ()), self.rows
        for index in range(bisect_left(keys, start or prefix), len(keys)):
            key = keys[index]
            if not key.startswith(prefix):
                return
            yield key, rows[key]

    def position(self) -> Position:
        return Position.unpack(self.get(META_KEY))

    def close(self) -> None: ...

    def set(self, key: bytes, value: bytes | None) -> bytes | None:
        """Put or delete; what was there before."""
        before = self.rows.get(key)
        if value is None:
            if before is not None:
                del self.rows[key]
                keys = self.keys[key[0]]
                del keys[bisect_left(keys, key)]
        else:
            if before is None:
                insort(self.keys.setdefault(key[0], []), key)
            self.rows[key] = value
        return before


class SimBatch:
    """Changes of several partitions, in order."""

    def __init__(self) -> None:
        self.changes: list[tuple[SimFamily, bytes, bytes | None]] = []

    def put(self, family: SimFamily, key: bytes, value: bytes) -> None:
        self.changes.append((family, key, value))

    def delete(self, family: SimFamily, key: bytes) -> None:
        self.changes.append((family, key, None))

    def change(self, family: SimFamily, changes: Mapping[bytes, bytes | None]) -> None:
        for key, value in changes.items():
            if value is None:
                self.delete(family, key)
            else:
                self.put(family, key, value)

    def position(self, family: SimFamily, position: Position) -> None:
        self.changes.append((family, META_KEY, position.pack()))


class Disk:
    """What outlives a process: the families, and how to take the latest batches back."""

    def __init__(self) -> None:
        self.families: dict[str, SimFamily] = {}
        self.unsynced: deque[Undo] = deque(maxlen=UNSYNCED_BATCHES_MAX)
        self.writes = 0

    def apply(self, batch: SimBatch) -> None:
        self.unsynced.append([(family, key, family.set(key, value)) for family, key, value in batch.changes])
        self.writes += 1

    def lose_tail(self, batches: int) -> int:
        """The machine crashed before the disk had these; how many were lost."""
        lost = 0
        while self.unsynced and lost < batches:
            for family, key, before in reversed(self.unsynced.pop()):
                family.set(key, before)
            lost += 1
        return lost

    def lose(self) -> None:
        """The directory is gone."""
        self.families.clear()
        self.unsynced.clear()


class SimStore:
    """The store of one process over its disk. `reach` is called before and after each write: a crash there is a crash of the process."""

    def __init__(self, disk: Disk, instance: str, reach: Callable[[str], None]) -> None:
        self.disk, self.instance, self.reach = disk, instance, reach

    def family(self, space: str, partition: int) -> SimFamily:
        name = f"{space}.{partition}"
        family = self.disk.families.get(name)
        if family is None:
            family = self.disk.families[name] = SimFamily(name)
        return family

    def wipe(self, space: str, partition: int) -> SimFamily:
        self.disk.families.pop(f"{space}.{partition}", None)
        self.disk.unsynced.clear()
        return self.family(space, partition)

    def batch(self) -> SimBatch:
        return SimBatch()

    def write(self, batch: SimBatch | Any) -> None:
        self.reach("before_write")
        self.disk.apply(batch)
        self.reach("after_write")

    def close(self) -> None: ...
