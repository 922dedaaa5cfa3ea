"""How soon a worker is back: from nothing but its changelogs, and after a kill -9 with its disk kept.

(a) The rate at which a worker on one core rebuilds all its partitions. (b) kill -9 under load until the restarted process has committed a
new record, with few rows and with many: it must not depend on how much state there is. Static membership, as `engine.md` says for a
restart in place; the supervisor's pause before a restart is part of the time.
"""

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import contest
import fleet
import j1
import seed
import targets as wanted
import traffic

from orderflow.connectors.box.process import RESTART_DELAY_S

RATE_MIN = 300_000
BACK_S_MAX, RATIO_MAX = 3.0, 1.2
SMALL_ROWS = 100_000
LOAD_RATE = 500
SETTLE_S = 2.0
BACK_TIMEOUT_S = 60.0
WORKER, RUNNING = "w0", "partition.running"
Say = Callable[[str], None]


def measure(bootstrap: str, directory: Path, *, rows: int, kills: int, rebuilds: int, say: Say) -> list[dict[str, Any]]:
    """Both parts with `SMALL_ROWS` rows and with `rows`."""
    sizes = dict.fromkeys((min(SMALL_ROWS, rows), rows))
    return [_with_rows(bootstrap, directory, size, kills, rebuilds, say) for size in sizes]


def _with_rows(bootstrap: str, directory: Path, rows: int, kills: int, rebuilds: int, say: Say) -> dict[str, Any]:
    prefix, skus = f"restore-{rows}", min(j1.SKUS, rows // 2)
    say(f"{rows} rows: writing the changelogs")
    j1.make_topics(bootstrap, prefix)
    written = seed.write(bootstrap, prefix, skus=skus, reservations=rows - skus)
    with contest.watched() as conditions, fleet.Fleet(bootstrap, prefix, directory, on_hand=seed.ON_HAND) as group:
        rebuilt = [_rebuild(group, number, say) for number in range(1, rebuilds + 1)]
        back, sent, answers = _kills(group, directory, kills, say)
        group.stop(WORKER)
        fault, checked = "", {}
        try:
            traffic.match(answers.all(), sent, 0.0, LOAD_RATE, j1.PARTITIONS)
            checked = seed.check_state(bootstrap, prefix, group.data(WORKER))
        except AssertionError as error:
            fault = str(error) or "the state is wrong"
    return {
        "rows": written,
        "rebuilt": rebuilt,
        "records_per_s": median(each["records_per_s"] for each in rebuilt),
        "back": back,
        "back_s": round(median(each["kill_to_commit_s"] for each in back), 3) if back else None,
        "commands": sent,
        "checked": checked,
        "fault": fault,
        **conditions,
    }


def _rebuild(group: fleet.Fleet, number: int, say: Say) -> dict[str, Any]:
    """An empty disk, a worker alone on its core: until all partitions run."""
    say(f"rebuild {number}: from an empty disk")
    if WORKER in group.workers:
        group.stop(WORKER)
        shutil.rmtree(group.data(WORKER))
    before = len(group.said(WORKER, RUNNING)) if WORKER in group.workers else 0
    started = group.start(WORKER)
    group.await_running(WORKER, timeout_s=600)
    said = _running(group, before)
    life = [mark for mark in group.marks(WORKER) if mark.pid == group.workers[WORKER].pid]
    first, mark = life[0], next(mark for mark in life if len(mark.partitions) == j1.PARTITIONS)
    records, seconds = sum(line["restored"] for line in said), max(line["seconds"] for line in said)
    return {
        "records": records,
        "seconds": seconds,
        "records_per_s": round(records / seconds),
        "cpu_us_per_record": round((mark.cpu_s - first.cpu_s) / records * 1e6, 2),
        "start_to_running_s": round(mark.at - started, 3),
        "cpu_s": round(mark.cpu_s, 3),
        "rss_mb": mark.rss_mb,
        "disk_mb": sum(file.stat().st_size for file in group.data(WORKER).rglob("*") if file.is_file()) >> 20,
    }


def _running(group: fleet.Fleet, before: int) -> list[dict[str, Any]]:
    """What the worker's present life said of each partition; the last line comes a moment after the partition runs."""
    deadline = time.monotonic() + BACK_TIMEOUT_S
    while len(said := group.said(WORKER, RUNNING)[before:]) < j1.PARTITIONS:
        if time.monotonic() > deadline:
            raise fleet.BenchError(f"{j1.PARTITIONS} partitions run, {len(said)} said so\n{group.tails()}")
        time.sleep(fleet.POLL_S)
    return said


def _kills(group: fleet.Fleet, directory: Path, kills: int, say: Say) -> tuple[list[dict[str, Any]], int, traffic.Answers]:
    """kill -9 under load, again and again; how long until the next life commits a record."""
    found = []
    log = directory / f"{group.prefix}.load.log"
    with (
        traffic.Answers(group.bootstrap, group.prefix) as answers,
        traffic.Sender(traffic.Load(group.bootstrap, group.prefix, LOAD_RATE), log) as sender,
    ):
        for number in range(1, kills + 1):
            time.sleep(SETTLE_S)
            say(f"kill -9, {number} of {kills}")
            found.append(_kill(group))
        time.sleep(SETTLE_S)
        sent = sender.stop()
        answers.await_count(sent, group)
    return found, sent, answers


def _kill(group: fleet.Fleet) -> dict[str, Any]:
    before = len(group.said(WORKER, RUNNING))
    killed = group.kill(WORKER)
    time.sleep(RESTART_DELAY_S)
    started = group.start(WORKER)
    pid = group.workers[WORKER].pid
    while True:
        first = next((mark for mark in group.marks(WORKER) if mark.pid == pid and mark.committed), None)
        if first is not None:
            break
        group.insist_alive(WORKER)
        if time.monotonic() - killed > BACK_TIMEOUT_S:
            raise fleet.BenchError(f"nothing committed {BACK_TIMEOUT_S:.0f} s after kill -9\n{group.workers[WORKER].log_tail()}")
        time.sleep(0.05)
    said = _running(group, before)
    return {
        "kill_to_commit_s": round(first.at - killed, 3),
        "start_to_commit_s": round(first.at - started, 3),
        "cpu_s": round(first.cpu_s, 3),
        "restored": sum(line["restored"] for line in said),
        "restore_s": max((line["seconds"] for line in said), default=0.0),
    }


def targets(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What was wanted, beside what was measured."""
    small, large = results[0], results[-1]
    found = [wanted.target("rebuild from an empty disk, one core", large["records_per_s"], "records/s", at_least=RATE_MIN)]
    if large["back_s"]:
        found.append(wanted.target(f"kill -9 to a new commit, {large['rows']} rows", large["back_s"], "s", at_most=BACK_S_MAX))
    if small["back_s"] and large["back_s"] and small is not large:
        ratio = round(large["back_s"] / small["back_s"], 2)
        found.append(wanted.target(f"the same against {small['rows']} rows", ratio, "times", at_most=RATIO_MAX))
    return found


HEAD = (
    "rows",
    "rebuild records/s",
    "CPU µs per record",
    "rebuild s",
    "disk MB",
    "memory MB",
    "kill to commit s",
    "from its start s",
    "restored after a kill",
    "output",
)


def rows(document: dict[str, Any]) -> Iterator[tuple[Any, ...]]:
    """One line per number of rows, medians with their range."""
    for each in document["rounds"]:
        rebuilt, back = each["rebuilt"], each["back"]
        yield (
            each["rows"],
            wanted.range_of([one["records_per_s"] for one in rebuilt]),
            wanted.range_of([one["cpu_us_per_record"] for one in rebuilt]),
            wanted.range_of([one["seconds"] for one in rebuilt]),
            rebuilt[-1]["disk_mb"],
            rebuilt[-1]["rss_mb"],
            wanted.range_of([one["kill_to_commit_s"] for one in back]),
            wanted.range_of([one["start_to_commit_s"] for one in back]),
            wanted.range_of([one["restored"] for one in back]),
            (each["fault"] or "right") + ", void" * each["void"],
        )


def table(document: dict[str, Any]) -> str:
    return wanted.table(HEAD, list(rows(document)), document)


def charts(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """None: the table says it."""
    yield from ()
