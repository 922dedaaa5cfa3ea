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

    def reserve(self, due_at: dict[str, int]) -> None:
        """One unit each, until these times."""
        commands = [ReserveStock(self.id(name), Holder(name), 1, due) for name, due in due_at.items()]
        self.rig.produce(self.rig.command("stock", self.sku, command) for command in commands)

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


async def looks(rig: Rig, until_s: float) -> list[StuckFacts]:
    """What `verify stuck` sees, again and again, for so long."""
    found = []
    async with Edge(rig.system.url) as edge:
        end = time.monotonic() + until_s
        while time.monotonic() < end:
            found.append(await look_for_stuck(edge, wait_s=PATIENCE_S))
            await asyncio.sleep(0.02)
    return found


def check_ends(ends: dict[str, Event], due_at: dict[str, int]) -> float:
    """Each reservation ended when it was due, not before, and not a second later; the longest delay in seconds."""
    assert ends.keys() == due_at.keys()
    delays = []
    for name, event in ends.items():
        assert event.value.due_at == due_at[name]
        assert event.meta.occurred_at >= due_at[name]
        assert event.at_ms >= due_at[name] // 1000, "the broker's clock says so too"
        delays.append(max(event.meta.occurred_at - due_at[name], event.at_ms * 1000 - due_at[name]) / SECOND_US)
    assert max(delays) <= LATE_S
    return max(delays)


def test_reservations_expire_within_a_second_on_a_running_worker_and_never_before(rig: Rig, record_property: pytest.Function) -> None:
    shelves = [Shelf(rig, MANY) for _ in range(4)]
    start = now() + SECOND_US
    due_at = {f"o{n}": start + n * 3 * SECOND_US // MANY for n in range(MANY)}
    for shelf in shelves:
        shelf.reserve(due_at)

    seen = asyncio.run(looks(rig, 5.0))

    assert len(seen) > 20
    for facts in seen:
        assert judge_stuck(facts) == []
    for shelf in shelves:
        until(lambda shelf=shelf: len(shelf.expired) == MANY, "all have expired")  # type: ignore[misc]
        check_ends(shelf.expired, due_at)
        assert asyncio.run(rig.stock(shelf.sku)) == (MANY, MANY, 0, 0), "every unit is for sale again"


def test_a_reservation_that_is_extended_or_settled_does_not_expire_at_its_first_due_time(rig: Rig) -> None:
    shelf = Shelf(rig)
    first, later = now() + 2 * SECOND_US, now() + 3 * SECOND_US
    shelf.reserve({"extended": first, "committed": first, "released": first, "left": first})
    rig.produce(
        rig.command("stock", shelf.sku, command)
        for command in (
            ExtendReservation(shelf.id("extended"), later),
            CommitReservation(shelf.id("committed")),
            ReleaseReservation(shelf.id("released")),
        )
    )
    until(lambda: len(shelf.expired) == 2, "two have expired")
    check_ends(shelf.expired, {"extended": later, "left": first})
    assert shelf.about("committed") == ["StockReserved", "ReservationCommitted"]
    assert shelf.about("released") == ["StockReserved", "ReservationReleased"]
    assert shelf.timers("committed") == shelf.timers("released") == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "stopped"])
def test_after_a_downtime_only_what_the_backlog_left_open_expires(rig: Rig, number: signal.Signals) -> None:
    """Due times pass while no worker runs. What the log says of a reservation before anybody looks at the clock is what counts."""
    shelf = Shelf(rig)
    due = now() + 2 * SECOND_US
    late = due + 60 * SECOND_US
    names = ("left", "committed early", "committed late", "extended", "released")
    ids = {name: name.replace(" ", "-") for name in names}
    shelf.reserve({name: late if name == "extended" else due for name in ids.values()})
    until(lambda: len(shelf.events("StockReserved")) == len(names), "all are reserved")

    def send(*commands: object) -> None:
        rig.produce(rig.command("stock", shelf.sku, command) for command in commands)

    with rig.worker_down(number):
        assert now() < due, "the machine is too slow for this test: the worker was not down in time"
        filler = _sku_of_partition(rig, partition_of(shelf.sku.encode(), rig.names.partitions))
        rig.produce(rig.command("stock", filler, ReceiveStock("main", 1)) for _ in range(FILLERS))
        send(CommitReservation(shelf.id(ids["committed early"])), ReleaseReservation(shelf.id("released")))
        shelf.reserve({"asked-in-time": due})
        assert now() < due, "the machine is too slow for this test: the backlog was not written in time"
        until(lambda: now() > due + SECOND_US, "the due time has passed")
        send(CommitReservation(shelf.id(ids["committed late"])))
        shelf.reserve({"asked-too-late": due})
        end_of_backlog = rig.ends()[rig.names.commands_topic("stock"), partition_of(shelf.sku.encode(), rig.names.partitions)]

    until(lambda: len(shelf.expired) >= 2, "what was left open has expired")
    assert shelf.expired.keys() == {"left", "asked-in-time"}
    for name, event in shelf.expired.items():
        (timer,) = shelf.timers(name)
        assert timer.place.offset >= end_of_backlog, "nobody looked at the clock before the backlog was consumed"
        assert event.meta.occurred_at >= due and event.at_ms >= due // 1000
    for name in ("committed-early", "committed-late"):
        assert shelf.about(name) == ["StockReserved", "ReservationCommitted"]
    assert shelf.about("released") == ["StockReserved", "ReservationReleased"]
    assert shelf.about("asked-too-late") == ["StockRefused"]
    for name in ("committed-early", "committed-late", "released", "extended", "asked-too-late"):
        assert shelf.timers(name) == [], "the log has answered already"

    last = max(event.at_ms for event in rig.events("stock", filler))
    assert max(event.at_ms for event in shelf.expired.values()) - last <= LATE_S * 1000, "as soon as the backlog is consumed"
    (facts,) = asyncio.run(looks(rig, 0.01))
    assert judge_stuck(facts) == []


def _sku_of_partition(rig: Rig, number: int) -> str:
    """A sku in the same log as another."""
    return next(name for name in (f"SKU-{uuid.uuid4().hex[:10]}" for _ in range(1000)) if partition_of(name.encode(), 4) == number)
