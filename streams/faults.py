"""Named points at which a test may end this process. Off, a point costs one call; on, it is armed by ORDERFLOW_FAULT=<point>:<nth>."""

import os
import signal

POINTS = ("after_produce", "before_commit", "after_commit_before_state", "during_restore", "during_rebalance")


def _armed() -> tuple[str, int]:
    name, _, nth = os.environ.get("ORDERFLOW_FAULT", "").partition(":")
    if name and name not in POINTS:
        raise ValueError(f"ORDERFLOW_FAULT={name}: there is no such point; there are {', '.join(POINTS)}")
    return name, int(nth or 1)


_point, _left = _armed()


def reach(point: str) -> None:
    """Die here, with -9, if this is the armed point and the armed time."""
    global _left
    if point != _point:
        return
    _left -= 1
    if _left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
