"""How long a key waits when workers come, go or die: two workers under load, the longest time without an answer per partition.

Every partition counts, moved or not: a partition is a share of the keys, so a gap of its answers is what each of its keys would have
seen. Members are dynamic, as for workers that come and go.
"""

import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import contest
import fleet
import j1
import targets as wanted
import traffic

PLANNED_S_MAX, WARM_S_MAX, KEPT_S_MAX, OVER_SESSION_S_MAX = 3.0, 1.0, 0.5, 3.0
SETTLE_S = 3.0
MOVE_TIMEOUT_S = 90.0
Say = Callable[[str], None]


class Course:
    """What happened to the fleet, and who owned what before and after."""

    def __init__(self, group: fleet.Fleet, answers: traffic.Answers, sender: traffic.Sender) -> None:
        self._group, self._answers, self._sender = group, answers, sender
        self.events: list[dict[str, Any]] = []

    def owners(self, *names: str) -> dict[int, str]:
        found = {}
        for name in names:
            mark = self._group.last(name)
            for number in mark.partitions if mark is not None else ():
                found[number] = name
        return found

    def step(self, kind: str, before: Sequence[str], after: Sequence[str], act: Callable[[], object]) -> None:
        """Do it, wait until the ones that are left run everything and nobody waits any more, and let it settle."""
        owned = self.owners(*before)
        at = time.monotonic()
        code = act()
        self._group.await_running(*after, timeout_s=MOVE_TIMEOUT_S)
        moved_s = time.monotonic() - at
        now = self.owners(*after)
        self._await_answers()
        time.sleep(SETTLE_S)
        moved = sorted(number for number in now if now[number] != owned.get(number))
        event = {"event": kind, "at": at, "until": time.monotonic(), "moved": moved, "running_after_s": round(moved_s, 3)}
        self.events.append(event | ({"exit_code": code} if kind == "leave" else {}))

    def _await_answers(self) -> None:
        """Until there are as many answers as commands are due by now."""
        due = int((time.monotonic() - self._sender.began) * self._sender.load.rate)
        deadline = time.monotonic() + MOVE_TIMEOUT_S
        while self._answers.count < due:
            if time.monotonic() > deadline:
                raise fleet.BenchError(
                    f"{MOVE_TIMEOUT_S:.0f} s after the partitions moved only {self._answers.count} of {due} commands are answered\n"
                    + self._group.tails()
                )
            time.sleep(fleet.POLL_S)


def measure(
    bootstrap: str, directory: Path, *, rate: float, joins: int, kills: int, session_timeout_s: float, standby: bool, say: Say
) -> list[dict[str, Any]]:
    """The course without warm standbys and, when asked for, once more with them."""
    found = []
    for warm in (False, True)[: 1 + standby]:
        say(f"workers {'copy what they do not own' if warm else 'have no copies of what they do not own'}")
        found.append(
            _measure(bootstrap, directory, rate=rate, joins=joins, kills=kills, session_timeout_s=session_timeout_s, standby=warm, say=say)
        )
    return found


def _measure(
    bootstrap: str, directory: Path, *, rate: float, joins: int, kills: int, session_timeout_s: float, standby: bool, say: Say
) -> dict[str, Any]:
    """`joins` times a second worker joins and leaves, then `kills` times one of two is killed; one load, one check of all its output."""
    prefix = "rebalance-warm" if standby else "rebalance"
    j1.make_topics(bootstrap, prefix)
    group = fleet.Fleet(
        bootstrap, prefix, directory, cores=fleet.cores_of(2), static=False, session_timeout_s=session_timeout_s, standby=standby
    )
    with contest.watched() as conditions, group:
        group.start("w0")
        group.await_running("w0")
        load = traffic.Load(bootstrap, prefix, rate)
        with traffic.Answers(bootstrap, prefix) as answers, traffic.Sender(load, directory / f"{prefix}.load.log") as sender:
            course = Course(group, answers, sender)
            _course(course, group, joins, kills, say)
            sent = sender.stop()
            answers.await_count(sent, group)
        fault, checked, exchanges = "", {}, []
        try:
            exchanges = traffic.match(answers.all(), sent, sender.began, rate, j1.PARTITIONS)
            checked = j1.check(bootstrap, prefix, sent, j1.ON_HAND["plenty"])
        except AssertionError as error:
            fault = str(error) or "the output is wrong"
        rollbacks = {name: max((mark.rollbacks for mark in group.marks(name)), default=0) for name in group.workers}
    events = [judge(event, exchanges) for event in course.events] if exchanges else []
    common = {"rate": rate, "commands": sent, "session_timeout_s": session_timeout_s, "standby": standby, "rollbacks": rollbacks}
    return {**common, "events": events, "checked": checked, "fault": fault, **conditions}


def _course(course: Course, group: fleet.Fleet, joins: int, kills: int, say: Say) -> None:
    time.sleep(SETTLE_S)
    course.step("quiet", ["w0"], ["w0"], lambda: time.sleep(SETTLE_S))
    for number in range(1, joins + 1):
        say(f"a worker joins and leaves, {number} of {joins}")
        course.step("join", ["w0"], ["w0", "w1"], lambda: group.start("w1"))
        course.step("leave", ["w0", "w1"], ["w0"], lambda: group.stop("w1"))
    for number in range(1, kills + 1):
        say(f"kill -9 of one of two, {number} of {kills}")
        course.step("join", ["w0"], ["w0", "w1"], lambda: group.start("w1"))
        course.step("kill", ["w0", "w1"], ["w0"], lambda: group.kill("w1"))


def judge(event: dict[str, Any], exchanges: Sequence[traffic.Exchange]) -> dict[str, Any]:
    """Longest gap between two answers, and longest wait of a command, of moved and of kept partitions, from the event until it settled."""
    times: dict[int, list[float]] = {}
    waits: dict[int, float] = {}
    for each in exchanges:
        times.setdefault(each.partition, []).append(each.answered)
        if event["at"] <= each.answered and each.due <= event["until"]:
            waited = min(each.answered, event["until"]) - each.due  # what comes later is the next event's
            waits[each.partition] = max(waits.get(each.partition, 0.0), waited)
    found: dict[str, Any] = {name: event[name] for name in ("event", "moved", "running_after_s", "exit_code") if name in event}
    for name, partitions in (("moved", event["moved"]), ("kept", sorted(set(times) - set(event["moved"])))):
        gaps = {number: longest_gap(sorted(times[number]), event["at"], event["until"]) for number in partitions}
        found[f"{name}_gap_s"] = round(max(gaps.values()), 3) if gaps else None
        found[f"{name}_wait_s"] = round(max(waits.get(number, 0.0) for number in partitions), 3) if gaps else None
    return found


def longest_gap(times: Sequence[float], begin: float, end: float) -> float:
    """The longest time without an answer between `begin` and `end`."""
    inside = [begin, *times[bisect_left(times, begin) : bisect_right(times, end)], end]
    return max(later - earlier for earlier, later in pairwise(inside))


def worst(results: Sequence[dict[str, Any]], kinds: Sequence[str], name: str) -> float | None:
    """The worst of a figure over all events of these kinds."""
    found = [event[name] for result in results for event in result["events"] if event["event"] in kinds and event[name] is not None]
    return max(found, default=None)


def targets(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What was wanted, beside what was measured."""
    session = results[0]["session_timeout_s"]
    planned = ("join", "leave")
    warm = [each for each in results if each["standby"]]
    return [
        wanted.target(
            "planned hand-over, moved partitions, longest gap", worst(results, planned, "moved_gap_s"), "s", at_most=PLANNED_S_MAX
        ),
        wanted.target("the same to a warm standby", worst(warm, planned, "moved_gap_s"), "s", at_most=WARM_S_MAX),
        wanted.target("planned hand-over, kept partitions, longest gap", worst(results, planned, "kept_gap_s"), "s", at_most=KEPT_S_MAX),
        wanted.target(
            f"kill -9 of one of two ({session:g} s session timeout), longest wait, moved or kept",
            max(worst(results, ("kill",), name) or 0.0 for name in ("moved_wait_s", "kept_wait_s")) or None,
            "s",
            at_most=session + OVER_SESSION_S_MAX,
        ),
    ]


HEAD = ("event", "times", "moved: gap s", "moved: wait s", "kept: gap s", "kept: wait s", "all running after s", "output")
KINDS = ("quiet", "join", "leave", "kill")


def rows(document: dict[str, Any]) -> Iterator[tuple[Any, ...]]:
    """One line per kind of event: median and worst."""
    for result in document["rounds"]:
        said = (result["fault"] or "right") + ", void" * result["void"]
        how = ", warm standby" * result["standby"]
        for kind in KINDS:
            events = [event for event in result["events"] if event["event"] == kind]
            names = ("moved_gap_s", "moved_wait_s", "kept_gap_s", "kept_wait_s", "running_after_s")
            codes = sorted({event["exit_code"] for event in events if event.get("exit_code")})
            left = f", workers that left ended with {codes}" if codes else ""
            if events:
                yield kind + how, len(events), *(_middle([event[name] for event in events]) for name in names), said + left
        if not result["events"]:
            yield "", 0, "", "", "", "", "", said


def _middle(values: Sequence[float | None]) -> str:
    found = sorted(value for value in values if value is not None)
    if not found:
        return ""
    return f"{median(found):g}" + (f", worst {found[-1]:g}" if len(found) > 1 else "")


def table(document: dict[str, Any]) -> str:
    return wanted.table(HEAD, list(rows(document)), document)


def charts(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """None: the table says it."""
    yield from ()
