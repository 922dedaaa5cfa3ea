"""The one seam between a worker and its world: clients of the log, clocks, threads, the end of the process.

Production uses the defaults; the simulator gives simulated ones and runs everything else unchanged.
"""

import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient
from msgspec import Struct


def _thread(name: str, function: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=function, name=name, daemon=True)
    thread.start()
    return thread


class World(Struct, frozen=True):
    """What is outside of this process."""

    consumer: Callable[[Mapping[str, Any]], Any] = lambda config: Consumer(dict(config))
    producer: Callable[[Mapping[str, Any]], Any] = lambda config: Producer(dict(config))
    admin: Callable[[Mapping[str, Any]], Any] = lambda config: AdminClient(dict(config))
    monotonic: Callable[[], float] = time.monotonic
    """Seconds that only grow."""
    now_us: Callable[[], int] = lambda: time.time_ns() // 1000
    """Microseconds since 1970 UTC, as the log's append time counts."""
    sleep: Callable[[float], None] = time.sleep
    thread: Callable[[str, Callable[[], None]], Any] = _thread
    """Run a function beside the caller."""
    exit: Callable[[int], None] = os._exit
    """End the process at once, nothing more is written."""


WORLD = World()
