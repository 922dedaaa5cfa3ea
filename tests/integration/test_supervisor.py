"""`orderflow worker` brings a worker back that crashed or hangs, leaves one alone that a person has to mend, and stops with it."""

import os
import signal
import subprocess
from pathlib import Path

import pytest
from integration_harness import PATIENCE_S, until
from worker_harness import Place

from orderflow.cli import supervise
from orderflow.connectors.box.box import Servers
from orderflow.connectors.box.process import started_at

pytestmark = pytest.mark.box

STOPPED, HUNG, LOST, MISCONFIGURED = 0, 11, 13, 78
HANGING = '''"""A worker whose rule blocks for ever, until the file named first is there."""
import sys, threading
from pathlib import Path
from orderflow.cli.main import main
from orderflow.streams.processor import Processor

mended, sound = Path(sys.argv.pop(1)), Processor.run

def run(self, batch):
    if not mended.exists():
        mended.touch()
        threading.Event().wait()
    return sound(self, batch)

Processor.run = run
main()
'''


@pytest.fixture(scope="module")
def place(box: Servers, tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(box, tmp_path_factory.mktemp("super"))


def test_a_killed_worker_is_started_again_and_the_count_is_told(place: Place) -> None:
    with place.worker("killed") as worker:
        worker.until_ready()
        for restarts in (1, 2):
            pid = worker.child
            os.kill(pid, signal.SIGKILL)
            until(lambda pid=pid: started_at(pid) is None, "it is dead")  # type: ignore[misc]
            until(lambda n=restarts: f"orderflow_restarts_total {n}.0" in worker.page("/metrics"), "the next one counts")  # type: ignore[misc]
            worker.until_ready()
        assert [(each["code"], each["restarts"]) for each in worker.said("worker.ended")] == [(-9, 1), (-9, 2)]
        place.receive("AFTER", 3)
        until(lambda: place.received("AFTER") == [3], "it works")
        assert worker.stop() == STOPPED


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_is_passed_on_and_nobody_comes_back(place: Place, number: signal.Signals) -> None:
    with place.worker(f"stopped-{number.name}") as worker:
        worker.until_ready()
        pid = worker.child
        assert worker.stop(number) == STOPPED
        assert started_at(pid) is None
        assert worker.said("worker.ended") == []


def test_the_worker_ends_with_a_supervisor_that_is_killed(place: Place) -> None:
    with place.worker("orphan") as worker:
        worker.until_ready()
        pid = worker.child
        worker.process.kill()
        until(lambda: started_at(pid) is None, "its worker is gone too")


def test_a_worker_that_is_set_up_wrongly_is_not_started_again(place: Place) -> None:
    with place.worker("wrong", LOCATIONS=",") as worker:
        assert worker.process.wait(PATIENCE_S) == MISCONFIGURED
        assert worker.said("worker.ended") == []


def test_once_leaves_the_restart_to_others(place: Place) -> None:
    with place.worker("once", "--once") as worker:
        worker.until_ready()
        os.kill(worker.process.pid, signal.SIGKILL)
        assert worker.process.wait(PATIENCE_S) == -signal.SIGKILL
        assert worker.page("/health/live") == ""


def test_a_worker_whose_rule_hangs_says_where_and_is_started_again(place: Place, tmp_path: Path) -> None:
    (tmp_path / "hanging.py").write_text(HANGING)
    program = (str(tmp_path / "hanging.py"), str(tmp_path / "mended"))
    with place.worker("hanging", program=program, WATCHDOG_S="15") as worker:
        worker.until_ready()
        place.receive("HANGS", 5)
        until(lambda: worker.said("worker.ended"), "it is found")
        assert [each["code"] for each in worker.said("worker.ended")] == [HUNG]
        stacks = {each["thread"]: each["stack"] for each in worker.said("worker.hung")}
        assert "hanging.py" in stacks["MainThread"], "the thread that runs the rule"
        assert any(name.startswith("kafka") for name in stacks)
        until(lambda: place.received("HANGS") == [5], "the next one decides it, once")


def test_a_worker_that_was_stopped_for_longer_than_the_watchdogs_bound_is_not_hung(place: Place) -> None:
    """Within its session, so that only the watchdog could end it."""
    with place.worker("paused", WATCHDOG_S="8", SESSION_TIMEOUT_S="120", GIVE_UP_S="600") as worker:
        worker.until_ready()
        pid = worker.child
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(subprocess.TimeoutExpired):
            worker.process.wait(12)
        os.kill(pid, signal.SIGCONT)
        place.receive("PAUSED", 1)
        until(lambda: place.received("PAUSED") == [1], "it goes on")
        assert worker.said("worker.ended") == []


def test_what_a_start_can_mend() -> None:
    assert all(supervise.is_mended_by_a_start(code) for code in (1, 10, 11, 12, 13, 69, -9, -11))
    assert not any(supervise.is_mended_by_a_start(code) for code in (0, 2, 78))
