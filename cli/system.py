"""A whole system on this machine: Kafka and registry (or the user's own), contracts, workers, edge; started, watched and stopped as one.

    with System(Path("data")) as system:
        print(system.url)

Workers and edge are children with a supervisor: one that ends is started again, with the same data directory and ports.
"""

import fcntl
import json
import os
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, Self

from orderflow.cli import contracts, runstate
from orderflow.cli.terminal import MISCONFIGURED, UNAVAILABLE, Failure, OnStep
from orderflow.cli.worker import SCHEMA_CACHE
from orderflow.connectors.box.box import Servers
from orderflow.connectors.box.ports import free_port, is_free
from orderflow.connectors.box.process import Child, ChildError, started_at
from orderflow.schemas.catalog import Catalog

PROGRAM = (sys.executable, "-m", "orderflow.cli")
READY_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 40.0
"""A process drains within 30 s; then it is ended."""
PROBE_TIMEOUT_S = 2.0
WATCH_S = 0.1

OnExit = Callable[[str, int, float], None]
"""`(name, exit code, seconds until it is started again)`; a negative code is a signal."""


def silent_step(step: str, done: int, total: int) -> None:
    """Shows nothing."""


def silent_exit(name: str, code: int, again_s: float) -> None:
    """Tells nobody."""


class System:
    """One running system.

    Args:
        data: its directory; one system at a time may use it.
        servers: the user's own Kafka and registry; None starts the box.
        port: of the edge; 0 takes any free one.
        workers: how many worker processes share the partitions.
        payments: also run the local payment provider and its connector, and sell through the channel `prepaid`.
        environment: further ORDERFLOW_ variables of the children.
        worker_program: what to run instead of `orderflow worker`, for tests of a system that is wrong.
    """

    def __init__(
        self,
        data: Path,
        *,
        servers: Servers | None = None,
        port: int = 0,
        workers: int = 1,
        payments: bool = False,
        environment: Mapping[str, str] | None = None,
        worker_program: Sequence[str] = (*PROGRAM, "worker"),
        on_step: OnStep = silent_step,
        on_exit: OnExit = silent_exit,
    ) -> None:
        self.data = data.absolute()
        self._given, self._port, self._workers, self._payments = servers, port, workers, payments
        self._environment, self._worker_program = dict(environment or {}), tuple(worker_program)
        self._on_step, self._on_exit = on_step, on_exit
        self._lock: IO[str] | None = None
        self._parts = ExitStack()
        self._children: dict[str, tuple[Child, str]] = {}
        self._servers: Servers | None = None
        self._catalog = Catalog()
        self._stopping = threading.Event()
        self._watcher: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self.stop()

    @property
    def servers(self) -> Servers:
        assert self._servers is not None, "start() first"
        return self._servers

    @property
    def _secrets(self) -> Path:
        """Where the edge and the provider of the box find the secret of its webhooks."""
        return self.data / "webhooks.toml"

    @property
    def url(self) -> str:
        """Base URL of the edge."""
        return self._children["edge"][1]

    @property
    def state(self) -> runstate.RunState:
        """What runs now."""
        processes = []
        for name, (child, url) in self._children.items():
            pid = child.pid
            started = started_at(pid) if pid is not None else None
            if pid is not None and started is not None:
                processes.append(runstate.Process(name, pid, started, url))
        kafka, registry, names = self.servers.bootstrap, self.servers.registry_url, self._catalog
        return runstate.RunState(os.getpid(), self.url, kafka, registry, str(self.data), names.prefix, names.partitions, tuple(processes))

    def start(self) -> None:
        """Start everything and return when requests are answered.

        Raises:
            Failure: what cannot be started, and what to do.
        """
        self._stopping.clear()
        self._take_directory()
        try:
            self._choose_port()
            self._servers = self._given or self._start_box()
            self._apply_contracts()
            self._start_children()
            runstate.write(self.data, self.state)
            self._watcher = threading.Thread(target=self._watch, name="run-state", daemon=True)
            self._watcher.start()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the edge, what it asks, the servers, in this order. Does nothing when not started."""
        self._stopping.set()
        if self._watcher is not None:
            self._watcher.join()
            self._watcher = None
        edge = self._children.pop("edge", None)
        if edge is not None:
            edge[0].stop(STOP_TIMEOUT_S)
        others = [child for child, _ in self._children.values()]
        self._children.clear()
        if others:
            with ThreadPoolExecutor(len(others)) as pool:
                list(pool.map(lambda child: child.stop(STOP_TIMEOUT_S), others))
        self._parts.close()
        if self._lock is not None:
            runstate.forget(self.data)
            self._lock.close()
            self._lock = None

    def kill_worker(self) -> runstate.Process:
        """kill -9 of a worker; its supervisor starts another."""
        return runstate.kill_worker(self.data)

    # -- starting -----------------------------------------------------------------------------------------------------------------
    def _take_directory(self) -> None:
        self.data.mkdir(parents=True, exist_ok=True)
        lock = (self.data / "lock").open("a+")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise Failure(f"a system runs in {self.data} already", then="stop it, or choose another directory with --data") from None
        self._lock = lock

    def _choose_port(self) -> None:
        if self._port and not is_free(self._port):
            raise Failure(f"port {self._port} is in use", then="choose another with --port, 0 for any")
        self._port = self._port or free_port()

    def _start_box(self) -> Servers:
        from orderflow.connectors.box.artifacts import ArtifactError
        from orderflow.connectors.box.box import Box, BoxError
        from orderflow.connectors.box.java import JavaMissing

        box = Box(self.data / "box", restart=True)
        try:
            box.start(self._on_step)
        except (BoxError, JavaMissing, ArtifactError, ChildError) as error:
            raise Failure(str(error), then="or use servers of your own: --bootstrap and --registry", code=UNAVAILABLE) from None
        self._parts.callback(box.stop)
        return Servers(box.bootstrap, box.registry_url)

    def _apply_contracts(self) -> None:
        from orderflow.cli import environment
        from orderflow.streams.domain.channel import BOX, PREPAID
        from orderflow.streams.settings import WorkerSettings

        given = {name: self._environment.get(environment.variable(name)) for name in ("prefix", "partitions")}
        settings = environment.load(WorkerSettings, **given)
        catalog = self._catalog = Catalog(settings.prefix, settings.partitions)
        self._on_step("contracts: topics", 0, 0)
        contracts.apply_topics(self.servers.bootstrap, catalog)
        self._on_step("contracts: schemas", 0, 0)
        contracts.apply_schemas(self.servers.registry_url, catalog)
        records = contracts.load_records(self.servers.registry_url, catalog, self.data / SCHEMA_CACHE)
        contracts.send_channels(self.servers.bootstrap, records, {"box": BOX, "prepaid": PREPAID} if self._payments else {"box": BOX})
        self._on_step("contracts: ready", 0, 0)

    def _start_children(self) -> None:
        """Everything at the same time; done when every partition has an owner that answers."""
        ports: list[int] = [self._port]
        for number in range(1, self._workers + 1):
            ports.append(free_port(ports))
            self._start_worker(f"worker-{number}", ports[-1])
        if self._payments:
            provider_port = free_port(ports)
            self._start_payments(provider_port, free_port([*ports, provider_port]))
        url = f"http://127.0.0.1:{self._port}"
        variables = {"PROFILE": "demo", "HOST": "127.0.0.1", "PORT": str(self._port), "DATA": str(self.data / "edge")}
        if self._payments:
            variables["WEBHOOKS"] = str(self._secrets)
        self._start_child("edge", (*PROGRAM, "serve"), url, variables, lambda: _ready(url) and not _ownerless(url))
        self._await_children()

    def _await_children(self) -> None:
        """Return when all are ready; the first that cannot be ends the start."""
        pool = ThreadPoolExecutor(len(self._children))
        try:
            jobs = {pool.submit(child.wait_ready, READY_TIMEOUT_S): name for name, (child, _) in self._children.items()}
            for job in as_completed(jobs):
                try:
                    job.result()
                except ChildError as error:
                    log = self._children[jobs[job]][0].log_file
                    raise Failure(str(error), then=f"its whole log: {log}", code=UNAVAILABLE) from None
                self._on_step(f"{jobs[job]}: ready", 0, 0)
        finally:
            pool.shutdown(wait=False)

    def _start_worker(self, name: str, port: int) -> None:
        url = f"http://127.0.0.1:{port}"
        variables = {"DATA": str(self.data / name), "WORKER_HOST": "127.0.0.1", "WORKER_PORT": str(port), "WORKER_ADDRESS": url}
        variables["SUPERVISE"] = "false"  # this system does
        self._start_child(name, self._worker_program, url, variables, lambda: _ready(url))

    def _start_payments(self, provider_port: int, port: int) -> None:
        """The provider with its book, which tells the edge of what it did, and the connector that asks it."""
        from orderflow.connectors.payments.local import NAME
        from orderflow.connectors.webhooks.sources import write_secret

        provider, url = f"http://127.0.0.1:{provider_port}", f"http://127.0.0.1:{port}"
        write_secret(self._secrets, NAME)
        book, edge = str(self.data / "provider" / "book.db"), f"http://127.0.0.1:{self._port}/api/v1/webhooks/{NAME}"
        options = ("--port", str(provider_port), "--data", book, "--webhooks", edge, "--secrets", str(self._secrets))
        command = (*PROGRAM, "payments", "provider", *options)
        self._start_child("provider", command, provider, {}, lambda: _ready(provider))
        variables = {"DATA": str(self.data / "payments"), "PROVIDER_URL": provider, "CONNECTOR_PORT": str(port)}
        self._start_child("payments", (*PROGRAM, "payments", "connect"), url, variables, lambda: _ready(url))

    def _start_child(self, name: str, command: Sequence[str], url: str, variables: Mapping[str, str], ready: Callable[[], bool]) -> None:
        own = {"BOOTSTRAP": self.servers.bootstrap, "REGISTRY": self.servers.registry_url, **variables}
        environment = {**os.environ, **self._environment, **{f"ORDERFLOW_{key}": value for key, value in own.items()}}
        refused = threading.Event()

        def ended(code: int, again_s: float) -> None:
            if code == MISCONFIGURED:
                refused.set()
            environment["ORDERFLOW_RESTARTS"] = str(child.restarts + 1)
            self._on_exit(name, code, again_s)

        def is_ready() -> bool:
            if refused.is_set():  # starting it again would not help
                raise ChildError(f"{name} refused to start\n{child.log_tail()}")
            return ready()

        self._on_step(f"{name}: start", 0, 0)
        child = Child(
            name,
            command,
            self.data / "logs" / f"{name}.log",
            env=environment,
            ready=is_ready,
            pid_file=self.data / "run" / f"{name}.pid",
            restart=True,
            on_exit=ended,
        )
        child.start()
        self._children[name] = (child, url)

    def _watch(self) -> None:
        """Keep run.json true: a process that was started again has another pid."""
        written = self.state
        while not self._stopping.wait(WATCH_S):
            state = self.state
            if state != written:
                runstate.write(self.data, state)
                written = state


def _ready(url: str) -> bool:
    return _get(f"{url}/health/ready")[0] == 200


def _ownerless(url: str) -> bool:
    """Does the edge still miss the owner of a partition?"""
    return any(_get(f"{url}/health/ready")[1].get("partitions_missing", {}).values())


def _get(url: str) -> tuple[int, dict[str, Any]]:
    """Status and JSON of a page on this machine; status 0 when nobody answers."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=PROBE_TIMEOUT_S) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, {}
    except (OSError, ValueError):
        return 0, {}
