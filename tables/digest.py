"""What a partition's rows come to, in one number, so that two copies can be compared without sending them.

A digest is made by a scan and only when somebody compares; docs/decisions/0006-digests-are-scanned.md says why it is not kept at every
commit. Only rows count: deadlines and indexes are made from them, and another version may have other ones.
"""

from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b
from typing import Any, Protocol
from zlib import crc32

from msgspec import Struct

from orderflow.tables.rows import Table

UNKNOWN = 0
"""The digest of a partition that nobody has scanned."""
BUCKETS = 256
"""A table is compared by this many parts, so that a difference is found without sending every row."""
LOOK_EVERY = 4096
_DIGEST_BYTES = 8


class Rows(Protocol):
    """Pairs by prefix in key order, as a family has them."""

    def scan(self, prefix: bytes, start: bytes | None = None) -> Iterator[tuple[bytes, bytes]]: ...


class Digest(Struct, frozen=True):
    """`value` is 63 bits over every row in key order, never 0; `size_bytes` counts keys and values."""

    value: int
    rows: int
    size_bytes: int


def rows_of(source: Rows, tables: Iterable[Table]) -> Iterator[tuple[bytes, bytes]]:
    """Every row of these tables with its table's prefix, in key order."""
    for table in sorted(tables, key=lambda each: each.number):
        yield from source.scan(table.prefix)


def digest(rows: Iterable[tuple[bytes, bytes]], give_up: Callable[[], bool] = lambda: False) -> Digest | None:
    """The digest of rows in key order; None when `give_up` said so before the end (it is asked every few thousand rows)."""
    hashed = blake2b(digest_size=_DIGEST_BYTES)
    update = hashed.update
    count = size = 0
    for raw, value in rows:
        update(b"%d:%d:" % (len(raw), len(value)))
        update(raw)
        update(value)
        count += 1
        size += len(raw) + len(value)
        if count % LOOK_EVERY == 0 and give_up():
            return None
    return Digest((int.from_bytes(hashed.digest(), "big") >> 1) or 1, count, size)


def digest_with_buckets(pairs: Iterable[tuple[bytes, bytes]], tables: Iterable[Table]) -> tuple[Digest, dict[str, list[str]]]:
    """The digest and, by table, that of each bucket, in one pass over pairs in key order; what belongs to no table is left out."""
    parts = {table.prefix[0]: (table.name, Buckets()) for table in tables}

    def rows() -> Iterator[tuple[bytes, bytes]]:
        for raw, value in pairs:
            part = parts.get(raw[0])
            if part is not None:
                part[1].add(raw[1:], value)
                yield raw, value

    found = digest(rows())
    assert found is not None, "nobody gave up"
    return found, {name: buckets.digests() for name, buckets in parts.values()}


class Buckets:
    """The digests of a table's parts. Rows must be added in key order, their keys without the table's prefix."""

    def __init__(self) -> None:
        self._hashers: dict[int, Any] = {}

    def add(self, key: bytes, value: bytes) -> None:
        bucket = bucket_of(key)
        hasher = self._hashers.get(bucket)
        if hasher is None:
            hasher = self._hashers[bucket] = blake2b(digest_size=_DIGEST_BYTES)
        hasher.update(b"%d:%d:" % (len(key), len(value)) + key + value)

    def digests(self) -> list[str]:
        """One per bucket; empty text for an empty bucket."""
        return [self._hashers[bucket].hexdigest() if bucket in self._hashers else "" for bucket in range(BUCKETS)]


def bucket_of(key: bytes) -> int:
    """The part of its table a row belongs to, by its key (without the table's prefix)."""
    return crc32(key) % BUCKETS


def row_digest(key: bytes, value: bytes) -> str:
    """Sixteen hexadecimal digits for one row."""
    return blake2b(b"%d:%d:" % (len(key), len(value)) + key + value, digest_size=_DIGEST_BYTES).hexdigest()


def bucket_digests(rows: Iterable[tuple[bytes, bytes]]) -> list[str]:
    """The digest of each bucket of one table's rows in key order, keys without the table's prefix."""
    buckets = Buckets()
    for key, value in rows:
        buckets.add(key, value)
    return buckets.digests()


def without_prefix(source: Rows, table: Table) -> Iterator[tuple[bytes, bytes]]:
    """(key, value) of a table's rows as they stand in its changelog."""
    return ((raw[1:], value) for raw, value in source.scan(table.prefix))
