"""Who wrote a partition last, by its meta topic: asked before a restore, so that a former owner that is gone can be fenced first.

The one rule: the ends a restore reads to are taken after that. A former owner that was not fenced could still end a transaction behind them.
"""

from collections.abc import Iterable
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from orderflow.tables.catchup import ADMIN_DEADLINE_S, Meta, RestoreError, Wanted, end_offsets
from orderflow.tables.digest import UNKNOWN
from orderflow.tables.world import World

TAIL_RECORDS = 100
"""The last meta record is looked for so far from the end, and from the beginning when these are all markers or aborted."""


def unfinished(metas: Iterable[Meta]) -> set[str]:
    """Transactional ids of the owners that did not let go in order: who did has written its digest last, and has nothing open."""
    return {meta.owner for meta in metas if meta.owner and meta.digest == UNKNOWN}


def last_metas(world: World, admin: Any, consumer: Any, partitions: Iterable[Wanted]) -> list[Meta]:
    """The last committed meta record of each partition that has one; the consumer reads committed records and tells of ends."""
    wanted = {(each.meta_topic, each.partition): each for each in partitions}
    ends = end_offsets(world, admin, [TopicPartition(*key) for key in wanted])
    starts = {key: max(0, end - TAIL_RECORDS) for key, end in ends.items() if end}
    found: dict[tuple[str, int], Meta] = {}
    while starts:
        for message in _to_the_ends(world, consumer, starts):
            key = (message.topic(), message.partition())
            if message.value() is not None:
                found[key] = wanted[key].read_meta(message.value())
        starts = {key: 0 for key, start in starts.items() if start and key not in found}
    return list(found.values())


def _to_the_ends(world: World, consumer: Any, starts: dict[tuple[str, int], int]) -> Iterable[Any]:
    """What is committed from here on, until each partition has told its end."""
    consumer.assign([TopicPartition(*key, offset) for key, offset in starts.items()])
    left = set(starts)
    deadline = world.monotonic() + ADMIN_DEADLINE_S
    while left:
        if world.monotonic() > deadline:
            raise RestoreError(f"who had the partitions before is not to be had: no end of {sorted(left)} in {ADMIN_DEADLINE_S:.0f} s")
        for message in consumer.consume(1_000, 0.05):
            error = message.error()
            if error is None:
                yield message
            elif error.code() == KafkaError._PARTITION_EOF:
                left.discard((message.topic(), message.partition()))
            else:
                raise KafkaException(error)
