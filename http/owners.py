"""Who serves which partition, as the workers say it on orderflow.workers.v1: key `<space>:<partition>`, a tombstone when it is given up.

Only what was heard: an owner in this table may be gone, which a read finds out (reads.py) and answers with the next news.
"""

import asyncio
from collections.abc import Mapping

from orderflow.schemas.partitioner import partition_of
from orderflow.streams.wire import Worker


class Owners:
    """The table. `partitions` is the number of partitions of each key space; everything runs on the event loop."""

    def __init__(self, partitions: Mapping[str, int]) -> None:
        self.partitions = dict(partitions)
        self.read_to_end = False
        """True once the topic has been read to where it ended at the start."""
        self._workers: dict[tuple[str, int], Worker] = {}
        self._news = asyncio.Event()

    def hear(self, key: str, worker: Worker | None) -> None:
        """One record of the topic; None is a tombstone."""
        space, _, partition = key.rpartition(":")
        if not partition.isdecimal():
            return
        if worker is None:
            self._workers.pop((space, int(partition)), None)
        else:
            self._workers[space, int(partition)] = worker
        self._news.set()
        self._news = asyncio.Event()

    def partition(self, space: str, owner_key: str) -> int:
        """Where the key lives. A child id lives with its owner, the part before the first `~`."""
        return partition_of(owner_key.partition("~")[0].encode(), self.partitions[space])

    def of(self, space: str, partition: int) -> Worker | None:
        return self._workers.get((space, partition))

    def by_address(self, space: str) -> dict[str, set[int]]:
        """Every owner's address with the partitions it is said to serve."""
        found: dict[str, set[int]] = {}
        for partition in range(self.partitions[space]):
            worker = self.of(space, partition)
            if worker is not None:
                found.setdefault(worker.address, set()).add(partition)
        return found

    def missing(self, space: str) -> list[int]:
        """Partitions without a known owner."""
        return [partition for partition in range(self.partitions[space]) if self.of(space, partition) is None]

    async def news(self, timeout_s: float) -> None:
        """Wait until something is heard, at most this long."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._news.wait()
        except TimeoutError:
            pass
