"""A full disk under a worker: it ends and says why, nothing is torn, and it goes on by itself once there is room."""

import asyncio
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import nemesis
import pytest

from orderflow.connectors.box.box import Servers

pytestmark = [pytest.mark.box, pytest.mark.chaos, pytest.mark.slow, pytest.mark.timeout(0)]

DISK_BYTES = 48 << 20
LEFT_BYTES = 64 << 10
"""What is left on the disk: the load needs it up within seconds."""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs where the worker of the system in `tmp_path` keeps its data."""
    place = tmp_path / "system" / "worker-1"
    place.mkdir(parents=True)
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0:
        pytest.skip("a tmpfs can be mounted by root only")
    done = subprocess.run([mount, "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(place)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_worker_whose_disk_is_full_ends_and_goes_on_when_there_is_room(box: Servers, small_disk: Path, tmp_path: Path, seed: int) -> None:

    async def fill(arena: nemesis.Arena, rng: random.Random) -> str:
        (worker,) = arena.workers
        ballast = small_disk / "ballast"
        with ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(small_disk).free - LEFT_BYTES)
        for _ in range(int(nemesis.PATIENCE_S / nemesis.POLL_S)):
            if not worker.alive:
                break
            await asyncio.sleep(nemesis.POLL_S)
        assert not worker.alive, "the worker goes on with a full disk"
        await asyncio.sleep(rng.uniform(2, 5))  # it is started again and again, and cannot run
        ballast.unlink()
        return f"the disk was full until pid {worker.pid} had ended, and a while longer"

    done = nemesis.run(box, tmp_path, "disk-full", rounds=1, seed=seed, fault=fill)
    assert done.verdict.problems == []
    assert all(code > 0 for _, code in done.exits), "it ends by itself, it is not killed"
    assert "No space left" in (tmp_path / "system" / "logs" / "worker-1.log").read_text(errors="replace")
