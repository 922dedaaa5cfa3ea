"""What a worker counts. Per batch and per commit only; scraped at /metrics."""

import os
import time
from collections.abc import Iterator
from typing import Any

from prometheus_client import REGISTRY, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

COMMIT_S = Histogram(
    "orderflow_commit_seconds", "Time of a transaction's commit", buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 5)
)
WRITE_S = Histogram(
    "orderflow_state_write_seconds", "Time of RocksDB's write after a commit", buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1)
)
RECORDS = Counter("orderflow_records", "Records whose effects are committed")


class Telemetry(Collector):
    """Reads the engine's own counts when it is scraped, so that the hot path only adds to a dict."""

    def __init__(self, engine: Any, registry: CollectorRegistry = REGISTRY) -> None:
        self._engine = engine
        registry.register(self)

    def committed(self, records: int, commit_s: float, write_s: float) -> None:
        RECORDS.inc(records)
        COMMIT_S.observe(commit_s)
        WRITE_S.observe(write_s)

    def collect(self) -> Iterator[Metric]:
        engine = self._engine
        turns = CounterMetricFamily("orderflow_turns", "What the turns of this worker came to", labels=["kind", "name"])
        for (kind, name), count in list(engine.counts.items()):
            turns.add_metric([kind, name], count)
        yield turns
        rollbacks = CounterMetricFamily("orderflow_rollbacks", "Transactions that were aborted and done again")
        rollbacks.add_metric([], engine.rollbacks)
        yield rollbacks
        restarts = CounterMetricFamily(
            "orderflow_restarts", "Starts of this worker after one that ended by itself, as its supervisor counts"
        )
        restarts.add_metric([], int(os.environ.get("ORDERFLOW_RESTARTS") or 0))
        yield restarts
        wiped = CounterMetricFamily("orderflow_state_wiped", "Partitions whose rows on disk were not used, by reason", labels=["why"])
        for why, count in list(engine.wiped.items()):
            wiped.add_metric([why], count)
        yield wiped
        memory = GaugeMetricFamily("orderflow_state_memory_bytes", "Memory that RocksDB uses, by part of the budget", labels=["part"])
        for part, size in engine.store.memory_used().items():
            memory.add_metric([part], size)
        yield memory
        read = CounterMetricFamily(
            "orderflow_rows_read", "Rows asked of RocksDB because they were not cached", labels=["topic", "partition"]
        )
        for (topic, number), partition in list(engine.partitions.items()):
            read.add_metric([topic, str(number)], partition.family.reads)
        yield read
        restored = CounterMetricFamily("orderflow_restored_records", "Changelog records read to bring partitions up to date")
        restored.add_metric([], engine.restored_records)
        yield restored
        step = GaugeMetricFamily("orderflow_seconds_since_step", "Age of the last step of the kafka thread: the watchdog's value")
        step.add_metric([], time.monotonic() - engine.last_step)
        yield step
        position = GaugeMetricFamily("orderflow_position", "Next offset of a command log", labels=["topic", "partition"])
        ready = GaugeMetricFamily(
            "orderflow_partition_ready", "1 when the partition is restored and caught up", labels=["topic", "partition"]
        )
        stopped = GaugeMetricFamily(
            "orderflow_partition_stopped", "1 when too much of it was parked: it is read no further", labels=["topic", "partition"]
        )
        for (topic, number), partition in list(engine.partitions.items()):
            stopped.add_metric([topic, str(number)], float(partition.stopped))
            position.add_metric([topic, str(number)], partition.position)
            ready.add_metric([topic, str(number)], float(partition.running and partition.caught_up))
        yield position
        yield ready
        yield stopped
