"""State for J1 workers without the hours of work that made it: rows written straight to the changelogs, in transactions as a worker does.

And the question afterwards: is what a worker has on disk what its changelogs say?
"""

import hashlib
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import j1
from confluent_kafka import Producer

from orderflow.schemas.partitioner import partition_of
from orderflow.streams.wire import MetaRow
from orderflow.tables.rocks import Store

ROWS_PER_TRANSACTION = 50_000
ON_HAND = 1_000_000

Row = tuple[str, bytes, bytes, int]
"""(table, key, value, partition)."""


def write(bootstrap: str, prefix: str, *, skus: int, reservations: int, partitions: int = j1.PARTITIONS) -> int:
    """Stock rows for `skus` SKUs and open reservations of them; how many rows. The topics exist already."""
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "transactional.id": f"{prefix}-seed",
            "log_level": 3,
            "linger.ms": 20,
            "batch.size": 1 << 20,
            "queue.buffering.max.messages": 1_000_000,
        }
    )
    producer.init_transactions(30)
    producer.begin_transaction()
    count = 0
    for table, key, value, place in _rows(skus, reservations, partitions, prefix):
        while True:
            try:
                producer.produce(f"{prefix}.{table}", value, key, place)
                break
            except BufferError:
                producer.poll(0.05)
        count += 1
        if count % ROWS_PER_TRANSACTION == 0:
            producer.commit_transaction(60)
            producer.begin_transaction()
    producer.commit_transaction(60)
    return count - partitions


def _rows(skus: int, reservations: int, partitions: int, prefix: str) -> Iterator[Row]:
    places = [partition_of(f"SKU-{sku:06d}".encode(), partitions) for sku in range(skus)]
    each, more = divmod(reservations, max(skus, 1))
    for sku, place in enumerate(places):
        held = each + (sku < more)
        yield "stock", _place(sku).encode(), j1.STOCK.encode(j1.StockRow(ON_HAND, held, held)), place
    now = time.time_ns() // 1000
    for number in range(reservations):
        sku = number % skus
        held = number // skus + 1
        command_id = hashlib.blake2b(number.to_bytes(8, "big"), digest_size=16).hexdigest()
        row = j1.Decided(command_id, f"S{number:010d}", f"SKU-{sku:06d}", f"WH-{sku % 20:02d}", 1, True, ON_HAND - held, held, now)
        yield "reservation", command_id.encode(), j1.DECIDED.encode(row), places[sku]
    for place in range(partitions):
        yield "meta", f"j1:{place}".encode(), j1.META.encode(MetaRow(0, now, f"{prefix}-seed")), place


def _place(sku: int) -> str:
    return f"SKU-{sku:06d}|WH-{sku % 20:02d}"


# -- checks -------------------------------------------------------------------------------------------------------------------------
def check_state(bootstrap: str, prefix: str, data: Path, partitions: int = j1.PARTITIONS) -> dict[str, Any]:
    """Rows on disk (of a worker that was stopped, owner of every partition) against the fold of the changelogs. Raises AssertionError."""
    found: dict[str, Any] = {}
    store = Store(data)
    try:
        for table in j1.job_log(prefix).tables:
            folded: dict[bytes, int] = {}
            for key, value in j1.read_all(bootstrap, table.changelog):
                if value is None:
                    folded.pop(key, None)
                else:
                    folded[key] = _digest(key, value)
            families = [store.family("j1", number) for number in range(partitions)]
            rows, digest = _sum(_digest(raw[1:], value) for family in families for raw, value in family.scan(table.prefix))
            assert rows == len(folded), f"{table.name}: {rows} rows on disk, {len(folded)} by the changelog"
            assert digest == _sum(folded.values())[1], f"{table.name}: the rows on disk are not those of the changelog"
            found[table.name] = {"rows": rows, "digest": f"{digest:016x}"}
    finally:
        store.close()
    return found


def _digest(key: bytes, value: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(key + b"\0" + value, digest_size=8).digest(), "big")


def _sum(digests: Iterable[int]) -> tuple[int, int]:
    """How many, and a digest that does not depend on their order."""
    count = total = 0
    for each in digests:
        count += 1
        total += each
    return count, total & (1 << 64) - 1


def check_output(bootstrap: str, prefix: str, count: int, pick: j1.Pick = j1.uniform) -> dict[str, Any]:
    """J1's judge, for a run that began with seeded stock and no seeded reservations. Raises AssertionError."""
    sent = Counter(command.command_id for command in j1.commands(count, pick))
    stock = {key.decode(): value for key, value in j1.read_all(bootstrap, f"{prefix}.stock")}
    touched = {key: value for key, value in stock.items() if j1.STOCK.decode(value).version}
    held = {key.decode(): value for key, value in j1.read_all(bootstrap, f"{prefix}.reservation")}
    return j1.judge(sent, j1.read_all(bootstrap, f"{prefix}.out"), touched, held, ON_HAND)
