"""The Faust plug-in: Faust declares, starts and supervises; the engine consumes, commits and owns the partitions.

One Faust event is one batch of one partition. The drainer works in lockstep: a step on the kafka thread, one event per partition,
wait until the agent has processed them, next step. Only subclasses and overrides, no monkeypatch; docs/decisions names what is
taken away from Faust and why.
"""

import asyncio
import os
import threading
import traceback
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import faust
import structlog
from faust.tables.manager import TableManager as FaustTableManager
from faust.transport import base
from faust.transport import consumer as faust_consumer
from faust.transport import producer as faust_producer
from faust.types import TP, ConsumerMessage
from mode import Service

from orderflow.streams.engine import Engine
from orderflow.streams.partitions import Work
from orderflow.streams.transaction import Fatal
from orderflow.streams.watchdog import Watchdog
from orderflow.tables.catchup import Unusable

log = structlog.get_logger(__name__)

EXIT_FATAL = 12
EXIT_AGENT_FAILED = 10
EXIT_HUNG = 11
EXIT_REFUSED = 78
ACK_POLL_S = 0.5
STOP_TIMEOUT_S = 15.0
STOP_DEADLINE_S = 30.0
BRIDGE_TIMEOUT_S = 60.0


def leave(code: int, why: BaseException) -> None:
    """End the process without a commit; a supervisor starts it again and restore finds out what was committed."""
    log.error("worker.exit", code=code, error=f"{type(why).__name__}: {why}")
    if not isinstance(why, Fatal):
        traceback.print_exception(why)
    os._exit(code)


def _exit_hard_after(seconds: float) -> None:
    """A stop that hangs must not keep partitions from another worker."""
    timer = threading.Timer(seconds, leave, (EXIT_FATAL, Fatal(f"the worker did not stop within {seconds:.0f} s")))
    timer.daemon = True
    timer.start()


def _hung(why: str, stacks: dict[str, str]) -> None:
    """Say where every thread is, and end the process."""
    for name, stack in stacks.items():
        log.error("worker.hung", thread=name, stack=stack)
    leave(EXIT_HUNG, Fatal(f"{why}; the stacks above say where it hangs"))


class BatchSchema(faust.Schema):
    """No decoding in Faust: the value of an event is the Work itself."""

    def __init__(self) -> None:
        super().__init__(key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw")

    def compile(self, app: Any, **kwargs: Any) -> Any:
        make = app.conf.Event

        async def decode(message: Any, *, propagate: bool = False) -> Any:
            return make(app, message.key, message.value, message.headers, message)

        return decode


class Consumer(faust_consumer.Consumer):
    """Drives the engine. Positions, acks and commits of the base class do not run: the engine's position is the only truth."""

    consumer_stopped_errors = ()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.engine: Engine = self.transport.engine
        self.pool = ThreadPoolExecutor(1, "kafka")
        self.stopping = False
        self.idle = asyncio.Event()
        self.idle.set()
        self._subscribed = asyncio.Event()
        self._assigned: set[TP] = set()
        self._done: list[Work] = []

    def _run(self, function: Callable[..., Any], *args: Any) -> Any:
        return self.loop.run_in_executor(self.pool, function, *args)

    # -- subscription and rebalance -----------------------------------------------------------------------------------------------
    async def subscribe(self, topics: Iterable[str]) -> None:
        if self._subscribed.is_set():
            return
        wanted = set(topics)
        if wanted != set(self.engine.logs):
            raise Fatal(f"the agents read {sorted(wanted)}, the engine {sorted(self.engine.logs)}: every command log needs its agent")
        self.engine.on_assigned, self.engine.on_revoked = self._assigned_in_thread, self._revoked_in_thread
        try:
            await self._run(self.engine.start)
        except Exception as error:
            leave(EXIT_FATAL, error)
        self._subscribed.set()

    def _bridge(self, coroutine: Any) -> None:
        """Tell Faust about a rebalance from inside poll(); never without a bound, never while stopping."""
        if self.stopping:
            coroutine.close()
            return
        asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(BRIDGE_TIMEOUT_S)

    def _assigned_in_thread(self, partitions: set[tuple[str, int]]) -> None:
        self._bridge(self._on_assigned({TP(*partition) for partition in partitions}))

    def _revoked_in_thread(self, partitions: set[tuple[str, int]]) -> None:
        self._bridge(self._on_revoked({TP(*partition) for partition in partitions}))

    async def _on_assigned(self, partitions: set[TP]) -> None:
        self._assigned |= partitions  # Faust wants the full set, a cooperative assignment gives the new ones
        await self._announce()

    async def _on_revoked(self, partitions: set[TP]) -> None:
        if not self.app.rebalancing:
            self.app.on_rebalance_start()
        await self.on_partitions_revoked(partitions)
        self._assigned -= partitions
        if self._assigned:
            await self._announce()

    async def _announce(self) -> None:
        app = self.app
        if not app.rebalancing:
            app.on_rebalance_start()
        app.consumer_generation_id += 1
        await self.on_partitions_assigned(set(self._assigned), app.consumer_generation_id)

    # -- the loop -----------------------------------------------------------------------------------------------------------------
    async def _drain_messages(self, fetcher: Any) -> None:
        await self._subscribed.wait()
        try:
            while not (self.stopping or self.should_stop):
                self.idle.clear()
                try:
                    works = await self._run(self.engine.step, self._done)
                    self._done = []
                    for work in works:
                        if self.stopping or not await self._deliver(work):
                            break
                        self._done.append(work)
                finally:
                    self.idle.set()
        except Exception as error:
            leave(EXIT_REFUSED if isinstance(error.__cause__, Unusable) else EXIT_FATAL, error)

    async def _deliver(self, work: Work) -> bool:
        """Give a batch to its agent and wait until it is processed. False: stopped before the agent took it."""
        partition = work.partition
        tp = TP(partition.source.topic, partition.number)
        last = work.batch.records[-1]
        generation = self.app.consumer_generation_id
        kind, milliseconds = last.timestamp()
        message = ConsumerMessage(
            tp.topic, tp.partition, last.offset(), milliseconds / 1000, kind, None, None, work, None, 0, 0, tp, generation_id=generation
        )
        # Notified by Consumer.ack and by Faust's compiled stream, which inlines ack.
        acked = self._waiting_for_ack = self.loop.create_future()
        await self.callback(message)
        while not acked.done():
            await asyncio.wait({acked}, timeout=ACK_POLL_S)
            if self.stopping and work.result is None and not acked.done():
                return False
        self._waiting_for_ack = None
        self._acked.clear()
        self._acked_index.clear()
        self._n_acked = 0
        if work.result is None:
            if self.stopping:
                return False
            raise Fatal(f"{tp.topic}[{tp.partition}]: a batch was acknowledged but not processed")
        self._read_offset[tp] = work.next_offset
        return True

    async def on_stop(self) -> None:
        self.stopping = True
        await self.idle.wait()
        if self._subscribed.is_set():
            await self._run(self.engine.stop, self._done)
        self.pool.shutdown(wait=True)

    def close(self) -> None: ...

    # -- base class machinery that must not run: the engine does this -------------------------------------------------------------
    @Service.task
    async def _commit_handler(self) -> None: ...

    @Service.task
    async def _commit_livelock_detector(self) -> None: ...

    async def commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:
        return False

    async def _commit(self, offsets: Any) -> bool:
        return True

    async def wait_empty(self) -> None: ...
    async def on_task_error(self, exc: BaseException) -> None: ...
    async def perform_seek(self) -> None: ...
    async def seek_to_committed(self) -> Any:
        return {}

    async def _seek(self, partition: Any, offset: int) -> None:
        raise NotImplementedError("the engine owns positions")

    async def seek_wait(self, partitions: Any) -> None:
        raise NotImplementedError("the engine owns positions")

    async def seek_to_beginning(self, *partitions: Any) -> None:
        raise NotImplementedError("the engine owns positions")

    async def _getmany(self, active_partitions: Any, timeout: float) -> Any:  # noqa: ASYNC109  (Faust's signature)
        raise NotImplementedError("the engine polls")

    def _to_message(self, tp: Any, record: Any) -> Any:
        return record

    def _new_topicpartition(self, topic: str, partition: int) -> Any:
        return TP(topic, partition)

    # -- metadata -----------------------------------------------------------------------------------------------------------------
    def assignment(self) -> set[Any]:
        return set(self._assigned)

    def highwater(self, tp: Any) -> int:
        return 0

    async def position(self, tp: Any) -> int | None:
        partition = self.engine.partitions.get((tp.topic, tp.partition))
        return partition.position if partition else None

    async def earliest_offsets(self, *partitions: Any) -> Any:
        return dict.fromkeys(partitions, 0)

    async def highwaters(self, *partitions: Any) -> Any:
        return dict.fromkeys(partitions, 0)

    def topic_partitions(self, topic: str) -> int | None:
        return None

    def key_partition(self, topic: str, key: Any, partition: int | None = None) -> int | None:
        return partition

    async def create_topic(self, topic: str, *args: Any, **kwargs: Any) -> None:
        """Topics are declared in the catalogue and applied by `orderflow topics apply`."""

    def verify_recovery_event_path(self, now: float, tp: Any) -> None: ...


class Producer(faust_producer.Producer):
    """Agents do not produce: what a turn says leaves in the engine's transaction, or not at all."""

    async def send(self, topic: str, *args: Any, **kwargs: Any) -> Any:
        raise Fatal(f"send to {topic} outside the turn: return it as an Output, so that it is in the transaction")

    async def send_and_wait(self, topic: str, *args: Any, **kwargs: Any) -> Any:
        return await self.send(topic)

    async def flush(self) -> None: ...
    async def create_topic(self, topic: str, *args: Any, **kwargs: Any) -> None: ...
    def key_partition(self, topic: str, key: Any) -> Any:
        raise NotImplementedError("librdkafka's murmur2 decides")

    def supports_headers(self) -> bool:
        return True


class Fetcher(faust_consumer.Fetcher):
    async def on_stop(self) -> None:
        """Let the batch in the agent finish, then stop."""
        consumer = self.app.consumer
        consumer.stopping = True
        self.app.watchdog.stop()
        _exit_hard_after(STOP_DEADLINE_S)
        try:
            await asyncio.wait_for(consumer.idle.wait(), STOP_TIMEOUT_S)
        except TimeoutError:
            log.warning("worker.stop_timeout", seconds=STOP_TIMEOUT_S)
        await super().on_stop()


class Transport(base.Transport):
    """`orderflow://` in Faust's broker URL (entry point group faust.transports)."""

    Consumer, Producer, Fetcher = Consumer, Producer, Fetcher
    default_port = 9092
    driver_version = "orderflow"

    def __init__(self, url: Any, app: Any, loop: Any = None) -> None:
        super().__init__(url, app, loop)
        self.engine: Engine = app.engine


class TableManager(FaustTableManager):
    """The engine restores state beside the running partitions, so Faust's recovery never starts."""

    def __init__(self, app: Any, **kwargs: Any) -> None:
        super().__init__(app, **kwargs)
        self.ready = asyncio.Event()

    @property
    def changelog_topics(self) -> set[str]:
        return set()

    async def on_start(self) -> None:
        self._tables_finalized.set()
        self._tables_registered.set()
        await self.app._fetcher.maybe_start()

    async def on_stop(self) -> None:
        await self.app._fetcher.stop()

    def on_partitions_revoked(self, revoked: Any) -> None: ...

    async def on_rebalance(self, assigned: Any, revoked: Any, newly_assigned: Any, generation_id: int = 0) -> None:
        app = self.app
        app.consumer.resume_partitions(assigned)
        app.flow_control.resume()
        app.consumer.resume_flow()
        self.on_actives_ready()
        self.on_standbys_ready()
        app.on_rebalance_end()
        self.ready.set()

    async def wait_until_recovery_completed(self) -> bool:
        return bool(await self.wait_for_stopped(self.ready))


class Agent(faust.Agent):
    """An exception that reaches an agent is the machine's (input is parked): exit without a commit."""

    async def _execute_actor(self, coro: Any, aref: Any) -> None:
        async def guard() -> None:
            try:
                await coro
            except Exception as error:
                leave(EXIT_AGENT_FAILED, error)

        await super()._execute_actor(guard(), aref)


class App(faust.App):
    """A Faust app around an engine."""

    def __init__(self, id: str, *, engine: Engine, watchdog_s: float, **options: Any) -> None:  # noqa: A002  (Faust's name)
        self.engine = engine
        self.watchdog = Watchdog(lambda: engine.last_step, watchdog_s, _hung)
        super().__init__(
            id,
            broker="orderflow://",
            TableManager=TableManager,
            Agent=Agent,
            topic_disable_leader=True,
            topic_allow_declare=False,
            reply_create_topic=False,
            stream_wait_empty=True,
            agent_supervisor="mode.CrashingSupervisor",
            **options,
        )
