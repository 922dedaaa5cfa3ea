"""How partitions move between workers: not at all for a restart in place, at once for a planned stop, without a word from who lost them."""

import os
import signal
from datetime import datetime
from pathlib import Path

import pytest
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from integration_harness import PATIENCE_S, until
from worker_harness import START_S, Place, Worker

from orderflow.connectors.box.box import Servers
from orderflow.streams.topology import SPACES

pytestmark = pytest.mark.box

PATIENT = {"SESSION_TIMEOUT_S": "120", "GIVE_UP_S": "600"}
"""A session that does not time out while a worker is started again, however busy the machine is."""
AT_ONCE_S = 60.0
"""librdkafka leaves a group without waiting for its word that it heard; a session that has to end takes twice as long."""

ASKED_ANEW_S = 1.0
"""What librdkafka lets go by between two requests to join."""

WITHOUT_COORDINATOR = (KafkaError.NOT_COORDINATOR, KafkaError.COORDINATOR_NOT_AVAILABLE, KafkaError.COORDINATOR_LOAD_IN_PROGRESS)


@pytest.fixture
def place(box: Servers, tmp_path: Path) -> Place:
    return Place(box, tmp_path)


def shared(place: Place, *workers: Worker) -> bool:
    """Does each partition have one owner among these, and each of them its part?"""
    owned = [worker.owned for worker in workers]
    every = len(SPACES) * place.names.partitions
    return sum(map(len, owned)) == len(set().union(*owned)) == every and max(map(len, owned)) - min(map(len, owned)) <= len(SPACES)


def changes(worker: Worker) -> int:
    """How often its partitions changed."""
    return sum(len(worker.said(f"partitions.{what}")) for what in ("assigned", "revoked", "lost"))


def test_a_static_worker_that_is_killed_comes_back_to_its_partitions_and_no_other_worker_notices(place: Place) -> None:
    with place.worker("one", MEMBERSHIP="static", **PATIENT) as one, place.worker("two", MEMBERSHIP="static", **PATIENT) as two:
        until(lambda: shared(place, one, two), "the partitions are shared", START_S)
        one.until_ready()
        two.until_ready()
        before, noticed = one.owned, changes(two)

        os.kill(one.child, signal.SIGKILL)
        until(lambda: "orderflow_restarts_total 1.0" in one.page("/metrics"), "it was started again", START_S)
        until(lambda: one.owned == before and len(one.said("partitions.assigned")) > 1, "it has the same partitions", START_S)
        one.until_ready()

        place.receive("AFTER", 4)
        until(lambda: place.received("AFTER") == [4], "the log goes on")
        assert changes(two) == noticed, "no rebalance reached the other"
        assert one.owned == before


def test_partitions_that_a_killed_worker_was_about_to_give_away_find_an_owner(place: Place) -> None:
    """Killed between the group's word that half of them move and their revocation, it comes back with the other half only."""
    with place.worker("one", MEMBERSHIP="static", **PATIENT) as one:
        one.until_ready()
        everything = len(one.owned)
        with place.worker("two", MEMBERSHIP="static", **PATIENT) as two:
            until(lambda: two.said("partitions.assigned"), "two has joined", START_S)
            os.kill(one.child, signal.SIGKILL)
            until(lambda: len(one.said("partitions.assigned")) > 1, "one is back", START_S)
            until(lambda: len(one.owned) + len(two.owned) == everything and shared(place, one, two), "each has an owner", START_S)


def test_a_newcomer_asks_for_its_partitions_at_once(place: Place) -> None:
    """librdkafka by itself asks a second after the empty assignment that everybody gets first; a busy machine may take as long, but not each time."""
    waits = []
    with place.worker("one") as one:
        one.until_ready()
        for number in range(3):
            with place.worker(f"newcomer-{number}") as two:
                until(lambda: two.owned, "it has partitions", START_S)  # noqa: B023  (asked for within the loop)
                first, second = two.said("partitions.assigned")[:2]
                assert not first["partitions"] and second["partitions"]
                waits.append((datetime.fromisoformat(second["timestamp"]) - datetime.fromisoformat(first["timestamp"])).total_seconds())
            if waits[-1] < ASKED_ANEW_S:
                return
            until(lambda: shared(place, one), "one has everything again", START_S)
    pytest.fail(f"the partitions came after {waits} s")


def members(place: Place) -> int:
    """How many the group counts; -1 while a broker that has just been started has no coordinator for it."""
    admin = AdminClient({"bootstrap.servers": place.servers.bootstrap})
    group = place.names.prefix
    try:
        return len(admin.describe_consumer_groups([group])[group].result(PATIENCE_S).members)
    except KafkaException as error:
        if error.args[0].code() not in WITHOUT_COORDINATOR:
            raise
        return -1


@pytest.mark.parametrize(("membership", "left"), [("dynamic", 1), ("static", 2)])
def test_a_planned_stop_leaves_the_group_at_once_or_keeps_the_place_for_who_comes_back(place: Place, membership: str, left: int) -> None:
    with place.worker("one", MEMBERSHIP=membership, **PATIENT) as one, place.worker("two", MEMBERSHIP=membership, **PATIENT) as two:
        until(lambda: members(place) == 2 and shared(place, one, two), "both have their part", START_S)
        assert two.stop() == 0
        until(lambda: members(place) == left, "the group has heard it, long before the session would end", AT_ONCE_S)
        if membership == "dynamic":
            until(lambda: shared(place, one), "the partitions moved", START_S)
            one.until_ready()
        assert not one.said("owner.fenced") and not two.said("owner.fenced"), "a member, or one that let go in order"


@pytest.mark.parametrize("membership", ["static", "dynamic"])
def test_a_worker_that_lost_its_partitions_exits_and_writes_nothing(place: Place, membership: str) -> None:
    short = {"SESSION_TIMEOUT_S": "15", "MEMBERSHIP": membership}  # an heir that is late with its own heartbeat would be fenced, too
    with place.worker("zombie", "--once", **short) as zombie, place.worker("heir", **short) as heir:
        until(lambda: shared(place, zombie, heir), "the partitions are shared", START_S)
        zombie.until_ready()
        os.kill(zombie.process.pid, signal.SIGSTOP)
        try:
            until(lambda: shared(place, heir), "the other has them all", START_S)
            heir.until_ready()
            assert len(heir.said("owner.fenced")) == 1, "once, for all its partitions"
            before = place.quiet_ends()
        finally:
            os.kill(zombie.process.pid, signal.SIGCONT)
        assert zombie.process.wait(PATIENCE_S) == 13
        assert zombie.said("partitions.lost")
        assert place.ends() == before, "not a record, not a marker"
