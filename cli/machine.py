"""What a measurement needs to know of the machine: cores to pin to, its present speed, who else used it.

A figure from a machine that changed its speed meanwhile, or that others used, is void; a ratio within one round is what counts.
"""

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

CALIBRATION_LOOPS = 3_000_000
DRIFT_MAX = 0.15
FOREIGN_MAX = 0.10
"""proof.md 1: a round with more drift, or more load of others (in cores), is void."""


AUTOGROUP = Path("/proc/sys/kernel/sched_autogroup_enabled")


def may_starve() -> bool:
    """Does the kernel share cores between sessions first? Linux 6.18 then let one session's load starve a pinned process of another for minutes."""
    try:
        return AUTOGROUP.read_text().strip() == "1"
    except OSError:
        return False


def can_pin() -> bool:
    """Two cores and a kernel that lets us choose."""
    return hasattr(os, "sched_setaffinity") and {0, 1} <= os.sched_getaffinity(0)


@contextlib.contextmanager
def on_core(number: int) -> Iterator[None]:
    """Whatever is started within runs on this core for life, threads and processes alike: they inherit it from this thread."""
    if not can_pin():
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {number})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def calibrate() -> float:
    """Seconds for a fixed amount of pure Python: the yardstick of this moment."""
    began = time.perf_counter()
    count(CALIBRATION_LOOPS)
    return time.perf_counter() - began


def count(loops: int) -> int:
    """The fixed work."""
    total = 0
    for number in range(loops):
        total += number & 7
    return total


class Gauge:
    """The machine's speed while something else is measured: a few milliseconds of `calibrate` on a core, four times a second.

    A single look says little where cores are shared: the other half of the core may be somebody else's, and the speed then changes by
    half every few seconds. The mean over a measurement says what it met. It costs 1.5 % of the core, whoever is measured.
    """

    EVERY_S, SHARE = 0.25, 50

    def __init__(self, core: int) -> None:
        self._core, self._looks, self._over = core, list[float](), threading.Event()
        self._thread = threading.Thread(target=self._run, name="gauge", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> tuple[float, float]:
        """Seconds that all loops of `calibrate` would have taken, mean of the first and of the second half of the time."""
        self._over.set()
        self._thread.join()
        half = (len(self._looks) + 1) // 2
        return fmean(self._looks[:half]), fmean(self._looks[-half:])

    def _run(self) -> None:
        with on_core(self._core):
            while True:
                began = time.thread_time()
                count(CALIBRATION_LOOPS // self.SHARE)
                self._looks.append((time.thread_time() - began) * self.SHARE)
                if self._over.wait(self.EVERY_S):
                    return


def busy_s() -> float:
    """CPU seconds that all processes together have used since the machine started; 0 where the kernel does not say."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    except OSError:
        return 0.0
    user, nice, system, _idle, _iowait, irq, softirq, steal = (int(field) for field in fields[:8])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def used_s(pid: int) -> float:
    """CPU seconds a process has used; 0 when it is gone or the kernel does not say."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Held(NamedTuple):
    """What a process holds: memory in MB, open files that are no table of RocksDB's, such tables, threads."""

    memory_mb: int
    files: int
    tables: int
    threads: int


def held(pid: int) -> Held:
    """What a process holds now; zeros when it is gone or the kernel does not say."""
    process = Path(f"/proc/{pid}")
    try:
        pages = int((process / "statm").read_text().split()[1])
        files, threads = os.listdir(process / "fd"), len(os.listdir(process / "task"))
    except OSError:
        return Held(0, 0, 0, 0)
    tables = sum(_leads_to(process / "fd" / each).endswith(".sst") for each in files)
    return Held(pages * os.sysconf("SC_PAGE_SIZE") >> 20, len(files) - tables, tables, threads)


def _leads_to(link: Path) -> str:
    """Of a link in /proc; nothing when it is gone."""
    try:
        return os.readlink(link)
    except OSError:
        return ""


def family_s(pid: int) -> float:
    """CPU seconds a process has used, with its living descendants and the ended ones that were waited for."""
    used: dict[int, float] = {}
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir() if Path("/proc").is_dir() else ():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        number = int(entry.name)
        children.setdefault(int(fields[1]), []).append(number)
        used[number] = sum(int(field) for field in fields[11:15]) / os.sysconf("SC_CLK_TCK")
    total, left = 0.0, [pid]
    while left:
        number = left.pop()
        total += used.get(number, 0.0)
        left.extend(children.get(number, ()))
    return total


def peak_rss_mb(pid: int) -> int:
    """Most memory a process has held so far, of its own (not what its parent held at the fork); 0 when it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(found[0]) // 1024 if found else 0
