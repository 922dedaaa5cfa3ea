"""`orderflow verify invariants` over a running system: it proves a right history, and finds a record that somebody forged."""

import asyncio
import os
from pathlib import Path

import pytest
from confluent_kafka import Producer

from orderflow.cli import contracts, invariants, race
from orderflow.cli.client import Edge
from orderflow.cli.system import System
from orderflow.connectors.box.box import Servers
from orderflow.schemas.catalog import Catalog
from orderflow.streams.records import Records

pytestmark = [pytest.mark.box, pytest.mark.slow]
PARTITIONS = 4


def test_a_right_history_is_proved_and_a_forged_event_is_found(box: Servers, tmp_path: Path) -> None:
    prefix = f"invariants-{os.getpid()}"
    environment = {"ORDERFLOW_PREFIX": prefix, "ORDERFLOW_GROUP": prefix}
    with System(tmp_path / "system", servers=box, environment=environment) as system:
        asyncio.run(_load(system))
        right = invariants.run(box.bootstrap, box.registry_url, prefix, PARTITIONS)
        assert right.faults == []
        assert right.events > 100
        assert right.rows > 20
    records = contracts.load_records(box.registry_url, Catalog(prefix, PARTITIONS), tmp_path / "schemas.json")
    _forge(box.bootstrap, records)
    forged = invariants.run(box.bootstrap, box.registry_url, prefix, PARTITIONS)
    assert {fault.split()[0] for fault in forged.faults} >= {"I4", "I14"}


async def _load(system: System) -> None:
    """More buyers than units, every post twice, the worker killed in the middle."""

    async def kill() -> race.Killed:
        process = system.kill_worker()
        return race.Killed(process.pid, process.name)

    async with Edge(system.url) as edge:
        await race.run(edge, f"inv-{os.getpid()}", orders=20, stock=8, duplicates=True, kill=kill, wait_s=60)


def _forge(bootstrap: str, records: Records) -> None:
    """A reservation event of the log, written once more by somebody else."""
    stock = records.of("stock")
    message = next(
        message
        for message in contracts.read_topic(bootstrap, stock.events)
        if type(stock.decode_event(message.value() or b"")[2]).__name__ == "StockReserved"
    )
    producer = Producer({"bootstrap.servers": bootstrap})
    producer.produce(stock.events, message.value(), message.key(), message.partition())
    assert producer.flush(10) == 0
