"""The box is a real Kafka and a real registry that keep what they were given, whatever is killed."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaException, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from orderflow.connectors.box import kafka
from orderflow.connectors.box.box import Box, BoxError, Servers
from orderflow.connectors.box.process import ChildError, started_at

pytestmark = pytest.mark.box

OWNER = """
import sys, time
from pathlib import Path
from orderflow.connectors.box.box import Box
box = Box(Path(sys.argv[1]), registry=False)
box.start()
print(box.bootstrap, flush=True)
time.sleep(300)
"""


def fresh(word: str) -> str:
    """A name that no other test and no earlier run against the same servers has used."""
    return f"box-{word}-{uuid.uuid4().hex[:8]}"


def make_topic(bootstrap: str, name: str) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap})
    admin.create_topics([NewTopic(name, 4)])[name].result(30)


def produce(bootstrap: str, topic: str, *values: bytes) -> None:
    """In one transaction, which needs the coordinator and its log."""
    producer = Producer({"bootstrap.servers": bootstrap, "transactional.id": f"of-{topic}", "log_level": 0})
    producer.init_transactions(30)
    producer.begin_transaction()
    for value in values:
        producer.produce(topic, value)
    producer.commit_transaction(30)


def consume(bootstrap: str, topic: str, count: int) -> list[bytes]:
    """Through a group, which needs the other coordinator; the 6 s session must be allowed."""
    settings = {
        "group.id": f"of-{topic}-{time.monotonic_ns()}",
        "auto.offset.reset": "earliest",
        "session.timeout.ms": 6000,
        "enable.auto.commit": False,
    }
    consumer = Consumer({"bootstrap.servers": bootstrap, "log_level": 0, **settings})
    consumer.subscribe([topic])
    values: list[bytes] = []
    end = time.monotonic() + 60
    while len(values) < count and time.monotonic() < end:
        message = consumer.poll(0.5)
        if message is not None and message.error() is None:
            values.append(message.value() or b"")
    consumer.close()
    return sorted(values)


def call(url: str, body: object = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, headers={"Content-Type": "application/vnd.schemaregistry.v1+json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def record(**fields: str) -> dict[str, str]:
    return {"schema": json.dumps({"type": "record", "name": "R", "fields": [{"name": n, "type": t} for n, t in fields.items()]})}


def test_the_broker_takes_a_transaction_and_gives_it_to_a_group(box: Servers) -> None:
    topic = fresh("transaction")
    make_topic(box.bootstrap, topic)
    produce(box.bootstrap, topic, b"a", b"b")
    assert consume(box.bootstrap, topic, 2) == [b"a", b"b"]


def test_a_dead_letter_of_twice_a_mebibyte_fits(box: Servers) -> None:
    topic = fresh("large")
    make_topic(box.bootstrap, topic)
    producer = Producer({"bootstrap.servers": box.bootstrap, "message.max.bytes": 4 << 20})
    failed: list[object] = []
    producer.produce(topic, b"x" * (2 << 20), on_delivery=lambda error, _: failed.append(error) if error else None)
    producer.flush(30)
    assert failed == []


def test_topics_are_not_made_by_accident(box: Servers) -> None:
    topic = fresh("typo")
    producer = Producer({"bootstrap.servers": box.bootstrap, "message.timeout.ms": 2000, "log_level": 0})
    producer.produce(topic, b"x")
    producer.flush(10)
    assert topic not in AdminClient({"bootstrap.servers": box.bootstrap}).list_topics(timeout=10).topics


def test_the_registry_refuses_an_incompatible_schema(box: Servers) -> None:
    subject = f"{box.registry_url}/subjects/{fresh('compatible')}/versions"
    call(subject, record(a="string"))
    with pytest.raises(urllib.error.HTTPError, match="409"):
        call(subject, record(a="long"))


def test_a_cluster_id_that_looks_like_an_option_is_none(own_box: Callable[..., Box], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka.uuid, "uuid4", lambda: uuid.UUID(int=0b111110 << 122))
    box = own_box(registry=False)
    assert "cluster.id=-" in (box.data_dir / "kafka" / "meta.properties").read_text()


@pytest.mark.slow
def test_data_and_schema_ids_outlive_a_restart_even_on_other_ports(own_box: Callable[..., Box]) -> None:
    first = own_box()
    make_topic(first.bootstrap, "kept")
    produce(first.bootstrap, "kept", b"before")
    given = call(f"{first.registry_url}/subjects/kept/versions", record(a="string"))
    before = (first.bootstrap, first.registry_url)
    first.stop()
    second = own_box()
    assert (second.bootstrap, second.registry_url) == before
    assert call(f"{second.registry_url}/subjects/kept", record(a="string"))["id"] == given["id"]
    second.stop()
    file = first.data_dir / "box.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "ports": {}}))
    third = own_box()
    assert third.bootstrap != before[0]
    assert consume(third.bootstrap, "kept", 1) == [b"before"]


@pytest.mark.parametrize("said", ["4.10.0", None])
def test_data_of_a_newer_kafka_are_refused_with_a_word_and_left_alone(own_box: Callable[..., Box], said: str | None) -> None:
    """Boxes that did not write down their version ran 4.3.1."""
    box = own_box(registry=False)
    make_topic(box.bootstrap, "kept")
    box.stop()
    file = box.data_dir / "box.json"
    written = json.loads(file.read_text())
    assert kafka.order_of(written["kafka"]) < (4, 3)
    file.write_text(json.dumps({name: value for name, value in {**written, "kafka": said}.items() if value is not None}))
    with pytest.raises(BoxError, match=rf"was written by Kafka {said or '4.3.1'}, .* choose another directory"):
        own_box(registry=False)
    file.write_text(json.dumps(written))
    assert "kept" in AdminClient({"bootstrap.servers": own_box(registry=False).bootstrap}).list_topics(timeout=10).topics


@pytest.mark.chaos
@pytest.mark.slow
def test_a_killed_broker_comes_back_on_its_port_with_its_data_again_and_again(own_box: Callable[..., Box]) -> None:
    box = own_box(registry=False)
    bootstrap = box.bootstrap
    make_topic(bootstrap, "survivor")
    for round_ in (b"1", b"2", b"3"):
        produce(bootstrap, "survivor", round_)
        box.kill_broker()
        with pytest.raises(KafkaException):
            AdminClient({"bootstrap.servers": bootstrap, "log_level": 0}).list_topics(timeout=1)
        box.start_broker()
        assert box.bootstrap == bootstrap
    assert consume(bootstrap, "survivor", 3) == [b"1", b"2", b"3"]


@pytest.mark.chaos
def test_a_box_that_restarts_its_parts_brings_a_killed_broker_back_by_itself(own_box: Callable[..., Box]) -> None:
    box = own_box(registry=False, restart=True)
    box.kill_broker()
    box.start_broker()
    assert len(AdminClient({"bootstrap.servers": box.bootstrap}).list_topics(timeout=10).brokers) == 1


def test_two_boxes_never_share_a_directory(own_box: Callable[..., Box]) -> None:
    box = own_box(registry=False)
    with pytest.raises(BoxError, match=rf"another box \(process {os.getpid()}\) uses .*stop it, or choose another directory"):
        own_box(registry=False)
    assert box.bootstrap


@pytest.mark.chaos
def test_kill_9_of_the_owner_ends_the_broker_and_the_next_start_finds_the_data(own_box: Callable[..., Box], tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", OWNER, str(tmp_path / "box")], stdout=subprocess.PIPE, text=True) as owner:
        try:
            assert owner.stdout is not None
            bootstrap = owner.stdout.readline().strip()
            make_topic(bootstrap, "orphaned")
            produce(bootstrap, "orphaned", b"kept")
            broker = int((tmp_path / "box" / "run" / "kafka.pid").read_text().split()[0])
        finally:
            owner.kill()
    box = own_box(registry=False)
    assert started_at(broker) is None
    assert box.bootstrap == bootstrap
    assert consume(bootstrap, "orphaned", 1) == [b"kept"]


def test_a_broker_that_nothing_guards_is_found_and_ended_by_the_next_start(own_box: Callable[..., Box], tmp_path: Path) -> None:
    first = own_box(registry=False)
    pid_file = tmp_path / "box" / "run" / "kafka.pid"
    remembered = pid_file.read_text()
    first.stop()
    stray = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"], start_new_session=True)
    pid_file.write_text(f"{stray.pid} {started_at(stray.pid)}\n")
    second = own_box(registry=False)
    assert stray.wait(10) == -signal.SIGTERM
    assert pid_file.read_text() != remembered
    assert second.bootstrap


def test_a_port_that_was_asked_for_and_is_taken_is_said_before_anything_starts(own_box: Callable[..., Box]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BoxError, match=f"port {port}, asked for by kafka, is in use"):
            own_box(registry=False, kafka_port=port)


def test_a_start_that_fails_shows_the_log_and_leaves_the_directory_free(own_box: Callable[..., Box], tmp_path: Path) -> None:
    own_box(registry=False).stop()
    (tmp_path / "box" / "kafka" / "meta.properties").write_text("version=1\nnode.id=77\ncluster.id=another\n")
    with pytest.raises(ChildError, match=r"(?s)kafka ended with 1 before it was ready.*kafka\.out.*node"):
        own_box(registry=False)
    with pytest.raises(ChildError):
        own_box(registry=False)


def test_a_box_without_a_registry_says_so(own_box: Callable[..., Box], tmp_path: Path) -> None:
    box = own_box(registry=False)
    with pytest.raises(BoxError, match="without a registry"):
        _ = box.registry_url
    with pytest.raises(BoxError, match="not started"):
        _ = Box(tmp_path / "other").bootstrap
