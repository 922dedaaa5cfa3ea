"""Making the contracts true on a Kafka and a registry: topics, schemas, the channel policies a system starts with."""

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orderflow.cli.terminal import MISCONFIGURED, NO, UNAVAILABLE, Failure
from orderflow.schemas.catalog import Catalog

if TYPE_CHECKING:
    from confluent_kafka.admin import AdminClient

    from orderflow.schemas.registry import Change
    from orderflow.streams.domain.channel import ChannelPolicy
    from orderflow.streams.records import Records

BROKER_TIMEOUT_S = 10.0
FLUSH_TIMEOUT_S = 10.0
POLL_S = 0.1


def connect(bootstrap: str) -> "AdminClient":
    """An admin client of a broker that answers. Raises Failure 69."""
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    client = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    try:
        client.list_topics(timeout=BROKER_TIMEOUT_S)
    except KafkaException as error:
        raise Failure(
            f"the broker {bootstrap} does not answer ({error.args[0].str()})",
            then="start one with `orderflow up`, or name another with --bootstrap or ORDERFLOW_BOOTSTRAP",
            code=UNAVAILABLE,
        ) from None
    return client


def apply_topics(bootstrap: str, catalog: Catalog) -> tuple[str, ...]:
    """Make the missing topics. Raises Failure 78 naming every difference of the others."""
    from orderflow.schemas import admin

    try:
        return admin.apply(connect(bootstrap), catalog)
    except admin.TopicsDiffer as differ:
        raise Failure(
            [str(difference) for difference in differ.differences],
            then="nothing was changed: settings and partition counts are for life; set them back, or copy into new topics",
            code=MISCONFIGURED,
        ) from None
    except RuntimeError as error:
        raise Failure(str(error).splitlines(), then="the broker refused; its log says why", code=NO) from None


def apply_schemas(registry: str, catalog: Catalog) -> "tuple[Change, ...]":
    """Register what is missing. Raises Failure 69 or 78."""
    from orderflow.schemas.registry import IncompatibleSchemas, RegistryError, RegistryUnavailable
    from orderflow.schemas.registry import apply as apply_registry

    try:
        return apply_registry(registry, catalog)
    except IncompatibleSchemas as error:
        raise Failure(
            str(error).splitlines(), then="nothing was registered: old readers could not read what this version writes", code=MISCONFIGURED
        ) from None
    except RegistryUnavailable as error:
        raise Failure(
            str(error), then="start one with `orderflow up`, or name another with --registry or ORDERFLOW_REGISTRY", code=UNAVAILABLE
        ) from None
    except RegistryError as error:
        raise Failure(str(error), code=NO) from None


def load_records(registry: str, catalog: Catalog, cache_file: Path) -> "Records":
    """The codecs under the registry's ids. Raises Failure 69 or 78."""
    from orderflow.schemas.registry import RegistryError, RegistryUnavailable
    from orderflow.streams.records import Records

    try:
        return Records.load(catalog, registry, cache_file)
    except RegistryUnavailable as error:
        raise Failure(str(error), then="name the registry with --registry or ORDERFLOW_REGISTRY", code=UNAVAILABLE) from None
    except RegistryError as error:
        raise Failure(str(error), then="run `orderflow schemas apply`", code=MISCONFIGURED) from None


def send_channels(bootstrap: str, records: "Records", policies: Mapping[str, "ChannelPolicy"]) -> None:
    """Ask the catalog to have these policies. Setting what is set already changes nothing, so this may be repeated."""
    from confluent_kafka import Producer
    from ulid import ULID

    from orderflow.streams.domain.channel import SetChannel, channel_key
    from orderflow.streams.domain.contract import CommandMeta

    space = records.of("catalog")
    failed: list[str] = []
    settings = {"bootstrap.servers": bootstrap, "partitioner": "murmur2_random", "enable.idempotence": True, "acks": "all", "log_level": 0}
    producer = Producer(settings)
    for name, policy in policies.items():
        key = channel_key(name)
        meta = CommandMeta(str(ULID()), time.time_ns() // 1000, actor="cli", principal="cli")
        producer.produce(
            space.commands,
            space.encode_command(meta, key, SetChannel(policy)),
            key.encode(),
            on_delivery=lambda error, message: failed.append(error.str()) if error else None,
        )
    if producer.flush(FLUSH_TIMEOUT_S) or failed:
        raise Failure(f"the log did not take the channel policies: {failed[:1] or 'no answer'}", then="try again", code=UNAVAILABLE)


def read_channels(bootstrap: str, records: "Records") -> dict[str, Any]:
    """Every channel as the catalog shows it now: key to snapshot."""
    topic, _ = records.of("catalog").status["channel"]
    decode = records.of("catalog").decode_status("channel")
    found: dict[str, Any] = {}
    for message in read_topic(bootstrap, topic):
        key, value = message.key().decode(), message.value()
        if value is None:
            found.pop(key, None)
        else:
            found[key] = decode(value)
    return found


def await_channels(bootstrap: str, records: "Records", policies: Mapping[str, "ChannelPolicy"], wait_s: float) -> list[str]:
    """Wait until a worker has decided; the names that do not have their policy by then (a worker must run, and may refuse)."""
    from orderflow.streams.domain.channel import channel_key

    deadline = time.monotonic() + wait_s
    while True:
        found = read_channels(bootstrap, records)
        open_names = [name for name, policy in policies.items() if (seen := found.get(channel_key(name))) is None or seen.policy != policy]
        if not open_names or time.monotonic() > deadline:
            return open_names
        time.sleep(POLL_S)


def read_topic(bootstrap: str, topic: str, since_ms: int | None = None) -> Iterator[Any]:
    """Every record of a topic that is committed at this moment, or those since a log-append time. Raises Failure 69 or 78."""
    from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition

    connect(bootstrap)
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "orderflow-cli",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "allow.auto.create.topics": False,
            "fetch.wait.max.ms": 50,
        }
    )
    try:
        known = consumer.list_topics(topic, timeout=BROKER_TIMEOUT_S).topics[topic]
        if known.error is not None or not known.partitions:
            raise Failure(f"topic {topic} does not exist", then="run `orderflow topics apply`", code=MISCONFIGURED)
        left = set(known.partitions)
        starts = [TopicPartition(topic, number, OFFSET_BEGINNING if since_ms is None else since_ms) for number in left]
        consumer.assign(starts if since_ms is None else consumer.offsets_for_times(starts, timeout=BROKER_TIMEOUT_S))
        while left:
            message = consumer.poll(BROKER_TIMEOUT_S)
            if message is None:
                raise Failure(f"{topic} was not read to its end: the broker does not answer", then="try again", code=UNAVAILABLE)
            error = message.error()
            if error is None:
                yield message
            elif error.code() == KafkaError._PARTITION_EOF:
                left.discard(message.partition())
            else:
                raise Failure(f"{topic}: {error.str()}", code=UNAVAILABLE)
    finally:
        consumer.close()
