"""The schema files keep the rules of contracts.md 3, and each rule is seen to fail when broken."""

import re
from typing import Any

import pytest

from orderflow.schemas.avsc import Json, SchemaError, parse
from orderflow.schemas.catalog import Catalog
from orderflow.schemas.lint import lint, record_faults, topic_faults

COLOR = {"type": "enum", "name": "orderflow.stock.Color", "doc": "x", "symbols": ["UNKNOWN", "RED"], "default": "UNKNOWN"}
STORED = {"type": "enum", "name": "orderflow.stock.rows.Color", "doc": "x", "symbols": ["RED"]}


def record(*fields: Json, name: str = "orderflow.stock.Thing", doc: str = "A thing.") -> Json:
    return {"type": "record", "name": name, "doc": doc, "fields": list(fields)}


def field(name: str, type_: Any, **more: Any) -> Json:
    return {"name": name, "type": type_, **more}


def test_the_catalogue_is_clean() -> None:
    assert lint() == ()


@pytest.mark.parametrize(
    ("schema", "complaint"),
    [
        (record(field("a", "long"), doc=""), "no doc"),
        (record(field("a", "long"), name="orderflow.stock.some_thing"), "CamelCase"),
        (record(field("someField", "long")), "snake_case"),
        (record(field("a", ["null", "long"])), "default is null"),
        (record(field("a", {"type": "array", "items": "long"})), r"default is \[\]"),
        (record(field("a", {"type": "map", "values": "long"})), r"default is \{\}"),
        (record(field("a", "boolean")), "has a default"),
        (record(field("a", "string", default=1)), "no string"),
        (record(field("a", "long", default="1")), "no integer"),
        (record(field("a", "long", default=True)), "no integer"),
        (record(field("a", "int")), "numbers are long"),
        (record(field("a", {"type": "long", "logicalType": "timestamp-millis"})), "logical type"),
        (record(field("due_at", "long")), "timestamp-micros"),
        (record(field("expires_on", "long")), "date"),
        (record(field("a", COLOR, default="RED")), "on the enum type"),
        (record(field("a", COLOR | {"default": "RED"})), "first symbol and default"),
        (record(field("a", COLOR | {"symbols": ["RED", "UNKNOWN"]})), "first symbol and default"),
        (record(field("a", COLOR | {"symbols": ["UNKNOWN", "red"]})), "not upper case"),
        (record(field("a", COLOR | {"doc": ""})), "no doc"),
        (record(field("a", STORED | {"symbols": ["UNKNOWN", "RED"]})), "rows know every symbol"),
        (record(field("a", STORED | {"default": "RED"})), "rows know every symbol"),
        (record(field("a", {"type": "array", "items": record(field("b", "boolean"), name="orderflow.stock.Part")}, default=[])), "Part.b"),
    ],
)
def test_a_broken_rule_is_named(schema: Json, complaint: str) -> None:
    (fault,) = record_faults(parse(schema))
    assert re.search(complaint, fault)


@pytest.mark.parametrize(
    "type_",
    [
        "float",
        "double",
        "null",
        ["null", "string", "long"],
        ["string", "null"],
        ["string", "long"],
        {"type": "fixed", "name": "F", "size": 2},
    ],
)
def test_shapes_beyond_the_rules_do_not_even_parse(type_: Any) -> None:
    with pytest.raises(SchemaError, match=r"Thing|unknown type"):
        parse(record(field("a", type_)))


def test_a_record_inside_itself_or_without_fields_does_not_parse() -> None:
    with pytest.raises(SchemaError, match="inside itself"):
        parse(record(field("a", ["null", "orderflow.stock.Thing"])))
    with pytest.raises(SchemaError, match="no fields"):
        parse(record())


META = field("meta", record(field("a", "long"), name="orderflow.common.CommandMeta"))


@pytest.mark.parametrize(
    ("topic", "schema", "complaint"),
    [
        ("orderflow.stock.commands.v1", record(META, field("sku", "string"), field("color", COLOR)), "commands hold no enums"),
        ("orderflow.stock.commands.v1", record(META, field("order_id", "string")), "second field is the key, sku"),
        ("orderflow.stock.commands.v1", record(META, field("sku", "long")), "second field is the key, sku"),
        ("orderflow.stock.events.v1", record(META, field("sku", "string")), "first field is meta, orderflow.common.EventMeta"),
        ("orderflow.stock.stock.changelog.v1", record(field("color", COLOR)), "enums of their rows namespace"),
        ("orderflow.stock.status.v1", record(field("color", STORED)), "part of a row"),
    ],
)
def test_a_rule_about_a_topic_is_named(topic: str, schema: Json, complaint: str) -> None:
    (fault,) = topic_faults(Catalog().topic(topic), parse(schema))
    assert complaint in fault
