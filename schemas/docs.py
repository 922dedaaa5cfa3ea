"""The reference pages of topics and records, rendered from the catalogue. The files in docs/reference are compared with them by a test."""

from collections.abc import Iterable, Iterator
from typing import assert_never

from msgspec import UNSET

from orderflow.schemas.avsc import Array, Enum, Field, Map, Node, Nullable, Record, Scalar, expanded, parse
from orderflow.schemas.catalog import REASONS, SPACES, VALUES, Catalog, Kind, Topic, ce_type

HEAD = "<!-- Rendered by schemas/docs.py from schemas/catalog.py and schemas/avro: edit those. -->"
KINDS: dict[Kind, str] = {
    "commands": "what is asked of a key space; one log, one writer",
    "events": "what happened, in order, refusals included: the truth",
    "status": "the present value of each entity",
    "changelog": "the rows of a table, to restore them",
    "meta": "how far each partition has come",
    "dlq": "commands that could not be processed, as they came, with the cause in headers; marks of what was put back",
    "replies": "answers for the edges that wait",
    "workers": "who owns which partition",
    "settings": "what all processes of a system share",
}


def topics(catalog: Catalog | None = None) -> str:
    """docs/reference/topics.md."""
    return "\n".join(_topics(catalog or Catalog())) + "\n"


def records(catalog: Catalog | None = None) -> str:
    """docs/reference/records.md."""
    return "\n".join(_records(catalog or Catalog())) + "\n"


def _topics(catalog: Catalog) -> Iterator[str]:
    yield from (HEAD, "", "# Topics", "")
    yield from ("Keys are UTF-8, partitioned by murmur2; values are Avro behind a five-byte header (zero, schema id big-endian).", "")
    yield from _table(
        ("topic", "key", "partitions", "records"),
        ((f"`{t.name}`", f"`{t.key}`", str(t.partitions), ", ".join(map(_link, t.records)) or "–") for t in catalog.topics()),
    )
    yield from ("", "## Settings", "", "Another value on the broker refuses the start; `orderflow topics plan` lists every difference.", "")
    first = {topic.kind: topic for topic in reversed(catalog.topics())}
    yield from _table(
        ("kind", "holds", "settings"),
        ((kind, text, "<br>".join(f"`{name}={value}`" for name, value in first[kind].config.items())) for kind, text in KINDS.items()),
    )
    yield from ("", "## Subjects", "")
    yield from _table(
        ("subject", "compatibility", "owner"),
        ((f"`{subject.name}`", subject.compatibility, subject.owner) for subject in catalog.subjects()),
    )
    yield from ("", "## Reasons and HTTP codes", "", "`VERSION_CONFLICT` is 412 where the request carried `If-Match`.", "")
    codes = sorted(set(REASONS.values()))
    yield from _table(
        ("code", "reasons"), ((str(code), ", ".join(f"`{reason}`" for reason, at in REASONS.items() if at == code)) for code in codes)
    )


def _records(catalog: Catalog) -> Iterator[str]:
    yield from (HEAD, "", "# Records", "")
    yield from ("Fields without a default are always there. Instants are microseconds UTC, days count from 1970-01-01.", "")
    parts: dict[str, Record | Enum] = {}
    shown: set[str] = set()
    for space in (*(space.name for space in SPACES), "engine"):
        yield from (f"## {space}", "")
        for topic in (topic for topic in catalog.topics() if topic.owner == space):
            for name in topic.records:
                record = parse(expanded(name))
                parts |= _parts(record)
                if name not in shown:
                    shown.add(name)
                    yield from _record(record, topic)
    yield from ("## Parts", "")
    for name in sorted(parts.keys() - shown):
        part = parts[name]
        yield from _record(part) if isinstance(part, Record) else _enum(part)


def _record(record: Record, topic: Topic | None = None) -> Iterator[str]:
    name = record.name.rpartition(".")[2]
    yield from (f'### <a id="{_anchor(record.name)}"></a>{name}', "", record.doc, "")
    alias = f"; `ce_type` {ce_type(name)}" if topic and topic.kind == "events" else ""
    yield from (f"`{record.name}`{alias}", "")
    yield from _table(("field", "type", "default", "meaning"), (_row(record, field) for field in record.fields))
    yield ""


def _enum(enum: Enum) -> Iterator[str]:
    yield from (f'### <a id="{_anchor(enum.name)}"></a>{enum.name.rpartition(".")[2]}', "", enum.doc, "", f"`{enum.name}`", "")
    yield from (" ".join(f"`{symbol}`" for symbol in enum.symbols), "")


def _row(record: Record, field: Field) -> tuple[str, ...]:
    default = "" if field.default is UNSET else f"`{_literal(field.default)}`"
    words = VALUES.get(f"{record.name}.{field.name}")
    meaning = field.doc if not words or words[0] in field.doc else f"{field.doc} One of {', '.join(words)}.".strip()
    return f"`{field.name}`", _type(field.node), default, meaning


def _literal(default: object) -> str:
    match default:
        case None:
            return "null"
        case bool():
            return str(default).lower()
        case str():
            return f'"{default}"'
    return str(default)


def _type(node: Node) -> str:
    match node:
        case Scalar():
            return node.logical or node.kind
        case Nullable(of):
            return f"{_type(of)} or null"
        case Array(of):
            return f"list of {_type(of)}"
        case Map(of):
            return f"map of {_type(of)}"
        case Record(name) | Enum(name):
            return _link(name)
        case _:
            assert_never(node)


def _parts(node: Node) -> dict[str, Record | Enum]:
    match node:
        case Record(name, fields):
            found: dict[str, Record | Enum] = {name: node}
            for field in fields:
                found |= _parts(field.node)
            return found
        case Enum(name):
            return {name: node}
        case Array(of) | Map(of) | Nullable(of):
            return _parts(of)
        case Scalar():
            return {}
        case _:
            assert_never(node)


def _link(name: str) -> str:
    return f"[{name.rpartition('.')[2]}](records.md#{_anchor(name)})"


def _anchor(name: str) -> str:
    return name.removeprefix("orderflow.").replace(".", "-").lower()


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{' --- |' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"
