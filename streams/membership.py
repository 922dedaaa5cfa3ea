"""A worker's place in its group: which partitions are its own, and how they come and go. The loop that works on them is in `engine.py`.

A partition is handed over in this order: its owner commits and lets go; the next one restores it on another thread, says that it is the
owner now, and reads on. The callbacks run inside `poll`, when nothing is in flight; all but the restore is done by the thread that polls.
"""

import math
import queue
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import structlog
from confluent_kafka import OFFSET_BEGINNING, KafkaException, TopicPartition

from orderflow.streams.faults import reach
from orderflow.streams.orphans import OrphanWatch
from orderflow.streams.parking import ParkRate
from orderflow.streams.partitions import EngineSettings, Log, Partition
from orderflow.streams.transaction import Fatal, Transaction, fence
from orderflow.tables.catchup import Meta, RestoreError, Wanted
from orderflow.tables.digest import UNKNOWN, digest, rows_of
from orderflow.tables.restore import Restored, Restorer
from orderflow.tables.rocks import Store
from orderflow.tables.standby import Standby
from orderflow.tables.world import World

log = structlog.get_logger(__name__)

HEARTBEAT_MS_MAX = 500
"""Members hear of a rebalance in their next heartbeat, twice for each partition that moves."""
SEEK_DEADLINE_S = 10.0
FENCE_DEADLINE_S = 30.0
FENCE_PAUSE_S = 1.0
REQUEST_TIMEOUT_S = 10.0
ADVICE_NOT_FENCED = (
    "it may still have a transaction open. Is the broker there, and may this worker describe its group and use every transactional id that "
    "begins with its group's name?"
)
HAND_OVER_SCAN_S = 0.25
"""All partitions of a worker stand still while one moves: rows are compared at a hand-over as far as this suffices (100 000 or so)."""


class Membership(ABC):
    """The group's consumer, the transactional producer, and the partitions between assignment and revocation.

    What it asks of the loop that is built on it: to begin a transaction, and to end one.
    """

    def __init__(self, settings: EngineSettings, logs: Sequence[Log], store: Store, world: World) -> None:
        self.settings, self.store, self.world = settings, store, world
        self.logs = {source.topic: source for source in logs}
        self.partitions: dict[tuple[str, int], Partition] = {}
        self.transaction = Transaction(settings.client, settings.transactional_id, settings.transaction_timeout_ms, world)
        self.generation = 0
        self.on_assigned: Callable[[set[tuple[str, int]]], None] = lambda partitions: None
        self.on_revoked: Callable[[set[tuple[str, int]]], None] = lambda partitions: None
        self._restored: queue.Queue[Restored | BaseException] = queue.Queue()
        self._restorer = Restorer(
            store,
            settings.client,
            fence=self._fence_dead,
            done=self._restored.put,
            failed=self._restored.put,
            reached=reach,
            world=world,
        )
        self._standby = Standby(store, settings.client, self._all_partitions(), world) if settings.standby else None
        self._orphans = self._orphan_watch()
        self._consumer: Any = None
        self._epoch = 0
        """Grows with every rebalance and rollback: what was fetched before must not be applied."""
        self._revoked_by = math.inf
        """When a revocation under way must be over: the group waits for it."""
        self._unclaimed = False
        """A transaction was rolled back, and it may have been the one that said whose the partitions are."""

    @abstractmethod
    def _begin(self) -> None:
        """Open a transaction if none is."""

    @abstractmethod
    def _commit_or_roll_back(self, last: Callable[[], None] = lambda: None) -> None:
        """End the open transaction, if one is; `last` sends what is to be its last word."""

    @property
    def consumer(self) -> Any:
        assert self._consumer is not None, "start() comes first"
        return self._consumer

    @property
    def restoring(self) -> dict[tuple[str, int], tuple[int, int]]:
        """Progress of the partitions that are not readable yet: (records read, records there are)."""
        return {key: self._restorer.progress.get(key, (0, 0)) for key, partition in self.partitions.items() if not partition.running}

    @property
    def wiped(self) -> Mapping[str, int]:
        """How often rows on disk were not used since the start, by reason."""
        return self._restorer.wiped

    @property
    def copies(self) -> list[tuple[str, int]]:
        """(space, partition) of other workers' partitions that are copied here and current."""
        return self._standby.copies if self._standby is not None else []

    @property
    def restored_records(self) -> int:
        """Changelog records read for restores since the start: few when the directory was nearly current."""
        return self._restorer.records

    def _join(self) -> None:
        """Enter the group; partitions come with a later poll."""
        settings = self.settings
        config = {
            **settings.client,
            "group.id": settings.group,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "error",
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "partition.assignment.strategy": "cooperative-sticky",
            "session.timeout.ms": settings.session_timeout_ms,
            "heartbeat.interval.ms": min(HEARTBEAT_MS_MAX, settings.session_timeout_ms // 5),
            "fetch.wait.max.ms": 100,
            "fetch.queue.backoff.ms": 5,
            "queued.min.messages": 20_000,
            "queued.max.messages.kbytes": 65_536,
        }
        if settings.static:
            config["group.instance.id"] = settings.instance
        self._consumer = self.world.consumer(config)
        self._subscribe()
        if self._orphans is not None:
            self._orphans.start(self.world.thread)

    def _subscribe(self) -> None:
        self.consumer.subscribe(list(self.logs), on_assign=self._assign, on_revoke=self._revoke, on_lost=self._lost)

    def _orphan_watch(self) -> OrphanWatch | None:
        settings = self.settings
        if not (settings.static and settings.partitions):
            return None
        everything = [(topic, number) for topic in self.logs for number in range(settings.partitions)]
        return OrphanWatch(settings.group, settings.instance, everything, lambda: self.world.admin(settings.client))

    def _join_anew(self) -> None:
        """Let everything go and subscribe again, when partitions have no owner: the group shares them out."""
        if self._orphans is not None and self._orphans.found.is_set():
            self._orphans.found.clear()
            self.consumer.unsubscribe()
            self._subscribe()

    # -- partitions ---------------------------------------------------------------------------------------------------------------
    def _assign(self, consumer: Any, assigned: list[TopicPartition]) -> None:
        """Take the new partitions, paused, and ask for their restore; the kept ones go on."""
        self._epoch += 1
        reach("during_rebalance")
        generation, taken = self.generation + 1, {}
        if self._standby is not None:
            self._standby.release({(self.logs[tp.topic].space, tp.partition) for tp in assigned})
        for tp in assigned:
            source = self.logs[tp.topic]
            family = self.store.family(source.space, tp.partition)
            rate = ParkRate(self.settings.parked_max, self.settings.parked_percent_max)
            taken[tp.topic, tp.partition] = Partition(source, tp.partition, family, generation, rate)
            tp.offset = OFFSET_BEGINNING
        self.partitions.update(taken)
        self.generation = generation  # after them: who asks for our health meanwhile must not hear that nothing is behind
        wanted = [self._wanted(self.logs[tp.topic], tp.partition) for tp in assigned]
        self._share_cache()
        if not assigned and generation == 1:  # others are about to let go for us
            self._subscribe()  # librdkafka asks for it after a second, but at once for who subscribes before this assignment is done
        consumer.incremental_assign(assigned)
        if assigned:
            consumer.pause(assigned)
            self._restorer.want(wanted)
        log.info("partitions.assigned", partitions=[f"{tp.topic}[{tp.partition}]" for tp in assigned], generation=self.generation)
        if self._orphans is not None:
            self._orphans.moved.set()
        self.on_assigned({(tp.topic, tp.partition) for tp in assigned})

    def _wanted(self, source: Log, number: int) -> Wanted:
        return Wanted(source.space, number, self.generation, source.topic, source.tables, source.meta_topic, self._meta_reader(source))

    def _all_partitions(self) -> list[Wanted]:
        return [self._wanted(source, number) for source in self.logs.values() for number in range(self.settings.partitions)]

    @staticmethod
    def _meta_reader(source: Log) -> Callable[[bytes], Meta]:
        def read(data: bytes) -> Meta:
            meta = source.read_meta(data)
            return Meta(meta.source_offset, meta.turn_time, meta.transactional_id, meta.digest, meta.min_reader)

        return read

    def _start_restored(self) -> None:
        """Partitions whose rows are current: find the backlog, say who owns them, resume."""
        while True:
            try:
                restored = self._restored.get_nowait()
            except queue.Empty:
                return
            if isinstance(restored, BaseException):
                raise Fatal(f"restore failed: {restored}") from restored
            source = next(source for source in self.logs.values() if source.space == restored.space)
            partition = self.partitions.get((source.topic, restored.partition))
            if partition is None or partition.ticket != restored.ticket:
                continue
            partition.family = partition.rows.family = self.store.family(restored.space, restored.partition)
            partition.start(restored.position)
            tp = TopicPartition(source.topic, restored.partition)
            partition.backlog_end = restored.backlog_end
            partition.caught_up = partition.backlog_end == 0
            self._seek(partition)
            self.consumer.resume([tp])
            self._claim(partition)
            log.info(
                "partition.running",
                partition=f"{source.topic}[{restored.partition}]",
                position=partition.position,
                backlog_end=partition.backlog_end,
                restored=restored.records,
                seconds=restored.seconds,
            )

    def _claim(self, partition: Partition) -> None:
        """Write one's name into meta and the owners' topic with the next commit."""
        self._begin()
        partition.touched = True
        if partition.source.owner is not None:
            self.transaction.send(*_send_args(partition.source.owner(partition.number, self.settings.address, self.generation)))

    def _claim_again(self) -> None:
        """A claim that was rolled back is made anew: nobody else would say where to read these partitions."""
        if self._unclaimed:
            self._unclaimed = False
            for partition in self.partitions.values():
                if partition.running and not partition.claimed:
                    self._claim(partition)

    def _seek(self, partition: Partition) -> None:
        tp = TopicPartition(partition.source.topic, partition.number, partition.position or OFFSET_BEGINNING)
        deadline = self.world.monotonic() + SEEK_DEADLINE_S
        while True:
            try:
                self.consumer.seek(tp)
            except KafkaException as error:  # just assigned: not fetching yet
                if self.world.monotonic() > deadline:
                    raise Fatal(f"seek of {tp.topic}[{tp.partition}]: {error.args[0].str()}") from error
                self.world.sleep(0.02)
            else:
                return

    def _revoke(self, consumer: Any, revoked: list[TopicPartition]) -> None:
        """Commit what is open, say that we no longer own them, let them go: in the transaction's timeout, for the group waits."""
        self._revoked_by = self.world.monotonic() + self.settings.transaction_timeout_ms / 1000
        self._epoch += 1
        reach("during_rebalance")
        going = [self.partitions[tp.topic, tp.partition] for tp in revoked if (tp.topic, tp.partition) in self.partitions]
        self._commit_or_roll_back(lambda: self._disclaim(going))
        self._publish_digests([partition for partition in going if partition.running])
        self._revoked_by = math.inf
        for partition in going:
            self._restorer.cancel(partition.source.space, partition.number, partition.ticket)
            del self.partitions[partition.source.topic, partition.number]
        self._share_cache()
        if self._standby is not None:
            self._standby.adopt({(partition.source.space, partition.number) for partition in going})
        consumer.incremental_unassign(revoked)
        log.info("partitions.revoked", partitions=[f"{tp.topic}[{tp.partition}]" for tp in revoked])
        self.on_revoked({(tp.topic, tp.partition) for tp in revoked})

    def _disclaim(self, going: Sequence[Partition]) -> None:
        """Say that these have no owner for now."""
        for partition in going:
            if partition.running and partition.source.owner is not None:
                topic, key, _ = partition.source.owner(partition.number, "", 0)
                self._begin()
                self.transaction.send(topic, None, key)

    def _share_cache(self) -> None:
        for partition in self.partitions.values():
            partition.rows.cached_rows_max = self.settings.cached_rows // len(self.partitions)

    def _publish_digests(self, going: Sequence[Partition]) -> None:
        """Say in meta what the rows come to, so that the next owner can compare its own; not at all when a scan takes too long."""
        deadline = self.world.monotonic() + HAND_OVER_SCAN_S
        for partition in going:
            found = digest(rows_of(partition.family, partition.source.tables), lambda: self.world.monotonic() > deadline)
            if found is not None:
                partition.digest = found.value
                partition.touched = True
                self._begin()
        self._commit_or_roll_back()
        for partition in going:
            partition.digest = UNKNOWN

    def _lost(self, consumer: Any, lost: list[TopicPartition]) -> None:
        """Another worker may own them already: never write again."""
        log.error("partitions.lost", partitions=[f"{tp.topic}[{tp.partition}]" for tp in lost])
        self.world.exit(13)

    def _fence_dead(self, owners: set[str]) -> None:
        """Called before a restore, on its thread: end what these left open, but who is a member still has let go by itself.

        Tried again for a while; no partition is read while a former owner could still write to it. Raises RestoreError.
        """
        for owner in sorted(owners - {self.settings.transactional_id}):
            deadline = self.world.monotonic() + FENCE_DEADLINE_S
            while True:
                try:
                    self._fence_if_dead(owner)
                    break
                except KafkaException as raised:
                    why = raised.args[0].str()
                    if self.world.monotonic() > deadline:
                        raise RestoreError(f"the former owner {owner} could not be fenced: {why}; {ADVICE_NOT_FENCED}") from raised
                    log.warning("owner.not_fenced", transactional_id=owner, why=why, again_s=FENCE_PAUSE_S)
                    self.world.sleep(FENCE_PAUSE_S)

    def _fence_if_dead(self, owner: str) -> None:
        admin = self.world.admin(self.settings.client)
        described = admin.describe_consumer_groups([self.settings.group], request_timeout=REQUEST_TIMEOUT_S)[self.settings.group].result()
        instance = owner.removeprefix(f"{self.settings.group}-")
        if all(member.client_id != instance for member in described.members):
            fence(self.settings.client, owner, self.world)
            log.info("owner.fenced", transactional_id=owner, why="it is no member of the group any more")


def _send_args(record: tuple[str, bytes, bytes]) -> tuple[str, bytes, bytes]:
    topic, key, value = record
    return topic, value, key
