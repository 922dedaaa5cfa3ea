"""The Avro records as files and as typed values.

`avro/<folder>/<Name>.avsc` holds the record `orderflow.<folder>.<Name>` and nothing else; a file names other records by their full
name. `expanded` puts them in place, which is what gets registered; `parse` turns a schema into the few shapes our rules allow
(contracts.md 3), so that no other module reads schema JSON.
"""

import json
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any, Literal

import fastavro.schema
from msgspec import UNSET, Struct

Json = dict[str, Any]
"""A schema as JSON: an Avro record or enum."""

Kind = Literal["string", "bytes", "boolean", "int", "long"]
KINDS: tuple[Kind, ...] = ("string", "bytes", "boolean", "int", "long")


class SchemaError(ValueError):
    """A schema is not one of ours: unknown name, a shape the rules forbid, a record inside itself."""


class Scalar(Struct, frozen=True):
    kind: Kind
    logical: str = ""
    """`timestamp-micros` or `date`; values stay plain integers."""


class Enum(Struct, frozen=True):
    name: str
    symbols: tuple[str, ...]
    doc: str = ""
    default: str = ""
    """What a reader takes for a symbol it does not know; empty: it refuses."""


class Array(Struct, frozen=True):
    items: "Node"


class Map(Struct, frozen=True):
    values: "Node"


class Nullable(Struct, frozen=True):
    """The union ["null", of]."""

    of: "Node"


class Field(Struct, frozen=True):
    name: str
    node: "Node"
    doc: str = ""
    default: Any = UNSET


class Record(Struct, frozen=True):
    name: str
    fields: tuple[Field, ...]
    doc: str = ""


Node = Scalar | Enum | Array | Map | Nullable | Record


@cache
def files() -> Mapping[str, Json]:
    """Every schema file by its full name, as written. SchemaError when a file's place and its name differ."""
    found: dict[str, Json] = {}
    for place, text in _walk(resources.files("orderflow.schemas.avro"), ""):
        schema = json.loads(text)
        name = f"{schema['namespace']}.{schema['name']}"
        if name != f"orderflow.{place}":
            raise SchemaError(f"schemas/avro/{place.replace('.', '/')}.avsc holds {name}")
        found[name] = schema
    return dict(sorted(found.items()))


def _walk(folder: Traversable, place: str) -> Iterator[tuple[str, str]]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _walk(entry, f"{place}{entry.name}.")
        elif entry.name.endswith(".avsc"):
            yield place + entry.name.removesuffix(".avsc"), entry.read_text(encoding="utf-8")


def expanded(name: str) -> Json:
    """The self-contained schema of a record: each other record stands in full where it is first named."""
    if name not in files():
        raise SchemaError(f"no schema file for {name}")
    schema: Json = _expand(files()[name], {name})
    return schema


def _expand(schema: Any, seen: set[str]) -> Any:
    match schema:
        case str() if schema in files() and schema not in seen:
            seen.add(schema)
            return _expand(files()[schema], seen)
        case str() if schema in files() or schema == "null" or schema in KINDS:
            return schema
        case list():
            return [_expand(branch, seen) for branch in schema]
        case {"type": "record"}:
            return {**schema, "fields": [{**field, "type": _expand(field["type"], seen)} for field in schema["fields"]]}
        case {"type": "array"}:
            return {**schema, "items": _expand(schema["items"], seen)}
        case {"type": "map"}:
            return {**schema, "values": _expand(schema["values"], seen)}
        case dict():
            return schema
    raise SchemaError(f"unknown type {schema!r}")


def parse(schema: Json) -> Record:
    """The typed form of a self-contained record schema. SchemaError names what our rules have no shape for."""
    node = _parse(schema, "", {}, ())
    if not isinstance(node, Record):
        raise SchemaError(f"{schema.get('name', schema)} is not a record")
    return node


def _parse(schema: Any, namespace: str, named: dict[str, Node], inside: tuple[str, ...]) -> Node:
    match schema:
        case "string" | "bytes" | "boolean" | "int" | "long":
            return Scalar(schema)
        case str():
            full = schema if "." in schema else f"{namespace}.{schema}"
            if full in inside:
                raise SchemaError(f"{full} is inside itself")
            if full not in named:
                raise SchemaError(f"unknown type {schema!r} in {inside[-1] if inside else namespace}")
            return named[full]
        case ["null", of]:
            return Nullable(_parse(of, namespace, named, inside))
        case {"type": "array", "items": items}:
            return Array(_parse(items, namespace, named, inside))
        case {"type": "map", "values": values}:
            return Map(_parse(values, namespace, named, inside))
        case {"type": "enum", "name": _, "symbols": symbols}:
            full = _full_name(schema, namespace)
            named[full] = Enum(full, tuple(symbols), schema.get("doc", ""), schema.get("default", ""))
            return named[full]
        case {"type": "record", "name": _, "fields": fields}:
            full = _full_name(schema, namespace)
            within = (*inside, full)
            inner = full.rpartition(".")[0]
            parsed = tuple(
                Field(f["name"], _parse(f["type"], inner, named, within), f.get("doc", ""), f.get("default", UNSET)) for f in fields
            )
            if not parsed:
                raise SchemaError(f"{full} has no fields")
            named[full] = Record(full, parsed, schema.get("doc", ""))
            return named[full]
        case {"type": kind} if kind in KINDS:
            return Scalar(kind, schema.get("logicalType", ""))
    raise SchemaError(f"{inside[-1] if inside else 'schema'} holds {json.dumps(schema)[:200]}, which contracts.md 3 does not allow")


def _full_name(schema: Json, namespace: str) -> str:
    name: str = schema["name"]
    if "." in name:
        return name
    space = schema.get("namespace", namespace)
    return f"{space}.{name}" if space else name


def fingerprint(schema: Json) -> str:
    """SHA-256 (hex) of the parsing canonical form: equal for schemas whose bytes mean the same, whatever their docs and defaults."""
    form = fastavro.schema.to_parsing_canonical_form(schema)
    digest: str = fastavro.schema.fingerprint(form, "SHA-256")
    return digest


def without_logical_types(schema: Any) -> Any:
    """The same schema where dates and timestamps are plain integers, as all our values are."""
    match schema:
        case dict():
            return {name: without_logical_types(part) for name, part in schema.items() if name != "logicalType"}
        case list():
            return [without_logical_types(part) for part in schema]
    return schema
