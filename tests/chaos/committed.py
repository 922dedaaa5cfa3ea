"""What a read_committed reader of a topic sees, asked of the broker itself."""

from confluent_kafka import Consumer, KafkaError, TopicPartition

from orderflow.connectors.box.box import Servers


def visible(box: Servers, topic: str) -> list[bytes]:
    """The values of partition 0, past any proxy."""
    settings = {"bootstrap.servers": box.bootstrap, "group.id": "proxy", "enable.partition.eof": True, "log_level": 0}
    consumer = Consumer({**settings, "isolation.level": "read_committed", "enable.auto.commit": False})
    consumer.assign([TopicPartition(topic, 0, 0)])
    found = []
    while (message := consumer.poll(20)) is not None and (message.error() is None or message.error().code() != KafkaError._PARTITION_EOF):
        found.append(message.value())
    consumer.close()
    return found
