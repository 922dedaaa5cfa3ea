"""The history of one key, by reading its partition of the events topic: what happened, in order, refusals included.

A scan is bounded in records and time and says when it stopped early. It starts shortly before the order was placed, if its owner says
when that was, so a young order costs little however long the log is.
"""

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import msgspec
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition
from msgspec import Struct

from orderflow.http.problems import later
from orderflow.http.settings import EdgeSettings
from orderflow.streams.domain.contract import EventMeta
from orderflow.streams.records import Records

SCANS_MAX = 2
"""How many scans run at once; the others wait."""
MARGIN_MS = 60_000
"""How far before the placement a scan starts: log-append times of one partition may step back when its leader moves."""


class Entry(Struct, frozen=True):
    """One event as it was decided."""

    meta: EventMeta
    event: str
    data: Mapping[str, Any]


class Scan(Struct, frozen=True):
    """What was found; `complete` is false when the scan stopped at its bound."""

    entries: list[Entry]
    complete: bool


class Timeline:
    """Scans of event topics, SCANS_MAX at a time."""

    def __init__(self, settings: EdgeSettings, records: Records) -> None:
        self.settings = settings
        self.records = records
        self._turns = asyncio.Semaphore(SCANS_MAX)

    async def of(self, space: str, key: str, partition: int, since_ms: int | None) -> Scan:
        """The events of `key`, oldest first. `since_ms` is when it was placed, None reads from the beginning.

        Raises:
            Problem: 503 when the log does not answer.
        """
        async with self._turns:
            try:
                return await asyncio.to_thread(self._scan, space, key, partition, since_ms)
            except KafkaException:
                raise later("LOG_UNAVAILABLE", "the log does not answer", self.settings.retry_after_s) from None

    def _scan(self, space: str, key: str, partition: int, since_ms: int | None) -> Scan:
        topic = self.records.of(space).events
        consumer = Consumer(consumer_config(self.settings))
        deadline = time.monotonic() + self.settings.timeline_timeout_s
        entries: list[Entry] = []
        scanned = 0
        try:
            consumer.assign([self._start(consumer, topic, partition, since_ms)])
            while scanned < self.settings.timeline_records_max and time.monotonic() < deadline:
                message = consumer.poll(0.5)
                if message is None:
                    continue
                error = message.error()
                if error is not None:
                    if error.code() == KafkaError._PARTITION_EOF:
                        return Scan(entries, True)
                    raise KafkaException(error)
                scanned += 1
                if message.key() == key.encode():
                    entries.append(self._entry(message.value()))
            return Scan(entries, False)
        finally:
            consumer.close()

    def _start(self, consumer: Consumer, topic: str, partition: int, since_ms: int | None) -> TopicPartition:
        if since_ms is None:
            return TopicPartition(topic, partition, OFFSET_BEGINNING)
        asked = TopicPartition(topic, partition, max(0, since_ms - MARGIN_MS))
        found = consumer.offsets_for_times([asked], timeout=self.settings.timeline_timeout_s)[0]
        if found.error is not None:
            raise KafkaException(found.error)
        return found

    def _entry(self, value: bytes) -> Entry:
        unpacked = self.records.unpack(value)
        return Entry(unpacked.meta, type(unpacked.value).__name__, msgspec.to_builtins(unpacked.value))


def consumer_config(settings: EdgeSettings) -> dict[str, Any]:
    """A reader outside any group: committed records only, no position kept, soon told where the end is."""
    return {
        "bootstrap.servers": settings.bootstrap,
        "group.id": "orderflow-edge",
        "log_level": 2,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "error",
        "isolation.level": "read_committed",
        "enable.partition.eof": True,
        "fetch.queue.backoff.ms": 5,
        "fetch.wait.max.ms": 20,
        "allow.auto.create.topics": False,
    }
