"""Two workers that copy each other's partitions: after kill -9 of one the other reads only what came last."""

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from integration_harness import Rig, metric, started, until
from test_tables import SPACES, environment_of_cli, fill, tables_of

from orderflow.cli import owners
from orderflow.connectors.box.box import Servers

pytestmark = [pytest.mark.box, pytest.mark.chaos, pytest.mark.slow]

PARTITIONS = 4 * len(SPACES)


def state(url: str) -> dict[str, Any]:
    found = owners.ask(url, "/state")
    assert isinstance(found, dict)
    return found


def owned(url: str) -> int:
    return sum(each["running"] and each["caught_up"] for each in state(url)["partitions"])


def shares(url: str) -> bool:
    """Does it own a part of the partitions, and has a copy of all others?"""
    return 0 < owned(url) < PARTITIONS == owned(url) + len(state(url)["copies"])


def test_a_take_over_reads_only_what_the_copy_does_not_have(
    box: Servers, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORDERFLOW_STANDBY", "true")
    with started(box, tmp_path, "standby", workers=2) as rig:
        environment_of_cli(rig, monkeypatch)
        asyncio.run(fill(rig))
        rig.quiet_ends()
        first, second = rig.system.state.workers
        for worker in (first, second):
            until(lambda url=worker.url: shares(url), "everything is owned or copied")
        time.sleep(10)  # what is read is written once a second
        moving = owned(first.url)
        assert 0 < moving < PARTITIONS
        before = tables_of(rig, capsys, "digest")
        moved_rows = sum(each["rows"] for each in before if each["owner"] == first.url)
        read_before = metric(second.url, "orderflow_restored_records_total")
        with down(rig, first.pid):
            until(lambda: owned(second.url) == PARTITIONS, "the survivor has all of them")
            read = metric(second.url, "orderflow_restored_records_total") - read_before
            assert moved_rows > 50, "a restore without copies would have read at least these"
            assert read <= moving, f"{read} records were read; at most the last meta record of each of {moving} partitions"
            assert metric(second.url, "orderflow_state_wiped_total") == 0
            after = tables_of(rig, capsys, "digest")
            assert [each["digest"] for each in after] == [each["digest"] for each in before]
        until(lambda: len(rig.system.state.workers) == 2 and rig.is_ready(), "the other is back")


class down:  # noqa: N801 - reads like a verb
    """kill -9 of a worker that stays down inside the block."""

    def __init__(self, rig: Rig, pid: int) -> None:
        self.rig, self.pid = rig, pid

    def __enter__(self) -> None:
        self.rig._gate.touch()
        os.kill(self.pid, signal.SIGKILL)

    def __exit__(self, *raised: object) -> None:
        self.rig._gate.unlink()
