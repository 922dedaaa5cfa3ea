"""The box: a real Kafka and a real schema registry on this machine, started, found again and ended as one thing.

    with Box(Path(".box")) as box:
        Producer({"bootstrap.servers": box.bootstrap})

Everything it keeps is in the data directory: `kafka/` and `registry/` the servers' data, `box.json` ports and version, `logs/`, `run/`
the pids, `lock`. Delete the directory and the next start is a first start.
"""

import fcntl
import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple, Self

from orderflow.connectors.box import java, kafka, registry
from orderflow.connectors.box.artifacts import OnProgress, fetch, read_lock
from orderflow.connectors.box.ports import free_port, is_free
from orderflow.connectors.box.process import READY_TIMEOUT_S, Child, ChildError, end_orphan

BEFORE_IT_WAS_SAID = "4.3.1"
"""The Kafka of boxes that did not write down which one they ran."""


class BoxError(Exception):
    """The box cannot start as asked; the message says what to do."""


class Servers(NamedTuple):
    """Where a Kafka and a registry are: those of a started box, or the user's own."""

    bootstrap: str
    registry_url: str


def _silent(step: str, done: int, total: int) -> None:
    """Shows nothing."""


class Box:
    """A Kafka node and, unless `registry=False`, a registry, with their data in `data_dir`.

    Args:
        data_dir: made when missing; one box at a time may use it.
        kafka_port, registry_port: 0 = the one this directory had before if it is free, else any free one.
        registry: False = Kafka only.
        restart: start a part again when it ends by itself.
    """

    def __init__(
        self, data_dir: Path, *, kafka_port: int = 0, registry_port: int = 0, registry: bool = True, restart: bool = False
    ) -> None:
        self.data_dir = data_dir.absolute()
        self._wanted = {"kafka": kafka_port, "controller": 0}
        if registry:
            self._wanted |= {"registry": registry_port, "management": 0}
        self._restart = restart
        self._ports: dict[str, int] = {}
        self._broker: Child | None = None
        self._registry: Child | None = None
        self._lock: IO[str] | None = None
        self._cancelled = threading.Event()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    @property
    def bootstrap(self) -> str:
        """`127.0.0.1:port` of the broker, the same until `stop`."""
        return f"127.0.0.1:{self._port('kafka')}"

    @property
    def registry_url(self) -> str:
        """Base URL of the registry's Confluent-compatible API."""
        return f"http://127.0.0.1:{self._port('registry')}{registry.API}"

    def start(self, on_progress: OnProgress = _silent, *, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Start the parts, in parallel, and return when all answer. `timeout_s` bounds each part's start, not its download.

        Raises:
            BoxError: another box uses the directory, its data are of a newer Kafka, or a port that was asked for is taken.
            JavaMissing: the extra `box` is not installed.
            ArtifactError: a file could not be fetched.
            ChildError: a part ended or was not ready in time; the message shows its log.
        """
        executable = java.executable()
        self._take_directory()
        self._cancelled.clear()
        try:
            self._remember()
            starts = [self._start_broker, self._start_registry] if "registry" in self._wanted else [self._start_broker]
            with ThreadPoolExecutor(len(starts), thread_name_prefix="box-start") as pool:
                jobs = [pool.submit(start, executable, on_progress, timeout_s) for start in starts]
                try:
                    for job in jobs:
                        job.result()
                except BaseException:
                    self._cancelled.set()
                    self._end_children()
                    raise
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the parts in good order and let go of the directory. Does nothing when not started."""
        self._end_children()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def kill_broker(self) -> None:
        """kill -9 the broker, for tests of what survives it."""
        self._started_broker().kill()

    def stop_broker(self, *, timeout_s: float = READY_TIMEOUT_S) -> None:
        """End the broker in good order and return when it has; `start_broker` starts it again."""
        self._started_broker().stop(timeout_s)

    def start_broker(self, *, timeout_s: float = READY_TIMEOUT_S) -> None:
        """After `kill_broker` or `stop_broker`: start it on the same port (unless `restart` does) and return when it answers.

        Raises:
            BoxError: the box is not started.
            ChildError: as `start`.
        """
        broker = self._started_broker()
        if not self._restart:
            broker.start()
        broker.wait_ready(timeout_s)

    def _port(self, name: str) -> int:
        if self._lock is None or name not in self._ports:
            raise BoxError("the box is not started" if name in self._wanted else "this box runs without a registry")
        return self._ports[name]

    def _started_broker(self) -> Child:
        if self._lock is None or self._broker is None:
            raise BoxError("the box is not started")
        return self._broker

    def _take_directory(self) -> None:
        """Lock the directory, so that two boxes never share data, and end what a killed owner may have left running."""
        if self._lock is not None:
            raise BoxError("the box is started already")
        self.data_dir.mkdir(parents=True, exist_ok=True)
        lock = (self.data_dir / "lock").open("a+")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            owner = lock.read().strip() or "unknown"
            lock.close()
            raise BoxError(f"another box (process {owner}) uses {self.data_dir}: stop it, or choose another directory") from None
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        self._lock = lock
        for name in ("kafka", "registry"):
            end_orphan(self._pid_file(name))

    def _remember(self) -> None:
        """The ports and the version of Kafka, as last time where that can be. Raises BoxError for data of a newer Kafka."""
        file = self.data_dir / "box.json"
        said: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
        mine, theirs = kafka.version(read_lock("kafka")), said.get("kafka", BEFORE_IT_WAS_SAID)
        if (self.data_dir / "kafka" / "meta.properties").exists() and kafka.order_of(theirs) > kafka.order_of(mine):
            raise BoxError(
                f"{self.data_dir} was written by Kafka {theirs}, which this one, {mine}, cannot read: choose another directory, "
                "or delete this one with all that is in it"
            )
        before: dict[str, int] = said.get("ports", {})
        for name, wanted in self._wanted.items():
            if wanted and not is_free(wanted):
                raise BoxError(f"port {wanted}, asked for by {name}, is in use: choose another, or 0 for any")
            old = before.get(name, 0)
            self._ports[name] = wanted or (old if old and is_free(old) else free_port({*before.values(), *self._ports.values()}))
        new = file.with_suffix(".new")
        new.write_text(json.dumps({"kafka": mine, "ports": {**before, **self._ports}}, indent=2) + "\n")
        new.replace(file)

    def _start_broker(self, executable: Path, on_progress: OnProgress, timeout_s: float) -> None:
        jars = fetch(read_lock("kafka"), step="kafka: download", on_progress=on_progress, cancelled=self._cancelled)
        data, config, log = self.data_dir / "kafka", self.data_dir / "kafka.properties", self._logs / "kafka.log"
        port = self._ports["kafka"]
        config.write_text(kafka.properties(data, port, self._ports["controller"]))
        on_progress("kafka: start", 0, 0)
        kafka.format_storage(executable, jars, config, data, self._logs / "format.log")
        self._broker = Child(
            "kafka",
            kafka.command(executable, jars, config, log),
            self._logs / "kafka.out",
            env=java.environment(),
            ready=lambda: kafka.is_ready(port),
            pid_file=self._pid_file("kafka"),
            restart=self._restart,
        )
        self._run(self._broker, timeout_s)
        on_progress("kafka: ready", 0, 0)

    def _start_registry(self, executable: Path, on_progress: OnProgress, timeout_s: float) -> None:
        (artifact,) = read_lock("registry")
        home = registry.home_of(artifact)
        if not home.is_dir():
            (tarball,) = fetch((artifact,), step="registry: download", on_progress=on_progress, cancelled=self._cancelled)
            on_progress("registry: unpack", 0, 0)
            registry.unpack(artifact, tarball)
        on_progress("registry: start", 0, 0)
        port = self._ports["registry"]
        self._registry = Child(
            "registry",
            registry.command(executable, home, self._logs),
            self._logs / "registry.out",
            env=registry.environment(self.data_dir / "registry", self._logs / "registry.log", port, self._ports["management"]),
            ready=lambda: registry.is_ready(port),
            pid_file=self._pid_file("registry"),
            restart=self._restart,
        )
        self._run(self._registry, timeout_s)
        on_progress("registry: ready", 0, 0)

    def _run(self, child: Child, timeout_s: float) -> None:
        if self._cancelled.is_set():
            raise ChildError(f"{child.name} was stopped before it was ready")
        child.start()
        child.wait_ready(timeout_s)

    def _end_children(self) -> None:
        """All at once: each may take seconds."""
        children = [child for child in (self._broker, self._registry) if child is not None]
        threads = [threading.Thread(target=child.stop, name=f"{child.name}-stop") for child in children]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    @property
    def _logs(self) -> Path:
        return self.data_dir / "logs"

    def _pid_file(self, name: str) -> Path:
        return self.data_dir / "run" / f"{name}.pid"
