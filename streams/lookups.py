"""Small compacted topics that every worker reads whole, as a mapping from key to present value: channel policies."""

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import structlog
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition

log = structlog.get_logger(__name__)


class LookupUnavailable(Exception):
    """A lookup could not be read to its end; a worker without it is not ready."""


class Lookup:
    """One compacted topic in memory, kept current by a thread of its own. Keys and values are the decoded snapshot's."""

    def __init__(self, name: str, topic: str, decode: Callable[[bytes], Any], config: Mapping[str, Any]) -> None:
        self.name, self.topic = name, topic
        self._decode = decode
        self._values: dict[str, Any] = {}
        self._stop = threading.Event()
        self.current = threading.Event()
        """Set once everything that was in the topic at the start is read."""
        self._consumer = Consumer(
            {
                **config,
                "group.id": f"orderflow-lookup-{name}",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "isolation.level": "read_committed",
                "enable.partition.eof": True,
                "fetch.wait.max.ms": 50,
            }
        )
        self._thread = threading.Thread(target=self._run, name=f"lookup-{name}", daemon=True)

    def get(self, key: str) -> Any:
        """The present value of a key, or None."""
        return self._values.get(key)

    @property
    def ready(self) -> bool:
        """Read to its end at least once, and not empty: without any channel every order would be refused."""
        return self.current.is_set() and bool(self._values)

    def start(self, deadline_s: float) -> None:
        """Read the topic to its present end. Raises LookupUnavailable after `deadline_s`."""
        partitions = self._consumer.list_topics(self.topic, timeout=10).topics[self.topic].partitions
        self._pending = set(partitions)
        self._consumer.assign([TopicPartition(self.topic, number, OFFSET_BEGINNING) for number in partitions])
        self._thread.start()
        if not self.current.wait(deadline_s):
            raise LookupUnavailable(f"{self.topic} was not read to its end within {deadline_s:.0f} s")

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def _run(self) -> None:
        while not self._stop.is_set():
            message = self._consumer.poll(0.2)
            if message is None:
                continue
            error = message.error()
            if error is not None:
                if error.code() == KafkaError._PARTITION_EOF:
                    self._pending.discard(message.partition())
                    if not self._pending:
                        self.current.set()
                else:
                    log.warning("lookup.error", lookup=self.name, error=error.name())
                    time.sleep(0.1)
                continue
            self._take((message.key() or b"").decode(), message.value())
        self._consumer.close()

    def _take(self, key: str, value: bytes | None) -> None:
        if value is None:
            self._values.pop(key, None)
            return
        try:
            self._values[key] = self._decode(value)
        except ValueError as error:  # a record that nobody can read leaves the value before it in force
            log.error("lookup.undecodable", lookup=self.name, key=key, error=str(error))
