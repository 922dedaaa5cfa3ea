"""The consuming half of a worker: poll, hand out batches, commit. No Faust in here; one thread calls everything.

The life of a batch: `step` hands out records; the agent decides them; the next `step` sends the results into the open transaction;
a commit makes outputs, changelog, meta and source offsets visible together, and RocksDB follows. Rebalance callbacks run inside
`poll`, when nothing is in flight.
"""

import math
import queue
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import structlog
from confluent_kafka import OFFSET_BEGINNING, KafkaError, KafkaException, TopicPartition

from orderflow.streams.batch import Batch
from orderflow.streams.faults import reach
from orderflow.streams.outcomes import EXIT, outcome
from orderflow.streams.parking import ParkRate
from orderflow.streams.partitions import EngineSettings, Log, Partition, Work
from orderflow.streams.transaction import COMMIT_TIMEOUT_S, Aborted, Fatal, Transaction, fence
from orderflow.streams.wire import MetaRow
from orderflow.tables.catchup import Meta, Wanted
from orderflow.tables.digest import UNKNOWN, digest, rows_of
from orderflow.tables.restore import Restored, Restorer
from orderflow.tables.rocks import Position, Store
from orderflow.tables.standby import Standby
from orderflow.tables.timers import deadlines, next_due
from orderflow.tables.world import WORLD, World

log = structlog.get_logger(__name__)

TIMERS_PER_TRANSACTION = 500
TIMER_RESCAN_S = 0.05
SEEK_DEADLINE_S = 10.0
CAUGHT_UP_POLL_S = 0.1
ADVICE_STOPPED = (
    "too many of the last minute's records could not be processed: `orderflow dlq list` shows why. Mend what sent them, or this worker, and "
    "start it again; with ORDERFLOW_PARKED_PERCENT_MAX=100 it sets the rest of them aside too."
)
HAND_OVER_SCAN_S = 0.5
"""All partitions of a worker stand still while one moves: rows are compared at a hand-over as far as this suffices (200 000 or so)."""


class Engine:
    """Consumer, transaction and partitions of one worker. Raises Fatal when the process has to end."""

    def __init__(self, settings: EngineSettings, logs: Sequence[Log], store: Store, world: World = WORLD) -> None:
        self.settings, self.store, self.world = settings, store, world
        self.logs = {source.topic: source for source in logs}
        self.partitions: dict[tuple[str, int], Partition] = {}
        self.transaction = Transaction(settings.client, settings.transactional_id, settings.transaction_timeout_ms, world)
        self.counts: Counter[tuple[str, str]] = Counter()
        self.commits = self.rollbacks = self.records = 0
        self.commit_s = self.write_s = 0.0
        self.settled = threading.Event()
        self.settled.set()
        self.generation = 0
        self.last_step = self.world.monotonic()
        self.on_assigned: Callable[[set[tuple[str, int]]], None] = lambda partitions: None
        self.on_revoked: Callable[[set[tuple[str, int]]], None] = lambda partitions: None
        self.on_commit: Callable[[int, float, float], None] = lambda records, commit_s, write_s: None
        self._restored: queue.Queue[Restored | BaseException] = queue.Queue()
        self._restorer = Restorer(
            store,
            settings.client,
            fence=self._fence_if_dead,
            done=self._restored.put,
            failed=self._restored.put,
            reached=reach,
            world=world,
        )
        self._standby = Standby(store, settings.client, self._all_partitions(), world) if settings.standby_partitions else None
        self._consumer: Any = None
        self._epoch = self._seen_epoch = 0
        self._open_records = 0
        self._began = 0.0
        self._revoked_by = math.inf

    # -- life cycle ---------------------------------------------------------------------------------------------------------------
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

    def start(self) -> None:
        """Fence this instance's predecessor, then join the group."""
        self.transaction.start()
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
            "heartbeat.interval.ms": settings.session_timeout_ms // 5,
            "fetch.wait.max.ms": 100,
            "fetch.queue.backoff.ms": 5,
            "queued.min.messages": 20_000,
            "queued.max.messages.kbytes": 65_536,
        }
        if settings.static:
            config["group.instance.id"] = settings.instance
        self._consumer = self.world.consumer(config)
        self._consumer.subscribe(list(self.logs), on_assign=self._assign, on_revoke=self._revoke, on_lost=self._lost)

    def stop(self, done: Sequence[Work] = ()) -> None:
        """Take what is processed, commit, give the partitions back, leave."""
        if self._consumer is not None:
            for work in done:
                self._take(work)
            self._commit_or_roll_back()
            self._consumer.close()
        self._restorer.stop()
        if self._standby is not None:
            self._standby.stop()
        self.store.close()

    # -- the loop -----------------------------------------------------------------------------------------------------------------
    def step(self, done: Sequence[Work]) -> list[Work]:
        """Take the results of the last step's work, commit when it is time, and hand out what the log has."""
        self.last_step = self.world.monotonic()
        for work in done:
            self._take(work)
        if self._due():
            self._commit_or_roll_back()
        self._start_restored()
        self._send_timers()
        records = self._poll()
        return self._group(records)

    def _take(self, work: Work) -> None:
        """Send a batch's outputs and its changelog into the open transaction."""
        partition, result = work.partition, work.result
        assert result is not None, "a batch that was not processed must not come back"
        if self.partitions.get((partition.source.topic, partition.number)) is not partition:
            return
        self._begin()
        self.transaction.send_all(result.outputs)
        self._send_changelog(partition)
        reach("after_produce")
        partition.position, partition.turn_time = work.next_offset, result.turn_time
        partition.touched = True
        self.counts.update(result.counts)
        if partition.park_rate.is_over(result.turn_time, len(work.batch.records), result.parked) and not partition.stopped:
            self._stop_reading(partition)
        self._open_records += len(work.batch.records)
        self.transaction.poll()

    def _stop_reading(self, partition: Partition) -> None:
        """Somebody's mistake must not park the whole log: leave the rest of this partition unread until the next start."""
        partition.stopped, partition.caught_up = True, False
        name, rate = f"{partition.source.topic}[{partition.number}]", partition.park_rate
        self.consumer.pause([TopicPartition(partition.source.topic, partition.number)])
        log.error("partition.stopped", partition=name, parked=rate.parked, of=rate.records, advice=ADVICE_STOPPED)

    def _send_changelog(self, partition: Partition) -> None:
        """The last record per topic tells the partition's new position there."""
        number = partition.number
        for topic, records in partition.rows.changelog().items():
            key, value = records.pop()
            self.transaction.send_rows(topic, records, number)
            self.transaction.send(topic, value, key, number, None, self._position_of(partition))

    @staticmethod
    def _position_of(partition: Partition) -> Callable[[str, int, int], None]:
        def position(topic: str, number: int, offset: int) -> None:
            partition.positions[topic] = offset

        return position

    def _begin(self) -> None:
        if not self.transaction.open:
            self.transaction.begin()
            self._began = self.world.monotonic()

    def _due(self) -> bool:
        if not self.transaction.open:
            return False
        return self._open_records >= self.settings.commit_records or self.world.monotonic() - self._began >= self.settings.commit_interval_s

    def _poll(self) -> list[Any]:
        consumer, settings = self.consumer, self.settings
        records: list[Any] = consumer.consume(settings.batch_records, 0)
        if not records and self._epoch == self._seen_epoch:
            record = consumer.poll(self._patience())
            if record is not None:
                records = [record]
            elif self.transaction.open:
                self._commit_or_roll_back()
        if self._epoch != self._seen_epoch:  # a rebalance or rollback happened: what was fetched before it must not be applied
            self._seen_epoch = self._epoch
            for partition in self.partitions.values():
                if partition.running:
                    self._seek(partition)
            return []
        return records

    def _patience(self) -> float:
        """How long to wait for the first record, now that there is none: an open transaction until it is `idle_s` old, then it is committed,
        so that a steady trickle does not hold it open; else until the next timer, at most 100 ms."""
        if self.transaction.open:
            return max(self._began + self.settings.idle_s - self.world.monotonic(), 0.0)
        wait = CAUGHT_UP_POLL_S
        if not self._restored.empty() or self.restoring:
            return 0.01
        now = self.world.now_us()
        for partition in self.partitions.values():
            if partition.caught_up and partition.next_due is not None:
                wait = min(wait, max((partition.next_due - now) / 1e6, 0.005))
        return wait

    def _group(self, records: Sequence[Any]) -> list[Work]:
        groups: dict[tuple[str, int], list[Any]] = {}
        for record in records:
            error = record.error()
            if error is not None:
                self._on_error(record, error)
                continue
            groups.setdefault((record.topic(), record.partition()), []).append(record)
        works = []
        for key, batch in groups.items():
            partition = self.partitions.get(key)
            if partition is None or not partition.running or partition.stopped:
                continue
            if batch[0].offset() < partition.position:  # fetched before a seek
                batch = [record for record in batch if record.offset() >= partition.position]
                if not batch:
                    continue
            works.append(Work(partition, Batch(partition.number, batch, partition.rows, partition.turn_time), batch[-1].offset() + 1))
        return works

    def _on_error(self, record: Any, error: KafkaError) -> None:
        if error.code() == KafkaError._PARTITION_EOF:
            partition = self.partitions.get((record.topic(), record.partition()))
            if partition is not None and partition.running and record.offset() >= partition.backlog_end:
                partition.caught_up = not partition.stopped
        elif error.code() == KafkaError._AUTO_OFFSET_RESET:
            raise Fatal(
                f"{record.topic()}[{record.partition()}]: the position of the local state is outside the log ({error.str()}); "
                "records were deleted before they were processed, or the topic was made anew. Stop, compare, and start with an empty --data."
            )
        elif outcome("consume", error) == EXIT:
            raise Fatal(f"{error.name()}: {error.str()}")
        else:
            log.warning("consumer.error", error=error.name(), reason=error.str())

    # -- commit -------------------------------------------------------------------------------------------------------------------
    def _commit_or_roll_back(self) -> None:
        try:
            self.commit()
        except Aborted as aborted:
            log.info("transaction.rolled_back", why=str(aborted))
            self._roll_back()

    def commit(self) -> None:
        """Make the open transaction visible, then write RocksDB. Raises Aborted or Fatal."""
        if not self.transaction.open:
            return
        began, records = self.world.monotonic(), self._open_records
        touched = [partition for partition in self.partitions.values() if partition.touched]
        for partition in touched:
            meta = MetaRow(partition.position, partition.turn_time, self.settings.transactional_id, partition.digest)
            source = partition.source
            key = f"{source.space}:{partition.number}".encode()
            self.transaction.send(source.meta_topic, source.write_meta(meta), key, partition.number, None, self._position_of(partition))
        owned = touched or [partition for partition in self.partitions.values() if partition.running]
        offsets = [TopicPartition(p.source.topic, p.number, p.position) for p in owned]
        reach("before_commit")
        self.settled.clear()
        try:
            within_s = min(COMMIT_TIMEOUT_S, self._revoked_by - self.world.monotonic())
            self.transaction.commit(offsets, self.consumer.consumer_group_metadata(), within_s)
            reach("after_commit_before_state")
            committed = self.world.monotonic()
            self._write(touched)
        finally:
            self.settled.set()
        written = self.world.monotonic()
        self._open_records = 0
        self.records += records
        self.commits += 1
        self.commit_s += committed - began
        self.write_s += written - committed
        self.on_commit(records, committed - began, written - committed)

    def _write(self, touched: Sequence[Partition]) -> None:
        batch = self.store.batch()
        for partition in touched:
            position = Position(partition.position, partition.turn_time, dict(partition.positions), self.world.now_us(), partition.digest)
            partition.rows.write(batch, position)
            partition.committed = position
        self.store.write(batch)
        for partition in touched:
            partition.rows.written()
            partition.touched = False
            partition.next_due = next_due(partition.family)

    def _roll_back(self) -> None:
        """Abort, forget the overlay, go back to the committed positions."""
        self.transaction.abort()
        for partition in self.partitions.values():
            partition.reload()
        self._open_records = 0
        self._epoch += 1
        self.rollbacks += 1

    # -- timers -------------------------------------------------------------------------------------------------------------------
    def _send_timers(self) -> None:
        """Append TimerDue to the own command log for deadlines that have passed, once the backlog seen at assignment is consumed."""
        clock, now = self.world.monotonic(), self.world.now_us()
        left = TIMERS_PER_TRANSACTION
        for partition in self.partitions.values():
            source = partition.source
            if not partition.caught_up or source.timer is None or partition.next_due is None or partition.next_due > now:
                continue
            if clock < partition.rescan_at or left <= 0:
                continue
            partition.rescan_at = clock + TIMER_RESCAN_S
            tables = {table.number: table for table in source.tables}
            still_due: set[str] = set()
            for deadline in list(deadlines(partition.family, now, left)):
                table = tables[deadline.table]
                row = partition.rows.get(table.name, deadline.key)
                due = table.due(row) if row is not None and table.due is not None else None
                if due is None or due[1] != deadline.due_at:  # the open transaction has moved it
                    continue
                timer_id, key, value = source.timer(table, deadline.key, row)
                still_due.add(timer_id)
                if timer_id in partition.timers_sent:
                    continue
                self._begin()
                self.transaction.send(source.topic, value, key, partition.number)
                self.counts["timer", due[0]] += 1
                left -= 1
            partition.timers_sent = still_due

    # -- partitions ---------------------------------------------------------------------------------------------------------------
    def _assign(self, consumer: Any, assigned: list[TopicPartition]) -> None:
        """Take the new partitions, paused, and ask for their restore; the kept ones go on."""
        self._epoch += 1
        self.generation += 1
        reach("during_rebalance")
        wanted = []
        if self._standby is not None:
            self._standby.release({(self.logs[tp.topic].space, tp.partition) for tp in assigned})
        for tp in assigned:
            source = self.logs[tp.topic]
            family = self.store.family(source.space, tp.partition)
            rate = ParkRate(self.settings.parked_max, self.settings.parked_percent_max)
            self.partitions[tp.topic, tp.partition] = Partition(source, tp.partition, family, self.generation, rate)
            tp.offset = OFFSET_BEGINNING
            wanted.append(self._wanted(source, tp.partition))
        self._share_cache()
        consumer.incremental_assign(assigned)
        if assigned:
            consumer.pause(assigned)
            self._restorer.want(wanted)
        log.info("partitions.assigned", partitions=[f"{tp.topic}[{tp.partition}]" for tp in assigned], generation=self.generation)
        self.on_assigned({(tp.topic, tp.partition) for tp in assigned})

    def _wanted(self, source: Log, number: int) -> Wanted:
        return Wanted(source.space, number, self.generation, source.topic, source.tables, source.meta_topic, self._meta_reader(source))

    def _all_partitions(self) -> list[Wanted]:
        return [self._wanted(source, number) for source in self.logs.values() for number in range(self.settings.standby_partitions)]

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
        for partition in going:
            if partition.running and partition.source.owner is not None:
                topic, key, _ = partition.source.owner(partition.number, "", 0)
                self._begin()
                self.transaction.send(topic, None, key)
        self._commit_or_roll_back()
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

    def _fence_if_dead(self, transactional_id: str) -> None:
        """End the open transaction of a former owner that is no member of the group any more. A live one is stopped by its generation."""
        if transactional_id == self.settings.transactional_id:
            return
        instance = transactional_id.removeprefix(f"{self.settings.group}-")
        admin = self.world.admin(self.settings.client)
        described = admin.describe_consumer_groups([self.settings.group])[self.settings.group].result()
        if any(member.client_id == instance for member in described.members):
            return
        log.info("transaction.fencing", transactional_id=transactional_id)
        fence(self.settings.client, transactional_id, self.world)


def _send_args(record: tuple[str, bytes, bytes]) -> tuple[str, bytes, bytes]:
    topic, key, value = record
    return topic, value, key
