"""Partitions that no member of the group owns: found by asking the group, mended by joining it anew.

A cooperative rebalance moves a partition in two steps: its owner lets it go and joins again, and only then somebody gets it. A static member
that is killed in between comes back with what it was to keep; the broker takes it in without a rebalance, as it should, and nobody asks for
the rest. So from each rebalance on a member looks at the group until every partition has an owner. If the same look comes for longer than a
hand-over may take, the first member by name joins anew, which makes the group share out everything.
"""

import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import structlog
from confluent_kafka import ConsumerGroupState, KafkaException

log = structlog.get_logger(__name__)

LOOK_S = 3.0
LOOKS = 4
"""Longer than a hand-over takes; who is too early only makes the group share out once more. The member after the first waits so long again."""
REQUEST_TIMEOUT_S = 10.0


class OrphanWatch:
    """Looks at the group while it may have partitions without an owner, on a thread of its own.

    Args:
        group: the consumer group.
        instance: this member's client id.
        partitions: every (topic, partition) the group reads.
        admin: a client to ask with.
    """

    def __init__(self, group: str, instance: str, partitions: Iterable[tuple[str, int]], admin: Callable[[], Any]) -> None:
        self.group, self.instance, self.partitions = group, instance, frozenset(partitions)
        self.found = threading.Event()
        """Set when this member has to join the group anew; whoever does it clears it."""
        self.moved = threading.Event()
        """Set when the group has moved something: look again, and count from now."""
        self.admin = admin
        self._looks = 0

    def start(self, thread: Callable[[str, Callable[[], None]], Any]) -> None:
        self.moved.set()
        thread("orphans", self.run)

    def run(self) -> None:
        admin = self.admin()
        while True:
            self.moved.wait()
            self.begin()
            while not self.moved.wait(LOOK_S) and not self.step(admin):
                pass

    def begin(self) -> None:
        """Count the looks anew."""
        self.moved.clear()
        self._looks = 0

    def step(self, admin: Any) -> bool:
        """One look. Is there nothing more to look for, until the group moves something?"""
        orphans, rank = self.look(admin)
        if orphans is not None and not orphans:
            return True
        self._looks = self._looks + 1 if orphans else 0
        if not orphans or self._looks < LOOKS * (rank + 1):
            return False
        names = [f"{topic}[{number}]" for topic, number in sorted(orphans)]
        log.warning("partitions.orphaned", partitions=names, then="this worker joins the group anew")
        self.found.set()
        return True

    def look(self, admin: Any) -> tuple[frozenset[tuple[str, int]] | None, int]:
        """Partitions without an owner, None while that cannot be said, and how many members come before this one."""
        try:
            described = admin.describe_consumer_groups([self.group], request_timeout=REQUEST_TIMEOUT_S)[self.group].result()
        except KafkaException:
            return None, 0
        owners: Mapping[str, set[tuple[str, int]]] = {
            member.client_id: {(tp.topic, tp.partition) for tp in member.assignment.topic_partitions} for member in described.members
        }
        if described.state != ConsumerGroupState.STABLE or self.instance not in owners:
            return None, 0
        return self.partitions.difference(*owners.values()), sorted(owners).index(self.instance)
