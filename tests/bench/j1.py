"""J1, the job every contestant must do: reserve stock exactly once, as fast as one core can.

Per record: a known command gets its first answer again; else read the stock row, reserve if available, write the stock row and the
reservation row (RocksDB tables with changelogs), emit ReservationDecided keyed by order_id. One transaction per 100 ms. Only the
product's Faust worker, engine, tables, transaction and codec; the schemas are J1's own (shared with the peers).
"""

import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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


class ReserveStock(Struct, frozen=True, gc=False):
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


class StockRow(Struct, frozen=True, gc=False):
    on_hand: int
    reserved: int
    version: int


class Decided(Struct, frozen=True, gc=False):
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


def schema(record: type[Struct]) -> dict[str, Any]:
    """The record's Avro schema, the same as peers/avro/ has for the others."""
    kinds = {str: "string", int: "long", bool: "boolean"}
    fields = [{"name": name, "type": kinds[kind]} for name, kind in record.__annotations__.items()]
    return {"type": "record", "name": record.__name__, "namespace": "j1", "fields": fields}


def _codec(record: type[Struct]) -> Any:
    return compile_record(schema(record), {f"j1.{record.__name__}": record}, header=HEADERS[record])


HEADER_BYTES = 5
HEADERS = {record: b"\0" + number.to_bytes(4, "big") for number, record in enumerate((ReserveStock, StockRow, Decided, MetaRow), 1)}
COMMAND, STOCK, DECIDED, META = map(_codec, HEADERS)


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


def make_topics(bootstrap: str, prefix: str, partitions: int = PARTITIONS, names: Sequence[str] = TOPICS) -> None:
    """The topics of one run."""
    logs = ("commands", "out")
    create(bootstrap, [f"{prefix}.{name}" for name in names if name in logs], partitions)
    create(bootstrap, [f"{prefix}.{name}" for name in names if name not in logs], partitions, {"cleanup.policy": "compact"})


def create(bootstrap: str, names: Sequence[str], partitions: int = PARTITIONS, config: Mapping[str, str] | None = None) -> None:
    """Create topics. Raises KafkaException when one exists."""
    if not names:
        return
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for future in admin.create_topics([NewTopic(name, partitions, 1, config=dict(config or {})) for name in names]).values():
        future.result()


def prepare(bootstrap: str, prefix: str, count: int, partitions: int = PARTITIONS, pick: Pick = uniform) -> None:
    """Make the topics of one run and write its input."""
    make_topics(bootstrap, prefix, partitions)
    record(bootstrap, prefix, count, pick)


def record(bootstrap: str, prefix: str, count: int, pick: Pick = uniform) -> None:
    """Write the input to an existing topic."""
    encode = COMMAND.encode
    write(bootstrap, f"{prefix}.commands", ((command.sku.encode(), encode(command)) for command in commands(count, pick)))


def write(bootstrap: str, topic: str, records: Iterable[tuple[bytes, bytes]]) -> None:
    """Write (key, value) records to a topic, partitioned as every Kafka client in Java does."""
    producer = Producer({"bootstrap.servers": bootstrap, "partitioner": "murmur2_random", "linger.ms": 20, "batch.size": 1 << 18})
    for key, value in records:
        while True:
            try:
                producer.produce(topic, value, key)
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


def job_log(prefix: str, commands_topic: str = "") -> Log:
    """The job's log and tables; `commands_topic` when the input is not the run's own."""
    tables = (
        Table("stock", 2, f"{prefix}.stock", STOCK.encode, STOCK.decode),
        Table("reservation", 3, f"{prefix}.reservation", DECIDED.encode, DECIDED.decode),
    )
    return Log("j1", commands_topic or f"{prefix}.commands", tables, f"{prefix}.meta", META.encode, META.decode)


def work() -> None:
    """A worker, told by the environment what every contestant is told (contestants.Lane), until it is stopped."""
    told = {name: os.environ[f"J1_{name}"] for name in ("BOOTSTRAP", "APP", "COMMANDS", "OUT", "STATE", "ON_HAND", "PORT")}
    out, on_hand = told["OUT"], int(told["ON_HAND"])
    store = Store(Path(told["STATE"]))
    engine = Engine(EngineSettings(told["BOOTSTRAP"], told["APP"], store.instance), [job_log(told["APP"], told["COMMANDS"])], store)
    app = build_app(
        engine,
        lambda batch: decide(batch, out, on_hand),
        group=told["APP"],
        data=Path(told["STATE"]),
        host="127.0.0.1",
        port=int(told["PORT"]),
    )
    run_app(app)


# -- the check ----------------------------------------------------------------------------------------------------------------------
def messages(bootstrap: str, topic: str, starts: Mapping[int, int] | None = None) -> Iterator[Any]:
    """Every record a read_committed reader sees, from the beginning of each partition or from `starts`, to its present end."""
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
    consumer.assign([TopicPartition(topic, number, (starts or {}).get(number, 0)) for number in partitions])
    left = set(partitions)
    while left:
        for message in consumer.consume(20_000, 1.0):
            error = message.error()
            if error is None:
                yield message
            elif error.code() == KafkaError._PARTITION_EOF:
                left.discard(message.partition())
            else:
                raise RuntimeError(error.str())
    consumer.close()


def read_all(bootstrap: str, topic: str) -> Iterator[tuple[bytes, bytes]]:
    """Key and value of everything a read_committed reader sees."""
    return ((message.key(), message.value()) for message in messages(bootstrap, topic))


def ends(bootstrap: str, topic: str) -> dict[int, int]:
    """The end offset of each partition."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "j1-check"})
    numbers = consumer.list_topics(topic, timeout=10).topics[topic].partitions
    found = {number: consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=10)[1] for number in numbers}
    consumer.close()
    return found


def weigh(bootstrap: str, topics: Iterable[str], starts: Mapping[str, Mapping[int, int]], commands_sent: int) -> dict[str, float]:
    """What a command costs the log: records produced and bytes of key, value and headers written, since `starts`, per command."""
    produced = size_bytes = 0
    for topic in topics:
        for message in messages(bootstrap, topic, starts.get(topic)):
            produced += 1
            size_bytes += len(message.key() or b"") + len(message.value() or b"")
            size_bytes += sum(len(name) + len(value or b"") for name, value in message.headers() or ())
    return {"produces_per_event": round(produced / commands_sent, 2), "bytes_per_event": round(size_bytes / commands_sent)}


class Places(Struct, frozen=True, gc=False):
    """Where a contestant's output is, and how the keys of its changelogs name a row."""

    out: str
    stock: str
    reservation: str
    row_key: Callable[[bytes], str] = bytes.decode
    exactly_once: bool = True


def check(bootstrap: str, prefix: str, count: int, on_hand: int, pick: Pick = uniform, places: Places | None = None) -> dict[str, Any]:
    """Read a run's output and judge it. Raises AssertionError."""
    where = places or Places(f"{prefix}.out", f"{prefix}.stock", f"{prefix}.reservation")
    sent = Counter(command.command_id for command in commands(count, pick))
    if where.exactly_once:
        in_transactions(bootstrap, where.out, count)
    rows = {}
    for topic in dict.fromkeys((where.stock, where.reservation)):
        rows |= {(value[:HEADER_BYTES], where.row_key(key)): value for key, value in read_all(bootstrap, topic) if value}
    stock = {key: value for (header, key), value in rows.items() if header == HEADERS[StockRow]}
    held = {key: value for (header, key), value in rows.items() if header == HEADERS[Decided]}
    return judge(sent, read_all(bootstrap, where.out), stock, held, on_hand)


def in_transactions(bootstrap: str, topic: str, count: int) -> None:
    """Exactly once in name only? A topic written in transactions has their markers among its offsets. Raises AssertionError."""
    offsets = sum(ends(bootstrap, topic).values())
    assert offsets != count, "exactly once in name only: the answers were written outside of any transaction"


def judge(
    sent: Mapping[str, int],
    answers: Iterable[tuple[bytes, bytes]],
    stock: Mapping[str, bytes],
    held: Mapping[str, bytes],
    on_hand: int,
) -> dict[str, Any]:
    """One answer per command and the same for its repeats, each right when it was given, nothing oversold, rows equal sums.

    Args:
        sent: how often each command id was sent.
        answers: (key, Decided) as a read_committed reader sees them.
        stock, held: the last row of each key in the changelogs.

    Raises AssertionError.
    """
    first: dict[str, bytes] = {}
    seen: Counter[str] = Counter()
    moves: dict[str, list[tuple[int, int, int]]] = {}
    refusals: list[tuple[str, int, int]] = []
    for key, value in answers:
        decided = DECIDED.decode(value)
        seen[decided.command_id] += 1
        if key != decided.order_id.encode():
            raise AssertionError("an answer is not keyed by its order")
        if first.setdefault(decided.command_id, value) != value:
            raise AssertionError(f"two answers for {decided.command_id}")
        if seen[decided.command_id] > 1:
            continue
        place = f"{decided.sku}|{decided.location_id}"
        if decided.reserved:
            moves.setdefault(place, []).append((decided.version, decided.quantity, decided.available_after))
        else:
            refusals.append((place, decided.version, decided.available_after))
            assert decided.available_after < decided.quantity, f"{decided.command_id} was refused though there was enough"
    assert seen == sent, f"{sum(sent.values())} commands, {sum(seen.values())} answers"
    expected, lefts = {}, {}
    for place, found in moves.items():
        left = [on_hand]
        for number, (version, quantity, available) in enumerate(sorted(found), 1):
            left.append(left[-1] - quantity)
            assert (version, available) == (number, left[-1]), f"{place}: version {version} leaves {available}, the sums {left[-1]}"
        assert left[-1] >= 0, f"{place} is oversold"
        expected[place], lefts[place] = StockRow(on_hand, on_hand - left[-1], len(found)), left
    for place, version, available in refusals:
        assert lefts.get(place, [on_hand])[version] == available, f"{place}: refused at {available}, which is not what was left"
    assert {key: STOCK.decode(value) for key, value in stock.items()} == expected, "the stock rows are not the sums of the answers"
    assert dict(held) == first, "the reservation rows are not the answers"
    return {"commands": sum(sent.values()), "distinct": len(sent), "refused": len(refusals), "reserved_rows": len(stock)}


if __name__ == "__main__":
    work()
