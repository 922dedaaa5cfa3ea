"""Records that another version wrote: an older row, event or command is read by its writer's schema; an unknown one waits or is refused."""

import io
from typing import Any

import fastavro
import pytest
from flow_harness import NAMES, local_ids

from orderflow.schemas import avsc
from orderflow.schemas.plain import CodecError
from orderflow.schemas.registry import RegistryUnavailable, UnknownSchema
from orderflow.streams.domain.channel import ChannelPolicy, ChannelRow
from orderflow.streams.records import Records

OLD = 4711


def without(record: str, part: str, field: str) -> Any:
    """The record's schema as it was before `field` of `part` was added."""

    def strip(schema: Any) -> Any:
        if isinstance(schema, list):
            return [strip(each) for each in schema]
        if not isinstance(schema, dict):
            return schema
        named = {name: strip(value) for name, value in schema.items()}
        if f"{named.get('namespace', '')}.{named.get('name', '')}".endswith(part) and "fields" in named:
            named["fields"] = [each for each in named["fields"] if each["name"] != field]
        return named

    return strip(avsc.expanded(record))


def written(schema: Any, value: dict[str, Any]) -> bytes:
    body = io.BytesIO()
    fastavro.schemaless_writer(body, fastavro.parse_schema(avsc.without_logical_types(schema)), value)
    return b"\0" + OLD.to_bytes(4, "big") + body.getvalue()


def records(schema: Any) -> Records:
    return Records(NAMES, local_ids(), lambda schema_id: schema)


def test_a_row_of_an_older_version_is_read_with_the_new_fields_default() -> None:
    schema = without("orderflow.catalog.rows.ChannelRow", "ChannelPolicy", "stock_buffer")
    policy = {name: getattr(ChannelPolicy(), name) for name in ChannelPolicy.__struct_fields__ if name != "stock_buffer"}
    row = records(schema).of("catalog").row("channel").decode(written(schema, {"version": 3, "policy": policy}))
    assert row == ChannelRow(3, ChannelPolicy())


def test_an_older_snapshot_is_read_from_a_status_topic_too() -> None:
    schema = without("orderflow.catalog.ChannelSnapshot", "ChannelPolicy", "stock_buffer")
    policy = {name: getattr(ChannelPolicy(), name) for name in ChannelPolicy.__struct_fields__ if name != "stock_buffer"}
    value = {"key": "channel:shop", "tenant": "main", "sequence": 1, "version": 1, "at": 5, "policy": policy}
    known = records(schema)
    assert known.unpack(written(schema, value)).value.policy == ChannelPolicy()
    assert known.of("catalog").decode_status("channel")(written(schema, value)).key == "channel:shop"


def test_a_schema_that_does_not_belong_on_the_topic_is_refused() -> None:
    schema = avsc.expanded("orderflow.stock.rows.StockRow")
    data = written(schema, {"version": 1, "retired": False, "lot_tracked": False, "cells": []})
    with pytest.raises(CodecError, match="does not belong on this topic"):
        records(schema).of("catalog").row("channel").decode(data)
    with pytest.raises(CodecError, match="does not belong on this topic"):
        records(schema).of("stock").decode_command(data)


def test_an_id_the_registry_does_not_know_is_refused_and_a_silent_registry_is_waited_for() -> None:
    def unknown(schema_id: int) -> Any:
        raise UnknownSchema("404")

    def silent(schema_id: int) -> Any:
        raise RegistryUnavailable("down")

    data = b"\0" + OLD.to_bytes(4, "big") + b"\2"
    with pytest.raises(CodecError):
        Records(NAMES, local_ids(), unknown).unpack(data)
    with pytest.raises(RegistryUnavailable):
        Records(NAMES, local_ids(), silent).unpack(data)
