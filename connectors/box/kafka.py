"""One Apache Kafka node in KRaft mode, broker and controller in one process: its settings and how it is started.

`SETTINGS` is what makes a broker fit the product, and `docker-compose.yml` carries the same (a test compares); what differs
from run to run, ports and folders, is added by `properties`.
"""

import base64
import subprocess
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from orderflow.connectors.box import java, ports
from orderflow.connectors.box.artifacts import Artifact

LOG4J = Path(__file__).with_name("log4j2.xml")
METADATA_TIMEOUT_S = 2.0

SETTINGS: Mapping[str, str] = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "PLAINTEXT",
    # One node holds everything once.
    "default.replication.factor": "1",
    "min.insync.replicas": "1",
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    # Fifty partitions of each internal topic would only make a single node slow to start.
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.num.partitions": "4",
    # Topics are made by `orderflow topics apply`, never by a typing error.
    "auto.create.topics.enable": "false",
    "num.partitions": "4",
    # A killed broker that comes back is refused until its old session is over (9 s by default).
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
    # A dead owner's open transaction blocks its readers until this sweep (engine.md 3).
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
    # Members join at once and may have the 6 s sessions that tests use, in both group protocols.
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "2000",
    "group.consumer.min.session.timeout.ms": "2000",
    "group.consumer.min.heartbeat.interval.ms": "500",
    # A dead letter holds a record of up to 1 MiB and its cause: twice that, and room for the batch around it.
    "message.max.bytes": "2359296",
    # Compaction soon, with a map of 32 MiB instead of 128.
    "log.cleaner.backoff.ms": "5000",
    "log.cleaner.dedupe.buffer.size": "33554432",
    "num.network.threads": "2",
    "num.io.threads": "4",
}


def version(jars: Iterable[Artifact]) -> str:
    """Which Kafka these are."""
    return next(jar.version for jar in jars if jar.name.startswith("kafka_"))


def order_of(version: str) -> tuple[int, ...]:
    """4.10.0 comes after 4.9.1."""
    return tuple(int(part) for part in version.split("."))


def properties(data: Path, port: int, controller_port: int) -> str:
    """The whole server.properties of a node that keeps its data in `data`."""
    here = {
        "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
        "controller.quorum.voters": f"{SETTINGS['node.id']}@127.0.0.1:{controller_port}",
        "log.dirs": str(data),
    }
    return "".join(f"{name}={value}\n" for name, value in {**SETTINGS, **here}.items())


def format_storage(executable: Path, jars: Sequence[Path], config: Path, data: Path, log: Path) -> None:
    """Give new data a cluster id, as `kafka-storage format` does; kept data are left alone.

    Raises:
        RuntimeError: Kafka's own tool refused.
    """
    if (data / "meta.properties").exists():
        return
    cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")  # one of 64 begins with "-": no option, though it looks it
    tool = ["kafka.tools.StorageTool", "format", f"--cluster-id={cluster}", "--config", str(config), "--ignore-formatted"]
    done = subprocess.run(
        [*_java(executable, jars, log), *tool],
        env=java.environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"Kafka refused to format {data}:\n{done.stdout}{done.stderr}")


def command(executable: Path, jars: Sequence[Path], config: Path, log: Path) -> list[str]:
    """The command line of the broker. It logs everything to `log`, and warnings to stdout too."""
    return [*_java(executable, jars, log), "kafka.Kafka", str(config)]


def _java(executable: Path, jars: Sequence[Path], log: Path) -> list[str]:
    settings = [f"-Dlog4j2.configurationFile={LOG4J}", f"-Dorderflow.box.log={log}"]
    return [str(executable), "-Xms256m", "-Xmx768m", *java.options(log.parent), *settings, "-cp", ":".join(map(str, jars))]


def is_ready(port: int) -> bool:
    """True once the broker answers a real metadata request with itself in it."""
    if not ports.accepts(port):
        return False
    client = AdminClient({"bootstrap.servers": f"127.0.0.1:{port}", "log_level": 0})
    try:
        return len(client.list_topics(timeout=METADATA_TIMEOUT_S).brokers) == 1
    except KafkaException:
        return False
