"""Topics at a real broker: made as the catalogue says, refused when they differ, everything at once."""

import time
from collections.abc import Mapping
from uuid import uuid4

import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from orderflow.connectors.box.box import Servers
from orderflow.schemas import admin as topics
from orderflow.schemas.admin import Difference, TopicsDiffer
from orderflow.schemas.catalog import Catalog

pytestmark = pytest.mark.box


@pytest.fixture
def admin(box: Servers) -> AdminClient:
    return AdminClient({"bootstrap.servers": box.bootstrap})


@pytest.fixture
def catalog() -> Catalog:
    return Catalog(prefix=f"test-{uuid4().hex[:8]}", partitions=2)


def make(admin: AdminClient, name: str, partitions: int, config: Mapping[str, str]) -> None:
    for future in admin.create_topics([NewTopic(name, partitions, 1, config=dict(config))]).values():
        future.result()
    while name not in admin.list_topics(timeout=30).topics:
        time.sleep(0.01)


def test_missing_topics_are_made_and_then_nothing_differs(admin: AdminClient, catalog: Catalog) -> None:
    everything = tuple(topic.name for topic in catalog.topics())
    assert tuple(difference.topic for difference in topics.plan(admin, catalog)) == everything
    with pytest.raises(TopicsDiffer, match=f"{catalog.replies}: missing"):
        topics.check(admin, catalog)
    assert topics.apply(admin, catalog) == everything
    assert topics.plan(admin, catalog) == ()
    topics.check(admin, catalog)
    assert topics.apply(admin, catalog) == ()


def test_every_difference_is_reported_at_once_and_nothing_is_touched(admin: AdminClient, catalog: Catalog) -> None:
    commands = catalog.topic(catalog.commands_topic("stock"))
    make(admin, commands.name, 3, dict(commands.config) | {"message.timestamp.type": "CreateTime", "retention.ms": "1000"})
    changelog = catalog.topic(catalog.changelog_topic("orders", "order"))
    make(admin, changelog.name, 2, dict(changelog.config) | {"cleanup.policy": "delete"})
    with pytest.raises(TopicsDiffer) as error:
        topics.apply(admin, catalog)
    assert error.value.differences == (
        Difference(changelog.name, "cleanup.policy", "compact", "delete"),
        Difference(commands.name, "partitions", "2", "3"),
        Difference(commands.name, "retention.ms", "604800000", "1000"),
        Difference(commands.name, "message.timestamp.type", "LogAppendTime", "CreateTime"),
    )
    assert f"{commands.name}: partitions is 3, must be 2" in str(error.value)
    existing = admin.list_topics(timeout=30).topics
    assert [topic.name for topic in catalog.topics() if topic.name in existing] == [changelog.name, commands.name]


def test_too_few_brokers_for_the_replication_are_reported(admin: AdminClient, catalog: Catalog) -> None:
    with pytest.raises(RuntimeError, match=f"{catalog.replies}: .*INVALID_REPLICATION_FACTOR"):
        topics.apply(admin, catalog, replication=3)
