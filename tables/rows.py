"""The rows of one partition: what a command changed, over what the open transaction and the cache hold, over the disk.

Nothing reaches the disk before the commit and nothing on disk is ever rolled back: a command's changes are *staged*, then *accepted*
into the open transaction or dropped; the transaction's are *written* after the commit or discarded. Changes move between the stages by
whole dictionaries, so that a row costs Python nothing on its way.
"""

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from msgspec import Struct

from orderflow.tables.rocks import Batch, Family, Position
from orderflow.tables.timers import due_entry

CACHE_ROWS_MAX = 100_000
"""Rows of a partition kept decoded: half of them new, half of them from before the last turn of the cache."""
INDEX_PREFIX = 2
ROW_PREFIX = 16
FEW = 32
"""Keys are few when a list so many times as long is cheaper to insert them into than to sort again."""

UNREAD: Any = object()
"""Neither a row nor None, which is a row known to be absent."""


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
        for place, sort_key in enumerate(self.indexes.values()):
            value = sort_key(key, row)
            if value is not None:
                target = key.encode()
                entries[bytes((INDEX_PREFIX, self.number, place)) + value.encode() + b"\0" + target] = target
        return entries


class KeyOrder:
    """The keys of a transaction's changes in order. They come in bulk and few of them are asked for, so they are put in order then."""

    __slots__ = ("add", "_fresh", "_known", "_ordered")

    def __init__(self, keys: Iterable[bytes]) -> None:
        self._fresh = list(keys)
        self._known: set[bytes] = set()
        self._ordered: list[bytes] = []
        self.add = self._fresh.extend

    def starting(self, prefix: bytes) -> Iterator[bytes]:
        """The keys that begin with `prefix`."""
        if self._fresh:
            self._settle()
        keys = self._ordered
        for at in range(bisect_left(keys, prefix), len(keys)):
            if not keys[at].startswith(prefix):
                return
            yield keys[at]

    def _settle(self) -> None:
        keys, new = self._ordered, set(self._fresh) - self._known
        if len(new) * FEW > len(keys):
            keys.extend(new)
            keys.sort()
        else:
            for key in new:
                insort(keys, key)
        self._known |= new
        self._fresh.clear()

    def clear(self) -> None:
        for keys in (self._fresh, self._known, self._ordered):
            keys.clear()


class Rows:
    """Rows of one partition of one key space. Keys are text; values are the table's frozen values. Not thread-safe: one turn at a time."""

    def __init__(self, family: Family, tables: Iterable[Table]) -> None:
        self.family = family
        self.tables = {table.name: table for table in tables}
        self._prefixes = {table.name: table.prefix for table in self.tables.values()}
        self._by_prefix = {table.prefix[0]: table for table in self.tables.values()}
        self._staged: dict[bytes, Any] = {}
        self._staged_values: dict[bytes, bytes | None] = {}
        self._staged_index: dict[bytes, bytes | None] = {}
        self._open: dict[bytes, bytes | None] = {}
        self._open_index: dict[bytes, bytes | None] = {}
        self._open_order: KeyOrder | None = None
        self._open_index_order: KeyOrder | None = None
        """Made by the first range: who asks for none does not pay for them."""
        self._unsent: dict[bytes, bytes | None] = {}
        self.cached_rows_max = CACHE_ROWS_MAX
        self._rows: dict[bytes, Any] = {}
        self._older: dict[bytes, Any] = {}

    # -- reading ------------------------------------------------------------------------------------------------------------------
    def prefetch(self, refs: Iterable[tuple[str, str]]) -> None:
        """Read many (table, key) at once so that the turns of a batch find them in the cache."""
        prefixes, rows, older = self._prefixes, self._rows, self._older
        wanted: dict[bytes, None] = {}
        for name, key in refs:
            raw = prefixes[name] + key.encode()
            if raw not in rows:
                if raw in older:
                    rows[raw] = older[raw]
                else:
                    wanted[raw] = None
        if not wanted:
            return
        raws = list(wanted)
        tables = self._by_prefix
        for raw, value in zip(raws, self.family.multi_get(raws), strict=True):
            rows[raw] = None if value is None else tables[raw[0]].decode(value)

    def get(self, name: str, key: str) -> Any:
        """The row as the present command sees it, or None."""
        return self._row(self._prefixes[name] + key.encode())

    def _row(self, raw: bytes) -> Any:
        if raw in self._staged:
            return self._staged[raw]
        row = self._rows.get(raw, UNREAD)
        return self._read(raw) if row is UNREAD else row

    def _read(self, raw: bytes) -> Any:
        row = self._older.get(raw, UNREAD)
        if row is UNREAD:
            value = self.family.get(raw)
            row = None if value is None else self._by_prefix[raw[0]].decode(value)
        self._rows[raw] = row
        return row

    def range(self, name: str, prefix: str, limit: int, index: str = "") -> list[tuple[str, Any]]:
        """At most `limit` (key, row) in key order, or in the order of an index."""
        table = self.tables[name]
        start = (table.index_prefix(index) if index else table.prefix) + prefix.encode()
        if index:
            changes, staged = self._open_index, self._staged_index
            order = self._open_index_order = self._open_index_order or KeyOrder(changes)
        else:
            changes, staged = self._open, self._staged_values
            order = self._open_order = self._open_order or KeyOrder(changes)
        mine = {raw: changes[raw] for raw in order.starting(start)}
        if staged:
            mine.update([(raw, value) for raw, value in staged.items() if raw.startswith(start)])
        if not mine and not index:
            return [(raw[1:].decode(), self._row(raw)) for raw, _ in islice(self.family.scan(start), limit)]
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
        if index:
            return [(key, self.get(name, key)) for key in (found[raw].decode() for raw in raws)]
        return [(raw[1:].decode(), self._row(raw)) for raw in raws]

    # -- changing -----------------------------------------------------------------------------------------------------------------
    def put(self, name: str, key: str, row: Any) -> None:
        """Stage a row (None deletes it). Encodes at once, so that a row that cannot be written fails its own command."""
        table = self.tables[name]
        raw = self._prefixes[name] + key.encode()
        value = None if row is None else table.encode(row)
        if table.due is not None or table.indexes:
            before, after = table.index_entries(key, self._row(raw)), table.index_entries(key, row)
            self._staged_index.update({entry: None for entry in before if entry not in after})
            self._staged_index.update(after)
        self._staged[raw] = row
        self._staged_values[raw] = value

    def staged_bytes(self) -> Iterable[int]:
        """The sizes of the staged rows with their keys, for the check before the first produce."""
        return (len(raw) + len(value) for raw, value in self._staged_values.items() if value is not None)

    def accept(self) -> None:
        """The command is decided: its changes join the open transaction."""
        if self._staged:
            self._rows.update(self._staged)
            self._open.update(self._staged_values)
            if self._open_order is not None:
                self._open_order.add(self._staged_values)
            self._unsent.update(self._staged_values)
            self._staged.clear()
            self._staged_values.clear()
            if self._staged_index:
                self._open_index.update(self._staged_index)
                if self._open_index_order is not None:
                    self._open_index_order.add(self._staged_index)
                self._staged_index.clear()

    def drop(self) -> None:
        """The command is parked: its changes never happened."""
        self._staged.clear()
        self._staged_values.clear()
        self._staged_index.clear()

    # -- the transaction ----------------------------------------------------------------------------------------------------------
    def changelog(self) -> dict[str, list[tuple[bytes, bytes | None]]]:
        """Topic -> (key, value) of every row accepted since the last call, once per key, with its last value."""
        if not self._unsent:
            return {}
        records: dict[int, list[tuple[bytes, bytes | None]]] = {prefix: [] for prefix in self._by_prefix}
        for raw, value in self._unsent.items():
            records[raw[0]].append((raw[1:], value))
        self._unsent.clear()
        return {self._by_prefix[prefix].changelog: found for prefix, found in records.items() if found}

    @property
    def changed(self) -> bool:
        return bool(self._open)

    def write(self, batch: Batch, position: Position) -> None:
        """After the commit: put the transaction's rows, index entries and the new position into `batch`."""
        family = self.family
        for changes in (self._open, self._open_index):
            batch.change(family, changes)
        batch.position(family, position)

    def written(self) -> None:
        """The batch is on disk: the transaction's rows are the cache's now."""
        self._close()
        if len(self._rows) > self.cached_rows_max // 2:
            self._older, self._rows = self._rows, {}

    def discard(self) -> None:
        """The transaction was aborted: forget everything that is not on disk."""
        self.drop()
        self._close()
        self._unsent.clear()
        self._rows.clear()
        self._older.clear()

    def _close(self) -> None:
        self._open.clear()
        self._open_index.clear()
        for order in (self._open_order, self._open_index_order):
            if order is not None:
                order.clear()
