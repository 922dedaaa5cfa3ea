"""A worker: the Faust app with one agent per key space, its engine, its lookups and the endpoint where its rows are read."""

from collections.abc import Callable, Sequence
from pathlib import Path

import structlog
from confluent_kafka import TopicCollection
from confluent_kafka.admin import AdminClient

from orderflow.streams import open_sagas, reading, state
from orderflow.streams.domain.channel import ChannelRow
from orderflow.streams.engine import Engine
from orderflow.streams.lookups import Lookup
from orderflow.streams.partitions import EngineSettings, Log, Work
from orderflow.streams.processor import Processor
from orderflow.streams.records import Records, SpaceRecords, code_version
from orderflow.streams.saga_figures import SagaFigures
from orderflow.streams.settings import WorkerSettings
from orderflow.streams.shell import build_app, run_app
from orderflow.streams.topology import ORDERS, SPACES, KeySpace
from orderflow.streams.transport import App
from orderflow.streams.wire import Worker
from orderflow.tables.rocks import Memory, Store
from orderflow.tables.rows import Table

log = structlog.get_logger(__name__)

LOOKUP_DEADLINE_S = 60.0


def bind_tables(space: KeySpace, records: SpaceRecords) -> tuple[Table, ...]:
    """The key space's tables with their codecs and changelogs."""
    tables = []
    for spec in space.tables:
        encode, decode = records.row(spec.name)
        tables.append(Table(spec.name, spec.number, records.changelog(spec.name), encode, decode, spec.due, spec.indexes))
    return tuple(tables)


def command_log(space: KeySpace, records: Records) -> Log:
    """What the engine needs to know of a key space."""
    mine = records.of(space.name)

    def owner(partition: int, address: str, generation: int) -> tuple[str, bytes, bytes]:
        value = records.encode_worker(Worker(address, generation, code_version()))
        return records.workers_topic, f"{space.name}:{partition}".encode(), value

    return Log(
        space=space.name,
        topic=mine.commands,
        tables=bind_tables(space, mine),
        meta_topic=mine.meta,
        write_meta=records.meta(space.name).encode,
        read_meta=records.meta(space.name).decode,
        timer=mine.timer,
        owner=owner,
    )


def build(settings: WorkerSettings, records: Records, store: Store, spaces: Sequence[KeySpace] = SPACES) -> App:
    """Wire a worker for these key spaces."""
    lookups = {
        "channel": Lookup(
            "channel", records.of("catalog").status["channel"][0], _channel_reader(records), {"bootstrap.servers": settings.bootstrap}
        )
    }
    processors = {records.of(space.name).commands: Processor(space, records, settings.rules, lookups, code_version()) for space in spaces}

    def process(work: Work) -> None:
        work.result = processors[work.partition.source.topic].run(work.batch)

    engine = Engine(engine_settings(settings, store), [command_log(space, records) for space in spaces], store)
    app = build_app(
        engine,
        process,
        group=settings.group,
        data=settings.data,
        host=settings.worker_host,
        port=settings.worker_port,
        watchdog_s=settings.watchdog_s,
    )
    reader = reading.Reader(engine, spaces, settings.partitions, lookups)
    reading.add_pages(app, reader)
    if ORDERS in spaces:
        found = open_sagas.OpenSagas(reader, settings.patience)
        open_sagas.add_pages(app, found)
        engine.on_ended = SagaFigures(found).ended
    state.add_pages(app, engine, store)
    app.lookups = lookups
    return app


def run(settings: WorkerSettings, records: Records, store: Store) -> None:
    """Run a worker until it is told to stop. Exits the process: 0 after a clean stop, 10 to 13 when it must be started again."""
    claim(settings, records, store)
    app = build(settings, records, store)
    for lookup in app.lookups.values():
        lookup.start(LOOKUP_DEADLINE_S)
    run_app(app)


def claim(settings: WorkerSettings, records: Records, store: Store) -> None:
    """Compare the data directory with this Kafka and this registry before anything is read. Raises StoreError."""
    owners = {topic.name: (topic.owner, topic.partitions) for topic in records.catalog.topics() if topic.owner != "engine"}
    admin = AdminClient({"bootstrap.servers": settings.bootstrap})
    store.claim_place(admin.describe_cluster().result().cluster_id, settings.prefix)
    store.claim_schemas(records.fingerprints)
    described = admin.describe_topics(TopicCollection(list(owners)))
    ids = {name: str(future.result().topic_id) for name, future in described.items()}
    for topic in store.claim_topics(ids, owners):
        log.warning("store.wiped", topic=topic, why="the topic was made anew since this directory was written")


def engine_settings(settings: WorkerSettings, store: Store) -> EngineSettings:
    return EngineSettings(
        bootstrap=settings.bootstrap,
        group=settings.group,
        instance=store.instance,
        address=settings.address,
        code_version=code_version(),
        static=settings.membership == "static",
        session_timeout_ms=int(settings.session_timeout_s * 1000),
        transaction_timeout_ms=int(settings.session_timeout_s * 1000),
        commit_interval_s=settings.commit_interval_s,
        commit_records=settings.commit_records,
        idle_s=settings.commit_idle_s,
        batch_records=settings.batch_records,
        parked_max=settings.parked_max,
        parked_percent_max=settings.parked_percent_max,
        partitions=settings.partitions,
        standby=settings.standby,
        cached_rows=Memory(settings.state_memory_mb).cached_rows,
    )


def _channel_reader(records: Records) -> Callable[[bytes], ChannelRow]:
    decode = records.of("catalog").decode_status("channel")

    def read(data: bytes) -> ChannelRow:
        snapshot = decode(data)
        return ChannelRow(snapshot.version, snapshot.policy)

    return read


def open_store(settings: WorkerSettings) -> Store:
    """The worker's data directory. Raises StoreError."""
    return Store(Path(settings.data), instance=settings.instance, memory=Memory(settings.state_memory_mb))


__all__ = ["bind_tables", "build", "command_log", "engine_settings", "open_store", "run"]
