"""The rules every schema file keeps (contracts.md 3), as complaints: an empty tuple is a clean catalogue.

What a schema can change into later is compatibility.py's business; this is about what it may be at all.
"""

import re
from collections.abc import Iterator

from msgspec import UNSET

from orderflow.schemas import avsc
from orderflow.schemas.avsc import Array, Enum, Field, Map, Node, Nullable, Record, Scalar, SchemaError, expanded, parse
from orderflow.schemas.catalog import ALIASES, SPACES, VALUES, Catalog, Space, Topic

SNAKE, CAMEL, UPPER = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*"), re.compile(r"([A-Z][a-z0-9]+)+"), re.compile(r"[A-Z]+(_[A-Z]+)*")
META = {"commands": "orderflow.common.CommandMeta", "events": "orderflow.common.EventMeta"}
UNKNOWN = "UNKNOWN"


def lint(names: Catalog | None = None) -> tuple[str, ...]:
    """Every complaint about the catalogue and its files, each naming record and field."""
    found: list[str] = []
    used: set[str] = set()
    for topic in (names or Catalog()).topics():
        for name in topic.records:
            try:
                record = parse(expanded(name))
            except SchemaError as error:
                found.append(f"{name}: {error}")
                continue
            used |= _names(record)
            found += record_faults(record)
            found += topic_faults(topic, record)
    found += (f"{name}: on no topic" for name in avsc.files() if name not in used)
    found += (f"{alias}: alias of no event" for alias in ALIASES if not any(e.endswith(f".{alias}") for s in SPACES for e in s.events))
    found += _word_list_faults()
    return tuple(dict.fromkeys(found))


def record_faults(record: Record) -> Iterator[str]:
    """Complaints about a record and everything in it, wherever it is used."""
    if not record.doc:
        yield f"{record.name}: no doc"
    if not CAMEL.fullmatch(record.name.rpartition(".")[2]):
        yield f"{record.name}: record names are CamelCase"
    for field in record.fields:
        path = f"{record.name}.{field.name}"
        if not SNAKE.fullmatch(field.name):
            yield f"{path}: field names are snake_case"
        yield from _default_faults(field, path)
        yield from _number_faults(field.name, field.node, path)
        yield from _inner_faults(field.node)


def _default_faults(field: Field, path: str) -> Iterator[str]:
    match field.node:
        case Nullable() if field.default is not None:
            yield f"{path}: optional, so its default is null"
        case Array() if field.default != []:
            yield f"{path}: a list, so its default is []"
        case Map() if field.default != {}:
            yield f"{path}: a map, so its default is {{}}"
        case Scalar(kind="boolean") if not isinstance(field.default, bool):
            yield f"{path}: a flag, so it has a default"
        case Scalar(kind="string" | "bytes") if field.default is not UNSET and not isinstance(field.default, str):
            yield f"{path}: its default is no string"
        case Scalar(kind="int" | "long") if field.default is not UNSET and type(field.default) is not int:
            yield f"{path}: its default is no integer"
        case Enum() if field.default is not UNSET:
            yield f"{path}: the default belongs on the enum type"


def _number_faults(name: str, node: Node, path: str) -> Iterator[str]:
    scalar = node.of if isinstance(node, Nullable) else node
    if not isinstance(scalar, Scalar):
        return
    if scalar.kind == "int" and scalar.logical != "date":
        yield f"{path}: numbers are long"
    if scalar.logical not in ("", "date", "timestamp-micros"):
        yield f"{path}: logical type {scalar.logical}"
    if (name == "at" or name.endswith("_at")) and scalar.logical != "timestamp-micros":
        yield f"{path}: an instant is timestamp-micros"
    if name.endswith("_on") and scalar.logical != "date":
        yield f"{path}: a day is a date"


def _inner_faults(node: Node) -> Iterator[str]:
    match node:
        case Record():
            yield from record_faults(node)
        case Array(of) | Map(of) | Nullable(of):
            if isinstance(of, Nullable):
                yield f"{of}: nullable inside of another shape"
            yield from _inner_faults(of)
        case Enum():
            stored = ".rows." in node.name
            if not node.doc:
                yield f"{node.name}: no doc"
            yield from (f"{node.name}: symbol {symbol} is not upper case" for symbol in node.symbols if not UPPER.fullmatch(symbol))
            if stored and (node.default or UNKNOWN in node.symbols):
                yield f"{node.name}: rows know every symbol: no {UNKNOWN}, no default"
            if not stored and (node.default != UNKNOWN or node.symbols[0] != UNKNOWN):
                yield f"{node.name}: first symbol and default are {UNKNOWN}"


def topic_faults(topic: Topic, record: Record) -> Iterator[str]:
    """Complaints about a record that depend on the topic it is on."""
    if topic.kind == "commands":
        yield from (f"{record.name}: commands hold no enums, but {name}" for name in _enums(record))
    if topic.kind == "changelog":
        yield from (f"{record.name}: rows use the enums of their rows namespace, not {n}" for n in _enums(record) if ".rows." not in n)
    elif any(".rows." in name for name in _names(record)):
        yield f"{record.name}: holds a part of a row outside of a changelog"
    if topic.kind in META:
        (space,) = (space for space in SPACES if space.name == topic.owner)
        yield from _lead_faults(record, META[topic.kind], space)


def _lead_faults(record: Record, meta: str, space: Space) -> Iterator[str]:
    first, second = record.fields[0], record.fields[1]
    if first.name != "meta" or not isinstance(first.node, Record) or first.node.name != meta:
        yield f"{record.name}: its first field is meta, {meta}"
    if second.name != space.key or second.node != Scalar("string"):
        yield f"{record.name}: its second field is the key, {space.key}"


def _word_list_faults() -> Iterator[str]:
    for path in VALUES:
        name, _, field = path.rpartition(".")
        if name not in avsc.files() or not any(f["name"] == field for f in avsc.files()[name]["fields"]):
            yield f"{path}: words for a field that does not exist"


def _names(node: Node) -> set[str]:
    match node:
        case Record():
            return {node.name}.union(*(_names(field.node) for field in node.fields))
        case Enum():
            return {node.name}
        case Array(of) | Map(of) | Nullable(of):
            return _names(of)
        case _:
            return set()


def _enums(node: Node) -> set[str]:
    match node:
        case Record():
            return set().union(*(_enums(field.node) for field in node.fields))
        case Enum():
            return {node.name}
        case Array(of) | Map(of) | Nullable(of):
            return _enums(of)
        case _:
            return set()
