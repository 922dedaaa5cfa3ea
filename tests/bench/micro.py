"""The parts of an event's cost, one by one, as ratios to the calibration loop: a machine twice as slow gives the same ratio.

Each part runs several times between calibrations; the least CPU time (all threads, so that the work of librdkafka's and RocksDB's counts)
over the least of the calibration is its ratio: others on the machine change it little. They are compared with the stored ones of
docs/benchmarks/micro.json: a part that became more than 20 % dearer is a warning in the report, never a failure.
Every part's result is looked at in the run: what was encoded is decoded, what was written is read, what was decided is counted.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import contest
import j1
import plots
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from msgspec import Struct

from orderflow.cli import machine
from orderflow.schemas.codec import ENGINE
from orderflow.streams.batch import Batch, Output
from orderflow.streams.domain.parts import Holder
from orderflow.streams.domain.stock_records import ReceiveStock, ReserveStock
from orderflow.streams.partitions import Partition, Work
from orderflow.streams.transaction import Transaction
from orderflow.tables.rocks import Position, Store
from orderflow.tables.rows import Rows

sys.path.append(str(Path(__file__).resolve().parents[1] / "flow"))

WARN_SHARE = 0.2
BATCH = 2_000
PRODUCED = 10_000
SKUS = 500
FAR_US = 2_000_000_000_000_000
CALIBRATED_OPERATIONS = 1_000
"""A ratio is the time of so many operations over the time of the calibration loop."""
CALIBRATE_EVERY = 4
Say = Callable[[str], None]


class Part(Struct, frozen=True):
    """One thing that is timed. `ready` is called before each time and not timed; `check` after the last."""

    name: str
    operations: int
    run: Callable[[], object]
    ready: Callable[[], object] = lambda: None
    check: Callable[[], object] = lambda: None


def run(box: Any, directory: Path, *, rounds: int, say: Say) -> dict[str, Any]:
    """Time every part `rounds` times in turn; the document that is saved and shown."""
    with ExitStack() as opened:
        parts = list(_parts(box.bootstrap, directory, opened))
        best: dict[str, float] = {}
        calibrations = []
        with machine.on_core(contest.CONTESTANT_CORE):
            for number in range(1, rounds + 1):
                say(f"round {number} of {rounds}")
                for index, part in enumerate(parts):
                    if index % CALIBRATE_EVERY == 0:
                        calibrations.append(_cpu_s(machine.calibrate))
                    part.ready()
                    taken = _cpu_s(part.run)
                    best[part.name] = min(best.get(part.name, taken), taken)
        faults = dict(_faults(parts))
    calibration = min(calibrations)
    found = {
        part.name: {
            "us": round(best[part.name] / part.operations * 1e6, 3),
            "ratio": round(best[part.name] / part.operations * CALIBRATED_OPERATIONS / calibration, 5),
            "fault": faults.get(part.name, ""),
        }
        for part in parts
    }
    return {
        "job": "micro",
        "facts": {**contest.facts(), "codec": ENGINE},
        "rounds": rounds,
        "calibration_s": round(calibration, 4),
        "parts": found,
    }


def _cpu_s(function: Callable[[], object]) -> float:
    began = time.process_time()
    function()
    return time.process_time() - began


def _faults(parts: list[Part]) -> Iterator[tuple[str, str]]:
    for part in parts:
        try:
            part.check()
        except AssertionError as error:
            yield part.name, str(error) or "the result is wrong"


def _parts(bootstrap: str, directory: Path, opened: ExitStack) -> Iterator[Part]:
    place = Path(opened.enter_context(tempfile.TemporaryDirectory(dir=directory, prefix="micro-")))
    yield from _codec_parts()
    yield from _row_parts(place, opened)
    yield from _rocks_parts(place, opened)
    yield _produce_part(bootstrap, opened)
    yield _j1_part(place, opened)
    yield _stock_part(place, opened)


# -- codec --------------------------------------------------------------------------------------------------------------------------
def _codec_parts() -> Iterator[Part]:
    values = list(j1.commands(BATCH))
    encoded = [j1.COMMAND.encode(value) for value in values]
    encode, decode = j1.COMMAND.encode, j1.COMMAND.decode

    def equal() -> None:
        assert [decode(each) for each in encoded] == values, "what was encoded is not what is decoded"

    yield Part("codec: encode", BATCH, lambda: [encode(value) for value in values], check=equal)
    yield Part("codec: decode", BATCH, lambda: [decode(each) for each in encoded])


# -- rows ---------------------------------------------------------------------------------------------------------------------------
def _row_parts(place: Path, opened: ExitStack) -> Iterator[Part]:
    store = Store(place / "rows")
    opened.callback(store.close)
    rows = Rows(store.family("j1", 0), j1.job_log("micro").tables)
    keys = [f"SKU-{number:06d}|WH-{number % 20:02d}" for number in range(BATCH)]
    turn = iter(range(1, 1 << 30))

    def change() -> None:
        version = next(turn)
        put, accept = rows.put, rows.accept
        for key in keys:
            put("stock", key, j1.StockRow(1000, version, version))
            accept()

    def written() -> None:
        batch = store.batch()
        rows.write(batch, Position(1, 1))
        store.write(batch)
        rows.written()

    def settled() -> None:
        rows.changelog()
        written()

    def read_back() -> None:
        last = rows.get("stock", keys[0])
        fresh = Rows(store.family("j1", 0), j1.job_log("micro").tables)
        fresh.prefetch([("stock", key) for key in keys])
        assert last is not None and all(fresh.get("stock", key) == last for key in keys), "the rows on disk are not those written"

    def filled() -> None:
        change()
        rows.changelog()

    change()
    settled()
    yield Part("rows: put and accept", BATCH, change, ready=settled)
    yield Part("rows: get, cached", BATCH, lambda: [rows.get("stock", key) for key in keys])
    yield Part("rows: changelog", BATCH, rows.changelog, ready=change)
    yield Part("rows: write after the commit", BATCH, written, ready=filled, check=read_back)


def _rocks_parts(place: Path, opened: ExitStack) -> Iterator[Part]:
    store = Store(place / "rocks")
    opened.callback(store.close)
    family = store.family("micro", 0)
    keys = [b"\x12" + f"{number * 7919 % 1_000_003:08d}".encode() for number in range(100_000)]
    value = j1.DECIDED.encode(j1.Decided("c" * 32, "O0000000001", "SKU-000001", "WH-01", 1, True, 999, 1, j1.BASE_US))
    batch = store.batch()
    for key in keys:
        batch.put(family, key, value)
    store.write(batch)
    some = keys[:: len(keys) // BATCH][:BATCH]

    def write() -> None:
        batch = store.batch()
        for key in some:
            batch.put(family, key, value)
        store.write(batch)

    def all_there() -> None:
        assert family.multi_get(some) == [value] * BATCH, "RocksDB does not have what was written"

    yield Part("rocksdb: write batch", BATCH, write)
    yield Part("rocksdb: multi get", BATCH, lambda: family.multi_get(some), check=all_there)


# -- kafka --------------------------------------------------------------------------------------------------------------------------
def _produce_part(bootstrap: str, opened: ExitStack) -> Part:
    """Through the worker's own transaction to the real broker, the commit included."""
    topic = "micro.out"
    admin = AdminClient({"bootstrap.servers": bootstrap})
    (made,) = admin.create_topics([NewTopic(topic, j1.PARTITIONS, 1)]).values()
    made.result()
    transaction = Transaction({"bootstrap.servers": bootstrap}, "micro-worker", 10_000)
    transaction.start()
    group = Consumer({"bootstrap.servers": bootstrap, "group.id": "micro"})
    opened.callback(group.close)
    value = b"v" * 140
    outputs = [Output(topic, f"O{number:010d}".encode(), value) for number in range(PRODUCED)]
    done = []

    def produce() -> None:
        transaction.begin()
        transaction.send_all(outputs)
        transaction.commit([TopicPartition(topic, 0, 0)], group.consumer_group_metadata())
        done.append(PRODUCED)

    def all_there() -> None:
        seen = sum(1 for _ in j1.read_all(bootstrap, topic))
        assert seen == sum(done), f"{sum(done)} records produced, {seen} on the topic"

    return Part("kafka: produce and commit", PRODUCED, produce, check=all_there)


# -- turns --------------------------------------------------------------------------------------------------------------------------
class Message(Struct, frozen=True):
    """A record as a log hands it over, as far as J1 looks at it."""

    of_value: bytes

    def value(self) -> bytes:
        return self.of_value


def _j1_part(place: Path, opened: ExitStack) -> Part:
    """J1's whole business on a batch, without Kafka and without the write."""
    store = Store(place / "j1")
    opened.callback(store.close)
    partition = Partition(j1.job_log("micro"), 0, store.family("j1", 0), 1)
    records = [Message(j1.COMMAND.encode(command)) for command in j1.commands(BATCH)]
    last: list[Any] = []

    def turn() -> None:
        work = Work(partition, Batch(0, records, partition.rows, 0), BATCH)  # type: ignore[arg-type]
        j1.decide(work, "out", j1.ON_HAND["plenty"])
        last[:] = [work.result]

    def all_answered() -> None:
        assert len(last[0].outputs) == BATCH, "a command has no answer"

    return Part("turn: J1", BATCH, turn, ready=partition.rows.discard, check=all_answered)


def _stock_part(place: Path, opened: ExitStack) -> Part:
    """The product's own reservation: the stock Processor with its real schemas, envelope, rules, events, status and reply."""
    from flow_harness import Flow

    flow = Flow(place)
    opened.callback(flow.store.close)
    for number in range(SKUS):
        flow.send("stock", f"SKU-{number}", ReceiveStock("main", 1_000_000, reference="micro"), f"r-{number}")
    flow.run()
    for number in range(BATCH):
        sku, order = f"SKU-{number % SKUS}", f"o-{number}"
        flow.send("stock", sku, ReserveStock(f"{sku}~{order}~1", Holder(order, 1), 1, FAR_US), f"c-{number}")
    records, rows, processor = list(flow.waiting["stock"]), flow.rows["stock"], flow.processors["stock"]
    last: list[Any] = []

    def turn() -> None:
        last[:] = [processor.run(Batch(0, records, rows, flow.turn_time["stock"]))]

    def all_decided() -> None:
        counts = last[0].counts
        parked = sum(count for (kind, _), count in counts.items() if kind == "parked")
        assert parked == 0 and len(last[0].outputs) >= 2 * BATCH, f"not every command was decided: {dict(counts)}"

    return Part("turn: stock Processor", BATCH, turn, ready=rows.discard, check=all_decided)


# -- comparing ----------------------------------------------------------------------------------------------------------------------
HEAD = ("part", "µs", "ratio", "stored", "change", "")


def stored(file: Path) -> dict[str, float]:
    """The ratios of an earlier run; empty when there are none."""
    if not file.is_file():
        return {}
    return {name: part["ratio"] for name, part in json.loads(file.read_text())["parts"].items()}


def rows(document: dict[str, Any], before: dict[str, float]) -> Iterator[tuple[Any, ...]]:
    """One line per part, beside its stored ratio."""
    for name, part in document["parts"].items():
        was = before.get(name)
        change = part["ratio"] / was - 1 if was else None
        said = part["fault"] or ("dearer" if change is not None and change > WARN_SHARE else "")
        yield name, part["us"], part["ratio"], was or "", "" if change is None else f"{change:+.0%}", said


def table(document: dict[str, Any]) -> str:
    """The Markdown of docs/benchmarks-system.md."""
    facts = document["facts"]
    lines = [[name, str(part["us"]), str(part["ratio"])] for name, part in document["parts"].items()]
    where = f"{facts['cpu']}, Linux {facts['kernel']}, CPython {facts['python']}, {facts['codec']} codec, {facts['at'][:10]}."
    return f"{plots.markdown(('part', 'µs', 'ratio'), lines)}\n\nThe calibration loop took {document['calibration_s']} s. {where}"


def charts(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """None: the table says it."""
    yield from ()


def warnings(document: dict[str, Any], before: dict[str, float]) -> list[str]:
    """Parts that became more than 20 % dearer."""
    return [
        f"{name}: ratio {part['ratio']} was {before[name]} ({part['ratio'] / before[name] - 1:+.0%})"
        for name, part in document["parts"].items()
        if before.get(name) and part["ratio"] > before[name] * (1 + WARN_SHARE)
    ]
