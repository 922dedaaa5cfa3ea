"""When setting records aside must end: one that cannot be processed is parked, many of a minute's records are somebody's mistake.

A bad deploy, of this worker or of who sends, must not park a whole log; a poison record among few must not stop it. Both limits have to
be passed, and time is the log's, so that a backlog is judged as its records came.
"""

from collections import deque

MINUTE_US = 60_000_000
SLICE_US = 1_000_000
PARKED_MAX = 20
PARKED_PERCENT_MAX = 1.0


class ParkRate:
    """Records and parked records of one partition in the last minute of log time. Both limits are exclusive."""

    def __init__(self, parked_max: int = PARKED_MAX, percent_max: float = PARKED_PERCENT_MAX) -> None:
        self.parked_max, self.percent_max = parked_max, percent_max
        self.records = self.parked = 0
        self._slices: deque[list[int]] = deque()

    def is_over(self, at_us: int, records: int, parked: int) -> bool:
        """Count a batch whose last record was appended at this time (microseconds). Have both limits been passed?"""
        if not self._slices or at_us - self._slices[-1][0] >= SLICE_US:
            self._slices.append([at_us, 0, 0])
        newest = self._slices[-1]
        newest[1] += records
        newest[2] += parked
        self.records += records
        self.parked += parked
        while self._slices[0][0] <= at_us - MINUTE_US:
            _, records_gone, parked_gone = self._slices.popleft()
            self.records -= records_gone
            self.parked -= parked_gone
        return self.parked > self.parked_max and self.parked * 100 > self.records * self.percent_max

    def clear(self) -> None:
        """Forget: what was counted is done again."""
        self.records = self.parked = 0
        self._slices.clear()
