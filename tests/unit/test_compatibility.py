"""The local compatibility check: each rule by example with its message, and equal to Apache's checker on schemas made at random."""

import copy
import json
from typing import Any

import avro.compatibility
import avro.schema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orderflow.schemas.avsc import Json, Record, parse
from orderflow.schemas.catalog import Catalog
from orderflow.schemas.compatibility import problems, unreadable


def record(*fields: Json) -> Json:
    return {"type": "record", "name": "test.Thing", "fields": list(fields)}


def field(name: str, type_: Any, **more: Any) -> Json:
    return {"name": name, "type": type_, **more}


COLOR = {"type": "enum", "name": "test.Color", "symbols": ["RED"]}
MORE = COLOR | {"symbols": ["RED", "BLUE"]}
A = field("a", "string")
NEW = "(reading older records)"
OLD = "(older readers, new records)"


@pytest.mark.parametrize(
    ("old", "new", "level", "expected"),
    [
        (record(A), record(A, field("b", "long", default=0)), "FULL", []),
        (record(A), record(A, field("b", "long")), "BACKWARD", [f"Thing.b: the writer has no such field and the reader no default {NEW}"]),
        (record(A), record(A, field("b", "long")), "FORWARD", []),
        (record(A, field("b", "long")), record(A), "FULL", [f"Thing.b: the writer has no such field and the reader no default {OLD}"]),
        (record(field("a", "int")), record(field("a", "long")), "BACKWARD", []),
        (record(field("a", "int")), record(field("a", "long")), "FULL", [f"Thing.a: long cannot be read as int {OLD}"]),
        (record(field("a", "long")), record(field("a", ["null", "long"])), "BACKWARD", []),
        (
            record(field("a", ["null", "long"])),
            record(field("a", "long")),
            "BACKWARD",
            [f"Thing.a: may be null for the writer, never for the reader {NEW}"],
        ),
        (record(field("c", COLOR)), record(field("c", MORE)), "BACKWARD", []),
        (
            record(field("c", COLOR)),
            record(field("c", MORE)),
            "FORWARD",
            [f"Thing.c: the reader does not know BLUE and has no default symbol {OLD}"],
        ),
        (record(field("c", COLOR | {"default": "RED"})), record(field("c", MORE | {"default": "RED"})), "FULL", []),
        (
            record(field("a", {"type": "array", "items": "string"})),
            record(field("a", {"type": "array", "items": "long"})),
            "BACKWARD",
            [f"Thing.a[]: string cannot be read as long {NEW}"],
        ),
        (record(A), record(field("a", {"type": "map", "values": "long"})), "BACKWARD", [f"Thing.a: string cannot be read as map {NEW}"]),
        (record(A), record(A) | {"name": "test.Other"}, "BACKWARD", [f"Other: test.Thing is not test.Other {NEW}"]),
        (record(A), record(field("b", "long")), "NONE", []),
    ],
)
def test_each_rule_names_the_field(old: Json, new: Json, level: str, expected: list[str]) -> None:
    assert list(problems(parse(new), [parse(old)], level)) == expected


def test_only_transitive_levels_look_behind_the_newest_version() -> None:
    first = parse(record(A, field("b", "string")))
    second = parse(record(A))
    third = parse(record(A, field("b", "long", default=0)))
    assert problems(third, [first, second], "FULL") == ()
    assert problems(third, [first, second], "BACKWARD_TRANSITIVE") == (f"Thing.b: string cannot be read as long {NEW}",)


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(ValueError, match="SIDEWAYS"):
        problems(parse(record(A)), [], "SIDEWAYS")


def test_every_record_of_the_catalogue_follows_itself() -> None:
    for subject in Catalog().subjects():
        assert problems(parse(subject.schema), [parse(subject.schema)], subject.compatibility) == ()


SCALARS = st.sampled_from(["string", "bytes", "boolean", "int", "long"])


@st.composite
def types(draw: st.DrawFn, depth: int = 2) -> Any:
    kind = draw(st.sampled_from(["scalar", "scalar", "enum", "array", "map", "null", "record"] if depth else ["scalar"]))
    match kind:
        case "enum":
            symbols = draw(st.lists(st.sampled_from("ABC"), min_size=1, max_size=3, unique=True))
            default = {"default": draw(st.sampled_from(symbols))} if draw(st.booleans()) else {}
            return {"type": "enum", "name": f"E{draw(st.integers(0, 1))}", "symbols": symbols, **default}
        case "array":
            return {"type": "array", "items": draw(types(depth - 1))}
        case "map":
            return {"type": "map", "values": draw(types(depth - 1))}
        case "null":
            return ["null", draw(SCALARS)]
        case "record":
            return {"type": "record", "name": f"R{depth}", "fields": draw(fields(depth - 1))}
    return draw(SCALARS)


@st.composite
def fields(draw: st.DrawFn, depth: int) -> list[Json]:
    made = []
    for name in draw(st.lists(st.sampled_from("abc"), min_size=1, max_size=3, unique=True)):
        kind = draw(types(depth))
        default = {"long": 0, "string": "", "boolean": False}.get(kind) if isinstance(kind, str) else None
        made.append(field(name, kind, **({"default": default} if default is not None and draw(st.booleans()) else {})))
    return made


def renamed(schema: Json) -> Json:
    """The same with every named type under a name of its own where it would be defined twice in one schema."""
    seen: dict[str, int] = {}

    def walk(part: Any) -> Any:
        if isinstance(part, list):
            return [walk(item) for item in part]
        if not isinstance(part, dict):
            return part
        made = {key: walk(value) for key, value in part.items()}
        if made.get("type") in ("enum", "record"):
            seen[made["name"]] = seen.get(made["name"], 0) + 1
            made["name"] = f"test.{made['name']}x{seen[made['name']]}"
        return made

    found: Json = walk(copy.deepcopy(schema))
    return found


@settings(max_examples=400, deadline=None)
@given(reader=fields(2), writer=fields(2))
def test_equal_to_apaches_checker(reader: list[Json], writer: list[Json]) -> None:
    ours: list[Record] = []
    theirs: list[Any] = []
    apache: Any = avro.compatibility.ReaderWriterCompatibilityChecker
    for made in (reader, writer):
        schema = renamed({"type": "record", "name": "Top", "fields": made})
        ours.append(parse(schema))
        theirs.append(avro.schema.parse(json.dumps(schema)))
    verdict = apache().get_compatibility(*theirs)
    compatible = verdict.compatibility is avro.compatibility.SchemaCompatibilityType.compatible
    assert (unreadable(*ours) == ()) == compatible, (unreadable(*ours), verdict.messages)
