"""Rows of a partition: staged, open, written; their index entries; what an abort forgets."""

from collections.abc import Iterator
from pathlib import Path
from random import Random

import msgspec
import pytest
from msgspec import Struct

from orderflow.tables.rocks import Batch, Position, Store, StoreError
from orderflow.tables.rows import Rows, Table
from orderflow.tables.timers import deadlines, next_due


class Note(Struct, frozen=True):
    text: str
    due_at: int | None = None
    rank: str | None = None


NOTES = Table(
    "note",
    2,
    "notes",
    msgspec.json.encode,
    msgspec.json.Decoder(Note).decode,
    due=lambda row: None if row.due_at is None else ("due", row.due_at),
    indexes={"rank": lambda key, row: row.rank},
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "data")
    yield store
    store.close()


@pytest.fixture
def rows(store: Store) -> Rows:
    return Rows(store.family("notes", 0), [NOTES])


def commit(store: Store, rows: Rows, position: Position = Position(1)) -> None:  # noqa: B008  (frozen)
    rows.accept()
    batch = Batch()
    rows.write(batch, position)
    store.write(batch)
    rows.written()


def test_a_staged_row_is_seen_by_its_own_command_only_until_it_is_dropped(rows: Rows) -> None:
    rows.put("note", "a", Note("first"))
    assert rows.get("note", "a") == Note("first")
    rows.drop()
    assert rows.get("note", "a") is None
    assert rows.changelog() == {}


def test_nothing_is_on_disk_before_write(store: Store, rows: Rows) -> None:
    rows.put("note", "a", Note("first"))
    rows.accept()
    assert rows.family.get(NOTES.prefix + b"a") is None
    commit(store, rows)
    assert rows.family.get(NOTES.prefix + b"a") is not None
    assert rows.family.position() == Position(1)


def test_an_abort_forgets_the_open_transaction_and_keeps_the_disk(store: Store, rows: Rows) -> None:
    rows.put("note", "a", Note("first", due_at=5))
    commit(store, rows)
    rows.put("note", "a", Note("second", due_at=9))
    rows.accept()
    rows.discard()
    assert rows.get("note", "a") == Note("first", due_at=5)
    assert next_due(rows.family) == 5


def test_the_changelog_holds_each_key_once_with_its_last_value(rows: Rows) -> None:
    for text in ("one", "two", "three"):
        rows.put("note", "a", Note(text))
        rows.accept()
    ((topic, ((key, value),)),) = rows.changelog().items()
    assert (topic, key, msgspec.json.decode(value or b"")["text"]) == ("notes", b"a", "three")


def test_the_due_index_follows_the_row(store: Store, rows: Rows) -> None:
    rows.put("note", "late", Note("x", due_at=300))
    rows.put("note", "soon", Note("x", due_at=100))
    commit(store, rows)
    assert [d.key for d in deadlines(rows.family, 1000, 10)] == ["soon", "late"]
    assert [d.key for d in deadlines(rows.family, 200, 10)] == ["soon"]
    rows.put("note", "soon", Note("x"))
    commit(store, rows)
    assert next_due(rows.family) == 300


def test_an_index_range_sees_disk_open_and_staged_rows_in_index_order(store: Store, rows: Rows) -> None:
    rows.put("note", "disk", Note("d", rank="g~2"))
    rows.put("note", "gone", Note("g", rank="g~1"))
    rows.put("note", "other", Note("o", rank="h~0"))
    commit(store, rows)
    rows.put("note", "gone", Note("g"))
    rows.put("note", "open", Note("o", rank="g~3"))
    rows.accept()
    rows.put("note", "staged", Note("s", rank="g~0"))
    assert [key for key, _ in rows.range("note", "g~", 10, "rank")] == ["staged", "disk", "open"]
    assert [key for key, _ in rows.range("note", "g~", 2, "rank")] == ["staged", "disk"]


def test_a_key_range_is_bounded_and_skips_deleted_rows(store: Store, rows: Rows) -> None:
    for key in ("a~1", "a~2", "a~3", "b~1"):
        rows.put("note", key, Note(key))
    commit(store, rows)
    rows.put("note", "a~1", None)
    rows.accept()
    assert [key for key, _ in rows.range("note", "a~", 10)] == ["a~2", "a~3"]
    assert [key for key, _ in rows.range("note", "a~", 1)] == ["a~2"]


def test_prefetch_remembers_that_a_row_does_not_exist(store: Store, rows: Rows) -> None:
    rows.put("note", "a", Note("here"))
    commit(store, rows)
    rows.prefetch([("note", "a"), ("note", "b")])
    assert rows.get("note", "a") == Note("here")
    assert rows.get("note", "b") is None
    rows.put("note", "b", Note("now"))
    assert rows.get("note", "b") == Note("now")


def test_rows_survive_a_restart_and_a_wiped_partition_is_empty(tmp_path: Path) -> None:
    store = Store(tmp_path / "d", instance="w1")
    rows = Rows(store.family("notes", 0), [NOTES])
    rows.put("note", "a", Note("kept"))
    commit(store, rows, Position(7, 8, {"notes": 9}))
    store.close()
    store = Store(tmp_path / "d")
    assert store.instance == "w1"
    assert Rows(store.family("notes", 0), [NOTES]).get("note", "a") == Note("kept")
    assert store.family("notes", 0).position() == Position(7, 8, {"notes": 9})
    assert store.wipe("notes", 0).get(NOTES.prefix + b"a") is None
    store.close()


def test_a_directory_in_use_is_refused_with_advice(tmp_path: Path) -> None:
    first = Store(tmp_path / "d")
    with pytest.raises(StoreError, match="another worker uses this data directory"):
        Store(tmp_path / "d", lock_wait_s=0.2)
    first.close()


def test_schema_ids_of_another_registry_are_refused(store: Store) -> None:
    store.claim_schemas({1: "aaa"})
    store.claim_schemas({1: "aaa", 2: "bbb"})
    with pytest.raises(StoreError, match="schema id 1 is another schema"):
        store.claim_schemas({1: "zzz"})


def test_a_topic_made_anew_wipes_its_partitions_only(store: Store) -> None:
    rows, kept = Rows(store.family("notes", 0), [NOTES]), Rows(store.family("kept", 0), [NOTES])
    rows.put("note", "a", Note("old life"))
    commit(store, rows)
    kept.put("note", "a", Note("kept"))
    commit(store, kept)
    owners = {"notes.changelog": ("notes", 1), "kept.changelog": ("kept", 1)}
    assert store.claim_topics({"notes.changelog": "id-1", "kept.changelog": "id-9"}, owners) == []
    assert store.claim_topics({"notes.changelog": "id-2", "kept.changelog": "id-9"}, owners) == ["notes.changelog"]
    assert store.family("notes", 0).get(NOTES.prefix + b"a") is None
    assert store.family("kept", 0).get(NOTES.prefix + b"a") is not None


@pytest.mark.parametrize("seed", range(20))
def test_ranges_show_what_a_plain_dictionary_would_whatever_was_staged_accepted_written_or_dropped(
    store: Store, rows: Rows, seed: int
) -> None:
    random = Random(seed)
    on_disk: dict[str, Note] = {}
    accepted: dict[str, Note] = {}
    for step in range(400):
        mine = dict(accepted)
        for _ in range(random.choice((1, 2, 60))):
            key = f"{random.choice('abc')}~{random.randrange(30):02}"
            if random.random() < 0.25:
                rows.put("note", key, None)
                mine.pop(key, None)
            else:
                mine[key] = Note(str(step), rank=f"{random.choice('gh')}~{random.randrange(9)}" if random.random() < 0.8 else None)
                rows.put("note", key, mine[key])
        if random.random() < 0.5:
            limit, prefix, ranked = random.choice((1, 3, 100)), random.choice(("a~", "b~", "")), random.choice(("g~", "h~"))
            assert rows.range("note", prefix, limit) == [(key, mine[key]) for key in sorted(mine) if key.startswith(prefix)][:limit]
            order = sorted((note.rank, key) for key, note in mine.items() if note.rank is not None and note.rank.startswith(ranked))
            assert rows.range("note", ranked, limit, "rank") == [(key, mine[key]) for _, key in order][:limit]
        end = random.random()
        if end < 0.1:
            rows.drop()
        elif end < 0.9:
            rows.accept()
            accepted = mine
        elif end < 0.95:
            commit(store, rows)
            on_disk = accepted = mine
        else:
            rows.discard()
            accepted = dict(on_disk)
