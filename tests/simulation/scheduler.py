"""Virtual time and the seeded scheduler: who goes next, and what happens in the middle of somebody's step.

Every actor's step is plain production code. Interleavings inside a step come from the simulated clients: each of their calls is a
`pause point` where the scheduler may run others for a while before the call goes on, stop the process for seconds, or end it.
"""

import heapq
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from typing import Any

START_US = 1_800_000_000_000_000
DEPTH_MAX = 12
INTERLEAVE_DEPTH_MAX = 3
TIMELINE_LINES = 4000


class Killed(BaseException):
    """This process ends here, as by kill -9. Not an Exception, so that nothing in production code can catch it."""


class Stalled(Exception):
    """The simulation does not come to an end: more steps than any run needs."""


class Actor:
    """Something that takes steps. `step` returns microseconds until its next one, or None to sleep until it is woken."""

    def __init__(self, name: str, step: Callable[[], int | None]) -> None:
        self.name, self.step = name, step
        self.wake_at: int | None = None
        self.busy = False
        self.woken_us: int | None = None


class Scheduler:
    """One simulated run: its clock, its random numbers, its queue of steps and its timeline."""

    def __init__(self, seed: int, steps_max: int = 300_000) -> None:
        self.random = Random(f"schedule {seed}")
        self.now_us = 0
        self.steps = self.depth = 0
        self.steps_max = steps_max
        self.interleave = 0.0
        self.timeline: deque[str] = deque(maxlen=TIMELINE_LINES)
        self.tracing = False
        self.stopped = False
        self._queue: list[tuple[int, int, Any]] = []
        self._count = 0

    # -- queue --------------------------------------------------------------------------------------------------------------------
    def add(self, actor: Actor, after_us: int = 0) -> None:
        self.wake(actor, after_us)

    def wake(self, actor: Actor, after_us: int = 0) -> None:
        """Let the actor step not later than in `after_us`."""
        at = self.now_us + after_us
        if actor.busy:
            actor.woken_us = at if actor.woken_us is None else min(at, actor.woken_us)
        elif actor.wake_at is None or at < actor.wake_at:
            actor.wake_at = at
            self._push(at, actor)

    def later(self, after_us: int, function: Callable[[], None]) -> None:
        """Call a function when this much time has passed: a request on its way, a timer of the broker."""
        self._push(self.now_us + max(0, after_us), function)

    def _push(self, at: int, what: Any) -> None:
        self._count += 1
        heapq.heappush(self._queue, (at, self._count, what))

    # -- running ------------------------------------------------------------------------------------------------------------------
    def run(self, done: Callable[[], bool], until_us: int) -> bool:
        """Steps until `done()` (looked at every 64 steps) or `until_us`; was it done?"""
        while not self.stopped:
            if self.steps & 63 == 0 and done():
                return True
            if not self._queue or self._queue[0][0] > until_us:
                self.now_us = max(self.now_us, min(until_us, self._queue[0][0] if self._queue else until_us))
                return done()
            self._next()
        return done()

    def _next(self) -> None:
        at, _, what = heapq.heappop(self._queue)
        if at > self.now_us:
            self.now_us = at
        self.steps += 1
        if self.steps > self.steps_max:
            raise Stalled(f"{self.steps} steps")
        if what.__class__ is not Actor:
            what()
            return
        if what.busy or what.wake_at != at:
            return
        what.wake_at, what.busy, what.woken_us = None, True, None
        try:
            after_us = what.step()
        finally:
            what.busy = False
        woken = what.woken_us
        if after_us is not None:
            self.wake(what, after_us)
        if woken is not None:
            self.wake(what, max(0, woken - self.now_us))

    def others(self, for_us: int) -> None:
        """Run everybody else for this long: the caller stands still in the middle of its step. Too deep, only time passes."""
        until = self.now_us + for_us
        if self.depth >= DEPTH_MAX:
            self.now_us = until
            return
        self.depth += 1
        try:
            while not self.stopped and self._queue and self._queue[0][0] <= until:
                self._next()
            self.now_us = max(self.now_us, until)
        finally:
            self.depth -= 1

    def maybe_others(self) -> None:
        """Now and then something happens between two requests of one step."""
        if self.interleave and self.depth < INTERLEAVE_DEPTH_MAX and self.random.random() < self.interleave:
            self.others(int(self.random.expovariate(1 / 3_000)))

    # -- what happened ------------------------------------------------------------------------------------------------------------
    def say(self, who: str, what: str) -> None:
        self.timeline.append(f"{self.now_us / 1e6:12.6f}  {who:<12}{what}")

    def tail(self, lines: int) -> Iterator[str]:
        yield from list(self.timeline)[-lines:]


@contextmanager
def quiet_logs(say: Callable[[str, str], None]) -> Iterator[None]:
    """structlog's lines go to the timeline while a simulation runs."""
    import structlog

    before = structlog.get_config()

    def keep(logger: Any, method: str, event: Any) -> Any:
        name = event.pop("event", "")
        say("log", f"{name} " + " ".join(f"{key}={value}" for key, value in event.items()))
        raise structlog.DropEvent

    structlog.configure(processors=[keep], wrapper_class=structlog.make_filtering_bound_logger(0), cache_logger_on_first_use=False)
    try:
        yield
    finally:
        structlog.configure(**before)
