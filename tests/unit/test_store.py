"""A data directory that cannot be trusted: refused when it is somebody's, set aside when it is broken, never patched.

State is in the changelogs, so nothing is lost by an empty directory; something is lost by rows that are wrong.
"""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from orderflow.streams.wire import MetaRow
from orderflow.tables.catchup import ROWS_VERSION
from orderflow.tables.identity import FORMAT
from orderflow.tables.rocks import Memory, Position, Store, StoreError, StoreFailed

KEY, VALUE = b"\x12key", b"value"


def write(path: Path, rows: int = 2000, **identity: object) -> None:
    """A directory with rows in table files on disk, closed."""
    store = Store(path, instance="w1")
    family, batch = store.family("stock", 0), store.batch()
    batch.change(family, {KEY + b"%06d" % number: VALUE * 20 for number in range(rows)})
    batch.position(family, Position(7, 8, {"stock.changelog": 9}, 10))
    store.write(batch)
    family._rows.flush()
    store.close()
    if identity:
        file = path / "orderflow.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **identity}))


def count(store: Store) -> int:
    return sum(1 for _ in store.family("stock", 0).scan(b"\x12"))


def table_file(path: Path) -> Path:
    return max((path / "rocksdb").glob("*.sst"), key=lambda file: file.stat().st_size)


def flip(file: Path, at: int) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 0xFF
    file.write_bytes(data)


def failure_of(read: Callable[[], object]) -> str:
    """What it says, without its traceback: that would hold the database open."""
    try:
        read()
    except StoreFailed as error:
        assert isinstance(error, OSError), "the machine's fault: no input is parked for it"
        return str(error)
    return "did not fail"


# -- damaged ------------------------------------------------------------------------------------------------------------------------
DAMAGES: dict[str, Callable[[Path], object]] = {
    "no CURRENT": lambda path: (path / "rocksdb" / "CURRENT").unlink(),
    "CURRENT names a file that is gone": lambda path: (path / "rocksdb" / "CURRENT").write_text("MANIFEST-999999\n"),
    "a flipped byte in the MANIFEST": lambda path: flip(next((path / "rocksdb").glob("MANIFEST*")), 20),
    "half a table file": lambda path: table_file(path).write_bytes(table_file(path).read_bytes()[:5000]),
    "no table file": lambda path: table_file(path).unlink(),
    "an identity that is gone": lambda path: (path / "orderflow.json").unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_database_is_set_aside_and_the_worker_starts_with_an_empty_one(tmp_path: Path, damage: str) -> None:
    write(tmp_path)
    DAMAGES[damage](tmp_path)
    store = Store(tmp_path)
    assert count(store) == 0 and store.family("stock", 0).position() == Position(), "all of it is read from the changelogs"
    assert store.set_aside
    assert len(list(tmp_path.glob("rocksdb.damaged-*"))) == 1, "kept for whoever wants to look"
    store.close()
    again = Store(tmp_path)
    assert not again.set_aside
    again.close()


def test_a_wrong_checksum_ends_the_process_and_the_next_start_sets_the_database_aside(tmp_path: Path) -> None:
    write(tmp_path)
    flip(table_file(tmp_path), 100)
    store = Store(tmp_path)
    family = store.family("stock", 0)
    reads: list[Callable[[], object]] = [
        lambda: family.get(KEY + b"000000"),
        lambda: family.multi_get([KEY + b"000000"]),
        lambda: list(family.scan(b"\x12")),  # rocksdict's iterator just ends here: half a partition would look like all of it
        lambda: list(family.frozen()[1]),
    ]
    for read in reads:
        assert "checksum mismatch" in failure_of(read)
    store.close()
    again = Store(tmp_path)
    assert "checksum" in again.set_aside and count(again) == 0
    again.close()


def test_only_the_latest_damaged_database_is_kept(tmp_path: Path) -> None:
    (tmp_path / "rocksdb.damaged-20200101T000000Z").mkdir(parents=True)
    write(tmp_path)
    DAMAGES["no CURRENT"](tmp_path)
    Store(tmp_path).close()
    (kept,) = tmp_path.glob("rocksdb.damaged-*")
    assert kept.name != "rocksdb.damaged-20200101T000000Z"


def test_what_may_be_mended_is_not_set_aside(tmp_path: Path) -> None:
    """A full disk, too many open files: the rows are sound, a person makes room."""
    write(tmp_path)
    (tmp_path / "rocksdb" / "LOCK").unlink()
    (tmp_path / "rocksdb" / "LOCK").mkdir()
    with pytest.raises(StoreError, match="RocksDB cannot be opened"):
        Store(tmp_path)
    assert not list(tmp_path.glob("rocksdb.damaged-*"))


# -- somebody else's ----------------------------------------------------------------------------------------------------------------
def test_a_newer_format_is_refused_with_advice(tmp_path: Path) -> None:
    write(tmp_path, format=FORMAT + 1)
    with pytest.raises(StoreError, match=f"data format {FORMAT + 1}.*Use the newer version that wrote it"):
        Store(tmp_path)
    assert (tmp_path / "rocksdb").exists(), "refused is not removed"


def test_format_1_is_read_and_counts_as_old(tmp_path: Path) -> None:
    write(tmp_path, format=1)
    store = Store(tmp_path)
    family, batch = store.family("stock", 0), store.batch()
    batch._batch.put(b"\x00meta", b'[7, 8, {"stock.changelog": 9}]', family.handle)
    store.write(batch)
    assert family.position() == Position(7, 8, {"stock.changelog": 9}, 0)
    assert json.loads((tmp_path / "orderflow.json").read_text())["format"] == FORMAT, "an older version must not read what is written now"
    store.close()


def test_an_identity_nobody_can_read_is_refused(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "orderflow.json").write_text("{")
    with pytest.raises(StoreError, match="cannot be read"):
        Store(tmp_path)
    (tmp_path / "orderflow.json").write_text('["no", "identity"]')
    with pytest.raises(StoreError, match="cannot be read"):
        Store(tmp_path)


@pytest.mark.parametrize(("cluster", "prefix", "means"), [("c2", "shop", "Kafka cluster c1"), ("c1", "other", "topic prefix shop")])
def test_another_systems_directory_is_refused(tmp_path: Path, cluster: str, prefix: str, means: str) -> None:
    store = Store(tmp_path)
    store.claim_place("c1", "shop")
    store.claim_place("c1", "shop")
    store.close()
    store = Store(tmp_path)
    with pytest.raises(StoreError, match=f"belongs to {means}.*ORDERFLOW_DATA"):
        store.claim_place(cluster, prefix)
    store.close()


def test_a_refused_directory_is_not_locked(tmp_path: Path) -> None:
    write(tmp_path, format=FORMAT + 1)
    for _ in range(2):
        with pytest.raises(StoreError, match="data format"):
            Store(tmp_path, lock_wait_s=0.1)


def test_what_this_version_writes_it_can_read() -> None:
    assert MetaRow(0, 0, "").min_reader <= ROWS_VERSION


# -- a copy -------------------------------------------------------------------------------------------------------------------------
def test_a_checkpoint_is_a_directory_for_another_worker(tmp_path: Path) -> None:
    write(tmp_path / "one")
    store = Store(tmp_path / "one")
    store.claim_place("c1", "shop")
    store.checkpoint(tmp_path / "two")
    batch = store.batch()
    batch.put(store.family("stock", 0), KEY, b"later")
    store.write(batch)
    with pytest.raises(StoreError, match="exists already"):
        store.checkpoint(tmp_path / "two")
    store.close()
    copy = Store(tmp_path / "two")
    assert copy.instance != "w1", "two workers must never share one"
    assert count(copy) == 2000 and copy.family("stock", 0).get(KEY) is None
    assert copy.family("stock", 0).position() == Position(7, 8, {"stock.changelog": 9}, 10)
    with pytest.raises(StoreError, match="belongs to"):
        copy.claim_place("c2", "shop")
    copy.close()


def test_a_frozen_partition_stays_as_it_was(tmp_path: Path) -> None:
    write(tmp_path, rows=3)
    store = Store(tmp_path)
    family = store.family("stock", 0)
    position, pairs = family.frozen()
    batch = store.batch()
    batch.delete(family, KEY + b"%06d" % 0)
    batch.position(family, Position(99))
    store.write(batch)
    assert len(list(pairs)) == 3 and position.source_offset == 7
    assert count(store) == 2 and family.position().source_offset == 99
    store.close()


def test_a_frozen_partition_without_a_position_has_all_its_rows(tmp_path: Path) -> None:
    store = Store(tmp_path)
    family, batch = store.family("stock", 0), store.batch()
    assert (family.frozen()[0], list(family.frozen()[1])) == (Position(), [])
    batch.change(family, {b"\x12a": b"1", b"\x12b": b"2"})
    store.write(batch)
    position, pairs = family.frozen()
    assert (position, list(pairs)) == (Position(), [(b"\x12a", b"1"), (b"\x12b", b"2")])
    store.close()


# -- memory -------------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("total_mb", [64, 512, 65_536])
def test_the_parts_of_the_memory_budget_are_the_whole(total_mb: int) -> None:
    memory = Memory(total_mb)
    parts = memory.write_buffers_bytes + memory.block_cache_bytes + memory.cached_rows * 512
    assert parts == total_mb << 20
    assert memory.write_buffer_bytes * 4 <= memory.write_buffers_bytes, "several partitions can fill theirs"
