"""What must be true at the end of a run."""

from msgspec import Struct

from simulation.edges import Edge
from simulation.system import System


class Judged(Struct):
    problems: list[str]
    events: int
    statuses: dict[str, int]


def judge(system: System, edge: Edge) -> Judged:
    statuses: dict[str, int] = {}
    for each in edge.see_orders().values():
        statuses[each.status] = statuses.get(each.status, 0) + 1
    events = 0
    for space in system.parts.spaces:
        for n in range(system.partitions):
            events += sum(1 for _ in system.broker.logs[system.records.of(space.name).events, n].committed())
    return Judged([], events, statuses)
