"""J1, the job every contestant must do: reserve stock exactly once, as fast as one core can.

Per record: a known command gets its first answer again; else read the stock row, reserve if available, write the stock row and the
reservation row (RocksDB tables with changelogs), emit ReservationDecided keyed by order_id. One transaction per 100 ms. Only the
product's Faust worker, engine, tables, transaction and codec; the schemas are J1's own (shared with the peers).
"""

import json
import os
import random
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from msgspec import Struct

from orderflow.schemas.codec import compile_record
from orderflow.streams.batch import Output, Result
from orderflow.streams.engine import Engine
from orderflow.streams.partitions import EngineSettings, Log, Work
from orderflow.streams.shell import build_app, run_app
from orderflow.streams.wire import MetaRow
from orderflow.tables.rocks import Store
from orderflow.tables.rows import Table

SKUS = 100_000
REPEATS = 0.02
SEED = 20260401
ON_HAND = {"plenty": 1000, "scarce": 14}
"""Units per SKU. `plenty` never refuses; `scarce` refuses about 30 % of the reservations."""
PARTITIONS = 4
BASE_US = 1_775_000_000_000_000
TOPICS = ("commands", "out", "stock", "reservation", "meta")

Pick = Callable[[random.Random], int]
"""Which SKU the next command asks for."""


class ReserveStock(Struct, frozen=True):
    command_id: str
    order_id: str
    line_id: int
    sku: str
    location_id: str
    quantity: int
    customer_id: str
    requested_at: int
    expires_at: int
    source: str


class StockRow(Struct, frozen=True):
    on_hand: int
    reserved: int
    version: int


class Decided(Struct, frozen=True):
    """The answer, and the reservation row: a repeat gets exactly the first answer."""

    command_id: str
    order_id: str
    sku: str
    location_id: str
    quantity: int
    reserved: bool
    available_after: int
    version: int
    decided_at: int


def _schema(record: type[Struct]) -> dict[str, Any]:
    kinds = {str: "string", int: "long", bool: "boolean"}
    fields = [{"name": name, "type": kinds[kind]} for name, kind in record.__annotations__.items()]
    return {"type": "record", "name": record.__name__, "namespace": "j1", "fields": fields}


def _codec(record: type[Struct], number: int) -> Any:
    return compile_record(_schema(record), {f"j1.{record.__name__}": record}, header=b"\0" + number.to_bytes(4, "big"))


COMMAND, STOCK, DECIDED, META = _codec(ReserveStock, 1), _codec(StockRow, 2), _codec(Decided, 3), _codec(MetaRow, 4)


# -- input --------------------------------------------------------------------------------------------------------------------------
def uniform(choose: random.Random) -> int:
    """Every SKU as often as every other."""
    return choose.randrange(SKUS)


def commands(count: int, pick: Pick = uniform) -> Iterator[ReserveStock]:
    """The recorded input: `count` commands, 2 % of them repeats of one of the SKU's partition's recent ones."""
    choose = random.Random(SEED)  # noqa: S311  (a fixed seed is the point)
    recent: list[ReserveStock] = []
    for number in range(count):
        if recent and choose.random() < REPEATS:
            yield choose.choice(recent)
            continue
        sku = pick(choose)
        at = BASE_US + number * 100
        command = ReserveStock(
            f"{choose.getrandbits(128):032x}",
            f"O{number:010d}",
            number % 5 + 1,
            f"SKU-{sku:06d}",
            f"WH-{sku % 20:02d}",
            choose.randint(1, 3),
            f"C{choose.randrange(10_000_000):08d}",
            at,
            at + 900_000_000,
            "web",
        )
        if len(recent) < 1000:
            recent.append(command)
        else:
            recent[number % 1000] = command
        yield command


def make_topics(bootstrap: str, prefix: str, partitions: int = PARTITIONS) -> None:
    """The topics of one run."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    compact = {"cleanup.policy": "compact"}
    topics = [NewTopic(f"{prefix}.{name}", partitions, 1, config={} if name in ("commands", "out") else compact) for name in TOPICS]
    for future in admin.create_topics(topics).values():
        future.result()


def prepare(bootstrap: str, prefix: str, count: int, partitions: int = PARTITIONS, pick: Pick = uniform) -> None:
    """Make the topics and write the input once."""
    make_topics(bootstrap, prefix, partitions)
    producer = Producer({"bootstrap.servers": bootstrap, "partitioner": "murmur2_random", "linger.ms": 20, "batch.size": 1 << 18})
    for command in commands(count, pick):
        while True:
            try:
                producer.produce(f"{prefix}.commands", COMMAND.encode(command), command.sku.encode())
                break
            except BufferError:
                producer.poll(0.05)
    producer.flush()


# -- the job ------------------------------------------------------------------------------------------------------------------------
def decide(work: Work, out: str, on_hand: int) -> None:
    """One batch: the whole of J1's business."""
    batch = work.batch
    rows = batch.rows
    decode, encode = COMMAND.decode, DECIDED.encode
    asked = [decode(record.value()) for record in batch.records]
    at = time.time_ns() // 1000
    rows.prefetch([("reservation", command.command_id) for command in asked])
    rows.prefetch([("stock", f"{command.sku}|{command.location_id}") for command in asked])
    outputs = []
    for command in asked:
        decided = rows.get("reservation", command.command_id)
        if decided is None:
            key = f"{command.sku}|{command.location_id}"
            row = rows.get("stock", key) or StockRow(on_hand, 0, 0)
            reserved = row.on_hand - row.reserved >= command.quantity
            if reserved:
                row = StockRow(row.on_hand, row.reserved + command.quantity, row.version + 1)
                rows.put("stock", key, row)
            decided = Decided(
                command.command_id,
                command.order_id,
                command.sku,
                command.location_id,
                command.quantity,
                reserved,
                row.on_hand - row.reserved,
                row.version,
                at,
            )
            rows.put("reservation", command.command_id, decided)
            rows.accept()
        outputs.append(Output(out, decided.order_id.encode(), encode(decided)))
    work.result = Result(outputs, at, {})


def job_log(prefix: str) -> Log:
    tables = (
        Table("stock", 2, f"{prefix}.stock", STOCK.encode, STOCK.decode),
        Table("reservation", 3, f"{prefix}.reservation", DECIDED.encode, DECIDED.decode),
    )
    return Log("j1", f"{prefix}.commands", tables, f"{prefix}.meta", META.encode, META.decode)


def work(bootstrap: str, prefix: str, data: str, count: int, warm: int, on_hand: int, port: int) -> None:
    """Run the worker until the input is consumed; print the figures of what came after the warm-up as JSON and exit."""
    store = Store(Path(data))
    engine = Engine(EngineSettings(bootstrap, prefix, store.instance), [job_log(prefix)], store)
    out = f"{prefix}.out"
    app = build_app(engine, lambda batch: decide(batch, out, on_hand), group=prefix, data=Path(data), host="127.0.0.1", port=port)
    marks: list[tuple[float, float, int, float, float]] = []

    def committed(records: int, commit_s: float, write_s: float) -> None:
        if not marks and engine.records < warm:
            return
        usage = resource.getrusage(resource.RUSAGE_SELF)
        mark = (time.monotonic(), usage.ru_utime + usage.ru_stime, engine.records, engine.commit_s, engine.write_s)
        marks[1:] = [mark]
        if len(marks) < 2:
            return
        if engine.records >= count:
            (t0, cpu0, n0, c0, w0), (t1, cpu1, n1, c1, w1) = marks
            done = n1 - n0
            figures = {
                "events": done,
                "events_per_s": round(done / (t1 - t0)),
                "cpu_us_per_event": round((cpu1 - cpu0) / done * 1e6, 2),
                "commit_share": round((c1 - c0) / (t1 - t0), 3),
                "write_share": round((w1 - w0) / (t1 - t0), 3),
                "rss_mb": usage.ru_maxrss // 1024,
                "commits": engine.commits,
            }
            print(json.dumps(figures), flush=True)
            os._exit(0)

    engine.on_commit = committed
    run_app(app)


# -- the check ----------------------------------------------------------------------------------------------------------------------
def read_all(bootstrap: str, topic: str) -> Iterator[tuple[bytes, bytes]]:
    """Everything a read_committed reader sees."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "j1-check",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
        }
    )
    partitions = list(consumer.list_topics(topic, timeout=10).topics[topic].partitions)
    consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
    left = set(partitions)
    while left:
        for message in consumer.consume(20_000, 1.0):
            error = message.error()
            if error is None:
                yield message.key(), message.value()
            elif error.code() == KafkaError._PARTITION_EOF:
                left.discard(message.partition())
            else:
                raise RuntimeError(error.str())
    consumer.close()


def check(bootstrap: str, prefix: str, count: int, on_hand: int, pick: Pick = uniform) -> dict[str, Any]:
    """One answer per command and the same for its repeats, nothing oversold, rows equal sums. Raises AssertionError."""
    sent: dict[str, int] = {}
    for command in commands(count, pick):
        sent[command.command_id] = sent.get(command.command_id, 0) + 1
    answers: dict[str, bytes] = {}
    seen: dict[str, int] = {}
    reserved: dict[str, int] = {}
    refused = 0
    for key, value in read_all(bootstrap, f"{prefix}.out"):
        decided = DECIDED.decode(value)
        assert key == decided.order_id.encode(), "an answer is not keyed by its order"
        seen[decided.command_id] = seen.get(decided.command_id, 0) + 1
        if answers.setdefault(decided.command_id, value) != value:
            raise AssertionError(f"two answers for {decided.command_id}")
        if seen[decided.command_id] == 1:
            if decided.reserved:
                place = f"{decided.sku}|{decided.location_id}"
                reserved[place] = reserved.get(place, 0) + decided.quantity
            else:
                refused += 1
    assert seen == sent, f"{sum(sent.values())} commands, {sum(seen.values())} answers"
    assert max(reserved.values()) <= on_hand, "oversold"
    rows = {key.decode(): STOCK.decode(value) for key, value in read_all(bootstrap, f"{prefix}.stock")}
    assert {key: row.reserved for key, row in rows.items()} == reserved, "the stock rows are not the sums of the answers"
    held = {key.decode(): value for key, value in read_all(bootstrap, f"{prefix}.reservation")}
    assert held == answers, "the reservation rows are not the answers"
    return {"commands": sum(sent.values()), "distinct": len(sent), "refused": refused, "reserved_rows": len(rows)}


if __name__ == "__main__":
    _, bootstrap, prefix, data, count, warm, on_hand, port = sys.argv
    work(bootstrap, prefix, data, int(count), int(warm), int(on_hand), int(port))
