"""The sagas that are open in the partitions of this worker, as its committed rows say: listed, shown, and sampled for the figures.

They are found through the indexes "open" of orders and payments, so that a million ended orders cost nothing. An index is written with its
rows and made again with them at a restore or a hand-over, so it is never wrong for longer than a commit.
"""

import time
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Any

import msgspec
from msgspec import Struct

from orderflow.streams.domain.contract import MICROS_PER_S
from orderflow.streams.domain.orders import ConcludeAnswers
from orderflow.streams.domain.sagas import Patience, sagas, stuck
from orderflow.streams.partitions import Partition
from orderflow.streams.reading import Reader, add_page, limit_in, serve
from orderflow.tables.rocks import StoreFailed

SAMPLE_S = 5.0
"""A sample is this old at most; scrapes in between read it again."""
SAMPLE_ORDERS_MAX = 2_000
"""Open orders that a sample looks at, the one that asked first of each partition before the others."""


class Sample(Struct, frozen=True):
    """How many sagas are open and stuck, and how many seconds the oldest waits, by type. `cut`: there are more than were looked at."""

    open: Counter[str]
    stuck: Counter[str]
    oldest_s: dict[str, float]
    cut: bool = False


class OpenSagas:
    """A reader's sagas. Every method may be called from any thread."""

    def __init__(self, reader: Reader, patience: Patience) -> None:
        self.reader, self.patience = reader, patience
        self.space = reader.spaces["order"]
        self._sample = Sample(Counter(), Counter(), {})
        self._sampled_at = -SAMPLE_S

    def matching(self, stuck_only: bool, saga_type: str, limit: int) -> dict[str, Any]:
        """At most `limit` sagas, those that asked first, and how many there are, by type. Reads every open one here."""
        found: list[dict[str, Any]] = []
        partitions = self.reader.running(self.space)
        for partition in partitions:
            for key in self._keys(partition):
                found += (each for each in self._of(partition, key) if saga_type in ("", each["saga_type"]))
        found = [each for each in found if each["stuck"] or not stuck_only]
        found.sort(key=lambda each: (each["since"], each["saga_id"]))
        return {
            "total": len(found),
            "by_label": Counter(each["saga_type"] for each in found),
            "items": found[:limit],
            "caught_up": all(partition.caught_up for partition in partitions),
            "partitions": [partition.number for partition in partitions],
        }

    def of(self, key: str) -> dict[str, Any] | None:
        """An order's status and its sagas; None where there is no such order. Raises NotHere."""
        partition = self.reader.partition(self.space, key)
        order = self.reader.snapshot_in(self.space, partition, key, self.space.main)
        if order is None:
            return None
        found = list(self._of(partition, key))
        return {"order_id": key, "status": order.status, "reason": order.reason, "caught_up": partition.caught_up, "items": found}

    def sample(self) -> Sample:
        """What is open now, or was at most SAMPLE_S ago."""
        now = time.monotonic()
        if now - self._sampled_at >= SAMPLE_S:
            self._sampled_at = now
            try:
                self._sample = self._look()
            except StoreFailed:
                pass  # a partition was given away meanwhile: the former sample stands until the next
        return self._sample

    def _look(self) -> Sample:
        opened, stuck_ones, oldest_s = Counter[str](), Counter[str](), dict[str, float]()
        left = SAMPLE_ORDERS_MAX
        for partition in self.reader.running(self.space):
            for key in islice(self._keys(partition), left):
                left -= 1
                for saga in self._of(partition, key):
                    name = saga["saga_type"]
                    opened[name] += 1
                    stuck_ones[name] += bool(saga["stuck"])
                    oldest_s[name] = max(oldest_s.get(name, 0.0), saga["waited_s"])
        return Sample(opened, stuck_ones, oldest_s, left <= 0)

    def _keys(self, partition: Partition) -> Iterator[str]:
        """The orders with something open, each once."""
        seen: set[bytes] = set()
        for name in ("order", "payment"):
            for _, key in partition.family.scan(partition.rows.tables[name].index_prefix("open")):
                if key not in seen:
                    seen.add(key)
                    yield key.decode()

    def _of(self, partition: Partition, key: str) -> Iterator[dict[str, Any]]:
        now = time.time_ns() // 1000
        state = self.reader.state(self.space, partition, key, self.space.rules.reads(key, ConcludeAnswers()))
        for saga in sagas(state):
            yield {
                **msgspec.to_builtins(saga),
                "order_id": key,
                "waited_s": round(max(0, now - saga.since) / MICROS_PER_S, 3),
                "stuck": stuck(saga, now, self.patience) if partition.caught_up else "",
            }


def add_pages(app: Any, found: OpenSagas) -> None:
    """Serve lists and single orders' sagas on the worker's web endpoint."""
    engine = found.reader.engine

    async def listed(view: Any, request: Any) -> Any:
        query = request.query
        stuck_only = query.get("stuck", "false") == "true"
        return await serve(view, engine, lambda: found.matching(stuck_only, query.get("type", ""), limit_in(query)))

    async def one(view: Any, request: Any) -> Any:
        return await serve(view, engine, lambda: found.of(request.match_info["key"]))

    add_page(app, "/list/sagas", listed)
    add_page(app, "/sagas/{key}", one)
