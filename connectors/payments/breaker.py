"""A circuit breaker by failure rate: a provider that fails is left alone for a while, then tried with one call.

Libraries that were looked at (circuitbreaker, purgatory) count failures in a row; slot GW-P0-01 asks for a share of a window.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable

CLOSED, OPEN, HALF_OPEN = "closed", "open", "half_open"


class Breaker:
    """Opens when at least `failures_percent` of at least `calls_min` calls within `window_s` failed; after `open_s` one call probes.

    Args:
        clock: seconds that only grow.
    """

    def __init__(
        self,
        *,
        calls_min: int = 20,
        failures_percent: float = 50.0,
        window_s: float = 10.0,
        open_s: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.calls_min, self.failures_percent, self.window_s, self.open_s = calls_min, failures_percent, window_s, open_s
        self.state = CLOSED
        self._clock = clock
        self._calls: deque[tuple[float, bool]] = deque()
        self._until = 0.0
        self._changed = asyncio.Event()

    async def admit(self) -> None:
        """Return when a call may be made; every admitted call must be followed by `record` or `withdraw`."""
        while self.state != CLOSED:
            left_s = self._until - self._clock()
            if self.state == OPEN and left_s <= 0:
                self._move(HALF_OPEN)
                return  # the probe; everybody else waits for what comes of it
            try:
                async with asyncio.timeout(left_s if self.state == OPEN else None):
                    await self._changed.wait()
            except TimeoutError:
                continue

    def record(self, answered: bool) -> None:
        """What became of an admitted call. A refusal is an answer."""
        now = self._clock()
        if self.state == HALF_OPEN:
            self._calls.clear()
            self._until = now + self.open_s
            self._move(CLOSED if answered else OPEN)
        elif self.state == CLOSED:
            self._calls.append((now, answered))
            while self._calls[0][0] <= now - self.window_s:
                self._calls.popleft()
            failed = sum(not good for _, good in self._calls)
            if len(self._calls) >= self.calls_min and 100 * failed >= self.failures_percent * len(self._calls):
                self._until = now + self.open_s
                self._move(OPEN)

    def withdraw(self) -> None:
        """An admitted call was given up before anything came of it, which says nothing of the provider: the next one probes instead."""
        if self.state == HALF_OPEN:
            self._until = self._clock()
            self._move(OPEN)

    def _move(self, state: str) -> None:
        self.state = state
        self._changed.set()
        self._changed = asyncio.Event()
