"""`orderflow serve`: one HTTP edge in the foreground, as a container or a supervisor runs it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orderflow.cli.terminal import MISCONFIGURED, UNAVAILABLE, Failure
from orderflow.cli.worker import SCHEMA_CACHE, Bootstrap, JsonLog, Registry

if TYPE_CHECKING:
    from orderflow.connectors.webhooks.sources import Sources
    from orderflow.http.settings import EdgeSettings


def serve(
    bootstrap: Bootstrap = None,
    registry: Registry = None,
    host: Annotated[str | None, typer.Option("--host", help="The address to listen on. [env: ORDERFLOW_HOST]")] = None,
    port: Annotated[int | None, typer.Option("--port", help="The port to listen on, 0 for any. [env: ORDERFLOW_PORT]")] = None,
    profile: Annotated[str | None, typer.Option("--profile", help="demo asks nobody for a token. [env: ORDERFLOW_PROFILE]")] = None,
    data: Annotated[Path | None, typer.Option("--data", help="Where it keeps schema ids. [env: ORDERFLOW_DATA]")] = None,
    as_json: JsonLog = False,
) -> None:
    """Run one HTTP edge until it is told to stop. Settings come from ORDERFLOW_ variables; options go before them.

    Before the first request it checks settings, topics and schemas, and lists everything that is wrong at once.

    \b
    Example:
      ORDERFLOW_PROFILE=demo orderflow serve --port 8080
    \b
    Exit codes:
      0   stopped in good order: open requests were answered
      69  the log failed for good, or Kafka or the registry does not answer: start it again
      78  not started: settings, topics or schemas are not as they must be
    """
    from orderflow.cli import environment, logs, startcheck
    from orderflow.http.settings import EdgeSettings
    from orderflow.schemas.catalog import Catalog

    options = {"bootstrap": bootstrap, "registry": registry, "host": host, "port": port, "profile": profile, "data": data}
    settings, found = environment.read(EdgeSettings, **options)
    place = environment.place(EdgeSettings, **options)
    catalog = Catalog(place.prefix, place.partitions) if place else Catalog()
    cache_file = (place.data if place else Path()) / SCHEMA_CACHE
    startcheck.insist(startcheck.all_problems(place, found, catalog, cache_file))
    assert settings is not None, "a missing settings object has problems"
    logs.configure("json" if as_json else "")
    _run(settings, _sources(settings.webhooks))


def _sources(file: Path | None) -> "Sources":
    from orderflow.connectors.webhooks.sources import Refused, Sources

    try:
        return Sources(file)
    except Refused as refused:
        raise Failure([f"ORDERFLOW_WEBHOOKS={reason}" for reason in refused.reasons], code=MISCONFIGURED) from None


def _run(settings: "EdgeSettings", sources: "Sources") -> None:
    import uvloop
    from confluent_kafka import KafkaException

    from orderflow.http import edge

    try:
        uvloop.run(edge.serve(settings, senders=sources))
    except edge.StartRefused as refused:
        raise Failure(refused.reasons, code=MISCONFIGURED) from None
    except KafkaException as error:
        raise Failure(f"the log failed: {error.args[0].str()}", then="start it again", code=UNAVAILABLE) from None
