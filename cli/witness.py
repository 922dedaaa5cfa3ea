"""What the log itself says about a sku: every event of its key, in order. The API shows moments, the log shows all of them."""

from pathlib import Path
from typing import Any

from msgspec import Struct

from orderflow.cli import contracts
from orderflow.cli.runstate import RunState
from orderflow.cli.worker import SCHEMA_CACHE
from orderflow.schemas.catalog import Catalog


class Witness(Struct, frozen=True):
    """The events of a sku: their sequence numbers, and the lowest number of available units after any of them."""

    sequences: tuple[int, ...] = ()
    available_lowest: int = 0


def of_stock(state: RunState, sku: str, since_ms: int) -> Witness:
    """Read the sku's events that were written since then. Raises Failure when Kafka does not answer."""
    catalog = Catalog(state.prefix, state.partitions)
    records = contracts.load_records(state.registry, catalog, Path(state.data) / SCHEMA_CACHE)
    space = records.of("stock")
    sequences: list[int] = []
    lowest: int | None = None
    for message in contracts.read_topic(state.bootstrap, space.events, since_ms=since_ms):
        if message.key() != sku.encode():
            continue
        meta, _, event = space.decode_event(message.value())
        sequences.append(meta.sequence)
        available: Any = getattr(event, "available", None)
        if available is not None:
            lowest = available if lowest is None else min(lowest, available)
    return Witness(tuple(sequences), lowest or 0)
