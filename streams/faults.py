"""Named points at which a test may end this process. Off, a point costs one comparison.

Armed by ORDERFLOW_FAULT=<point>:<nth> or <point>:<nth>:<marker file>: with a marker, only the first process that gets there dies, so
that a supervised worker comes back sound.
"""

import os
import signal

POINTS = ("after_produce", "before_commit", "after_commit_before_state", "during_restore", "during_rebalance")


def _armed() -> tuple[str, int, str]:
    name, _, rest = os.environ.get("ORDERFLOW_FAULT", "").partition(":")
    if name and name not in POINTS:
        raise ValueError(f"ORDERFLOW_FAULT={name}: there is no such point; there are {', '.join(POINTS)}")
    nth, _, marker = rest.partition(":")
    return name, int(nth or 1), marker


_point, _left, _marker = _armed()


def reach(point: str) -> None:
    """Die here, with -9, if this is the armed point and the armed time."""
    global _left
    if point != _point:
        return
    _left -= 1
    if _left == 0 and _first():
        os.kill(os.getpid(), signal.SIGKILL)


def _first() -> bool:
    if not _marker:
        return True
    try:
        os.close(os.open(_marker, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True
