"""`orderflow worker`: one worker in the foreground, as a container or a supervisor runs it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orderflow.cli.terminal import MISCONFIGURED, Failure

if TYPE_CHECKING:
    from orderflow.schemas.catalog import Catalog
    from orderflow.streams.settings import WorkerSettings

Bootstrap = Annotated[str | None, typer.Option("--bootstrap", help="Kafka's bootstrap servers. [env: ORDERFLOW_BOOTSTRAP]")]
Registry = Annotated[str | None, typer.Option("--registry", help="The registry's Confluent API. [env: ORDERFLOW_REGISTRY]")]
JsonLog = Annotated[
    bool, typer.Option("--json", help="Log JSON lines, and print what refuses the start as JSON. [env: ORDERFLOW_LOG_FORMAT]")
]
SCHEMA_CACHE = "schemas.json"


def worker(
    bootstrap: Bootstrap = None,
    registry: Registry = None,
    data: Annotated[Path | None, typer.Option("--data", help="Its data directory. [env: ORDERFLOW_DATA]")] = None,
    instance: Annotated[str | None, typer.Option("--instance", help="Its name in the group. [env: ORDERFLOW_INSTANCE]")] = None,
    group: Annotated[str | None, typer.Option("--group", help="The group of workers that share the work. [env: ORDERFLOW_GROUP]")] = None,
    host: Annotated[str | None, typer.Option("--host", help="Where its rows are read. [env: ORDERFLOW_WORKER_HOST]")] = None,
    port: Annotated[int | None, typer.Option("--port", help="Where its rows are read. [env: ORDERFLOW_WORKER_PORT]")] = None,
    once: Annotated[
        bool, typer.Option("--once", help="Do not start it again: something else does. [env: ORDERFLOW_SUPERVISE=false]")
    ] = False,
    as_json: JsonLog = False,
) -> None:
    """Run one worker until it is told to stop. Settings come from ORDERFLOW_ variables; options go before them.

    Before the first record it checks settings, topics and schemas, and lists everything that is wrong at once. A worker that crashes is
    started again after half a second, then ever later up to ten; TERM and INT stop it in good order.

    \b
    Example:
      ORDERFLOW_BOOTSTRAP=kafka:9092 orderflow worker --data /var/lib/orderflow
    \b
    Exit codes:
      0         stopped in good order
      10 to 13  with --once: must be started again: the log says why, and the state is as it was committed
      69        not started: Kafka or the registry does not answer
      78        not started: settings, topics, schemas or the data directory are not as they must be
    """
    from orderflow.cli import environment, logs, startcheck, supervise
    from orderflow.schemas.catalog import Catalog
    from orderflow.streams.settings import WorkerSettings

    options = {
        "bootstrap": bootstrap,
        "registry": registry,
        "data": data,
        "instance": instance,
        "group": group,
        "worker_host": host,
        "worker_port": port,
    }
    settings, found = environment.read(WorkerSettings, **options)
    place = environment.place(WorkerSettings, **options)
    catalog = Catalog(place.prefix, place.partitions) if place else Catalog()
    cache_file = (place.data if place else Path()) / SCHEMA_CACHE
    startcheck.insist(startcheck.all_problems(place, found, catalog, cache_file))
    assert settings is not None, "a missing settings object has problems"
    logs.configure("json" if as_json else settings.log_format)
    if settings.supervise and not once:
        raise typer.Exit(supervise.supervise())
    _run(settings, catalog, cache_file)


def _run(settings: "WorkerSettings", catalog: "Catalog", cache_file: Path) -> None:
    from orderflow.streams import worker as program
    from orderflow.streams.records import Records
    from orderflow.tables.rocks import StoreError

    try:
        records = Records.load(catalog, settings.registry, cache_file)
        store = program.open_store(settings)
        program.run(settings, records, store)
    except StoreError as error:
        raise Failure(str(error), code=MISCONFIGURED) from None
