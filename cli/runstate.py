"""`run.json`: what a running `orderflow up` consists of, for other commands on the same machine (`verify --kill-worker`)."""

import contextlib
import os
import signal
from pathlib import Path

import msgspec
from msgspec import Struct

from orderflow.cli.terminal import UNAVAILABLE, Failure
from orderflow.connectors.box.process import started_at

FILE = "run.json"


class Process(Struct, frozen=True):
    """A supervised process. `started` tells it from another that was given the same pid later."""

    name: str
    pid: int
    started: str = ""
    url: str = ""

    @property
    def alive(self) -> bool:
        return bool(self.started) and started_at(self.pid) == self.started


class RunState(Struct, frozen=True):
    """One running system."""

    pid: int
    url: str
    bootstrap: str
    registry: str
    data: str
    prefix: str
    partitions: int
    processes: tuple[Process, ...] = ()

    @property
    def workers(self) -> list[Process]:
        return [process for process in self.processes if process.name.startswith("worker")]


def write(data: Path, state: RunState) -> None:
    """Whole or not at all, so that a reader never sees half of it."""
    new = data / f"{FILE}.new"
    new.write_bytes(msgspec.json.format(msgspec.json.encode(state), indent=2) + b"\n")
    os.replace(new, data / FILE)


def read(data: Path) -> RunState:
    """The system that runs in this data directory. Raises Failure 69 when none does."""
    try:
        state = msgspec.json.decode((data / FILE).read_bytes(), type=RunState)
    except (FileNotFoundError, msgspec.DecodeError):
        raise Failure(
            f"no system runs in {data}", then="start one with `orderflow up`, or name its directory with --data", code=UNAVAILABLE
        ) from None
    return state


def forget(data: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        (data / FILE).unlink()


def kill_worker(data: Path) -> Process:
    """kill -9 of the first worker that is alive, as a crash would; its supervisor starts another. Raises Failure."""
    for process in read(data).workers:
        if process.alive:
            os.kill(process.pid, signal.SIGKILL)
            return process
    raise Failure(f"no worker of {data} is alive", then="see its log in the directory logs/", code=UNAVAILABLE)
