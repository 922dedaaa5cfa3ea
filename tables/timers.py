"""The due index: which rows of a partition have a deadline, oldest first. It has no changelog; rows declare `due` and rebuild it."""

from collections.abc import Iterator
from typing import Any

from msgspec import Struct

from orderflow.tables.rocks import Family

DUE_PREFIX = b"\x01"


class Deadline(Struct, frozen=True):
    """A row's deadline in microseconds."""

    due_at: int
    table: int
    key: str

    def pack(self) -> bytes:
        return DUE_PREFIX + self.due_at.to_bytes(8, "big") + bytes((self.table,)) + self.key.encode()

    @classmethod
    def unpack(cls, data: bytes) -> "Deadline":
        return cls(int.from_bytes(data[1:9], "big"), data[9], data[10:].decode())


def deadlines(family: Family, until: int, limit: int) -> Iterator[Deadline]:
    """At most `limit` committed deadlines that are due at `until` (microseconds), oldest first."""
    for count, (key, _) in enumerate(family.scan(DUE_PREFIX)):
        deadline = Deadline.unpack(key)
        if count >= limit or deadline.due_at > until:
            return
        yield deadline


def next_due(family: Family) -> int | None:
    """The earliest committed deadline, in microseconds."""
    for key, _ in family.scan(DUE_PREFIX):
        return Deadline.unpack(key).due_at
    return None


def due_entry(table: Any, key: str, row: Struct | None) -> bytes | None:
    """The index entry of a row, if it has a deadline."""
    if row is None or table.due is None:
        return None
    due = table.due(row)
    return None if due is None else Deadline(due[1], table.number, key).pack()
