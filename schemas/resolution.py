"""Records that another version wrote: their writer's schema is valid but not ours, so Avro's resolution reads them into our classes.

fastavro resolves; plain.py has walked over every byte before, because fastavro does not look at what it skips. This is the rare way:
a record under our own schema never comes here.
"""

import io
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, assert_never

import fastavro

from orderflow.schemas.avsc import (
    Array,
    Enum,
    Json,
    Map,
    Node,
    Nullable,
    Record,
    Scalar,
    SchemaError,
    fingerprint,
    parse,
    without_logical_types,
)
from orderflow.schemas.codec import HEADER_BYTES, bind, compile_record, header_of
from orderflow.schemas.plain import CodecError, Layout, Maker, Makers


def compile_resolution(schema_id: int, writer: Json, reader: Json, makers: Makers, lead: int = 0) -> Callable[[bytes], Any]:
    """`decode` for records written under `schema_id`, whose schema is `writer`, as values of `reader`'s record.

    Shapes as in `compile_record`. CodecError when `writer` is not one of our shapes; decoding raises CodecError for bad bytes and for
    what does not resolve (another record, an enum symbol without default).
    """
    try:
        written = parse(writer)
    except SchemaError as error:
        raise CodecError(f"schema {schema_id}: {error}") from error
    if fingerprint(writer) == fingerprint(reader):
        return compile_record(reader, makers, lead, header_of(schema_id)).decode
    walk = Layout(written, _blanks(written), 0, header_of(schema_id))
    layout = bind(parse(reader), makers, lead)
    from_schema = fastavro.parse_schema(without_logical_types(writer))
    to_schema = fastavro.parse_schema(without_logical_types(reader))

    def decode(data: bytes) -> Any:
        walk.decode(data)
        try:
            found = fastavro.schemaless_reader(io.BytesIO(data[HEADER_BYTES:]), from_schema, to_schema)
        except MemoryError:
            raise
        except Exception as error:  # fastavro raises what its reading functions happen to raise
            raise CodecError(f"{layout.record.name}, written under schema {schema_id}: {type(error).__name__} {error}") from error
        return _place(layout, found)

    return decode


def _blanks(node: Node) -> dict[str, Maker]:
    """Makers for a walk whose values nobody wants."""
    match node:
        case Record(name, fields):
            made: dict[str, Maker] = {name: lambda *_: None}
            for field in fields:
                made |= _blanks(field.node)
            return made
        case Enum(name, symbols):
            members: Any = SimpleNamespace(__members__=dict.fromkeys(symbols))
            return {name: members}
        case Array(of) | Map(of) | Nullable(of):
            return _blanks(of)
        case Scalar():
            return {}
        case _:
            assert_never(node)


def _place(layout: Layout, found: Mapping[str, Any]) -> Any:
    values = [_value(field.node, found[field.name], layout) for field in layout.record.fields]
    made = layout.make(layout.record, values[layout.lead :], layout.record.name)
    return (*values[: layout.lead], made) if layout.lead else made


def _value(node: Node, found: Any, layout: Layout) -> Any:
    match node:
        case Scalar():
            return found
        case Enum():
            return layout.members(node)[node.symbols.index(found)]
        case Array(items):
            return tuple(_value(items, item, layout) for item in found)
        case Map(values):
            return {key: _value(values, item, layout) for key, item in found.items()}
        case Nullable(of):
            return None if found is None else _value(of, found, layout)
        case Record():
            return layout.make(node, [_value(field.node, found[field.name], layout) for field in node.fields], node.name)
        case _:
            assert_never(node)
