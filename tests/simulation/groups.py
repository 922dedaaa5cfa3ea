"""The simulated group coordinator: members, generations, cooperative-sticky assignment, static and dynamic membership.

A rebalance is one agreement here: once every live member has heard of it, the generation moves and each member is told, inside its
next poll, what to give up and what it gets, which may be nothing; what was given up is dealt out in the generation after. A member that
is not heard of for its session timeout is removed, its partitions go to others, and it learns so when it next speaks.
"""

from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from confluent_kafka import ConsumerGroupState, KafkaError, TopicPartition

from simulation.log import failure

Key = tuple[str, int]


class Member:
    """One consumer in the group. `owned` is what it holds (until it says otherwise), `given` what the group lets it have."""

    def __init__(
        self, member_id: str, instance: str, client_id: str, topics: Sequence[str], session_us: int, wake: Callable[[], None]
    ) -> None:
        self.member_id, self.instance, self.client_id = member_id, instance, client_id
        self.topics, self.session_us, self.wake = tuple(topics), session_us, wake
        self.owned: set[Key] = set()
        self.given: set[Key] = set()
        self.generation = -1
        self.told = -1
        """The generation its callbacks were called for last."""
        self.seen_us = 0
        self.alive: Callable[[], bool] = lambda: True
        """Does its heartbeat thread run?"""

    @property
    def assignment(self) -> Any:
        return SimpleNamespace(topic_partitions=[TopicPartition(*key) for key in sorted(self.given)])


class Group:
    """One consumer group."""

    def __init__(
        self, name: str, topics: Mapping[str, int], now_us: Callable[[], int], later: Callable[[int, Callable[[], None]], None]
    ) -> None:
        self.name, self.topics, self.now_us, self.later = name, topics, now_us, later
        self.members: dict[str, Member] = {}
        self.generation = 0
        self.join_delay_us: Callable[[], int] = lambda: 50_000
        self._count = 0
        self._pending = False
        self.rebalances = 0

    # -- membership ---------------------------------------------------------------------------------------------------------------
    def join(self, member: Member) -> None:
        """A consumer subscribes, or comes back after it was removed, with nothing until the group agrees anew. A static one whose place is
        still there takes it: its predecessor is fenced.
        """
        self._count += 1
        member.member_id = f"{member.client_id}-{self._count}"
        member.seen_us, member.told = self.now_us(), -1
        replaced = next((each for each in self.members.values() if member.instance and each.instance == member.instance), None)
        member.given = set()
        if replaced is not None:
            del self.members[replaced.member_id]
            member.given = set(replaced.given)
            member.generation = self.generation
        self.members[member.member_id] = member
        if replaced is None:
            self.rebalance()
        else:
            member.wake()
        self._watch(member)

    def leave(self, member: Member) -> None:
        """A dynamic member says goodbye; a static one keeps its place until its session ends."""
        if self.members.get(member.member_id) is member and not member.instance:
            del self.members[member.member_id]
            self.rebalance()

    def _watch(self, member: Member) -> None:
        """Remove the member when its session has timed out; look again later otherwise."""
        if self.members.get(member.member_id) is not member:
            return
        if member.alive():
            member.seen_us = self.now_us()
        elif self.now_us() - member.seen_us >= member.session_us:
            del self.members[member.member_id]
            self.rebalance()
            return
        self.later(max(member.session_us // 5, 200_000), lambda: self._watch(member))

    def validate(self, member_id: str, generation: int, instance: str) -> None:
        """What TxnOffsetCommit checks. A caller without member id and instance is taken for an old client and let in."""
        if not member_id and generation < 0 and not instance:
            return
        member = self.members.get(member_id)
        if member is None:
            taken = instance and any(each.instance == instance for each in self.members.values())
            code = KafkaError.FENCED_INSTANCE_ID if taken else KafkaError.UNKNOWN_MEMBER_ID
            raise failure(code, f"{self.name}: {member_id or instance!r}", abort=True)
        if generation != self.generation:
            raise failure(KafkaError.ILLEGAL_GENERATION, f"{self.name}: {generation}, not {self.generation}", abort=True)

    # -- rebalance ----------------------------------------------------------------------------------------------------------------
    def rebalance(self) -> None:
        """Somebody came, went or gave up partitions: agree anew, soon."""
        if not self._pending:
            self._pending = True
            self.later(self.join_delay_us(), self._agree)

    def _agree(self) -> None:
        waiting = [each for each in self.members.values() if not each.alive()]
        if waiting:  # the join of a silent member is awaited until its session ends
            self.later(200_000, self._agree)
            return
        self._pending = False
        if not self.members:
            return
        self.generation += 1
        self.rebalances += 1
        for member, target in self._deal().items():
            kept = member.owned & target
            free = {key for key in target if not any(key in other.owned for other in self.members.values() if other is not member)}
            member.given = kept | free
            member.generation = self.generation
            member.wake()

    def _deal(self) -> dict[Member, set[Key]]:
        """Cooperative-sticky: who holds a partition keeps it unless it holds more than its share."""
        members = sorted(self.members.values(), key=lambda each: each.member_id)
        partitions = sorted((topic, number) for topic in {t for m in members for t in m.topics} for number in range(self.topics[topic]))
        share, more = divmod(len(partitions), len(members))
        target: dict[Member, set[Key]] = {member: set() for member in members}
        left = []
        for key in partitions:
            holder = next((member for member in members if key in member.owned), None)
            limit = share + (1 if more else 0)
            if holder is not None and len(target[holder]) < limit and not (len(target[holder]) == share and more <= 0):
                target[holder].add(key)
                if len(target[holder]) > share:
                    more -= 1
            else:
                left.append(key)
        for key in left:
            target[min(members, key=lambda each: (len(target[each]), each.member_id))].add(key)
        return target

    def gave_up(self, member: Member, keys: set[Key]) -> None:
        member.owned -= keys
        if self.members.get(member.member_id) is member:
            self.rebalance()

    def describe(self) -> tuple[list[Any], ConsumerGroupState]:
        """The members, and whether the group moves anything."""
        return list(self.members.values()), ConsumerGroupState.PREPARING_REBALANCING if self._pending else ConsumerGroupState.STABLE
