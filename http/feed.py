"""What workers tell an edge, read on one thread: answers to its commands (from now on) and who owns what (from the beginning).

Both partitions are assigned, never subscribed: every edge hears everything, no group, no position kept, nothing to rebalance.
"""

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import structlog
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition
from msgspec import Struct

log = structlog.get_logger(__name__)

POLL_S = 0.1
BATCH_RECORDS = 500
PAUSE_S = 0.2
"""Between two polls when the last one failed."""


class Source(Struct, frozen=True):
    """One partition to hear. `hear` gets key and value (None is a tombstone) on the event loop, `at_end` once it has heard all there was."""

    topic: str
    partition: int
    from_start: bool
    hear: Callable[[bytes, bytes | None], None]
    at_end: Callable[[], None]


class Feed:
    """The thread, its consumer and its sources. `on_crash` is told, on the event loop, when the thread ends on its own."""

    def __init__(
        self, config: dict[str, Any], sources: tuple[Source, ...], timeout_s: float, on_crash: Callable[[Exception], None]
    ) -> None:
        self._config = config
        self._sources = {(source.topic, source.partition): source for source in sources}
        self._timeout_s = timeout_s
        self._on_crash = on_crash
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="edge-feed", daemon=True)

    async def start(self) -> None:
        """Begin to hear. When this returns nothing that is answered from now on can be missed.

        Raises:
            KafkaException: the broker did not tell within `timeout_s` where the partitions end.
        """
        self._loop = asyncio.get_running_loop()
        self._consumer = Consumer(self._config)
        try:
            self._consumer.assign(await asyncio.to_thread(self._positions))
        except BaseException:
            self._consumer.close()
            raise
        self._thread.start()

    async def close(self) -> None:
        self._stop.set()
        await asyncio.to_thread(self._thread.join, 10 * POLL_S)

    def _positions(self) -> list[TopicPartition]:
        """Where to begin: an exact offset for what is heard from now on, since "end" would be looked up only later."""
        found = []
        for source in self._sources.values():
            offset = OFFSET_BEGINNING
            if not source.from_start:
                offset = self._end(TopicPartition(source.topic, source.partition))
            found.append(TopicPartition(source.topic, source.partition, offset))
        return found

    def _end(self, partition: TopicPartition) -> int:
        """Where it ends now. A leader that is just being chosen, as after the topic was made, is asked again until `timeout_s`."""
        deadline = time.monotonic() + self._timeout_s
        while True:
            try:
                return int(self._consumer.get_watermark_offsets(partition, timeout=self._timeout_s)[1])
            except KafkaException:
                if self._stop.wait(PAUSE_S) or time.monotonic() > deadline:
                    raise

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                first = self._consumer.poll(POLL_S)  # consume(n, t) would wait the whole t for n records
                if first is not None:
                    self._hand_over([first, *self._consumer.consume(BATCH_RECORDS, 0)])
        except Exception as error:
            log.exception("feed.crashed")
            self._loop.call_soon_threadsafe(self._on_crash, error)
        finally:
            self._consumer.close()

    def _hand_over(self, messages: list[Message]) -> None:
        for message in messages:
            source = self._sources.get((message.topic() or "", message.partition()))
            error = message.error()
            if error is None and source is not None:
                self._loop.call_soon_threadsafe(source.hear, message.key() or b"", message.value())
            elif error is not None and error.code() == KafkaError._PARTITION_EOF and source is not None:
                self._loop.call_soon_threadsafe(source.at_end)
            elif error is not None:
                self._recover(error)

    def _recover(self, error: KafkaError) -> None:
        """Begin again where records were deleted under us; from everything else librdkafka recovers by itself."""
        log.warning("feed.error", error=error.str())
        if error.code() == KafkaError._AUTO_OFFSET_RESET:
            self._consumer.assign(self._positions())
        self._stop.wait(PAUSE_S)
