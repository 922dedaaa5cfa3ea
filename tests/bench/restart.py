"""How soon a contestant is back after kill -9 with its disk kept: ours, and Kafka Streams as a static and as a dynamic member.

Everybody has drained the same backlog of J1 and works on at a steady load when it is killed. The clock runs from the kill to the first
commit of its group after it; the half second that a supervisor waits before it starts a process again is part of it. Seen from outside,
as in `drain.py`. At the end all answers and rows are judged as J1's are.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import contest
import fleet
import j1
import plots
import targets as wanted
import traffic
from contest import BROKER_CORE, CONTESTANT_CORE
from contestants import ALL, Contestant, Lane, Missing
from drain import POLL_S, Position
from msgspec import structs

from orderflow.cli import machine
from orderflow.connectors.box.process import RESTART_DELAY_S, Child

BACK_S_MAX = 3.0
LOAD_RATE = 500
SETTLE_S = 3.0
LOST_COMMIT_S = 0.2
"""After so long the last commit of a process that was killed has arrived or never will."""
BACK_TIMEOUT_S, DRAIN_TIMEOUT_S = 180.0, 300.0
STREAMS = ALL["kafka-streams"]
CONTESTANTS = {
    each.name: each
    for each in (
        ALL["orderflow"],
        structs.replace(STREAMS, name="kafka-streams-static", what=f"{STREAMS.what}, static member", environment={"J1_INSTANCE": "one"}),
        structs.replace(STREAMS, what=f"{STREAMS.what}, dynamic member, its defaults"),
    )
}
Say = Callable[[str], None]


class Course:
    """One contestant with its topics, its state and its input so far."""

    def __init__(self, bootstrap: str, directory: Path, contestant: Contestant, command: tuple[str, ...]) -> None:
        self.contestant, app = contestant, f"restart-{contestant.name}"
        self.lane = Lane(bootstrap, app, f"{app}.commands", directory / app, j1.ON_HAND["plenty"])
        self._log = directory / f"{app}.load.log"
        environment = {**os.environ, **self.lane.environment, **contestant.environment}
        self._child = Child(contestant.name, command, directory / f"{app}.log", env=environment)
        self.sent = 0

    def fill(self, records: int) -> None:
        """The topics, a backlog, and its end."""
        j1.make_topics(self.lane.bootstrap, self.lane.app, names=("commands", "out"))
        j1.create(self.lane.bootstrap, self.contestant.changelogs(self.lane), config={"cleanup.policy": "compact"})
        j1.record(self.lane.bootstrap, self.lane.app, records)
        self.sent = records
        self._start()
        self._await_end()
        self._child.stop()

    def kill(self) -> contest.Figures:
        """Start it in its place, let it work, kill it, start it again."""
        self._start()
        load = traffic.Load(self.lane.bootstrap, self.lane.app, LOAD_RATE, first=self.sent)
        with traffic.Sender(load, self._log) as sender:
            self._await_commit(self.sent + int(LOAD_RATE * SETTLE_S))
            killed = time.monotonic()
            self._child.kill()
            time.sleep(LOST_COMMIT_S)
            before = self._committed()
            time.sleep(max(0.0, killed + RESTART_DELAY_S - time.monotonic()))
            started = self._start()
            back = self._await_commit(before + 1)
            self.sent += sender.stop()
        self._await_end()
        self._child.stop()
        return {"kill_to_commit_s": round(back - killed, 3), "start_to_commit_s": round(back - started, 3)}

    def check(self) -> str:
        """What is wrong with all it has written; empty when it is right."""
        try:
            j1.check(self.lane.bootstrap, self.lane.app, self.sent, self.lane.on_hand, places=self.contestant.places(self.lane))
        except AssertionError as wrong:
            return str(wrong) or "the output is wrong"
        return ""

    def _start(self) -> float:
        with machine.on_core(CONTESTANT_CORE):
            self._child.start()
        return time.monotonic()

    def _committed(self) -> int:
        position = Position(self.lane.bootstrap, self.lane.app, self.lane.commands)
        try:
            return position.begin
        finally:
            position.close()

    def _await_end(self) -> None:
        """Until everything that was sent is committed."""
        self._await_commit(self.sent, DRAIN_TIMEOUT_S)

    def _await_commit(self, count: int, timeout_s: float = BACK_TIMEOUT_S) -> float:
        """The moment at which so many commands were committed."""
        position, deadline = Position(self.lane.bootstrap, self.lane.app, self.lane.commands), time.monotonic() + timeout_s
        try:
            while (done := position.committed()) < count:
                if self._child.poll() is not None or time.monotonic() > deadline:
                    raise fleet.BenchError(f"{self.contestant.name} committed {done} of {count} commands\n{self._child.log_tail()}")
                time.sleep(POLL_S)
            return time.monotonic()
        finally:
            position.close()

    def close(self) -> None:
        """End it and remove its state."""
        self._child.stop()
        shutil.rmtree(self.lane.state, ignore_errors=True)


def measure(bootstrap: str, directory: Path, *, rounds: int, records: int, say: Say) -> list[dict[str, Any]]:
    """Everybody is killed once a round, in turn; who cannot be built is listed with the reason."""
    courses: dict[str, Course] = {}
    missing = []
    with machine.on_core(BROKER_CORE):
        for name, contestant in CONTESTANTS.items():
            say(f"{name}: getting ready, and {records} commands")
            try:
                courses[name] = Course(bootstrap, directory, contestant, contestant.ready())
            except Missing as why:
                missing.append({"contestant": name, "what": contestant.what, "void": False, "fault": f"not run: {why}"})
        try:
            for course in courses.values():
                course.fill(records)
            results = contest.take_turns(rounds, list(courses), lambda number, name: courses[name].kill(), say)
            faults = {name: course.check() for name, course in courses.items()}
        finally:
            for course in courses.values():
                course.close()
    said = {name: {"what": course.contestant.what, "commands": course.sent, "fault": faults[name]} for name, course in courses.items()}
    return [*({**each, **said[each["contestant"]]} for each in results), *missing]


def targets(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Ours; nothing is wanted of the others."""
    ours = [each["kill_to_commit_s"] for each in results if each["contestant"] == "orderflow" and contest.counts(each)]
    middle = contest.spread(ours)["median"] if ours else None
    return [wanted.target("kill -9 to a new commit, orderflow", middle, "s", at_most=BACK_S_MAX)]


HEAD = ("contestant", "kill to commit s", "from its start s", "rounds that count", "output")


def rows(document: dict[str, Any]) -> Iterator[tuple[Any, ...]]:
    """One line per contestant: medians with their range over the rounds that count."""
    for name, what in dict.fromkeys((each["contestant"], each["what"]) for each in document["rounds"]):
        mine = [each for each in document["rounds"] if each["contestant"] == name]
        valid = [each for each in mine if contest.counts(each)]
        figures = [wanted.range_of([each[metric] for each in valid]) for metric in ("kill_to_commit_s", "start_to_commit_s")]
        faults = [each["fault"] for each in mine if each["fault"]]
        yield what, *figures, f"{len(valid)} of {len(mine)}", faults[0] if faults else "right"


def table(document: dict[str, Any]) -> str:
    return wanted.table(HEAD, list(rows(document)), document)


def charts(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The waits."""
    bars = wanted.bars(document, "kill_to_commit_s")
    yield "back", plots.bars("kill -9 to the first new commit", "s, less is better; the line is the range", bars)
