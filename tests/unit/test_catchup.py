"""One partition on its way to the end of its changelogs: what is built upon, what reaches the disk, what is refused. No Kafka needed."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from orderflow.tables.catchup import AHEAD, DELETES_KEPT_US, ROWS_VERSION, STALE, Job, Meta, NewerRows, Wanted
from orderflow.tables.digest import digest, rows_of
from orderflow.tables.rocks import Position, Store
from orderflow.tables.rows import Table
from orderflow.tables.timers import next_due

HOUR_US = 3600 * 1_000_000
NOW = 1_900_000_000_000_000
NOTES = Table("note", 2, "notes", bytes, bytes, due=lambda row: ("due", int(row)))


def read_meta(data: bytes) -> Meta:
    offset, digest_, version = map(int, data.split())
    return Meta(offset, 7, "owner", digest_, version)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path)
    yield store
    store.close()


def job_of(store: Store) -> Job:
    return Job(Wanted("stock", 0, 1, "commands", (NOTES,), "meta", read_meta), store.family("stock", 0))


def ends(notes: int, meta: int) -> dict[tuple[str, int], int]:
    return {("notes", 0): notes, ("meta", 0): meta}


def on_disk(store: Store, position: Position) -> None:
    batch = store.batch()
    batch.position(store.family("stock", 0), position)
    store.write(batch)


def write_rows(store: Store, meta: bytes = b"9 0 1") -> Job:
    """Read two rows and a meta record to their ends, and write them."""
    job = job_of(store)
    assert job.plan(ends(2, 1), NOW) == ""
    job.take("notes", b"a", b"100", 0)
    job.take("notes", b"b", b"50", 1)
    job.take("meta", b"stock:0", meta, 0)
    job.reached("notes", 2)
    job.reached("meta", 1)
    job.write(store, NOW)
    return job


# -- what is built upon -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("age_us", "end", "verdict"),
    [
        (0, 9, ""),
        (DELETES_KEPT_US - 2 * HOUR_US, 9, ""),
        (DELETES_KEPT_US - HOUR_US // 2, 9, STALE),
        (30 * 24 * HOUR_US, 9, STALE),
        (30 * 24 * HOUR_US, 5, ""),
        (NOW, 9, STALE),
        (-2 * HOUR_US, 9, STALE),
        (0, 4, AHEAD),
    ],
    ids=["fresh", "in time", "an hour before", "a month", "a month, no news", "never said when", "from the future", "ahead of the log"],
)
def test_rows_are_built_upon_while_the_changelogs_remember_every_delete(store: Store, age_us: int, end: int, verdict: str) -> None:
    on_disk(store, Position(3, 4, {"notes": 5, "meta": 6}, NOW - age_us))
    assert job_of(store).plan(ends(end, 6), NOW) == verdict


def test_an_empty_partition_is_never_old(store: Store) -> None:
    assert job_of(store).plan(ends(9, 9), NOW) == ""


# -- what reaches the disk ----------------------------------------------------------------------------------------------------------
def test_rows_deadlines_and_position_are_written_together(store: Store) -> None:
    write_rows(store)
    family = store.family("stock", 0)
    assert family.position() == Position(9, 7, {"notes": 2, "meta": 1}, NOW)
    assert next_due(family) == 50 and family.get(NOTES.prefix + b"a") == b"100"
    job = job_of(store)
    job.plan(ends(4, 1), NOW)
    job.take("notes", b"b", None, 2)
    job.take("notes", b"a", b"70", 3)
    job.write(store, NOW)
    assert next_due(family) == 70 and family.get(NOTES.prefix + b"b") is None


def test_an_interrupted_restore_sees_the_last_meta_record_again(store: Store) -> None:
    job = job_of(store)
    job.plan(ends(2, 1), NOW)
    job.take("meta", b"stock:0", b"9 12345 1", 0)
    job.reached("meta", 1)
    job.take("notes", b"a", b"100", 0)
    job.write(store, NOW)
    again = job_of(store)
    again.plan(ends(2, 1), NOW)
    assert (again.start("notes"), again.start("meta")) == (1, 0)


# -- what the last owner said -------------------------------------------------------------------------------------------------------
def test_rows_are_compared_with_the_digest_of_the_last_owner(store: Store) -> None:
    assert write_rows(store).as_published(), "it did not say"
    found = digest(rows_of(store.family("stock", 0), (NOTES,)))
    assert found is not None
    for value, same in ((found.value, True), (found.value + 1, False)):
        job = job_of(store)
        job.plan(ends(2, 2), NOW)
        job.take("meta", b"stock:0", b"9 %d 1" % value, 1)
        job.reached("meta", 2)
        job.reached("notes", 2)
        job.write(store, NOW)
        assert job.as_published() is same
        restarted = job_of(store)
        restarted.plan(ends(2, 2), NOW)
        assert restarted.as_published() is same, "also after a restart that reads nothing"


def test_only_the_last_meta_record_says_who_may_read(store: Store) -> None:
    newer = b"9 0 %d" % (ROWS_VERSION + 1)
    with pytest.raises(NewerRows, match=f"a reader of version {ROWS_VERSION + 1}.*Start the newer version"):
        write_rows(store, newer)
    assert store.family("stock", 0).position() == Position(), "nothing was written of it"
    job = job_of(store)
    job.plan(ends(0, 2), NOW)
    job.take("meta", b"stock:0", newer, 0)
    job.take("meta", b"stock:0", b"9 0 %d" % ROWS_VERSION, 1)
    job.reached("meta", 2)
