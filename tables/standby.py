"""Warm copies of partitions that other workers own, so that a take-over reads only what came last. A restore that never ends.

A copy is a favour: when it fails the worker goes on without it. One rule: after `release` nothing is written to a partition any more,
because from then on its owner is this worker.
"""

import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import structlog
from confluent_kafka import KafkaError, TopicPartition

from orderflow.tables.catchup import SAFETY_US, WHY, Job, NewerRows, Wanted, end_offsets
from orderflow.tables.rocks import Store
from orderflow.tables.world import World

log = structlog.get_logger(__name__)

RECORDS_PER_STEP = 2_000
WRITE_EVERY_S = 1.0
PAUSE_AFTER_FAILURE_S = 10.0
STOP_TIMEOUT_S = 10.0

Id = tuple[str, int]
"""(space, partition)."""


class Standby:
    """Keeps copies of all partitions of these key spaces but the released ones. `wanted` has every partition, tickets do not count."""

    def __init__(self, store: Store, config: Mapping[str, Any], wanted: Sequence[Wanted], world: World) -> None:
        self._store, self._config, self._world = store, dict(config), world
        self._wanted = {(each.space, each.partition): each for each in wanted}
        self._released: set[Id] = set()
        self._refused: set[Id] = set()
        self._jobs: dict[Id, Job] = {}
        self._mutex = threading.Lock()
        self._ended = threading.Event()
        self._thread: Any = None
        self._consumer: Any = None
        self._assigned: set[Id] = set()
        self._by_topic: dict[tuple[str, int], Job] = {}
        self._written_at = 0.0
        self.records = 0
        """Changelog records copied since the start."""

    def release(self, partitions: Iterable[Id]) -> None:
        """These are this worker's own now. Returns when no write to them is under way, after a few milliseconds at most."""
        with self._mutex:
            for each in partitions:
                self._released.add(each)
                self._jobs.pop(each, None)
        if self._thread is None:
            self._thread = self._world.thread("standby", self._run)

    def adopt(self, partitions: Iterable[Id]) -> None:
        """These are another worker's now: go on copying."""
        with self._mutex:
            self._released.difference_update(partitions)

    @property
    def copies(self) -> list[Id]:
        """The partitions that are copied here and have once been read to their end."""
        with self._mutex:
            return sorted(each for each, job in self._jobs.items() if not job.todo)

    def stop(self) -> None:
        """Write what is read, and end."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join(timeout=STOP_TIMEOUT_S)

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                self.step()
            except Exception as error:
                log.warning("standby.failed", why=f"{type(error).__name__}: {error}", again_s=PAUSE_AFTER_FAILURE_S)
                self._drop()
                self._ended.wait(PAUSE_AFTER_FAILURE_S)
        with self._mutex:
            self._write()
        self._drop()

    def _drop(self) -> None:
        """Begin again from what is on disk."""
        with self._mutex:
            self._jobs.clear()
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None
        self._assigned = set()

    def step(self) -> None:
        """Take up what is new, read a little, write what is due."""
        self._take_up()
        messages = self._consumer.consume(RECORDS_PER_STEP, 0.5) if self._jobs else []
        if not self._jobs:
            self._ended.wait(0.5)
        with self._mutex:
            for message in messages:
                self._take(message)
            if self._world.monotonic() - self._written_at > WRITE_EVERY_S:
                self._write()

    def _take_up(self) -> None:
        with self._mutex:
            new = [self._wanted[each] for each in self._wanted.keys() - self._released - self._refused - self._jobs.keys()]
        if new:
            jobs = [Job(wanted, self._store.family(wanted.space, wanted.partition)) for wanted in new]
            ends = end_offsets(self._world, self._world.admin(self._config), [tp for job in jobs for tp in job.topic_partitions()])
            with self._mutex:
                for job in jobs:
                    if job.id not in self._released:
                        self._begin(job, ends)
        with self._mutex:
            if self._jobs.keys() == self._assigned:
                return
            self._assigned = set(self._jobs)
            self._by_topic = {(tp.topic, tp.partition): job for job in self._jobs.values() for tp in job.topic_partitions()}
            starts = [
                TopicPartition(tp.topic, tp.partition, job.start(tp.topic)) for job in self._jobs.values() for tp in job.topic_partitions()
            ]
        self._reader().assign(starts)

    def _begin(self, job: Job, ends: Mapping[tuple[str, int], int]) -> None:
        why = job.plan(ends, self._world.now_us())
        if why:
            log.warning("standby.wiped", space=job.wanted.space, partition=job.wanted.partition, why=WHY[why])
            job.family = self._store.wipe(job.wanted.space, job.wanted.partition)
            job.plan(ends, self._world.now_us())
        self._jobs[job.id] = job

    def _reader(self) -> Any:
        if self._consumer is None:
            self._consumer = self._world.consumer(
                {
                    **self._config,
                    "group.id": "orderflow-standby",
                    "enable.auto.commit": False,
                    "isolation.level": "read_committed",
                    "enable.partition.eof": True,
                    "auto.offset.reset": "earliest",
                    "fetch.wait.max.ms": 500,
                    "queued.max.messages.kbytes": 16_384,
                }
            )
        return self._consumer

    def _take(self, message: Any) -> None:
        topic, number = message.topic(), message.partition()
        job = self._by_topic.get((topic, number))
        if job is None or self._jobs.get(job.id) is not job:  # released since it was asked for
            return
        error = message.error()
        if error is None:
            self.records += 1
            job.take(topic, message.key(), message.value(), message.offset())
        elif error.code() == KafkaError._PARTITION_EOF:
            try:
                job.reached(topic, message.offset())
            except NewerRows as newer:
                log.warning("standby.refused", why=str(newer))
                self._refused.add(job.id)
                del self._jobs[job.id]
        else:
            log.warning("standby.error", topic=topic, partition=number, error=error.name())

    def _write(self) -> None:
        self._written_at = self._world.monotonic()
        now = self._world.now_us()
        for job in self._jobs.values():
            is_idle = not job.todo and now - job.written_at > SAFETY_US  # still current: its age must not make it stale
            if job.pending or job.moved or is_idle:
                job.write(self._store, now)
