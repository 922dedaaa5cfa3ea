"""Records that another version wrote: their writer's schema is valid but not ours, so Avro's resolution reads them into our classes.

fastavro resolves; the result is then made of our classes. It is the rare way: a record under our own schema never comes here.
"""

import io
from collections.abc import Callable, Mapping
from typing import Any, assert_never

import fastavro

from orderflow.schemas.avsc import Array, Enum, Json, Map, Node, Nullable, Record, Scalar, fingerprint, parse, without_logical_types
from orderflow.schemas.codec import HEADER_BYTES, bind, compile_record, header_of
from orderflow.schemas.plain import CodecError, Layout, Makers


def compile_resolution(schema_id: int, writer: Json, reader: Json, makers: Makers, lead: int = 0) -> Callable[[bytes], Any]:
    """`decode` for records written under `schema_id`, whose schema is `writer`, as values of `reader`'s record.

    Shapes as in `compile_record`. CodecError when the schemas do not resolve at all; decoding raises CodecError for bad bytes and for
    values the reader has no place for (an enum symbol without default).
    """
    if fingerprint(writer) == fingerprint(reader):
        return compile_record(reader, makers, lead, header_of(schema_id)).decode
    layout = bind(parse(reader), makers, lead)
    try:
        from_schema = fastavro.parse_schema(without_logical_types(writer))
        to_schema = fastavro.parse_schema(without_logical_types(reader))
    except (ValueError, KeyError, TypeError, fastavro.schema.SchemaParseException) as error:
        raise CodecError(f"schema {schema_id}: {error}") from error
    name, header = layout.record.name, header_of(schema_id)

    def decode(data: bytes) -> Any:
        if data[:HEADER_BYTES] != header:
            raise CodecError(f"{name}: header {data[:HEADER_BYTES].hex()} instead of {header.hex()}")
        body = io.BytesIO(data[HEADER_BYTES:])
        try:
            found = fastavro.schemaless_reader(body, from_schema, to_schema)
        except MemoryError:
            raise
        except Exception as error:  # fastavro raises what its reading functions happen to raise
            raise CodecError(f"{name}, written under schema {schema_id}: {type(error).__name__} {error}") from error
        if left := len(body.read()):
            raise CodecError(f"{name}: {left} bytes after the record")
        return _place(layout, found)

    return decode


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
