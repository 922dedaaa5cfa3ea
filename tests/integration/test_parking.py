"""Many records that cannot be processed stop their partition and no other; one among few stops nothing (bug 33: somebody is told)."""

import json
import os
import signal
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from integration_harness import Answer, Raw, Rig, eventually, started, until
from worker_harness import START_S

from orderflow.connectors.box.box import Servers
from orderflow.schemas.partitioner import partition_of
from orderflow.streams.domain.stock_records import ReceiveStock
from orderflow.streams.parking import PARKED_MAX

pytestmark = pytest.mark.box

FLOOD = 3 * PARKED_MAX


@pytest.fixture(scope="module")
def rig(box: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with started(box, tmp_path_factory.mktemp("parking"), "parking") as running:
        yield running


def page(rig: Rig, path: str) -> str:
    worker = until(lambda: rig.system.state.workers, "a worker runs")[0]
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{worker.url}{path}", timeout=START_S) as answer:
            return str(answer.read().decode())
    except urllib.error.HTTPError as error:
        return str(error.read().decode())
    except OSError:
        return "{}"


def health(rig: Rig) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(page(rig, "/health/ready"))
    return found


def sku_of(rig: Rig, partition: int) -> str:
    """A new sku of this partition."""
    while True:
        sku = f"SKU-{uuid.uuid4().hex[:8]}"
        if partition_of(sku.encode(), rig.names.partitions) == partition:
            return sku


def receipt(rig: Rig, sku: str, quantity: int) -> Raw:
    return rig.command("stock", sku, ReceiveStock("main", quantity, reference="test"))


def poison(rig: Rig, partition: int, count: int) -> list[Raw]:
    return [Raw(rig.records.of("stock").commands, b"ANY", b"not a command", partition=partition) for _ in range(count)]


def parked(rig: Rig, partition: int) -> int:
    return sum(each.partition() == partition for each in rig.read(rig.names.dlq_topic("stock")))


def restart(rig: Rig) -> None:
    """kill -9; the system starts another."""
    (before,) = rig.system.state.workers
    os.kill(before.pid, signal.SIGKILL)
    until(lambda: [each.pid for each in rig.system.state.workers] not in ([], [before.pid]), "another worker")
    until(lambda: health(rig), "it answers", START_S)


async def has(rig: Rig, sku: str, units: int) -> None:
    """Wait until the edge says so; until a partition is restored it answers 503."""

    def is_right(answer: Answer) -> bool:
        return answer.status == 200 and answer.json["on_hand"] == units

    await eventually(lambda: rig.get(f"/api/v1/stock/{sku}"), is_right, START_S)


async def test_a_few_poison_records_stop_nothing(rig: Rig) -> None:
    sku = sku_of(rig, 0)
    rig.produce([*poison(rig, 0, PARKED_MAX), receipt(rig, sku, 3)])
    await has(rig, sku, 3)
    until(lambda: parked(rig, 0) == PARKED_MAX, "their letters; the mark that ends a transaction comes a little after its rows")
    assert health(rig)["stopped"] == []
    assert health(rig)["ready"]


async def test_a_flood_stops_its_partition_and_no_other_and_is_told(rig: Rig) -> None:
    flooded, other, behind = sku_of(rig, 1), sku_of(rig, 2), sku_of(rig, 1)
    topic = rig.records.of("stock").commands
    rig.produce([receipt(rig, flooded, 1), receipt(rig, other, 1)])
    await has(rig, flooded, 1)

    rig.produce(poison(rig, 1, FLOOD))
    until(lambda: health(rig)["stopped"], "the partition is stopped")
    rig.produce([*poison(rig, 1, PARKED_MAX), receipt(rig, behind, 5), receipt(rig, other, 1)])

    await has(rig, other, 2)
    found = health(rig)
    assert (found["stopped"], found["ready"]) == ([f"{topic}[1]"], False)
    assert f"{topic}[1]" in found["behind"]
    until(lambda: parked(rig, 1) > PARKED_MAX, "their letters")
    assert parked(rig, 1) <= FLOOD, "what came after the stop is still in the log"
    assert rig.events("stock", behind) == []
    await has(rig, flooded, 1)  # its rows are still read

    metrics = page(rig, "/metrics")
    assert f'orderflow_partition_stopped{{partition="1",topic="{topic}"}} 1.0' in metrics
    assert f'orderflow_partition_stopped{{partition="2",topic="{topic}"}} 0.0' in metrics
    assert 'orderflow_turns_total{kind="parked",name="UNDECODABLE"}' in metrics
    log = (rig.system.data / "logs" / "worker-1.log").read_text()
    assert "partition.stopped" in log and "orderflow dlq list" in log

    for _ in range(FLOOD // PARKED_MAX + 1):  # each start sets aside more than twenty of what is left, or all of it
        restart(rig)
        until(lambda: rig.events("stock", behind) or health(rig).get("stopped"), "it goes on where it stopped", START_S)
        if rig.events("stock", behind):
            break
    await has(rig, behind, 5)
    until(lambda: parked(rig, 1) == FLOOD + PARKED_MAX, "each once")
