"""What must be true before a process takes its first record: settings, broker, topics, schema ids. All that is not is told at once.

A misconfigured system that starts anyway looks healthy and loses events (ORD-P1-04); so nothing here is a warning.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from orderflow.cli import environment
from orderflow.cli.terminal import MISCONFIGURED, UNAVAILABLE, Failure
from orderflow.schemas.catalog import Catalog

BROKER_TIMEOUT_S = 5.0


class Silent(str):
    """A problem that may pass by itself: something does not answer."""


class Located(Protocol):
    """Settings of a process that uses Kafka and the registry."""

    @property
    def bootstrap(self) -> str: ...
    @property
    def registry(self) -> str: ...


def broker_problems(bootstrap: str, catalog: Catalog) -> list[str]:
    """The broker does not answer, or topics are missing or not as the catalogue says."""
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    from orderflow.schemas import admin

    client = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    try:
        client.list_topics(timeout=BROKER_TIMEOUT_S)
        differences = admin.plan(client, catalog)
    except KafkaException as error:
        return [Silent(f"{environment.variable('bootstrap')}={bootstrap}: the broker does not answer ({error.args[0].str()})")]
    return [f"topic {difference}" for difference in differences]


def schema_problems(registry: str, catalog: Catalog, cache_file: Path) -> list[str]:
    """Schemas are not registered, or the registry is silent and the cache does not hold their ids, or it is another registry."""
    from orderflow.schemas.registry import NotRegistered, RegistryError, RegistryUnavailable, fetch_ids

    try:
        fetch_ids(registry, catalog, cache_file)
    except NotRegistered as error:
        return [f"schemas: {error}"]
    except RegistryUnavailable as error:
        return [Silent(f"{environment.variable('registry')}={registry}: {error}")]
    except RegistryError as error:
        return [f"schemas: {error}"]
    return []


def all_problems(settings: Located | None, found: Sequence[str], catalog: Catalog, cache_file: Path) -> list[str]:
    """Everything that is wrong: `found` in the settings themselves, variables nobody reads, broker, topics, schema ids."""
    problems = [*found, *environment.unknown()]
    if settings is not None:
        problems += broker_problems(settings.bootstrap, catalog)
        problems += schema_problems(settings.registry, catalog, cache_file)
    return problems


def insist(problems: Sequence[str]) -> None:
    """Go on only when there are none. Raises Failure with all of them: 78, or 69 when all that is wrong is that servers are silent."""
    if problems:
        advice = f"nothing was started. `orderflow topics apply` and `orderflow schemas apply` make what is missing; {environment.ADVICE}"
        raise Failure(problems, then=advice, code=UNAVAILABLE if all(isinstance(each, Silent) for each in problems) else MISCONFIGURED)
