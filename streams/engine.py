"""The loop of a worker: poll, hand out batches, take their results, commit. No Faust in here; one thread calls everything.

The life of a batch: `step` hands out records; the agent decides them; the next `step` sends the results into the open transaction;
a commit makes outputs, changelog, meta and source offsets visible together, and RocksDB follows. Which partitions
it works on is in `membership.py`.
"""

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import structlog
from confluent_kafka import KafkaError, TopicPartition

from orderflow.streams.batch import Batch
from orderflow.streams.domain.sagas import End
from orderflow.streams.faults import reach
from orderflow.streams.membership import Membership
from orderflow.streams.outcomes import EXIT, outcome
from orderflow.streams.partitions import EngineSettings, Log, Partition, Work
from orderflow.streams.transaction import COMMIT_TIMEOUT_S, Aborted, Fatal
from orderflow.streams.wire import MetaRow
from orderflow.tables.rocks import Position, Store
from orderflow.tables.timers import deadlines, next_due
from orderflow.tables.world import WORLD, World

log = structlog.get_logger(__name__)

TIMERS_PER_TRANSACTION = 500
TIMER_RESCAN_S = 0.05
CAUGHT_UP_POLL_S = 0.1
ADVICE_STOPPED = (
    "too many of the last minute's records could not be processed: `orderflow dlq list` shows why. Mend what sent them, or this worker, and "
    "start it again; with ORDERFLOW_PARKED_PERCENT_MAX=100 it sets the rest of them aside too."
)


class Engine(Membership):
    """What a worker does with the partitions it has. Raises Fatal when the process has to end."""

    def __init__(self, settings: EngineSettings, logs: Sequence[Log], store: Store, world: World = WORLD) -> None:
        super().__init__(settings, logs, store, world)
        self.counts: Counter[tuple[str, str]] = Counter()
        self.commits = self.rollbacks = self.records = 0
        self.commit_s = self.write_s = 0.0
        self.settled = threading.Event()
        self.settled.set()
        self.last_step = self.world.monotonic()
        self.on_commit: Callable[[int, float, float], None] = lambda records, commit_s, write_s: None
        self.on_ended: Callable[[Sequence[End]], None] = lambda ended: None
        self._seen_epoch = 0
        self._open_records = 0
        self._ended: list[End] = []
        self._began = 0.0

    # -- life cycle ---------------------------------------------------------------------------------------------------------------
    def start(self) -> None:
        """Fence this instance's predecessor, then join the group."""
        self.transaction.start()
        self._join()

    def stop(self, done: Sequence[Work] = ()) -> None:
        """Take what is processed, commit, give the partitions back, leave."""
        if self._consumer is not None:
            self._commit_or_roll_back(lambda: self._take_all(done))
            self._consumer.close()
        self._restorer.stop()
        if self._standby is not None:
            self._standby.stop()
        self.store.close()

    # -- the loop -----------------------------------------------------------------------------------------------------------------
    def step(self, done: Sequence[Work]) -> list[Work]:
        """Take the results of the last step's work, commit when it is time, and hand out what the log has."""
        self.last_step = self.world.monotonic()
        try:
            self._take_all(done)
            if self._due():
                self.commit()
            self._join_anew()
            self._start_restored()
            self._claim_again()
            self._send_timers()
        except Aborted as aborted:
            self._roll_back(aborted)
        records = self._poll()
        return self._group(records)

    def _take_all(self, done: Sequence[Work]) -> None:
        for work in done:
            self._take(work)

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
        self._ended.extend(result.ended)
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
    def _commit_or_roll_back(self, last: Callable[[], None] = lambda: None) -> None:
        try:
            last()
            self.commit()
        except Aborted as aborted:
            self._roll_back(aborted)

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
        if self._ended:
            self.on_ended(self._ended)
            self._ended.clear()

    def _write(self, touched: Sequence[Partition]) -> None:
        batch = self.store.batch()
        for partition in touched:
            position = Position(partition.position, partition.turn_time, dict(partition.positions), self.world.now_us(), partition.digest)
            partition.rows.write(batch, position)
            partition.committed = position
        self.store.write(batch)
        for partition in touched:
            partition.rows.written()
            partition.touched, partition.claimed = False, True
            partition.next_due = next_due(partition.family)

    def _roll_back(self, aborted: Aborted) -> None:
        """Abort, forget the overlay, go back to the committed positions."""
        log.info("transaction.rolled_back", why=str(aborted))
        self.transaction.abort()
        for partition in self.partitions.values():
            partition.reload()
        self._open_records = 0
        self._ended.clear()
        self._epoch += 1
        self.rollbacks += 1
        self._unclaimed = True

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
