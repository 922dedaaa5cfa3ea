"""How fast a contestant drains a backlog, seen from outside: its group's committed offsets, its process's CPU time and memory.

The contestant knows nothing of being measured, so all are measured alike. The clock starts at the first commit seen after 30 % of the
records and stops at the commit of the last one; both are seen at most 20 ms late. The observer lives on the broker's core. With so few
records that most are committed between two looks, the contestant's start counts too.
"""

import contextlib
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, KafkaException, TopicPartition
from contest import BROKER_CORE, CONTESTANT_CORE

from orderflow.cli import machine
from orderflow.connectors.box.process import Child

WARM_SHARE = 0.3
POLL_S = 0.02
STALL_S = 120.0
"""A contestant that commits nothing for so long has failed; Kafka's own longest wait (a dead member's session) is 45 s."""
ASK_TIMEOUT_S, READY_S = 10.0, 30.0


class Failed(Exception):
    """The contestant ended, or stood still, before its input was consumed; the message says why."""


def drain(
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    bootstrap: str,
    group: str,
    topic: str,
    broker: int,
    log: Path,
    limit_s: float,
) -> dict[str, Any]:
    """Start the contestant on its core, wait until its group has committed all that is in `topic` now, stop it. Raises Failed.

    Returns events (after the warm-up), events_per_s, cpu_us_per_event, broker_us_per_event, peak_rss_mb, start_s (until its first commit).
    """
    with machine.on_core(BROKER_CORE):
        position = Position(bootstrap, group, topic)
    child = Child("contestant", command, log, env={**os.environ, **environment})
    with machine.on_core(CONTESTANT_CORE):
        child.start()
    try:
        with machine.on_core(BROKER_CORE):
            return _observe(child, position, broker, limit_s)
    finally:
        child.stop()
        position.close()


class Position:
    """The committed offsets of a group on one topic."""

    def __init__(self, bootstrap: str, group: str, topic: str) -> None:
        self._consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group, "isolation.level": "read_uncommitted"})
        numbers = self._consumer.list_topics(topic, timeout=ASK_TIMEOUT_S).topics[topic].partitions
        self._partitions = [TopicPartition(topic, number) for number in numbers]
        self.end: int = sum(self._consumer.get_watermark_offsets(partition, timeout=ASK_TIMEOUT_S)[1] for partition in self._partitions)
        deadline = time.monotonic() + READY_S
        while True:  # the coordinator of a new group takes a moment
            try:
                self.begin = self._last = self._ask()
                return
            except KafkaException:
                if time.monotonic() > deadline:
                    raise
                time.sleep(POLL_S)

    def committed(self) -> int:
        """How many records the group has committed, as far as it is known: a broker that is too busy to say so is asked again later."""
        with contextlib.suppress(KafkaException):
            self._last = self._ask()
        return self._last

    def _ask(self) -> int:
        return sum(max(0, found.offset) for found in self._consumer.committed(self._partitions, timeout=ASK_TIMEOUT_S))

    def close(self) -> None:
        self._consumer.close()


def _observe(child: Child, position: Position, broker: int, limit_s: float) -> dict[str, Any]:
    began = moved = time.monotonic()
    marks: list[tuple[float, float, float, int]] = []
    done, start_s = position.begin, 0.0
    warm = position.begin + (position.end - position.begin) * WARM_SHARE
    pid = child.pid or 0
    start = (began, 0.0, machine.used_s(broker), position.begin)
    while done < position.end:
        time.sleep(POLL_S)
        committed, now = position.committed(), time.monotonic()
        if committed > done:
            start_s = start_s or now - began
            done, moved = committed, now
            if not marks and done >= warm or done >= position.end:
                marks.append((now, machine.used_s(pid), machine.used_s(broker), done))
                peak_rss_mb = machine.peak_rss_mb(pid)
        elif child.poll() is not None:
            raise Failed(f"ended with {child.poll()} after {done} of {position.end} records\n{child.log_tail()}")
        elif now - moved > STALL_S or now - began > limit_s:
            raise Failed(f"stood at {done} of {position.end} records after {now - began:.0f} s\n{child.log_tail()}")
    if len(marks) < 2 or marks[0][3] > (position.begin + position.end) / 2:  # most of it between two looks: then its start counts too
        marks = [start, marks[-1]]
    (t0, cpu0, broker0, n0), (t1, cpu1, broker1, n1) = marks
    events = n1 - n0
    return {
        "events": events,
        "events_per_s": round(events / (t1 - t0)),
        "cpu_us_per_event": round((cpu1 - cpu0) / events * 1e6, 2),
        "broker_us_per_event": round((broker1 - broker0) / events * 1e6, 2),
        "peak_rss_mb": peak_rss_mb,
        "start_s": round(start_s, 2),
    }
