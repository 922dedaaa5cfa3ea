"""Reservations end at their due time: at once on a running worker; after a downtime once the backlog is consumed, and only those that the
backlog did not settle. The origin's expiry job was written but never started (bug 9).
"""

import asyncio
import signal
import time
import uuid
from collections.abc import Iterator

import pytest
from integration_harness import PATIENCE_S, Command, Event, Rig, now, started, until
from msgspec import Struct

from orderflow.cli.client import Edge
from orderflow.cli.stuck import LATE_S, StuckFacts, judge_stuck
from orderflow.cli.stuck import run as look_for_stuck
from orderflow.connectors.box.box import Servers
from orderflow.schemas.partitioner import partition_of
from orderflow.streams.domain.ids import reservation_id
from orderflow.streams.domain.parts import Holder
from orderflow.streams.domain.stock_records import (
    CommitReservation,
    ExtendReservation,
    ReceiveStock,
    ReleaseReservation,
    ReserveStock,
)

pytestmark = pytest.mark.box

SECOND_US = 1_000_000
AHEAD_US = 12 * SECOND_US
"""How far ahead due times are, so that all is asked in time on a machine that stands still for a few seconds."""
MANY = 200
FILLERS = 5_000
"""Records of a backlog: more than a worker takes at once."""


@pytest.fixture(scope="module")
def rig(box: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with started(box, tmp_path_factory.mktemp("expiry"), "expiry") as running:
        yield running


class Shelf:
    """A sku with units enough, and reservations of them that no order knows of."""

    def __init__(self, rig: Rig, units: int = 1_000_000) -> None:
        self.rig, self.units = rig, units
        self.sku = f"SKU-{uuid.uuid4().hex[:10]}"
        rig.produce([rig.command("stock", self.sku, ReceiveStock("main", units))])
        until(lambda: self.events("MovementRecorded"), "the units are there")

    def id(self, name: str) -> str:
        return reservation_id(self.sku, name, 1)

    def send(self, *commands: Struct) -> None:
        self.rig.produce(self.rig.command("stock", self.sku, command) for command in commands)

    def reserve(self, due_at: dict[str, int]) -> None:
        """One unit each, until these times."""
        self.send(*(ReserveStock(self.id(name), Holder(name), 1, due) for name, due in due_at.items()))

    def events(self, name: str) -> list[Event]:
        return [event for event in self.rig.events("stock", self.sku) if event.name == name]

    def about(self, name: str) -> list[str]:
        """What happened to a reservation."""
        return [event.name for event in self.rig.events("stock", self.sku) if getattr(event.value, "reservation_id", "") == self.id(name)]

    @property
    def expired(self) -> dict[str, Event]:
        """The end of each reservation that expired, by the name of its holder; none ends twice."""
        found = self.events("ReservationExpired")
        by_name = {event.value.holder.order_id: event for event in found}
        assert len(by_name) == len(found)
        return by_name

    def timers(self, name: str) -> list[Command]:
        """The timers that were ever sent for a reservation."""
        found = self.rig.commands("stock", self.sku)
        return [command for command in found if command.name == "TimerDue" and command.value.entity_id == self.id(name)]


class Looks(Struct):
    """What `verify stuck` saw, and the longest that the worker kept one of these looks waiting: it, or the machine, stood still for so long."""

    seen: list[StuckFacts]
    longest_s: float = 0.0


async def looks(rig: Rig, until_s: float, least: int = 1) -> Looks:
    """Again and again, for so long and at least so often."""
    found = Looks([])
    async with Edge(rig.system.url) as edge:
        end = time.monotonic() + until_s
        while time.monotonic() < end or len(found.seen) < least:
            began = time.monotonic()
            found.seen.append(await look_for_stuck(edge, wait_s=PATIENCE_S))
            await asyncio.sleep(0.02)
            found.longest_s = max(found.longest_s, time.monotonic() - began)
    return found


def check_due(ends: dict[str, Event], due_at: dict[str, int]) -> None:
    """Each reservation ended for the due time it had, and not before, also by the broker's clock."""
    assert {name: event.value.due_at for name, event in ends.items()} == due_at
    for name, event in ends.items():
        assert event.meta.occurred_at >= due_at[name]
        assert event.at_ms >= due_at[name] // 1000


def check_in_time(ends: dict[str, Event], stood_still_s: float) -> None:
    """And within a second of it, also by the broker's clock, but for what the machine stood still."""
    for event in ends.values():
        assert max(event.meta.occurred_at, event.at_ms * 1000) - event.value.due_at <= (LATE_S + stood_still_s) * SECOND_US


def until_time(at_us: int) -> float:
    """Seconds from now to a second after this moment."""
    return max(at_us + SECOND_US - now(), 0) / SECOND_US


def test_reservations_expire_within_a_second_on_a_running_worker_and_never_before(rig: Rig) -> None:
    shelves = [Shelf(rig, MANY) for _ in range(4)]
    start = now() + AHEAD_US
    due_at = {f"o{n}": start + n * 3 * SECOND_US // MANY for n in range(MANY)}
    for shelf in shelves:
        shelf.reserve(due_at)

    until(lambda: now() > start - SECOND_US, "the first is about to be due")
    found = asyncio.run(looks(rig, until_time(max(due_at.values())), least=21))

    for facts in found.seen:
        assert facts.complete and facts.caught_up
        assert [each for each in facts.late if each.overdue_s > LATE_S + found.longest_s] == []
    for shelf in shelves:
        until(lambda shelf=shelf: len(shelf.expired) == MANY, "all have expired")  # type: ignore[misc]
        check_due(shelf.expired, due_at)
        check_in_time(shelf.expired, found.longest_s)
        assert asyncio.run(rig.stock(shelf.sku)) == (MANY, MANY, 0, 0), "every unit is for sale again"


def test_a_reservation_that_is_extended_or_settled_does_not_expire_at_its_first_due_time(rig: Rig) -> None:
    shelf = Shelf(rig)
    first = now() + AHEAD_US
    later = first + SECOND_US
    shelf.reserve({"extended": first, "committed": first, "released": first, "left": first})
    shelf.send(
        ExtendReservation(shelf.id("extended"), later),
        CommitReservation(shelf.id("committed")),
        ReleaseReservation(shelf.id("released")),
    )
    found = asyncio.run(looks(rig, until_time(later)))
    until(lambda: len(shelf.expired) == 2, "two have expired")
    check_due(shelf.expired, {"extended": later, "left": first})
    check_in_time(shelf.expired, found.longest_s)
    assert shelf.about("committed") == ["StockReserved", "ReservationCommitted"]
    assert shelf.about("released") == ["StockReserved", "ReservationReleased"]
    assert shelf.timers("committed") == shelf.timers("released") == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "stopped"])
def test_after_a_downtime_only_what_the_backlog_left_open_expires(rig: Rig, number: signal.Signals) -> None:
    """Due times pass while no worker runs. What the log says of a reservation before anybody looks at the clock is what counts."""
    shelf = Shelf(rig)
    due = now() + 2 * AHEAD_US
    later = due + 4 * SECOND_US
    reserved = ("left", "committed-early", "committed-late", "extended", "released")
    shelf.reserve(dict.fromkeys(reserved, due))
    until(lambda: len(shelf.events("StockReserved")) == len(reserved), "all are reserved")

    with rig.worker_down(number):
        filler = _sku_beside(rig, shelf.sku)
        rig.produce(rig.command("stock", filler, ReceiveStock("main", 1)) for _ in range(FILLERS))
        shelf.send(
            CommitReservation(shelf.id("committed-early")),
            ReleaseReservation(shelf.id("released")),
            ExtendReservation(shelf.id("extended"), later),
        )
        shelf.reserve({"asked-in-time": due})
        assert now() < due, "this machine did not write the backlog in time, so nothing is proved"
        until(lambda: now() > due + SECOND_US, "the due time has passed")
        shelf.send(CommitReservation(shelf.id("committed-late")))
        shelf.reserve({"asked-too-late": due})
        backlog = rig.commands("stock", shelf.sku)

    open_still = {"left", "asked-in-time"}
    until(lambda: len(shelf.expired) == 3, "what was left open has expired, and what was extended when that was over")
    check_due(shelf.expired, {**dict.fromkeys(open_still, due), "extended": later})
    for name in shelf.expired:
        (timer,) = shelf.timers(name)
        assert timer.value.due_at == shelf.expired[name].value.due_at
        assert timer.place.offset > backlog[-1].place.offset
    for name in ("committed-early", "committed-late"):
        assert shelf.about(name) == ["StockReserved", "ReservationCommitted"]
    assert shelf.about("released") == ["StockReserved", "ReservationReleased"]
    (refused,) = shelf.events("StockRefused")
    assert (refused.value.reservation_id, refused.value.reason) == (shelf.id("asked-too-late"), "DUE_TIME_MISSING")
    for name in ("committed-early", "committed-late", "released", "asked-too-late"):
        assert shelf.timers(name) == [], "nobody looked at the clock before the log had answered"

    late_ms = max(shelf.expired[name].at_ms for name in open_still) - refused.at_ms
    assert late_ms <= AHEAD_US // 1000, "as soon as the backlog was consumed, or the machine stood still"
    for facts in asyncio.run(looks(rig, 0.1)).seen:
        assert judge_stuck(facts) == []


def _sku_beside(rig: Rig, sku: str) -> str:
    """A sku in the same log as another."""
    count = rig.names.partitions
    names = (f"SKU-{uuid.uuid4().hex[:10]}" for _ in range(1000))
    return next(name for name in names if partition_of(name.encode(), count) == partition_of(sku.encode(), count))
