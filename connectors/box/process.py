"""A supervised child process: started with its own log, watched until ready, restarted when asked for, never left behind.

A child ends with its parent (`watchdog.py`); where even that failed, the next start finds the orphan by pid and start time in
the pid file and ends it. Used for the box's servers and by the CLI for workers and edges.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

STOP_TIMEOUT_S = 10.0
READY_TIMEOUT_S = 120.0
READY_POLL_S = 0.05
RESTART_DELAY_S = 0.5
RESTART_DELAY_MAX_S = 10.0
STEADY_S = 30.0
CRASHES_MAX = 3
LOG_BYTES_MAX = 4 << 20
TAIL_LINES = 30
WATCHDOG = Path(__file__).with_name("watchdog.py")


class ChildError(Exception):
    """A child ended or did not become ready; the message ends with the tail of its log."""


class Child:
    """One child process.

    Args:
        name: what messages and the log call it.
        argv: the command, looked up on PATH.
        log_file: where its stdout and stderr go (appended; set aside as `.1` at a start when over 4 MiB); None = where the parent's go.
        env: its whole environment, read at every start; None = the parent's.
        ready: asked every 50 ms by `wait_ready` until it says True.
        pid_file: remembers the process on disk, so that a later start can end an orphan.
        restart: start it again whenever it ends by itself, or when this says so of its exit code, after 0.5 s, doubling up to 10 s
            until it has run for 30 s.
        on_exit: called as `(exit code, seconds until the restart)` from the supervising thread; a negative code is a signal.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        log_file: Path | None,
        *,
        env: Mapping[str, str] | None = None,
        ready: Callable[[], bool] | None = None,
        pid_file: Path | None = None,
        restart: bool | Callable[[int], bool] = False,
        on_exit: Callable[[int, float], None] | None = None,
    ) -> None:
        self.name, self.log_file = name, log_file
        self.restarts = 0
        self._argv, self._env, self._ready, self._pid_file = tuple(argv), env, ready, pid_file
        self._restart, self._on_exit = restart, on_exit
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe = -1
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._supervisor: threading.Thread | None = None

    @property
    def pid(self) -> int | None:
        """The pid of the running process (also its process group), None when it does not run."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    @property
    def supervised(self) -> bool:
        """Is there somebody who starts it again when it ends?"""
        return self._supervisor is not None and self._supervisor.is_alive()

    def poll(self) -> int | None:
        """The exit code of the last process (negative = signal), None while it runs."""
        return None if self._process is None else self._process.poll()

    def start(self) -> None:
        """Start the process; ends an orphan of an earlier run first. Does not wait for readiness.

        Raises:
            ChildError: it is running, or is about to be started again by its supervisor.
        """
        if self.pid is not None or self.supervised:
            raise ChildError(f"{self.name} is started already")
        if self._pid_file is not None:
            end_orphan(self._pid_file)
        self._stopping.clear()
        with self._lock:
            process = self._spawn()
        if self._restart:
            self._supervisor = threading.Thread(target=self._supervise, args=(process,), name=f"{self.name}-supervisor", daemon=True)
            self._supervisor.start()

    def wait_ready(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Return once `ready` says so.

        Raises:
            ChildError: the process ended (with `restart`: three times), was stopped, or was not ready in time.
        """
        deadline = time.monotonic() + timeout_s
        restarts_max = self.restarts + CRASHES_MAX
        while not (self._ready is None or self._ready()):
            code = self.poll()
            if self._stopping.is_set():
                raise ChildError(f"{self.name} was stopped before it was ready")
            if code is not None and (not self._restart or self.restarts >= restarts_max):
                raise ChildError(f"{self.name} ended with {code} before it was ready\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise ChildError(f"{self.name} was not ready after {timeout_s:g} s\n{self.log_tail()}")
            time.sleep(READY_POLL_S)

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> int | None:
        """End it in good order: TERM to its group, KILL after the timeout. Returns the exit code, None if it never ran."""
        self._stopping.set()
        with self._lock:
            process = self._process
            if process is None:
                return None
            _signal(process, signal.SIGTERM)
            try:
                process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                _signal(process, signal.SIGKILL)
                process.wait()
            self._release()
        if self._supervisor is not None:
            self._supervisor.join()
            self._supervisor = None
        return process.returncode

    def kill(self) -> None:
        """kill -9, as a crash would; a child with `restart` comes back by itself."""
        process = self._process
        if process is not None:
            _signal(process, signal.SIGKILL)
            process.wait()

    def log_tail(self, lines: int = TAIL_LINES) -> str:
        """The last lines of its log, under the log's name."""
        if self.log_file is None:
            return "--- its log is not kept"
        with contextlib.suppress(FileNotFoundError), self.log_file.open(errors="replace") as log:
            return f"--- {self.log_file}\n" + "".join(deque(log, lines)).rstrip()
        return f"--- {self.log_file} does not exist"

    def _spawn(self) -> subprocess.Popen[bytes]:
        self._release()
        read_end, self._pipe = os.pipe()
        command = [sys.executable, "-I", "-S", str(WATCHDOG), str(read_end), str(STOP_TIMEOUT_S), *self._argv]
        try:
            with contextlib.nullcontext() if self.log_file is None else _opened(self.log_file) as log:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=None if log is None else subprocess.STDOUT,
                    env=self._env,
                    pass_fds=(read_end,),
                    start_new_session=True,
                )
        finally:
            os.close(read_end)
        if self._pid_file is not None:
            self._pid_file.parent.mkdir(parents=True, exist_ok=True)
            self._pid_file.write_text(f"{self._process.pid} {started_at(self._process.pid)}\n")
        return self._process

    def _release(self) -> None:
        """Tell the guard that the process is over, forget it on disk. The lock is held."""
        if self._pipe >= 0:
            with contextlib.suppress(BrokenPipeError):
                os.write(self._pipe, b".")
            os.close(self._pipe)
            self._pipe = -1
        if self._pid_file is not None:
            self._pid_file.unlink(missing_ok=True)

    def _supervise(self, process: subprocess.Popen[bytes]) -> None:
        delay_s = RESTART_DELAY_S
        while True:
            started = time.monotonic()
            code = process.wait()
            if self._stopping.is_set() or not (self._restart is True or (callable(self._restart) and self._restart(code))):
                return
            if time.monotonic() - started >= STEADY_S:
                delay_s = RESTART_DELAY_S
            if self._on_exit is not None:
                self._on_exit(code, delay_s)
            if self._stopping.wait(delay_s):
                return
            with self._lock:
                if self._stopping.is_set():
                    return
                process = self._spawn()
                self.restarts += 1
            delay_s = min(delay_s * 2, RESTART_DELAY_MAX_S)


def _opened(log_file: Path) -> IO[bytes]:
    """Opened for appending; a large one is set aside first."""
    log_file.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        if log_file.stat().st_size > LOG_BYTES_MAX:
            log_file.replace(log_file.with_name(log_file.name + ".1"))
    return log_file.open("ab")


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)


def started_at(pid: int) -> str | None:
    """When a process was started, as a text that no other process of that pid will have; None when it is gone (or a zombie)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return _started_by_ps(pid) if not Path("/proc/self").exists() else None
    if fields[0] in "ZX":
        return None
    return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()}/{fields[19]}"


def _started_by_ps(pid: int) -> str | None:
    """The same where there is no /proc (macOS)."""
    answer = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return answer.stdout.strip().replace(" ", "-") or None


def end_orphan(pid_file: Path, timeout_s: float = STOP_TIMEOUT_S) -> bool:
    """End the process a pid file remembers, if it is still that process. True if there was one.

    A live process with the same pid but another start time is somebody else's and is left alone.
    """
    try:
        pid_text, _, started = pid_file.read_text().strip().partition(" ")
        pid = int(pid_text)
    except (FileNotFoundError, ValueError):
        return False
    found = False
    for number, wait_s in ((signal.SIGTERM, timeout_s), (signal.SIGKILL, timeout_s)):
        deadline = time.monotonic() + wait_s
        if started_at(pid) != started:
            break
        found = True
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, number)
        while started_at(pid) == started and time.monotonic() < deadline:
            time.sleep(READY_POLL_S)
    pid_file.unlink(missing_ok=True)
    return found
