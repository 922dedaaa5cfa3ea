"""Avro bytes <-> values, compiled once per record.

`compile_record` reads a self-contained schema and makes two functions, by one of two engines: a walk in C where the extension is built
(_codec.pyx), else straight-line Python (emit.py). Behind either stands the careful twin (plain.py). The bytes of all equal fastavro's,
which tests/unit/test_codec.py checks for every record of the catalogue. ORDERFLOW_CODEC chooses the engine.

Wire: `header` (magic byte 0 and the schema id, see `header_of`), then the record. Arrays are tuples, maps dicts, optionals `X | None`,
enums members of their class, timestamps and dates plain integers. Values are trusted to have the types of their class as far as Python's
equality goes: what is no number is refused, but True passes for 1 where the fast way is taken.
"""

import os
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, NamedTuple

from orderflow.schemas import emit
from orderflow.schemas.avsc import Array, Enum, Json, Map, Node, Nullable, Record, parse
from orderflow.schemas.plain import CodecError, Layout, Makers


def _engines() -> Mapping[str, ModuleType]:
    try:
        from orderflow.schemas import _codec
    except ImportError:
        return {"python": emit}
    return {"compiled": _codec, "python": emit}


ENGINES = _engines()
"""Those at hand by name, the faster one first: modules with `encoder(layout, otherwise)` and `decoder(layout, otherwise)`."""
CHOICES = ("auto", "python", "compiled")
CHOICE = os.environ.get("ORDERFLOW_CODEC") or "auto"
ENGINE: str = CHOICE if CHOICE in ENGINES else next(iter(ENGINES))
"""The engine of this process: `compiled` or `python`."""
HEADER_BYTES = 5
"""Confluent framing: one zero byte, four bytes of schema id, big-endian."""


class RecordCodec(NamedTuple):
    """`encode(value)` and `decode(data) -> value`; compiled with a lead: `encode(meta, key, value)`, `decode(data) -> (meta, key, value)`.

    Both raise CodecError: encode for a value that does not fit, decode for anything but exactly one record under its header.
    """

    encode: Callable[..., bytes]
    decode: Callable[[bytes], Any]


def refusal(choice: str = CHOICE) -> str:
    """Why this ORDERFLOW_CODEC cannot be kept; empty when it can."""
    if choice not in CHOICES:
        return f"ORDERFLOW_CODEC={choice}: it is one of {', '.join(CHOICES)}"
    if choice != "auto" and choice not in ENGINES:
        return f"ORDERFLOW_CODEC={choice}: the extension is not built; ORDERFLOW_BUILD_CODEC=required pip install tells what is missing"
    return ""


def header_of(schema_id: int) -> bytes:
    """The five bytes before a record written under this registry id."""
    return b"\0" + schema_id.to_bytes(4, "big")


def schema_id_of(data: bytes) -> int:
    """The registry id a record was written under. CodecError when it is not framed."""
    if len(data) < HEADER_BYTES or data[0]:
        raise CodecError(f"not framed: {data[:HEADER_BYTES].hex() or 'empty'}")
    return int.from_bytes(data[1:HEADER_BYTES], "big")


def compile_record(schema: Json, makers: Makers, lead: int = 0, header: bytes = b"", engine: str = ENGINE) -> RecordCodec:
    """The codec of one record.

    `schema` is self-contained (`avsc.expanded`). `makers` has the class of every record and enum in it by Avro full name; a record's is
    called with its values in field order. With `lead=2` the record's first two fields are meta and key and stand outside of the value.
    CodecError when a class is missing or has other fields, in another order, than its record. RuntimeError when ORDERFLOW_CODEC asks for
    an engine that is not at hand.
    """
    if refused := refusal():
        raise RuntimeError(refused)
    if lead not in (0, 2):
        raise CodecError(f"lead is 0 or 2, not {lead}")
    layout = bind(parse(schema), makers, lead, header)
    made = ENGINES[engine]
    return RecordCodec(made.encoder(layout, layout.encode), made.decoder(layout, layout.decode))


def bind(record: Record, makers: Makers, lead: int = 0, header: bytes = b"") -> Layout:
    """A record with its classes, checked against each other."""
    layout = Layout(record, makers, lead, header)
    _check(record, layout, lead)
    return layout


def _check(node: Node, layout: Layout, lead: int) -> None:
    match node:
        case Record():
            names = tuple(field.name for field in node.fields[lead:])
            made = layout.makers.get(node.name)
            if made is None:
                raise CodecError(f"{node.name}: no class given")
            fields = getattr(made, "__struct_fields__", names)
            if fields != names:
                raise CodecError(f"{node.name}: its fields are {', '.join(names)}, those of {made!r} {', '.join(fields)}")
            for field in node.fields:
                _check(field.node, layout, 0)
        case Enum():
            if node.name not in layout.makers:
                raise CodecError(f"{node.name}: no class given")
            layout.members(node)
        case Array(of) | Map(of) | Nullable(of):
            _check(of, layout, 0)
        case _:
            pass


__all__ = [
    "CHOICES",
    "ENGINE",
    "ENGINES",
    "HEADER_BYTES",
    "CodecError",
    "RecordCodec",
    "bind",
    "compile_record",
    "header_of",
    "refusal",
    "schema_id_of",
]
