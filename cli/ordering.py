"""The four status posts of a shipment in every order of arrival: the mission's second test. `run` does it, `judge_ordering` judges."""

import asyncio
import time
from itertools import permutations
from typing import Any, Literal

from msgspec import Struct, field

from orderflow.cli.client import Edge, Unreachable
from orderflow.cli.fulfillment import status_path
from orderflow.cli.orders import PATH as ORDERS
from orderflow.cli.race import POLL_S, insist, read, read_whole
from orderflow.cli.stock import PATH as STOCK

STEPS = ("picking", "picked", "packed", "shipped")
ARRIVALS = tuple(permutations(STEPS))
Mode = Literal["one after another", "at once"]
NEXT_S = 0.5
"""A post that comes early has its answer when its predecessors are there: they follow after so long, well within the 10 s that it is kept."""
MODES: tuple[Mode, ...] = ("one after another", "at once")


class Course(Struct):
    """What one order went through: its posts as they arrived, what was answered, where it ended."""

    arrival: tuple[str, ...]
    mode: Mode
    order_id: str
    answers: list[int] = field(default_factory=list)
    codes: list[str] = field(default_factory=list)
    status: str = ""
    fulfillments: list[str] = field(default_factory=list)
    sequences: list[int] = field(default_factory=list)
    """The sequence numbers of the order's events, as its timeline shows them."""
    timeline_complete: bool = False


class OrderingFacts(Struct):
    courses: list[Course] = field(default_factory=list)
    seconds: float = 0.0

    def figures(self) -> dict[str, Any]:
        ends: dict[str, dict[str, int]] = {}
        for course in self.courses:
            counts = ends.setdefault(course.mode, {})
            counts[course.status or "unknown"] = counts.get(course.status or "unknown", 0) + 1
        return {"arrival_orders": len({course.arrival for course in self.courses}), "ended": ends, "seconds": round(self.seconds, 2)}


def judge_ordering(facts: OrderingFacts) -> list[str]:
    """Everything that must not be, in words; empty when all 24 arrival orders end shipped, both ways."""
    found = []
    for mode in MODES:
        seen = {course.arrival for course in facts.courses if course.mode == mode}
        if len(seen) != len(ARRIVALS):
            found.append(f"{len(seen)} of {len(ARRIVALS)} arrival orders were tried {mode}")
    for course in facts.courses:
        name = f"{' '.join(course.arrival)} ({course.mode}, order {course.order_id})"
        if course.status != "shipped":
            found.append(f"{name} ended {course.status or 'unknown'}, must be shipped")
        if course.fulfillments != ["shipped"]:
            found.append(f"{name}: its fulfillments are {course.fulfillments}, must be one that is shipped")
        refused = [
            f"{status} {code}".strip() for status, code in zip(course.answers, course.codes, strict=True) if status not in (200, 202)
        ]
        if len(course.answers) != len(STEPS) or refused:
            found.append(f"{name}: {len(course.answers)} posts were answered, refused: {', '.join(refused) or 'none'}")
        if not course.timeline_complete or course.sequences != list(range(1, len(course.sequences) + 1)) or not course.sequences:
            found.append(f"{name}: the sequence of its events has a gap: {course.sequences}")
    return found


async def run(edge: Edge, run_id: str, *, wait_s: float) -> OrderingFacts:
    """48 orders at once: each arrival order with its posts one after another, and all at once."""
    began = time.monotonic()
    deadline = began + wait_s
    sku = f"ORDERING-{run_id}"
    total = len(ARRIVALS) * len(MODES)
    received = await insist(edge, f"{STOCK}/receipts", {"sku": sku, "qty": total}, f"{run_id}-stock", deadline)
    if received.status >= 400:
        raise Unreachable(f"stock was not received: {received.status} {received.code}")
    plans = [(mode, arrival) for mode in MODES for arrival in ARRIVALS]
    courses = await asyncio.gather(
        *(_course(edge, run_id, sku, number, mode, arrival, deadline) for number, (mode, arrival) in enumerate(plans))
    )
    return OrderingFacts(list(courses), time.monotonic() - began)


async def _course(edge: Edge, run_id: str, sku: str, number: int, mode: Mode, arrival: tuple[str, ...], deadline: float) -> Course:
    placed = await insist(edge, ORDERS, {"items": [{"sku": sku, "qty": 1}]}, f"{run_id}-{number}", deadline)
    course = Course(arrival, mode, str(placed.body.get("order_id") or ""))
    if not await _until(edge, course, ("confirmed", "processing"), deadline):
        return course

    async def post(status: str) -> None:
        answer = await insist(edge, status_path(course.order_id), {"status": status}, f"{run_id}-{number}-{status}", deadline)
        course.answers.append(answer.status)
        course.codes.append(answer.code)

    posts = []
    for status in arrival:
        posts.append(asyncio.create_task(post(status)))
        if mode == "one after another":
            await asyncio.wait(posts[-1:], timeout=NEXT_S)
    await asyncio.gather(*posts)
    await _until(edge, course, ("shipped",), deadline)
    timeline = await read_whole(edge, f"{ORDERS}/{course.order_id}/timeline", deadline)
    course.timeline_complete = bool(timeline.get("complete"))
    course.sequences = [int(event["sequence"]) for event in timeline.get("events", ())]
    return course


async def _until(edge: Edge, course: Course, wanted: tuple[str, ...], deadline: float) -> bool:
    """Read the order until its state is one of these; False when the time is over first."""
    while course.order_id:
        order = (await read(edge, f"{ORDERS}/{course.order_id}", deadline)).body
        course.status = str(order.get("status", ""))
        course.fulfillments = [str(each["status"]) for each in order.get("fulfillments", ())]
        if order.get("state") in wanted and (wanted != ("shipped",) or course.status == "shipped"):
            return True
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(POLL_S)
    return False
