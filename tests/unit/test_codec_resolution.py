"""Records of another version: read through Avro's resolution into our classes, or refused; never misread."""

import io
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import fastavro
import pytest
from msgspec import Struct

from orderflow.schemas import avsc
from orderflow.schemas.codec import CodecError, header_of
from orderflow.schemas.resolution import compile_resolution


class Color(StrEnum):
    UNKNOWN = "UNKNOWN"
    RED = "RED"


class Part(Struct, frozen=True):
    name: str


class Thing(Struct, frozen=True):
    size: int
    color: Color
    parts: tuple[Part, ...]
    notes: Mapping[str, str]
    part: Part | None
    added: int


MAKERS = {"test.Thing": Thing, "test.Color": Color, "test.Part": Part}


def thing(symbols: tuple[str, ...], size: str, *extra: dict[str, Any]) -> avsc.Json:
    part = {"type": "record", "name": "test.Part", "fields": [{"name": "name", "type": "string"}]}
    return {
        "type": "record",
        "name": "test.Thing",
        "fields": [
            {"name": "size", "type": size},
            {"name": "color", "type": {"type": "enum", "name": "test.Color", "symbols": list(symbols), "default": "UNKNOWN"}},
            {"name": "parts", "type": {"type": "array", "items": part}},
            {"name": "notes", "type": {"type": "map", "values": "string"}},
            {"name": "part", "type": ["null", "test.Part"], "default": None},
            *extra,
        ],
    }


ADDED = {"name": "added", "type": {"type": "long", "logicalType": "timestamp-micros"}, "default": 5}
READER = thing(("UNKNOWN", "RED"), "long", ADDED)
WRITER = thing(("UNKNOWN", "RED", "GREEN"), "int", {"name": "gone", "type": "string"})


def written(schema: avsc.Json, **fields: Any) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, schema, {"parts": [{"name": "p"}], "notes": {"a": "b"}, "part": {"name": "q"}} | fields)
    return header_of(12) + out.getvalue()


def test_added_dropped_widened_and_unknown_values_are_resolved() -> None:
    decode = compile_resolution(12, WRITER, READER, MAKERS)
    data = written(WRITER, size=3, color="GREEN", gone="x")
    assert decode(data) == Thing(3, Color.UNKNOWN, (Part("p"),), {"a": "b"}, Part("q"), 5)


def test_a_schema_with_the_same_bytes_needs_no_resolution() -> None:
    commented = READER | {"doc": "another text under another id"}
    data = written(READER, size=-3, color="RED", part=None, added=1_764_000_000_000_000)
    assert compile_resolution(12, commented, READER, MAKERS)(data) == Thing(
        -3, Color.RED, (Part("p"),), {"a": "b"}, None, 1_764_000_000_000_000
    )


def test_a_lead_stands_outside_of_the_value() -> None:
    fields = [{"name": "meta", "type": "long"}, {"name": "key", "type": "string"}, {"name": "name", "type": "string"}]
    old = {"type": "record", "name": "test.Said", "fields": fields}
    new = {"type": "record", "name": "test.Said", "fields": [*fields, {"name": "more", "type": "long", "default": 0}]}

    class Said(Struct, frozen=True):
        name: str
        more: int

    out = io.BytesIO()
    fastavro.schemaless_writer(out, old, {"meta": 1, "key": "k", "name": "n"})
    assert compile_resolution(3, old, new, {"test.Said": Said}, lead=2)(header_of(3) + out.getvalue()) == (1, "k", Said("n", 0))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("cut", lambda data: data[:-1]),
        ("longer", lambda data: data + b"\0"),
        ("another header", lambda data: header_of(13) + data[5:]),
        ("huge count", lambda data: data[:7] + b"\xfe\xff\xff\xff\xff\xff\xff\xff\x7f" + data[8:]),
        ("symbol out of range", lambda data: data[:6] + b"\x66" + data[7:]),
    ],
)
def test_bad_bytes_are_refused(name: str, change: Any) -> None:
    decode = compile_resolution(12, WRITER, READER, MAKERS)
    with pytest.raises(CodecError):
        decode(change(written(WRITER, size=3, color="RED", gone="x")))


def test_schemas_that_do_not_resolve_are_refused() -> None:
    other = {"type": "record", "name": "test.Other", "fields": [{"name": "text", "type": "string"}]}
    with pytest.raises(CodecError, match="test.Thing"):
        compile_resolution(12, other, READER, MAKERS)(written(other, text="x"))
    with pytest.raises(CodecError, match="schema 12"):
        compile_resolution(12, {"type": "record", "name": "test.Thing", "fields": [{"name": "x", "type": "nothing"}]}, READER, MAKERS)
