"""What the Python peers share: J1's records as fastavro reads and writes them behind the 5-byte header, and what the environment says.

Schemas are in avro/, for Java and Python alike. fastavro is the Avro library that both frameworks' users have.
"""

import os
from io import BytesIO
from pathlib import Path
from typing import Any

from fastavro import parse_schema, schemaless_reader, schemaless_writer
from fastavro.schema import load_schema

HEADER_BYTES = 5
_IDS = {"ReserveStock": 1, "StockRow": 2, "Decided": 3}
_SCHEMAS = {name: parse_schema(load_schema(Path(__file__).with_name("avro") / f"{name}.avsc")) for name in _IDS}
_HEADERS = {name: b"\0" + number.to_bytes(4, "big") for name, number in _IDS.items()}

BOOTSTRAP, APP = os.environ["J1_BOOTSTRAP"], os.environ["J1_APP"]
COMMANDS, OUT = os.environ["J1_COMMANDS"], os.environ["J1_OUT"]
STATE, ON_HAND = os.environ["J1_STATE"], int(os.environ["J1_ON_HAND"])


def decode(name: str, data: bytes) -> dict[str, Any]:
    """A record of that schema."""
    stream = BytesIO(data)
    stream.seek(HEADER_BYTES)
    record: dict[str, Any] = schemaless_reader(stream, _SCHEMAS[name], None)
    return record


def encode(name: str, record: dict[str, Any]) -> bytes:
    """The bytes of a record of that schema."""
    stream = BytesIO()
    stream.write(_HEADERS[name])
    schemaless_writer(stream, _SCHEMAS[name], record)
    return stream.getvalue()


def decide(command: dict[str, Any], row: dict[str, Any], at: int) -> dict[str, Any]:
    """The answer to a new command; moves the stock row when there is enough. `at` in microseconds."""
    reserved = row["on_hand"] - row["reserved"] >= command["quantity"]
    if reserved:
        row["reserved"] += command["quantity"]
        row["version"] += 1
    return {
        "command_id": command["command_id"],
        "order_id": command["order_id"],
        "sku": command["sku"],
        "location_id": command["location_id"],
        "quantity": command["quantity"],
        "reserved": reserved,
        "available_after": row["on_hand"] - row["reserved"],
        "version": row["version"],
        "decided_at": at,
    }
