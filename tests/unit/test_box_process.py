"""Children of the box and of the CLI: ready, stopped, restarted, and never left behind, shown with real processes."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from orderflow.connectors.box import process
from orderflow.connectors.box.process import Child, ChildError, end_orphan, started_at

SLEEP = "import time; print('up', flush=True); time.sleep(60)"
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
ECHO_PID = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
PARENT = """
import sys, time
from pathlib import Path
from orderflow.connectors.box import process
process.STOP_TIMEOUT_S = 0.5
child = process.Child("child", [sys.executable, "-c", sys.argv[2]], Path(sys.argv[1], "log"), pid_file=Path(sys.argv[1], "pid"))
child.start()
print(child.pid, flush=True)
time.sleep(60)
"""
FAMILY = """
import os, subprocess, sys, time
grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(grandchild.pid, flush=True)
time.sleep(60)
"""


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def says(log: Path, text: str = "\n") -> Callable[[], bool]:
    return lambda: log.exists() and text in log.read_text()


def test_a_child_runs_under_its_own_pid_and_ends_on_term(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "out"
    child = Child("clock", python(ECHO_PID), log, ready=says(log))
    child.start()
    child.wait_ready()
    assert log.read_text().strip() == str(child.pid)
    assert child.poll() is None
    assert child.stop() == -signal.SIGTERM
    assert child.pid is None


def test_the_exit_code_is_the_commands_own(tmp_path: Path) -> None:
    child = Child("exit", python("raise SystemExit(7)"), tmp_path / "out")
    child.start()
    until(lambda: child.poll() is not None)
    assert child.poll() == 7
    assert child.stop() == 7


def test_a_child_that_ignores_term_is_killed_after_the_timeout(tmp_path: Path) -> None:
    log = tmp_path / "out"
    child = Child("stubborn", python(STUBBORN), log, ready=says(log))
    child.start()
    child.wait_ready()
    assert child.stop(timeout_s=0.2) == -signal.SIGKILL


def test_stop_and_poll_before_start_do_nothing(tmp_path: Path) -> None:
    child = Child("never", python(SLEEP), tmp_path / "out")
    assert child.poll() is None
    assert child.stop() is None


def test_a_child_that_ends_before_it_is_ready_shows_its_log(tmp_path: Path) -> None:
    child = Child("broken", python("print('no such file: settings'); raise SystemExit(3)"), tmp_path / "out", ready=lambda: False)
    child.start()
    with pytest.raises(ChildError, match=r"(?s)broken ended with 3 .*no such file: settings"):
        child.wait_ready()
    child.stop()


def test_a_command_that_does_not_exist_says_so(tmp_path: Path) -> None:
    child = Child("ghost", ["/no/such/command"], tmp_path / "out", ready=lambda: False)
    child.start()
    with pytest.raises(ChildError, match=r"(?s)ghost ended with .*No such file or directory"):
        child.wait_ready()
    child.stop()


def test_a_child_that_is_not_ready_in_time_shows_its_log(tmp_path: Path) -> None:
    log = tmp_path / "out"
    child = Child("slow", python(SLEEP), log, ready=lambda: False)
    child.start()
    until(says(log))
    with pytest.raises(ChildError, match=r"(?s)slow was not ready after 0.1 s.*up"):
        child.wait_ready(timeout_s=0.1)
    child.stop()


def test_starting_a_running_child_is_refused(tmp_path: Path) -> None:
    child = Child("once", python(SLEEP), tmp_path / "out")
    child.start()
    with pytest.raises(ChildError, match="started already"):
        child.start()
    child.stop()


def test_a_killed_child_can_be_started_again(tmp_path: Path) -> None:
    child = Child("again", python(SLEEP), tmp_path / "out")
    child.start()
    first = child.pid
    child.kill()
    assert child.poll() == -signal.SIGKILL
    child.start()
    assert child.pid not in (None, first)
    child.stop()


def test_a_restarted_child_comes_back_with_growing_delays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "RESTART_DELAY_S", 0.01)
    monkeypatch.setattr(process, "RESTART_DELAY_MAX_S", 0.03)
    exits: list[tuple[int, float]] = []
    done = threading.Event()

    def on_exit(code: int, delay_s: float) -> None:
        exits.append((code, delay_s))
        if len(exits) == 4:
            done.set()

    child = Child("phoenix", python("raise SystemExit(1)"), tmp_path / "out", restart=True, on_exit=on_exit)
    child.start()
    assert done.wait(20)
    child.stop()
    assert exits[:4] == [(1, 0.01), (1, 0.02), (1, 0.03), (1, 0.03)]
    assert child.restarts >= 3


def test_a_killed_child_with_restart_comes_back_and_stop_ends_it_for_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "RESTART_DELAY_S", 0.01)
    child = Child("phoenix", python(SLEEP), tmp_path / "out", restart=True)
    child.start()
    first = child.pid
    child.kill()
    until(lambda: child.restarts == 1 and child.pid not in (None, first))
    with pytest.raises(ChildError, match="started already"):
        child.start()
    child.stop()
    assert child.pid is None
    assert child.restarts == 1


def test_a_child_that_keeps_ending_fails_the_wait_even_with_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "RESTART_DELAY_S", 0.01)
    child = Child("phoenix", python("print('wrong port'); raise SystemExit(1)"), tmp_path / "out", restart=True, ready=lambda: False)
    child.start()
    with pytest.raises(ChildError, match=r"(?s)phoenix ended with 1 .*wrong port"):
        child.wait_ready()
    child.stop()


def test_a_long_log_is_set_aside_at_the_next_start(tmp_path: Path) -> None:
    log = tmp_path / "out"
    log.write_bytes(b"x" * (process.LOG_BYTES_MAX + 1))
    child = Child("fresh", python(SLEEP), log)
    child.start()
    child.stop()
    assert log.stat().st_size < 1000
    assert (tmp_path / "out.1").stat().st_size == process.LOG_BYTES_MAX + 1


def parent_with(child_code: str, folder: Path) -> tuple[subprocess.Popen[str], int]:
    """A process that starts a child and waits; returns it and the child's pid."""
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(folder), child_code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    return parent, int(parent.stdout.readline())


def test_kill_9_of_the_parent_ends_the_child_and_its_children(tmp_path: Path) -> None:
    parent, child = parent_with(FAMILY, tmp_path)
    until(says(tmp_path / "log"))
    grandchild = int((tmp_path / "log").read_text())
    assert started_at(child) and started_at(grandchild)
    parent.kill()
    parent.wait()
    until(lambda: started_at(child) is None and started_at(grandchild) is None)


def test_kill_9_of_the_parent_ends_even_a_child_that_ignores_term(tmp_path: Path) -> None:
    parent, child = parent_with(STUBBORN, tmp_path)
    until(says(tmp_path / "log"))
    parent.kill()
    parent.wait()
    until(lambda: started_at(child) is None)


def test_a_child_outlives_the_thread_that_started_it(tmp_path: Path) -> None:
    child = Child("threaded", python(SLEEP), tmp_path / "out", ready=says(tmp_path / "out"))
    thread = threading.Thread(target=child.start)
    thread.start()
    thread.join()
    child.wait_ready()
    time.sleep(0.2)
    assert child.poll() is None
    child.stop()


def orphan(pid_file: Path, started: str | None = None) -> subprocess.Popen[bytes]:
    """A process of its own group that nothing guards, remembered in a pid file."""
    stray = subprocess.Popen(python(SLEEP), stdout=subprocess.DEVNULL, start_new_session=True)
    pid_file.write_text(f"{stray.pid} {started or started_at(stray.pid)}\n")
    return stray


def test_the_next_start_ends_an_orphan(tmp_path: Path) -> None:
    stray = orphan(tmp_path / "pid")
    child = Child("heir", python(SLEEP), tmp_path / "out", pid_file=tmp_path / "pid")
    child.start()
    assert stray.wait(10) == -signal.SIGTERM
    assert (tmp_path / "pid").read_text() == f"{child.pid} {started_at(child.pid or 0)}\n"
    child.stop()
    assert not (tmp_path / "pid").exists()


def test_a_process_that_only_has_the_pid_of_an_orphan_is_left_alone(tmp_path: Path) -> None:
    stray = orphan(tmp_path / "pid", started="another-boot/1")
    assert end_orphan(tmp_path / "pid") is False
    assert stray.poll() is None
    stray.kill()
    stray.wait()


def test_without_a_readable_pid_file_there_is_no_orphan(tmp_path: Path) -> None:
    assert end_orphan(tmp_path / "none") is False
    (tmp_path / "torn").write_text("12")
    assert end_orphan(tmp_path / "torn") is False


def test_started_at_tells_a_process_from_a_dead_one() -> None:
    assert started_at(os.getpid()) == started_at(os.getpid()) is not None
    done = subprocess.Popen(python(""))
    until(lambda: started_at(done.pid) is None)  # a zombie counts as gone
    done.wait()
    assert process._started_by_ps(os.getpid())
