"""May a schema follow another? Avro's resolution rules over our shapes, without a registry, each problem with the path of its field.

The registry has the last word when a schema is registered; this one says beforehand, and says what and where.
"""

from collections.abc import Iterable, Iterator
from typing import assert_never

from msgspec import UNSET

from orderflow.schemas.avsc import Array, Enum, Map, Node, Nullable, Record, Scalar

PROMOTIONS = {("int", "long"), ("string", "bytes"), ("bytes", "string")}
"""(writer, reader): scalars that Avro reads as another kind."""


def problems(new: Record, olds: Iterable[Record], level: str) -> tuple[str, ...]:
    """What keeps `new` from following the older versions under a level such as FULL_TRANSITIVE; empty: nothing.

    `olds` are in order of age; a level without _TRANSITIVE looks at the newest only. ValueError for a level nobody knows.
    """
    direction, _, transitive = level.partition("_")
    if direction not in ("BACKWARD", "FORWARD", "FULL", "NONE") or transitive not in ("", "TRANSITIVE"):
        raise ValueError(f"unknown compatibility level {level}")
    found: list[str] = []
    for old in tuple(olds) if transitive else tuple(olds)[-1:]:
        if direction in ("BACKWARD", "FULL"):
            found += (f"{problem} (reading older records)" for problem in unreadable(new, old))
        if direction in ("FORWARD", "FULL"):
            found += (f"{problem} (older readers, new records)" for problem in unreadable(old, new))
    return tuple(dict.fromkeys(found))


def unreadable(reader: Record, writer: Record) -> tuple[str, ...]:
    """Why some record written as `writer` cannot be read as `reader`; empty: all can."""
    return tuple(_compare(reader, writer, reader.name.rpartition(".")[2]))


def _compare(reader: Node, writer: Node, path: str) -> Iterator[str]:
    match reader, writer:
        case Nullable(wanted), Nullable(given):
            yield from _compare(wanted, given, path)
        case Nullable(wanted), _:
            yield from _compare(wanted, writer, path)
        case _, Nullable():
            yield f"{path}: may be null for the writer, never for the reader"
        case Record(), Record():
            yield from _records(reader, writer, path)
        case Enum(), Enum():
            if reader.name != writer.name:
                yield f"{path}: {writer.name} is not {reader.name}"
            elif not reader.default and (unknown := [symbol for symbol in writer.symbols if symbol not in reader.symbols]):
                yield f"{path}: the reader does not know {', '.join(unknown)} and has no default symbol"
        case Array(wanted), Array(given):
            yield from _compare(wanted, given, f"{path}[]")
        case Map(wanted), Map(given):
            yield from _compare(wanted, given, f"{path}{{}}")
        case Scalar(kind), Scalar(given_kind) if kind == given_kind or (given_kind, kind) in PROMOTIONS:
            pass
        case _:
            yield f"{path}: {_word(writer)} cannot be read as {_word(reader)}"


def _records(reader: Record, writer: Record, path: str) -> Iterator[str]:
    if reader.name != writer.name:
        yield f"{path}: {writer.name} is not {reader.name}"
        return
    given = {field.name: field.node for field in writer.fields}
    for field in reader.fields:
        if field.name in given:
            yield from _compare(field.node, given[field.name], f"{path}.{field.name}")
        elif field.default is UNSET:
            yield f"{path}.{field.name}: the writer has no such field and the reader no default"


def _word(node: Node) -> str:
    match node:
        case Scalar(kind):
            return kind
        case Enum(name) | Record(name):
            return name
        case Array():
            return "array"
        case Map():
            return "map"
        case Nullable(of):
            return f"nullable {_word(of)}"
        case _:
            assert_never(node)
