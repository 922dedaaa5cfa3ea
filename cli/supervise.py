"""Runs this very command as a child and starts it again, with backoff, when it ends in a way that a new start can mend."""

import os
import signal
import sys
import threading
from collections.abc import Mapping

from orderflow.cli.terminal import DONE, MISCONFIGURED, UNAVAILABLE
from orderflow.connectors.box.process import RESTART_DELAY_S, Child

WRONG_USAGE = 2
STOP_TIMEOUT_S = 40.0
"""A worker drains within 30 s; then it is ended."""
WATCH_S = 0.2
CRASHES_TOLD = 5
"""From so many restarts without 30 s of work between them on, the log speaks of a crash loop."""
MEANINGS = {
    10: "a batch failed for a reason that is no input's fault",
    11: "it hung",
    12: "a transaction or a restore could not go on",
    13: "its partitions were lost",
    UNAVAILABLE: "Kafka or the registry does not answer",
}


def is_mended_by_a_start(code: int) -> bool:
    """Is a process that ended with this code (a negative one is a signal) to be started again?

    Not when it stopped as asked, was called wrongly or is set up wrongly: a person has to change something.
    """
    return code not in (DONE, WRONG_USAGE, MISCONFIGURED)


def supervise(environment: Mapping[str, str] = os.environ) -> int:
    """Keep the command of this process running in a child until it is told to stop or a start cannot mend it. Returns the exit code.

    The child has the same standard output and error, ORDERFLOW_SUPERVISE=false, and in ORDERFLOW_RESTARTS how often it was started
    again. TERM and INT are passed on as TERM; it has 40 s to stop.
    """
    import structlog

    log = structlog.get_logger("orderflow.supervisor")
    childs = {**environment, "ORDERFLOW_SUPERVISE": "false", "ORDERFLOW_RESTARTS": "0"}
    told = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: told.set())
    in_a_row = 0

    def ended(code: int, again_s: float) -> None:
        nonlocal in_a_row
        in_a_row = in_a_row + 1 if again_s > RESTART_DELAY_S else 1
        childs["ORDERFLOW_RESTARTS"] = str(child.restarts + 1)
        why = MEANINGS.get(code, f"signal {-code}" if code < 0 else "it failed; the lines above say why")
        tell = log.error if in_a_row >= CRASHES_TOLD else log.warning
        event = "worker.crash_loop" if in_a_row >= CRASHES_TOLD else "worker.ended"
        tell(event, code=code, why=why, again_s=again_s, restarts=child.restarts + 1, in_a_row=in_a_row)

    child = Child("worker", (sys.executable, *sys.orig_argv[1:]), None, env=childs, restart=is_mended_by_a_start, on_exit=ended)
    child.start()
    while child.supervised and not told.wait(WATCH_S):
        pass
    code = child.stop(STOP_TIMEOUT_S) or DONE
    return code if code >= 0 else 128 - code
