"""When setting records aside must end: one that cannot be processed is parked, many of a minute's records are somebody's mistake.

A bad deploy, of this worker or of who sends, must not park a whole log; a poison record among few must not stop it. Both limits have to
be passed, and time is the log's, so that a backlog is judged as its records came. A command counts once: who repeats a bad one, as a careful
client does while nobody answers, must not stop the orders of others. What cannot even be read counts each time.
"""

from collections import OrderedDict, deque
from collections.abc import Hashable, Iterable

MINUTE_US = 60_000_000
SLICE_US = 1_000_000
PARKED_MAX = 20
PARKED_PERCENT_MAX = 1.0


class ParkRate:
    """Records of one partition in the last minute of log time, and the commands parked in it. Both limits are exclusive."""

    def __init__(self, parked_max: int = PARKED_MAX, percent_max: float = PARKED_PERCENT_MAX) -> None:
        self.parked_max, self.percent_max = parked_max, percent_max
        self.records = 0
        self._slices: deque[list[int]] = deque()
        self._parked: OrderedDict[Hashable, int] = OrderedDict()
        """When each was parked last, oldest first."""

    @property
    def parked(self) -> int:
        """Different commands that were parked in the last minute."""
        return len(self._parked)

    def is_over(self, at_us: int, records: int, parked: Iterable[Hashable]) -> bool:
        """Count a batch whose last record was appended at this time (microseconds). Have both limits been passed?"""
        if not self._slices or at_us - self._slices[-1][0] >= SLICE_US:
            self._slices.append([at_us, 0])
        self._slices[-1][1] += records
        self.records += records
        for command in parked:
            self._parked[command] = at_us
            self._parked.move_to_end(command)
        gone = at_us - MINUTE_US
        while self._slices[0][0] <= gone:
            self.records -= self._slices.popleft()[1]
        while self._parked and next(iter(self._parked.values())) <= gone:
            self._parked.popitem(last=False)
        return self.parked > self.parked_max and self.parked * 100 > self.records * self.percent_max

    def clear(self) -> None:
        """Forget: what was counted is done again."""
        self.records = 0
        self._slices.clear()
        self._parked.clear()
