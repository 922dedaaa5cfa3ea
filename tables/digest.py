"""What a partition's rows come to, in one number, so that two copies can be compared without sending them.

A digest is made by a scan and only when somebody compares; docs/decisions/0007-digests-are-scanned.md says why it is not kept at every
commit. Only rows count: deadlines and indexes are made from them, and another version may have other ones.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from hashlib import blake2b
from typing import Protocol
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
    """Pairs by prefix in key order: a family, or a frozen one."""

    def scan(self, prefix: bytes, start: bytes | None = None) -> Iterator[tuple[bytes, bytes]]: ...


class Digest(Struct, frozen=True):
    """`value` is 63 bits over every row in key order, never 0; `size_bytes` counts keys and values."""

    value: int
    rows: int
    size_bytes: int


def digest(source: Rows, tables: Iterable[Table], give_up: Callable[[], bool] = lambda: False) -> Digest | None:
    """The digest of these tables' rows; None when `give_up` said so before the end (it is asked every few thousand rows)."""
    hashed = blake2b(digest_size=_DIGEST_BYTES)
    update = hashed.update
    count = size = 0
    for table in sorted(tables, key=lambda each: each.number):
        for raw, value in source.scan(table.prefix):
            update(b"%d:%d:" % (len(raw), len(value)))
            update(raw)
            update(value)
            count += 1
            size += len(raw) + len(value)
            if count % LOOK_EVERY == 0 and give_up():
                return None
    return Digest((int.from_bytes(hashed.digest(), "big") >> 1) or 1, count, size)


def bucket_of(key: bytes) -> int:
    """The part of its table a row belongs to, by its key (without the table's prefix)."""
    return crc32(key) % BUCKETS


def row_digest(key: bytes, value: bytes) -> str:
    """Sixteen hexadecimal digits for one row."""
    return blake2b(b"%d:%d:" % (len(key), len(value)) + key + value, digest_size=_DIGEST_BYTES).hexdigest()


def bucket_digests(rows: Iterable[tuple[bytes, bytes]]) -> list[str]:
    """One digest per bucket of (key, value) in key order; empty text for an empty bucket. Keys are without the table's prefix."""
    hashers = [blake2b(digest_size=_DIGEST_BYTES) for _ in range(BUCKETS)]
    filled = [False] * BUCKETS
    for key, value in rows:
        bucket = bucket_of(key)
        hashers[bucket].update(b"%d:%d:" % (len(key), len(value)) + key + value)
        filled[bucket] = True
    return [hasher.hexdigest() if some else "" for hasher, some in zip(hashers, filled, strict=True)]


def without_prefix(source: Rows, table: Table) -> Iterator[tuple[bytes, bytes]]:
    """(key, value) of a table's rows as they stand in its changelog."""
    return ((raw[1:], value) for raw, value in source.scan(table.prefix))


def first_difference(mine: Mapping[bytes, bytes], theirs: Mapping[bytes, bytes]) -> bytes | None:
    """The smallest key whose row is not the same on both sides."""
    return min((key for key in mine.keys() | theirs.keys() if mine.get(key) != theirs.get(key)), default=None)
