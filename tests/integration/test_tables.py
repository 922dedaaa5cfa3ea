"""`orderflow tables` on a real system, and directories that a worker meets at its start: damaged, old, somebody's copy, another version's.

One system for all of it: every test leaves it sound, and shows so with `tables verify`.
"""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from integration_harness import PATIENCE_S, Rig, _page, metric, started, until

from orderflow.cli import owners
from orderflow.cli.main import main
from orderflow.connectors.box.box import Servers
from orderflow.connectors.box.ports import free_port
from orderflow.streams.wire import MetaRow
from orderflow.tables.rocks import META_KEY, Position, Store

pytestmark = pytest.mark.box

SKUS = ("TAB-A", "TAB-B", "TAB-C", "TAB-D")
LATER = "TAB-B"
"""The sku that is received after a checkpoint."""
ORDERS = 24
SPACES = ("orders", "stock", "catalog", "references")
STOCK_PREFIX = b"\x12"
"""Of the rows of table number 2 of the stock space."""


@pytest.fixture(scope="module")
def rig(box: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """A system with orders in it."""
    with started(box, tmp_path_factory.mktemp("tables"), "tables") as made:
        asyncio.run(fill(made))
        made.quiet_ends()
        yield made


async def fill(rig: Rig, word: str = "first") -> None:
    for sku in SKUS:
        await rig.receive(sku, 50)
    bodies = [{"items": [{"sku": SKUS[n % 4], "qty": 1}, {"sku": SKUS[(n + 1) % 4], "qty": 1}]} for n in range(ORDERS)]
    answers = await asyncio.gather(*(rig.post("/api/v1/orders", body, key=f"{word}-{n}") for n, body in enumerate(bodies)))
    for answer in answers:
        assert answer.status in (201, 202), answer
        await rig.decided(answer.json["order_id"])


def environment_of_cli(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that commands look at this system."""
    monkeypatch.setenv("ORDERFLOW_PREFIX", rig.names.prefix)


def run_tables(rig: Rig, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any]:
    """`orderflow tables ...`: exit code and JSON."""
    capsys.readouterr()
    where = ("--bootstrap", rig.bootstrap, "--registry", rig.system.servers.registry_url)
    with pytest.raises(SystemExit) as ended:
        main(["tables", *arguments, *where, "--json"])
    code = ended.value.code
    assert isinstance(code, int | None)
    return code or 0, json.loads(capsys.readouterr().out)


def tables_of(rig: Rig, capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    code, found = run_tables(rig, capsys, *arguments)
    assert code == 0, found
    return found


@pytest.fixture
def tables(rig: Rig, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> "Run":
    """Run `orderflow tables ...` for this system."""
    environment_of_cli(rig, monkeypatch)
    return lambda *arguments: run_tables(rig, capsys, *arguments)


Run = Callable[..., tuple[int, Any]]


def directory(rig: Rig) -> Path:
    """Of the worker."""
    return rig.system.data / "worker-1"


def state(rig: Rig) -> dict[str, Any]:
    found = owners.ask(rig.system.state.workers[0].url, "/state")
    assert isinstance(found, dict)
    return found


def is_sound(tables: Run) -> None:
    code, compared = tables("verify")
    assert (code, [each["faults"] for each in compared if each["faults"]]) == (0, [])
    assert sum(each["rows"] for each in compared) > ORDERS * 4 and sum(each["events"] for each in compared) > ORDERS * 4


# -- a running system ---------------------------------------------------------------------------------------------------------------
def test_every_partition_is_listed_with_its_owner(rig: Rig, tables: Run) -> None:
    code, listed = tables("list")
    assert code == 0 and [(each["space"], each["partition"]) for each in listed] == [(space, n) for space in SPACES for n in range(4)]
    assert {each["owner"] for each in listed} == {rig.system.state.workers[0].url}
    assert all(each["state"] == "running" and each["caught_up"] for each in listed)
    assert sum(each["keys_about"] for each in listed) > ORDERS
    assert len(tables("list", "--space", "stock")[1]) == 4
    assert tables("list", "--space", "nothing")[0] == 2


def test_a_digest_changes_with_the_rows_only(rig: Rig, tables: Run) -> None:
    code, before = tables("digest")
    assert code == 0 and len(before) == 4 * len(SPACES)
    assert tables("digest")[1] == before
    assert {each["digest"] for each in tables("list")[1]} == {each["digest"] for each in before}, "known while nothing happens"
    asyncio.run(rig.receive("TAB-A", 1))
    rig.quiet_ends()
    after = tables("digest", "--space", "stock")[1]
    changed = [(one["partition"]) for one, other in zip([b for b in before if b["space"] == "stock"], after, strict=True) if one != other]
    assert len(changed) == 1
    assert tables("digest", "--space", "stock", "--partition", str(changed[0]))[1] == [after[changed[0]]]
    assert tables("digest", "--partition", "4")[0] == 2


def test_owner_changelogs_and_events_say_the_same(rig: Rig, tables: Run) -> None:
    is_sound(tables)


def test_they_can_be_compared_while_the_system_works(rig: Rig, tables: Run) -> None:
    async def work() -> None:
        for number in range(3):
            await fill(rig, f"busy-{number}")

    import threading

    thread = threading.Thread(target=lambda: asyncio.run(work()))
    thread.start()
    try:
        is_sound(tables)
    finally:
        thread.join()
    rig.quiet_ends()


# -- rows that are wrong ------------------------------------------------------------------------------------------------------------
def damaged_row(path: Path) -> tuple[int, bytes, bytes]:
    """Change the row of a sku on disk: (partition, key, the row as it was)."""
    store = Store(path)
    try:
        for number in range(4):
            family = store.family("stock", number)
            for key, value in list(family.scan(STOCK_PREFIX)):
                if key[1:].decode() == LATER:
                    continue  # its next record heals it
                batch = store.batch()
                batch.put(family, key, value[:-1] + bytes((value[-1] ^ 2,)))
                store.write(batch)
                return number, key, value
    finally:
        store.close()
    raise AssertionError("there is no row")


def test_a_row_that_was_damaged_on_disk_is_named(rig: Rig, tables: Run) -> None:
    with rig.worker_down():
        number, key, value = damaged_row(directory(rig))
    code, compared = tables("verify", "--space", "stock")
    assert code == 1
    (faults,) = [each["faults"] for each in compared if each["faults"]]
    assert [(fault["partition"], fault["table"], fault["key"]) for fault in faults] == [(number, "stock", key[1:].decode())]
    assert faults[0]["what"] == "the owner's row is not the one in its changelog"
    with rig.worker_down():
        store = Store(directory(rig))
        batch = store.batch()
        batch.put(store.family("stock", number), key, value)
        store.write(batch)
        store.close()
    is_sound(tables)


def test_a_damaged_database_is_set_aside_and_everything_is_restored(rig: Rig, tables: Run) -> None:
    before = {(each["space"], each["partition"]): each["digest"] for each in tables("digest")[1]}
    with rig.worker_down():
        (directory(rig) / "rocksdb" / "CURRENT").write_text("MANIFEST-999999\n")
    assert "MANIFEST-999999" in state(rig)["set_aside"]
    assert {(each["space"], each["partition"]): each["digest"] for each in tables("digest")[1]} == before
    assert metric(rig.system.state.workers[0].url, "orderflow_restored_records_total") > ORDERS
    is_sound(tables)


def test_a_current_directory_restores_nothing(rig: Rig, tables: Run) -> None:
    with rig.worker_down(signal.SIGTERM):
        pass
    assert metric(rig.system.state.workers[0].url, "orderflow_restored_records_total") == 0
    is_sound(tables)


# -- another worker with a copy -----------------------------------------------------------------------------------------------------
@contextmanager
def another_worker(rig: Rig, data: Path) -> Iterator[str]:
    """A worker of the same system in this directory, while the first is down. Its URL, once it owns every partition."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with (data.parent / f"{data.name}.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "orderflow.cli", "worker"], env=environment(rig, data, port), stdout=log, stderr=log
        )
        try:
            until(
                lambda: len((_page(f"{url}/state") or {}).get("partitions", ())) == 4 * len(SPACES) and _page(f"{url}/health/ready"),
                "it has taken over",
            )
            yield url
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(PATIENCE_S)


def environment(rig: Rig, data: Path, port: int) -> dict[str, str]:
    own = {
        "BOOTSTRAP": rig.bootstrap,
        "REGISTRY": rig.system.servers.registry_url,
        "PREFIX": rig.names.prefix,
        "GROUP": rig.names.prefix,
        "DATA": str(data),
        "WORKER_PORT": str(port),
    }
    return {**os.environ, **{f"ORDERFLOW_{name}": value for name, value in own.items()}}


@pytest.fixture
def checkpoint(rig: Rig, tables: Run, tmp_path: Path) -> Path:
    """A copy of the worker's directory, and a little that happened after it."""
    copy = tmp_path / "copy"
    code, made = tables("checkpoint", str(copy))
    assert (code, made["directory"]) == (0, str(copy))
    assert tables("checkpoint", str(copy))[0] == 1, "never into one that exists"
    asyncio.run(rig.receive(LATER, 1))
    rig.quiet_ends()
    return copy


def test_a_checkpoint_is_not_made_for_a_page_in_a_browser(rig: Rig) -> None:
    worker = rig.system.state.workers[0].url
    page = urllib.request.Request(f"{worker}/state/checkpoints/stolen", method="POST", headers={"Origin": "https://shop.example"})
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(page)
    assert refused.value.code == 403
    assert not list(rig.system.data.rglob("stolen"))


def test_a_worker_starts_from_a_checkpoint_and_reads_only_what_came_after(rig: Rig, tables: Run, checkpoint: Path) -> None:
    with rig.worker_down(signal.SIGTERM), another_worker(rig, checkpoint) as url:
        records = metric(url, "orderflow_restored_records_total")
        assert 0 < records < ORDERS, "there are many times more records in the changelogs"
        assert metric(url, "orderflow_state_wiped_total") == 0
        is_sound(tables)
    is_sound(tables)


def test_rows_that_are_not_what_the_last_owner_had_are_found_at_the_hand_over(rig: Rig, tables: Run, checkpoint: Path) -> None:
    before = {(each["space"], each["partition"]): each["digest"] for each in tables("digest")[1]}
    number, _, _ = damaged_row(checkpoint)
    with rig.worker_down(signal.SIGTERM), another_worker(rig, checkpoint) as url:
        assert metric(url, "orderflow_state_wiped_total") == 1
        log = (checkpoint.parent / "copy.log").read_text()
        assert "its digest is another one" in log and f"partition={number}" in re.sub(r"\x1b\[[0-9;]*m", "", log)
        assert {(each["space"], each["partition"]): each["digest"] for each in tables("digest")[1]} == before
    is_sound(tables)


def test_a_copy_that_is_older_than_the_changelogs_remember_deletes_is_wiped(rig: Rig, tables: Run, checkpoint: Path) -> None:
    store = Store(checkpoint)
    eight_days_ago = time.time_ns() // 1000 - 8 * 86_400 * 1_000_000
    for space in SPACES:
        for number in range(4):
            family, batch = store.family(space, number), store.batch()
            position = family.position()
            batch.put(family, META_KEY, Position(position.source_offset, position.turn_time, position.changelogs, eight_days_ago).pack())
            store.write(batch)
    store.close()
    with rig.worker_down(signal.SIGTERM), another_worker(rig, checkpoint) as url:
        assert 0 < metric(url, "orderflow_state_wiped_total") < 4 * len(SPACES), "only where there is a tail that may lack deletes"
        is_sound(tables)
    is_sound(tables)


@pytest.mark.parametrize(
    ("digest", "min_reader", "words"),
    [(0, 2, "was written by a newer version"), (12345, 1, "also rows read from the changelogs alone are not what the last owner")],
    ids=["a newer version", "another digest than the changelogs give"],
)
def test_a_partition_is_refused_when_its_last_owner_says_so(
    rig: Rig, tables: Run, tmp_path: Path, digest: int, min_reader: int, words: str
) -> None:
    mine = rig.records.meta("catalog")
    with rig.worker_down(signal.SIGTERM):
        messages = [each for each in rig.read(rig.names.meta_topic("catalog")) if each.partition() == 0]
        last = mine.decode(messages[-1].value())
        try:
            tell(rig, mine.encode(MetaRow(last.source_offset, last.turn_time, last.transactional_id, digest, min_reader)))
            code, said = refusal(rig, tmp_path / "other")
        finally:
            tell(rig, mine.encode(MetaRow(last.source_offset, last.turn_time, last.transactional_id)))
        assert code == 78 and words in said
    is_sound(tables)


def tell(rig: Rig, value: bytes) -> None:
    """Append a meta record of catalog[0]."""
    producer = Producer({"bootstrap.servers": rig.bootstrap})
    producer.produce(rig.names.meta_topic("catalog"), value, b"catalog:0", 0)
    assert producer.flush(PATIENCE_S) == 0


def test_a_directory_of_another_system_is_refused(rig: Rig, box: Servers, tmp_path: Path, checkpoint: Path) -> None:
    file = checkpoint / "orderflow.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "cluster": "another-cluster"}))
    code, said = refusal(rig, checkpoint)
    assert code == 78 and "belongs to Kafka cluster another-cluster" in said


def refusal(rig: Rig, data: Path) -> tuple[int, str]:
    """Exit code of a worker that does not start in this directory, and all it said."""
    command = [sys.executable, "-m", "orderflow.cli", "worker", "--once"]
    done = subprocess.run(command, env=environment(rig, data, free_port()), capture_output=True, text=True, timeout=PATIENCE_S)
    return done.returncode, done.stdout + done.stderr
