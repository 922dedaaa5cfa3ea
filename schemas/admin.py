"""Topics as they are on the broker against topics as the catalogue says: what is missing is made, what differs is refused.

A partition count, a timestamp type or a retention is never changed under a running system: the difference is reported, all
differences at once, and nothing is touched.
"""

import time
from collections.abc import Mapping

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType
from msgspec import Struct

from orderflow.schemas.catalog import Catalog, Topic

TIMEOUT_S = 30.0
POLL_S = 0.05
REPLICAS_MAX = 3
"""Replication factor by default, as far as there are brokers."""


class Difference(Struct, frozen=True):
    """One way in which a topic is not as it must be. `what` is `topic` (missing), `partitions` or the name of a setting."""

    topic: str
    what: str
    expected: str
    found: str

    @property
    def missing(self) -> bool:
        """The topic does not exist, so `apply` can make it."""
        return self.what == "topic"

    def __str__(self) -> str:
        return f"{self.topic}: missing" if self.missing else f"{self.topic}: {self.what} is {self.found}, must be {self.expected}"


class TopicsDiffer(Exception):
    """Topics are not as the catalogue says; the message has a line for each difference."""

    def __init__(self, differences: tuple[Difference, ...], advice: str) -> None:
        self.differences = differences
        super().__init__("\n".join([*map(str, differences), advice]))


def plan(admin: AdminClient, catalog: Catalog) -> tuple[Difference, ...]:
    """Every difference between broker and catalogue, in the catalogue's order; empty: none. KafkaException when the broker fails."""
    partitions = {name: len(topic.partitions) for name, topic in admin.list_topics(timeout=TIMEOUT_S).topics.items()}
    settings = _settings(admin, [topic.name for topic in catalog.topics() if topic.name in partitions])
    found: list[Difference] = []
    for topic in catalog.topics():
        if topic.name in partitions:
            found += _compare(topic, partitions[topic.name], settings[topic.name])
        else:
            found.append(Difference(topic.name, "topic", f"{topic.partitions} partitions", "missing"))
    return tuple(found)


def apply(admin: AdminClient, catalog: Catalog, replication: int | None = None) -> tuple[str, ...]:
    """Make the missing topics and return their names once the broker shows them. `replication` is 3 by default, or the number of brokers.

    TopicsDiffer, with nothing made, when an existing topic differs; RuntimeError with a line for each topic the broker would not make.
    """
    differences = plan(admin, catalog)
    if refused := tuple(difference for difference in differences if not difference.missing):
        raise TopicsDiffer(refused, "Nothing was changed. Settings are for life: set them back, or copy into new topics.")
    if not differences:
        return ()
    factor = replication or min(REPLICAS_MAX, len(admin.list_topics(timeout=TIMEOUT_S).brokers))
    missing = [catalog.topic(difference.topic) for difference in differences]
    new = [NewTopic(topic.name, topic.partitions, factor, config=dict(topic.config)) for topic in missing]
    failed = []
    for name, future in admin.create_topics(new, operation_timeout=TIMEOUT_S).items():
        if (error := future.exception()) and not _exists_already(error):
            failed.append(f"{name}: {error}")
    if failed:
        raise RuntimeError("\n".join(failed))
    _await(admin, catalog)
    return tuple(topic.name for topic in missing)


def _exists_already(error: BaseException) -> bool:
    """Somebody else made it meanwhile, or this broker's metadata are behind: `check` sees to its settings."""
    return isinstance(error, KafkaException) and error.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS


def _await(admin: AdminClient, catalog: Catalog) -> None:
    """Metadata follow the creation by moments; a worker started next must see every topic."""
    deadline = time.monotonic() + TIMEOUT_S
    while (differences := plan(admin, catalog)) and all(d.missing for d in differences) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    if differences:
        raise TopicsDiffer(differences, "They were made, but are not as they should be.")


def check(admin: AdminClient, catalog: Catalog) -> None:
    """TopicsDiffer with every difference, missing topics included."""
    if differences := plan(admin, catalog):
        raise TopicsDiffer(differences, "Run `orderflow topics apply` for what is missing; other differences must be set back.")


def _settings(admin: AdminClient, names: list[str]) -> Mapping[str, Mapping[str, str]]:
    resources = [ConfigResource(ResourceType.TOPIC, name) for name in names]
    if not resources:
        return {}
    described = {
        resource.name: future.result() for resource, future in admin.describe_configs(resources, request_timeout=TIMEOUT_S).items()
    }
    return {name: {setting: entry.value for setting, entry in entries.items()} for name, entries in described.items()}


def _compare(topic: Topic, partitions: int, settings: Mapping[str, str]) -> list[Difference]:
    found = []
    if partitions != topic.partitions:
        found.append(Difference(topic.name, "partitions", str(topic.partitions), str(partitions)))
    for setting, expected in topic.config.items():
        if (value := settings.get(setting, "unset")) != expected:
            found.append(Difference(topic.name, setting, expected, value))
    return found


__all__ = ["Difference", "TopicsDiffer", "apply", "check", "plan"]
