"""Nothing waits longer than it may: reservations whose time has passed. `run` looks, `judge_stuck` judges."""

import asyncio
import time
from typing import Any

from msgspec import Struct, field

from orderflow.cli.client import Edge
from orderflow.cli.race import LIST_MAX, POLL_S, read
from orderflow.cli.reservations import PATH as RESERVATIONS

LATE_S = 1.0
"""A reservation expires within this long of its due time on a running worker (slot D4)."""


class Late(Struct, frozen=True):
    """A reservation that is due, and for how long."""

    reservation_id: str
    order_id: str
    overdue_s: float


class StuckFacts(Struct):
    """The overdue reservations of one moment. `total` counts all of them, `overdue` holds the longest."""

    total: int = -1
    overdue: list[Late] = field(default_factory=list)
    caught_up: bool = False
    complete: bool = False

    def figures(self) -> dict[str, Any]:
        return {
            "overdue": self.total,
            "late": len(self.late),
            "longest_s": max((each.overdue_s for each in self.overdue), default=0.0),
            "caught_up": self.caught_up,
            "complete": self.complete,
        }

    @property
    def late(self) -> list[Late]:
        return [each for each in self.overdue if each.overdue_s > LATE_S]


def judge_stuck(facts: StuckFacts) -> list[str]:
    """Everything that must not be, in words; empty when every reservation is closed in time."""
    found = []
    if not facts.complete:
        found.append("not every partition has an owner, so nothing can be said about the others")
    if not facts.caught_up:
        found.append("some partitions have not consumed their backlog yet: ask again when they have")
    for each in facts.late[:3]:
        found.append(f"reservation {each.reservation_id} of order {each.order_id} is overdue by {each.overdue_s:.1f} s")
    if len(facts.late) > 3:
        found.append(f"and {len(facts.late) - 3} more reservations are overdue")
    return found


async def run(edge: Edge, *, wait_s: float) -> StuckFacts:
    """Look until all partitions have owners that are caught up, at most `wait_s`, and report the last look."""
    deadline = time.monotonic() + wait_s
    while True:
        found = (await read(edge, RESERVATIONS, deadline, overdue="true", limit=LIST_MAX)).body
        facts = StuckFacts(
            total=int(found.get("total", -1)),
            overdue=[Late(each["reservation_id"], each["order_id"], float(each["overdue_s"])) for each in found.get("items", ())],
            caught_up=bool(found.get("caught_up")),
            complete=bool(found.get("complete")),
        )
        if (facts.caught_up and facts.complete) or time.monotonic() > deadline:
            return facts
        await asyncio.sleep(POLL_S)
