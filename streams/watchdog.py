"""Ends a worker that is alive and does nothing: no step of the engine for longer than anything that is bounded by itself may take.

A member that hangs keeps its partitions, because the client's own thread goes on with the heartbeats. It counts only time in which it
ran itself, so that a process that was stopped and continued, or a machine that slept, is not taken for one that hangs.
"""

import faulthandler
import sys
import threading
import time
import traceback
from collections.abc import Callable

BOUND_S = 90.0
"""Longer than what has a bound of its own may take together when the broker is away: a commit 30 s, its abort 25 s, a seek 10 s."""
POLL_S = 1.0
LOST_ANYWAY_S = 300.0
"""librdkafka's max.poll.interval.ms: a worker that is silent for so long has lost its partitions."""


class Watchdog:
    """Watches a value that changes with every step.

    Args:
        step: the time of the last step, or anything else that changes with each.
        bound_s: how long it may stay as it is.
        hung: called once, on the watchdog's thread, with a sentence and the stack of every thread by its name.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        step: Callable[[], float],
        bound_s: float,
        hung: Callable[[str, dict[str, str]], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._step, self._bound_s, self._hung, self._clock = step, bound_s, hung, clock
        self._poll_s = min(POLL_S, bound_s / 4)
        self._stopped = threading.Event()
        self._seen, self._looked, self._silent_s = step(), clock(), 0.0

    def start(self) -> None:
        threading.Thread(target=self._run, name="watchdog", daemon=True).start()

    def stop(self) -> None:
        """Look no more: a stop has a bound of its own."""
        self._stopped.set()

    def look(self) -> bool:
        """Has it been silent for too long? Time in which nobody looked counts as one look's."""
        now, step = self._clock(), self._step()
        self._silent_s = 0.0 if step != self._seen else self._silent_s + min(now - self._looked, 2 * self._poll_s)
        self._seen, self._looked = step, now
        return self._silent_s >= self._bound_s

    def _run(self) -> None:
        backstop_s = max(LOST_ANYWAY_S, 2 * self._bound_s)
        while not self._stopped.wait(self._poll_s):
            # For code that never lets go of the interpreter's lock, under which no Python thread can watch: ends with 1.
            faulthandler.dump_traceback_later(backstop_s, exit=True)
            if self.look():
                self._hung(f"no step for {self._silent_s:.0f} s", stacks())
                break
        faulthandler.cancel_dump_traceback_later()


def stacks() -> dict[str, str]:
    """Where every thread is, by its name."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return {names.get(ident, str(ident)): "".join(traceback.format_stack(frame)) for ident, frame in sys._current_frames().items()}
