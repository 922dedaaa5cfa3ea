"""How long one hop takes: a command is due -> its answer can be seen by a read_committed consumer, at several rates and numbers of workers.

One hop is all an answer costs inside the system; a request of the edge is a chain of them (product.py).
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import contest
import fleet
import j1
import plots
import targets as wanted
import traffic

P50_MS_MAX, P99_MS_MAX = 10.0, 50.0
WARM_S = 10.0
HELD_S = 1.0
"""A rate is held when the last answer comes within this long after the last command was due."""
PEAK_RECORDS = 200_000
Say = Callable[[str], None]


def measure(
    bootstrap: str,
    directory: Path,
    *,
    rate: float,
    seconds: float,
    warm_s: float,
    curve: Sequence[float],
    curve_s: float,
    workers: int,
    peak: float,
    say: Say,
) -> list[dict[str, Any]]:
    """The waits at `rate`, then at shares of the peak of 1 and of `workers` workers (`peak` events/s when it is known)."""
    found = [hop(bootstrap, directory, f"hop-1-{rate:g}", rate, seconds, warm_s, 1, say)]
    for number in sorted({1, workers}) if curve else ():
        top = peak or _peak(bootstrap, directory, number, say)
        for share in curve:
            at = round(top * share)
            name, warm = f"hop-{number}-{round(share * 100)}", min(warm_s, curve_s / 2)
            run = hop(bootstrap, directory, name, at, curve_s, warm, number, say, may_fall_behind=True)
            found.append({**run, "share_of_peak": share, "peak": round(top)})
    return found


def _peak(bootstrap: str, directory: Path, workers: int, say: Say) -> float:
    """Events/s of a short J1 with this many workers."""
    say(f"the peak of {workers}: {PEAK_RECORDS * workers} records")
    prefix, count = f"peak-{workers}", PEAK_RECORDS * workers
    j1.prepare(bootstrap, prefix, count)
    with fleet.Fleet(bootstrap, prefix, directory, cores=fleet.cores_of(workers)) as group:
        figures = fleet.drain(group, [f"w{number}" for number in range(workers)], count, count * 3 // 10)
    return float(figures["events_per_s"])


def hop(
    bootstrap: str,
    directory: Path,
    prefix: str,
    rate: float,
    seconds: float,
    warm_s: float,
    workers: int,
    say: Say,
    *,
    may_fall_behind: bool = False,
) -> dict[str, Any]:
    """One rate with one number of workers: the waits after the warm-up, what the workers used, and the check of all that came out.

    Raises traffic.Unanswered when answers are missing after two minutes, unless the rate may be too high: then the result says how many.
    """
    with contest.watched() as conditions:
        found = _hop(bootstrap, directory, prefix, rate, seconds, warm_s, workers, say, may_fall_behind)
    return {**found, **conditions}


def _hop(
    bootstrap: str,
    directory: Path,
    prefix: str,
    rate: float,
    seconds: float,
    warm_s: float,
    workers: int,
    say: Say,
    may_fall_behind: bool,
) -> dict[str, Any]:
    say(f"{rate:g} commands/s for {warm_s + seconds:g} s, {workers} worker{'s' * (workers > 1)}")
    count, skip = int(rate * (warm_s + seconds)), int(rate * warm_s)
    names = [f"w{number}" for number in range(workers)]
    j1.make_topics(bootstrap, prefix)
    with fleet.Fleet(bootstrap, prefix, directory, cores=fleet.cores_of(workers)) as group:
        for name in names:
            group.start(name)
        group.await_running(*names)
        with (
            traffic.Answers(bootstrap, prefix) as answers,
            traffic.Sender(traffic.Load(bootstrap, prefix, rate, count), directory / f"{prefix}.load.log") as sender,
        ):
            sent = sender.wait()
            try:
                last = answers.await_count(sent, group)
            except traffic.Unanswered:
                if not may_fall_behind:
                    raise
                last = None
        used = [_used(group, name, sender.began + warm_s) for name in names]
    fault, checked, waits = "", dict[str, Any](), list[float]()
    try:
        if last is not None:
            waits = [each.wait_s for each in traffic.match(answers.all(), sent, sender.began, rate, j1.PARTITIONS)[skip:]]
            checked = j1.check(bootstrap, prefix, sent, j1.ON_HAND["plenty"])
    except AssertionError as error:
        fault = str(error) or "the output is wrong"
    behind = None if last is None else round(last - (sender.began + count / rate), 3)
    return {
        "workers": workers,
        "rate": rate,
        "samples": len(waits),
        "wait_ms": traffic.spread(waits),
        "load_late_ms": sender.late_ms,
        "held": behind is not None and behind <= HELD_S,
        "last_answer_behind_s": behind,
        "unanswered": sent - answers.count if last is None else 0,
        "cpu_share": [each["cpu_share"] for each in used],
        "records_per_commit": [each["records_per_commit"] for each in used],
        "checked": checked,
        "fault": fault,
    }


def _used(group: fleet.Fleet, name: str, since: float) -> dict[str, float]:
    """Share of a core, and records per commit, of a worker from a moment to its last commit."""
    marks = [mark for mark in group.marks(name) if mark.committed and mark.at >= since]
    if len(marks) < 2:
        return {"cpu_share": 0.0, "records_per_commit": 0.0}
    first, last = marks[0], marks[-1]
    share = (last.cpu_s - first.cpu_s) / (last.at - first.at)
    batch = (last.records - first.records) / (last.commits - first.commits)
    return {"cpu_share": round(share, 3), "records_per_commit": round(batch, 1)}


HEAD = ("workers", "commands/s", "of peak", "p50 ms", "p95 ms", "p99 ms", "max ms", "samples", "records/commit", "CPU", "output")


def rows(document: dict[str, Any]) -> Iterator[tuple[Any, ...]]:
    """One line per rate and number of workers."""
    for each in document["rounds"]:
        share = f"{each['share_of_peak']:.0%}" if "share_of_peak" in each else ""
        waits = [each["wait_ms"].get(name, "") for name in ("p50", "p95", "p99", "max")]
        said = each["fault"] or ("right" if each["held"] else _behind(each))
        used = [" ".join(str(part) for part in each[name]) for name in ("records_per_commit", "cpu_share")]
        yield each["workers"], f"{each['rate']:g}", share, *waits, each["samples"], *used, said + ", void" * each["void"]


def _behind(result: dict[str, Any]) -> str:
    """How far the answers of a rate that was not held were behind."""
    if result.get("unanswered"):
        return f"not held: {result['unanswered']} commands had no answer two minutes later"
    return f"right, but {result['last_answer_behind_s']} s behind"


def targets(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What was wanted, beside what was measured: the first result is the one at the fixed rate."""
    first = results[0]
    at = f"at {first['rate']:g} commands/s, one hop"
    return [
        wanted.target(f"p50 {at}", first["wait_ms"].get("p50"), "ms", at_most=P50_MS_MAX),
        wanted.target(f"p99 {at}", first["wait_ms"].get("p99"), "ms", at_most=P99_MS_MAX),
    ]


def table(document: dict[str, Any]) -> str:
    return wanted.table(HEAD, list(rows(document)), document)


def charts(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The median and the 99th percentile over the load, per number of workers."""
    series: dict[str, list[tuple[float, float]]] = {}
    for each in document["rounds"]:
        if "share_of_peak" in each and each["wait_ms"]:
            for name in ("p50", "p99"):
                series.setdefault(f"{name}, {each['workers']} worker{'s' * (each['workers'] > 1)}", []).append(
                    (each["rate"], each["wait_ms"][name])
                )
    if series:
        yield "curve", plots.lines("Latency of one hop", "commands/s", "ms", series, log_y=True)
