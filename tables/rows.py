"""The rows of one partition: what a command changed, over what the open transaction changed, over a cache, over the disk.

Nothing reaches the disk before the commit and nothing on disk is ever rolled back: a command's changes are *staged*, then *accepted*
into the open transaction or dropped; the transaction's are *written* after the commit or discarded.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from msgspec import Struct

from orderflow.tables.rocks import Batch, Family, Position
from orderflow.tables.timers import due_entry

CACHE_ROWS_MAX = 100_000
INDEX_PREFIX = 2
ROW_PREFIX = 16

Produce = Callable[..., None]


class Table(Struct, frozen=True):
    """One kind of row. `number` is its place on disk and must never change; `due` gives (kind, microseconds); indexes give
    sort keys from (row key, row)."""

    name: str
    number: int
    changelog: str
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]
    due: Callable[[Any], tuple[str, int] | None] | None = None
    indexes: Mapping[str, Callable[[str, Any], str | None]] = {}

    @property
    def prefix(self) -> bytes:
        return bytes((ROW_PREFIX + self.number,))

    def index_prefix(self, index: str) -> bytes:
        return bytes((INDEX_PREFIX, self.number, list(self.indexes).index(index)))

    def index_entries(self, key: str, row: Any) -> dict[bytes, bytes]:
        """Every index entry a row has, the due index included."""
        if row is None or (self.due is None and not self.indexes):
            return {}
        entries = {}
        due = due_entry(self, key, row)
        if due is not None:
            entries[due] = b""
        for name, sort_key in self.indexes.items():
            value = sort_key(key, row)
            if value is not None:
                entries[self.index_prefix(name) + value.encode() + b"\0" + key.encode()] = key.encode()
        return entries


class Rows:
    """Rows of one partition of one key space. Keys are text; values are the table's frozen values. Not thread-safe: one turn at a time."""

    def __init__(self, family: Family, tables: Iterable[Table]) -> None:
        self.family = family
        self.tables = {table.name: table for table in tables}
        self._prefixes = {table.name: table.prefix for table in self.tables.values()}
        self._staged: dict[bytes, tuple[Table, Any, bytes | None]] = {}
        self._staged_index: dict[bytes, bytes | None] = {}
        self._open: dict[bytes, tuple[Any, bytes | None]] = {}
        self._open_index: dict[bytes, bytes | None] = {}
        self._unsent: dict[bytes, tuple[Table, bytes | None]] = {}
        self._cache: dict[bytes, Any] = {}

    # -- reading ------------------------------------------------------------------------------------------------------------------
    def prefetch(self, refs: Iterable[tuple[str, str]]) -> None:
        """Read many (table, key) at once so that the turns of a batch find them in the cache."""
        wanted: dict[bytes, Table] = {}
        for name, key in refs:
            raw = self._prefixes[name] + key.encode()
            if raw not in self._open and raw not in self._cache:
                wanted[raw] = self.tables[name]
        if not wanted:
            return
        if len(self._cache) > CACHE_ROWS_MAX:
            self._cache.clear()
        raws = list(wanted)
        for raw, value in zip(raws, self.family.multi_get(raws), strict=True):
            self._cache[raw] = None if value is None else wanted[raw].decode(value)

    def get(self, name: str, key: str) -> Any:
        """The row as the present command sees it, or None."""
        raw = self._prefixes[name] + key.encode()
        staged = self._staged.get(raw)
        if staged is not None:
            return staged[1]
        return self._accepted(self.tables[name], raw)

    def _accepted(self, table: Table, raw: bytes) -> Any:
        opened = self._open.get(raw)
        if opened is not None:
            return opened[0]
        if raw in self._cache:
            return self._cache[raw]
        value = self.family.get(raw)
        row = None if value is None else table.decode(value)
        self._cache[raw] = row
        return row

    def range(self, name: str, prefix: str, limit: int, index: str = "") -> list[tuple[str, Any]]:
        """At most `limit` (key, row) in key order, or in the order of an index."""
        table = self.tables[name]
        mine: dict[bytes, bytes | None]
        if index:
            start = table.index_prefix(index) + prefix.encode()
            mine = {raw: value for raw, value in self._open_index.items() if raw.startswith(start)}
            mine.update((raw, value) for raw, value in self._staged_index.items() if raw.startswith(start))
        else:
            start = table.prefix + prefix.encode()
            mine = {raw: value for raw, (_, value) in self._open.items() if raw.startswith(start)}
            mine.update((raw, value) for raw, (_, _, value) in self._staged.items() if raw.startswith(start))
        found: dict[bytes, bytes] = {}
        for raw, value in self.family.scan(start):
            if len(found) >= limit + len(mine):
                break
            found[raw] = value
        for raw, changed_value in mine.items():
            if changed_value is None:
                found.pop(raw, None)
            else:
                found[raw] = changed_value
        raws = sorted(found)[:limit]
        keys = [found[raw].decode() for raw in raws] if index else [raw[1:].decode() for raw in raws]
        return [(key, self.get(name, key)) for key in keys]

    # -- changing -----------------------------------------------------------------------------------------------------------------
    def put(self, name: str, key: str, row: Any) -> None:
        """Stage a row (None deletes it). Encodes at once, so that a row that cannot be written fails its own command."""
        table = self.tables[name]
        raw = self._prefixes[name] + key.encode()
        if table.due is not None or table.indexes:
            before, after = table.index_entries(key, self.get(name, key)), table.index_entries(key, row)
            self._staged_index.update({entry: None for entry in before if entry not in after})
            self._staged_index.update(after)
        self._staged[raw] = (table, row, None if row is None else table.encode(row))

    def staged_bytes(self) -> Iterable[int]:
        """The sizes of the staged rows with their keys, for the check before the first produce."""
        return (len(raw) + len(value) for raw, (_, _, value) in self._staged.items() if value is not None)

    def accept(self) -> None:
        """The command is decided: its changes join the open transaction."""
        for raw, (table, row, value) in self._staged.items():
            self._open[raw] = (row, value)
            self._unsent[raw] = (table, value)
        self._open_index.update(self._staged_index)
        self._staged.clear()
        self._staged_index.clear()

    def drop(self) -> None:
        """The command is parked: its changes never happened."""
        self._staged.clear()
        self._staged_index.clear()

    # -- the transaction ----------------------------------------------------------------------------------------------------------
    def changelog(self) -> list[tuple[str, bytes, bytes | None]]:
        """(topic, key, value) of every row accepted since the last call, once per key, with its last value."""
        records = [(table.changelog, raw[1:], value) for raw, (table, value) in self._unsent.items()]
        self._unsent.clear()
        return records

    @property
    def changed(self) -> bool:
        return bool(self._open)

    def write(self, batch: Batch, position: Position) -> None:
        """After the commit: put the transaction's rows, index entries and the new position into `batch`."""
        family = self.family
        for raw, (_, value) in self._open.items():
            if value is None:
                batch.delete(family, raw)
            else:
                batch.put(family, raw, value)
        for raw, entry in self._open_index.items():
            if entry is None:
                batch.delete(family, raw)
            else:
                batch.put(family, raw, entry)
        batch.position(family, position)

    def written(self) -> None:
        """The batch is on disk: the transaction's rows become the cache's."""
        if len(self._cache) > CACHE_ROWS_MAX:
            self._cache.clear()
        for raw, (row, _) in self._open.items():
            self._cache[raw] = row
        self._open.clear()
        self._open_index.clear()

    def discard(self) -> None:
        """The transaction was aborted: forget everything that is not on disk."""
        self.drop()
        self._open.clear()
        self._open_index.clear()
        self._unsent.clear()
        self._cache.clear()
