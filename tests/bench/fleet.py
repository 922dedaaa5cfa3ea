"""J1 workers of one group as processes of their own: started, watched, stopped and killed by the benchmarks of the whole system.

A worker is the product's Faust worker with J1's tables and decisions. After every commit, and a few times a second without, it writes a
*mark*: how far it is and what it has used. All clocks are the monotonic clock of the machine, the same in every process.
"""

import contextlib
import json
import os
import resource
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import j1
from msgspec import Struct, structs

from orderflow.cli import logs, machine
from orderflow.connectors.box.ports import free_port
from orderflow.connectors.box.process import Child
from orderflow.streams.engine import Engine
from orderflow.streams.partitions import EngineSettings, Log
from orderflow.streams.shell import build_app, run_app
from orderflow.tables.rocks import Store

READY_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 40.0
POLL_S = 0.02
TICK_S = 0.2
EXPIRE_US = 15 * 60 * 1_000_000


class Job(Struct, frozen=True):
    """What one worker process is told."""

    bootstrap: str
    prefix: str
    name: str
    data: str
    marks: str
    on_hand: int
    static: bool = True
    session_timeout_s: float = 10.0
    standby: bool = False
    """Does it copy the partitions that it does not own?"""
    due: bool = False
    """Do reservations expire, so that each has an entry in the due index? (None does before the run is over.)"""


class Mark(Struct, frozen=True):
    """A worker at one moment. Seconds, records and commits since its start; `committed`: records of the commit just done, 0 without one."""

    at: float
    pid: int
    committed: int
    records: int
    commits: int
    rollbacks: int
    cpu_s: float
    commit_s: float
    write_s: float
    rss_mb: int
    partitions: tuple[int, ...]
    """Partitions that run here."""


class BenchError(Exception):
    """A worker or a load generator did not do its part; the message shows its log."""


# -- the worker process -------------------------------------------------------------------------------------------------------------
def job_log(job: Job) -> Log:
    """J1's log; with `due`, its reservations have a deadline as the product's have."""
    log = j1.job_log(job.prefix)
    if not job.due:
        return log
    stock, reservation = log.tables
    return structs.replace(log, tables=(stock, structs.replace(reservation, due=_expires)))


def _expires(row: j1.Decided) -> tuple[str, int]:
    return "expire", row.decided_at + 1000 * EXPIRE_US


def work(job: Job) -> None:
    """Run one worker until it is told to stop."""
    logs.configure("json")
    store = Store(Path(job.data), instance=job.name)
    timeout_ms = int(job.session_timeout_s * 1000)
    settings = EngineSettings(
        job.bootstrap,
        job.prefix,
        store.instance,
        static=job.static,
        session_timeout_ms=timeout_ms,
        transaction_timeout_ms=timeout_ms,
        partitions=j1.PARTITIONS if job.standby else 0,
        standby=job.standby,
    )
    engine = Engine(settings, [job_log(job)], store)
    out = f"{job.prefix}.out"

    def decide(batch: Any) -> None:
        j1.decide(batch, out, job.on_hand)

    app = build_app(engine, decide, group=job.prefix, data=Path(job.data), host="127.0.0.1", port=free_port())
    count, marks = engine.on_commit, Path(job.marks).open("a", buffering=1)
    pid = os.getpid()

    def mark(committed: int) -> None:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        owned = list(engine.partitions.values())
        running = tuple(sorted(partition.number for partition in owned if partition.running))
        said = Mark(
            time.monotonic(),
            pid,
            committed,
            engine.records,
            engine.commits,
            engine.rollbacks,
            usage.ru_utime + usage.ru_stime,
            engine.commit_s,
            engine.write_s,
            _rss_mb(),
            running,
        )
        marks.write(json.dumps(structs.asdict(said)) + "\n")

    def committed(records: int, commit_s: float, write_s: float) -> None:
        count(records, commit_s, write_s)
        mark(records)

    def tick() -> None:
        while True:
            time.sleep(TICK_S)
            with contextlib.suppress(RuntimeError):  # a rebalance changed the partitions meanwhile: the next tick says it
                mark(0)

    engine.on_commit = committed
    threading.Thread(target=tick, name="marks", daemon=True).start()
    run_app(app)


def _rss_mb() -> int:
    """Memory this process has now (not its peak: that of the process that forked it would count)."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


# -- the machine --------------------------------------------------------------------------------------------------------------------
@contextlib.contextmanager
def on_cores(numbers: Sequence[int]) -> Iterator[None]:
    """What is started within may run on these cores only; does nothing where cores cannot be chosen."""
    if not machine.can_pin():
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, set(numbers) & before or before)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def cores_of(workers: int) -> tuple[int, ...]:
    """One worker has core 1 to itself, as in J1; several share all cores (with two cores there is none left for the second)."""
    return (1,) if workers == 1 else tuple(range(os.cpu_count() or 1))


# -- the fleet ----------------------------------------------------------------------------------------------------------------------
class Fleet:
    """Workers of one group. `with Fleet(...) as fleet: fleet.start("a")`; all are ended with the block."""

    def __init__(
        self,
        bootstrap: str,
        prefix: str,
        directory: Path,
        *,
        cores: Sequence[int] = (1,),
        on_hand: int = j1.ON_HAND["plenty"],
        static: bool = True,
        session_timeout_s: float = 10.0,
        standby: bool = False,
        due: bool = False,
    ) -> None:
        self.bootstrap, self.prefix, self.directory, self.cores = bootstrap, prefix, directory / prefix, tuple(cores)
        self._options: Mapping[str, Any] = {
            "on_hand": on_hand,
            "static": static,
            "session_timeout_s": session_timeout_s,
            "standby": standby,
            "due": due,
        }
        self.workers: dict[str, Child] = {}

    def __enter__(self) -> Self:
        self.directory.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *raised: object) -> None:
        for child in self.workers.values():
            child.stop(STOP_TIMEOUT_S)

    def start(self, name: str) -> float:
        """Start a worker, or start it again in its directory; the moment it was started."""
        child = self.workers.get(name)
        if child is None:
            job = Job(self.bootstrap, self.prefix, name, str(self.data(name)), str(self._marks_file(name)), **self._options)
            command = (sys.executable, str(Path(__file__).resolve()), json.dumps(structs.asdict(job)))
            child = self.workers[name] = Child(name, command, self.directory / f"{name}.log")
        with on_cores(self.cores):
            at = time.monotonic()
            child.start()
        return at

    def stop(self, name: str) -> int | None:
        """SIGTERM, and wait until it has given its partitions back; its exit code."""
        return self.workers[name].stop(STOP_TIMEOUT_S)

    def kill(self, name: str) -> float:
        """kill -9; the moment of it."""
        at = time.monotonic()
        self.workers[name].kill()
        return at

    def data(self, name: str) -> Path:
        return self.directory / f"{name}.data"

    def _marks_file(self, name: str) -> Path:
        return self.directory / f"{name}.marks"

    # -- what the workers say -----------------------------------------------------------------------------------------------------
    def marks(self, name: str) -> list[Mark]:
        """All marks of a worker, its earlier lives included. A line that a kill -9 tore is left out."""
        try:
            lines = self._marks_file(name).read_text().splitlines()
        except FileNotFoundError:
            return []
        found = []
        for line in lines:
            with contextlib.suppress(ValueError):
                said = json.loads(line)
                found.append(Mark(**{**said, "partitions": tuple(said["partitions"])}))
        return found

    def last(self, name: str) -> Mark | None:
        """The newest mark of the present life of a worker."""
        try:
            with self._marks_file(name).open("rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - 4096))
                lines = file.read().splitlines()
        except FileNotFoundError:
            return None
        for line in reversed(lines):
            with contextlib.suppress(ValueError, TypeError):
                said = json.loads(line)
                mark = Mark(**{**said, "partitions": tuple(said["partitions"])})
                return mark if mark.pid == self.workers[name].pid else None
        return None

    def said(self, name: str, event: str) -> list[dict[str, Any]]:
        """The worker's log lines of one event, with `at` in seconds of the wall clock."""
        found = []
        for line in (self.directory / f"{name}.log").read_text(errors="replace").splitlines():
            if f'"event": "{event}"' in line:
                with contextlib.suppress(ValueError):
                    said = json.loads(line[line.index("{") :])  # Faust may have shown or hidden the cursor on this line
                    said["at"] = datetime.fromisoformat(said["timestamp"]).timestamp()
                    found.append(said)
        return found

    def await_running(self, *names: str, partitions: int = j1.PARTITIONS, timeout_s: float = READY_TIMEOUT_S) -> float:
        """Return when these workers run all partitions between them and none has nothing; seconds it took."""
        began = time.monotonic()
        while True:
            marks = [self.last(name) for name in names]
            owned = [number for mark in marks if mark is not None for number in mark.partitions]
            if len(owned) == partitions == len(set(owned)) and all(mark is not None and mark.partitions for mark in marks):
                return time.monotonic() - began
            self.insist_alive(*names)
            if time.monotonic() - began > timeout_s:
                raise BenchError(f"the workers did not run all {partitions} partitions after {timeout_s:.0f} s\n{self.tails()}")
            time.sleep(POLL_S)

    def tails(self) -> str:
        """The last mark and the last log lines of every worker."""
        return "\n".join(f"{name}: {self.last(name)}\n{child.log_tail()}" for name, child in self.workers.items())

    def insist_alive(self, *names: str) -> None:
        """Raises BenchError when one of them has ended."""
        for name in names:
            child = self.workers[name]
            if child.poll() is not None:
                raise BenchError(f"worker {name} ended with {child.poll()}\n{child.log_tail()}")


# -- a backlog, drained -------------------------------------------------------------------------------------------------------------
def drain(fleet: Fleet, names: Sequence[str], count: int, warm: int, *, timeout_s: float = 900.0) -> dict[str, Any]:
    """Let workers consume a prepared backlog of `count`; the figures of what came after `warm` records and after all of them worked."""
    for name in names:
        fleet.start(name)
    began = time.monotonic()
    while sum(mark.records for mark in map(fleet.last, names) if mark is not None) < count:
        fleet.insist_alive(*names)
        if time.monotonic() - began > timeout_s:
            raise BenchError(f"the workers did not consume {count} records in {timeout_s:.0f} s\n{fleet.workers[names[0]].log_tail()}")
        time.sleep(0.1)
    marks = {name: fleet.marks(name) for name in names}
    return _window(marks, count, warm)


def _window(marks: Mapping[str, list[Mark]], count: int, warm: int) -> dict[str, Any]:
    """Events, seconds and CPU between the first moment at which all worked and `warm` records were done, and the last commit."""
    every = sorted((mark.at, name, mark) for name, mine in marks.items() for mark in mine if mark.committed)
    latest: dict[str, Mark] = {}
    first: dict[str, Mark] = {}
    for _, name, mark in every:
        latest[name] = mark
        if not first and len(latest) == len(marks) and sum(each.records for each in latest.values()) >= warm:
            if all(each.partitions and each.records for each in latest.values()):
                first = dict(latest)
    if not first:
        raise BenchError("the workers never worked side by side: give more records")
    events = sum(latest[name].records - first[name].records for name in marks)
    seconds = max(mark.at for mark in latest.values()) - max(mark.at for mark in first.values())
    cpu = sum(latest[name].cpu_s - first[name].cpu_s for name in marks)
    waited = {part: sum(getattr(latest[name], part) - getattr(first[name], part) for name in marks) for part in ("commit_s", "write_s")}
    return {
        "events": events,
        "seconds": round(seconds, 3),
        "events_per_s": round(events / seconds),
        "cpu_us_per_event": round(cpu / events * 1e6, 2),
        "commit_share": round(waited["commit_s"] / seconds / len(marks), 3),
        "write_share": round(waited["write_s"] / seconds / len(marks), 3),
        "commits": sum(latest[name].commits - first[name].commits for name in marks),
        "rollbacks": sum(mark.rollbacks for mark in latest.values()),
        "rss_mb": [latest[name].rss_mb for name in marks],
        "measured_share": round(events / count, 2),
    }


if __name__ == "__main__":
    work(Job(**json.loads(sys.argv[1])))
