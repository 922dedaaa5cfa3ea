"""Digests: equal rows, equal digests; any difference is seen, and found by bucket."""

from collections.abc import Iterator, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orderflow.tables.digest import (
    BUCKETS,
    LOOK_EVERY,
    UNKNOWN,
    bucket_digests,
    bucket_of,
    digest,
    digest_with_buckets,
    row_digest,
    rows_of,
    without_prefix,
)
from orderflow.tables.rows import Table

ONE, TWO = (Table(name, number, name, lambda row: row, lambda data: data) for name, number in (("one", 2), ("two", 3)))
KEYS = st.binary(min_size=1, max_size=6)
ROWS = st.dictionaries(KEYS, st.binary(max_size=8), max_size=12)


class Memory:
    """Rows as a family has them: sorted by their whole key."""

    def __init__(self, one: Mapping[bytes, bytes], two: Mapping[bytes, bytes] | None = None) -> None:
        tables = ((ONE, one), (TWO, two or {}))
        self.rows = sorted((table.prefix + key, value) for table, rows in tables for key, value in rows.items())

    def scan(self, prefix: bytes, start: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        return ((key, value) for key, value in self.rows if key.startswith(prefix))


def value_of(rows: Memory) -> int:
    found = digest(rows_of(rows, (ONE, TWO)))
    assert found is not None
    return found.value


@given(ROWS, ROWS)
def test_digests_are_equal_exactly_when_the_rows_are(mine: dict[bytes, bytes], theirs: dict[bytes, bytes]) -> None:
    assert (value_of(Memory(mine)) == value_of(Memory(theirs))) == (mine == theirs)


@given(ROWS, KEYS)
def test_bytes_that_move_from_the_key_to_the_value_are_a_difference(rows: dict[bytes, bytes], key: bytes) -> None:
    before = {**rows, key + b"x": b"y"}
    after = {**rows, key: b"xy"}
    assert before == after or value_of(Memory(before)) != value_of(Memory(after))


def test_the_same_row_in_another_table_is_a_difference() -> None:
    assert value_of(Memory({b"k": b"v"}, {})) != value_of(Memory({}, {b"k": b"v"}))


def test_the_order_of_the_tables_does_not_matter_and_the_digest_is_never_unknown() -> None:
    rows = Memory({b"k": b"v"}, {b"k": b"w"})
    assert digest(rows_of(rows, (ONE, TWO))) == digest(rows_of(rows, (TWO, ONE)))
    assert value_of(Memory({})) != UNKNOWN
    found = digest(rows_of(rows, (ONE, TWO)))
    assert found is not None and (found.rows, found.size_bytes) == (2, 6)
    assert 0 < found.value < 1 << 63, "a long of Avro"


def test_a_digest_is_the_same_on_every_machine() -> None:
    """It stands in meta records: another number for the same rows would wipe every partition at an upgrade."""
    assert value_of(Memory({b"SKU-1": b"\x00\x01\x02"}, {b"SKU-1~o-1~1": b"row"})) == 5381409137572644700


@pytest.mark.parametrize("rows", [0, LOOK_EVERY * 3])
def test_a_scan_that_takes_too_long_says_nothing(rows: int) -> None:
    asked: list[int] = []
    many = Memory({b"%08d" % number: b"" for number in range(rows)})
    found = digest(rows_of(many, (ONE, TWO)), lambda: bool(asked.append(1)) or len(asked) == 2)
    assert (found is None) == (rows > 0)


@given(ROWS, ROWS)
def test_a_difference_is_in_the_bucket_of_its_key(mine: dict[bytes, bytes], theirs: dict[bytes, bytes]) -> None:
    ours, others = bucket_digests(sorted(mine.items())), bucket_digests(sorted(theirs.items()))
    assert len(ours) == BUCKETS
    different = {bucket_of(key) for key in mine.keys() | theirs.keys() if mine.get(key) != theirs.get(key)}
    assert {bucket for bucket in range(BUCKETS) if ours[bucket] != others[bucket]} == different
    for key in mine.keys() & theirs.keys():
        assert (row_digest(key, mine[key]) == row_digest(key, theirs[key])) == (mine[key] == theirs[key])


@given(ROWS, ROWS)
def test_one_pass_gives_the_same_digest_and_the_same_buckets(one: dict[bytes, bytes], two: dict[bytes, bytes]) -> None:
    rows = Memory(one, two)
    pairs = [(b"\x01deadline", b""), (b"\x02index", b"x"), *rows.rows]
    found, buckets = digest_with_buckets(pairs, (TWO, ONE))
    assert found.value == value_of(rows)
    assert buckets == {"one": bucket_digests(sorted(one.items())), "two": bucket_digests(sorted(two.items()))}


def test_rows_lose_the_prefix_of_their_table() -> None:
    assert list(without_prefix(Memory({b"a": b"1"}, {b"b": b"2"}), TWO)) == [(b"b", b"2")]
