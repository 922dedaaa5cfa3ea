"""Both engines of the codec against fastavro, against their careful twin, and against hostile bytes, for every record of the catalogue."""

import io
from enum import StrEnum
from functools import cache
from types import SimpleNamespace
from typing import Any

import fastavro
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct, defstruct

from orderflow.schemas import avsc
from orderflow.schemas.codec import ENGINES, CodecError, RecordCodec, bind, compile_record, header_of, schema_id_of
from orderflow.schemas.plain import Layout

HEADER = header_of(7)
RECORDS = tuple(name for name, schema in avsc.files().items() if schema["type"] == "record")
LONGS = st.integers(-(1 << 63), (1 << 63) - 1) | st.integers(-200, 20_000)
INSTANTS = LONGS | st.integers(1_600_000_000_000_000, 1_900_000_000_000_000)


class GaveUp(Exception):
    """An engine handed over to its careful twin."""


def give_up(*_: Any) -> Any:
    raise GaveUp


class Case(Struct):
    """One record of the catalogue with made-up classes: all ways to code it, and the values it can hold."""

    layout: Layout
    codec: RecordCodec
    fast: RecordCodec
    values: st.SearchStrategy[tuple[Any, ...]]
    oracle: Any

    def given(self, values: tuple[Any, ...]) -> Any:
        return values if self.layout.lead else values[0]

    def by_fastavro(self, values: tuple[Any, ...]) -> bytes:
        out = io.BytesIO()
        fields = self.layout.record.fields
        lead = self.layout.lead
        datum = {f.name: plain(values[n] if n < lead else getattr(values[-1], f.name)) for n, f in enumerate(fields)}
        fastavro.schemaless_writer(out, self.oracle, datum)
        return HEADER + out.getvalue()


def plain(value: Any) -> Any:
    if isinstance(value, Struct):
        return {name: plain(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    if isinstance(value, StrEnum):
        return value.name
    return value


def classes(node: avsc.Node, made: dict[str, Any], lead: int = 0) -> dict[str, Any]:
    match node:
        case avsc.Record():
            made[node.name] = defstruct(node.name.rpartition(".")[2], [f.name for f in node.fields[lead:]], frozen=True)
            for field in node.fields:
                classes(field.node, made)
        case avsc.Enum():
            made[node.name] = StrEnum(node.name.rpartition(".")[2], {symbol: symbol.lower() for symbol in node.symbols})
        case avsc.Array(of) | avsc.Map(of) | avsc.Nullable(of):
            classes(of, made)
    return made


def strategy(node: avsc.Node, made: dict[str, Any], default: Any = None) -> st.SearchStrategy[Any]:
    match node:
        case avsc.Scalar(kind="string"):
            return st.text(max_size=12) | st.text("ab-~:é€", min_size=50, max_size=200) | st.just(str(default or ""))
        case avsc.Scalar(kind="bytes"):
            return st.binary(max_size=200)
        case avsc.Scalar(kind="boolean"):
            return st.booleans()
        case avsc.Scalar(kind="int"):
            return st.integers(-(1 << 31), (1 << 31) - 1)
        case avsc.Scalar():
            return INSTANTS if node.logical else LONGS
        case avsc.Enum():
            return st.sampled_from(list(made[node.name]))
        case avsc.Array(of):
            return st.just(()) | st.lists(strategy(of, made), max_size=3).map(tuple)
        case avsc.Map(of):
            return st.dictionaries(st.text(max_size=70), strategy(of, made), max_size=3)
        case avsc.Nullable(of):
            return st.none() | strategy(of, made)
        case avsc.Record():
            return st.builds(made[node.name], *(strategy(f.node, made, f.default) for f in node.fields))


@cache
def case(name: str, engine: str) -> Case:
    schema = avsc.expanded(name)
    record = avsc.parse(schema)
    lead = 2 if record.fields[0].name == "meta" else 0
    made = classes(record, {}, lead)
    layout = bind(record, made, lead, HEADER)
    value = st.builds(made[name], *(strategy(f.node, made, f.default) for f in record.fields[lead:]))
    values = st.tuples(*(strategy(f.node, made) for f in record.fields[:lead]), value)
    fast = RecordCodec(ENGINES[engine].encoder(layout, give_up), ENGINES[engine].decoder(layout, give_up))
    oracle = fastavro.parse_schema(avsc.without_logical_types(schema))
    return Case(layout, compile_record(schema, made, lead, HEADER, engine), fast, values, oracle)


every_record = pytest.mark.parametrize("name", RECORDS)
built = pytest.mark.skipif("compiled" not in ENGINES, reason="the extension is not built, which test_codec_engines.py judges")
every_engine = pytest.mark.parametrize("engine", ["python", pytest.param("compiled", marks=built)])


@every_engine
@every_record
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_bytes_equal_fastavro_and_come_back_as_the_value(name: str, engine: str, data: st.DataObject) -> None:
    each = case(name, engine)
    values = data.draw(each.values)
    expected = each.by_fastavro(values)
    assert each.codec.encode(*values) == expected
    assert each.layout.encode(*values) == expected
    assert each.codec.decode(expected) == each.given(values)
    assert each.layout.decode(expected) == each.given(values)


@every_engine
@every_record
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_cut_short_or_made_longer_is_refused(name: str, engine: str, data: st.DataObject) -> None:
    each = case(name, engine)
    encoded = each.codec.encode(*data.draw(each.values))
    for cut in data.draw(st.sets(st.integers(0, len(encoded) - 1), max_size=20)):
        with pytest.raises(CodecError):
            each.codec.decode(encoded[:cut])
    with pytest.raises(CodecError):
        each.codec.decode(encoded + data.draw(st.binary(min_size=1, max_size=3)))


@every_engine
@every_record
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_a_wrong_type_anywhere_is_refused_naming_the_record(name: str, engine: str, data: st.DataObject) -> None:
    each = case(name, engine)
    values = data.draw(each.values)
    fields = each.layout.record.fields[each.layout.lead :]
    field = data.draw(st.sampled_from(fields))
    wrong = data.draw(st.sampled_from([b"bytes", 1.5, {"a": 1}, object(), [1, 2.5], (object(),), 1 << 64, "\ud800"]))
    if isinstance(field.node, avsc.Scalar) and field.node.kind == "bytes" and isinstance(wrong, bytes):
        return
    kept = {f.name: getattr(values[-1], f.name) for f in fields}
    with pytest.raises(CodecError, match=name.replace(".", r"\.") + r"\." + field.name):
        each.codec.encode(*values[:-1], SimpleNamespace(**kept | {field.name: wrong}))


TYPICAL = {
    "string": "ord_01HXYZABCDEFGHJKMNPQRSTVWX",
    "bytes": b"\0\1\2",
    "boolean": True,
    "long": 12_345,
    "int": 20_000,
}


def typical(node: avsc.Node, made: Any, *, full: bool = True) -> Any:
    """A value as they usually are: with everything in it, or with nothing that can be left out."""
    match node:
        case avsc.Scalar():
            return 1_764_000_000_123_456 if node.logical == "timestamp-micros" else TYPICAL[node.kind]
        case avsc.Enum():
            return next(iter(made[node.name]))
        case avsc.Array(of):
            return (typical(of, made),) * 3 if full else ()
        case avsc.Map(of):
            return {"a": typical(of, made)} if full else {}
        case avsc.Nullable(of):
            return typical(of, made) if full else None
        case avsc.Record():
            return made[node.name](*(typical(f.node, made, full=full) for f in node.fields))


def typical_values(case: Case, *, full: bool) -> tuple[Any, ...]:
    made, fields, lead = case.layout.makers, case.layout.record.fields, case.layout.lead
    value = made[case.layout.record.name](*(typical(f.node, made, full=full) for f in fields[lead:]))
    return (*(typical(f.node, made, full=full) for f in fields[:lead]), value)


@every_engine
@every_record
@pytest.mark.parametrize("full", [True, False])
def test_typical_values_never_need_the_careful_twin(name: str, engine: str, full: bool) -> None:
    each = case(name, engine)
    values = typical_values(each, full=full)
    encoded = each.fast.encode(*values)
    assert encoded == each.by_fastavro(values)
    assert each.fast.decode(encoded) == each.given(values)


@every_engine
@every_record
@pytest.mark.parametrize("full", [True, False])
def test_every_damaged_byte_is_refused_or_means_the_same_to_both_twins(name: str, engine: str, full: bool) -> None:
    each = case(name, engine)
    encoded = each.codec.encode(*typical_values(each, full=full))
    for place in range(len(encoded)):
        for byte in b"\0\1\2\3\4\x7f\x80\x81\xff":
            compare_twins(each, encoded[:place] + bytes((byte,)) + encoded[place + 1 :])


def compare_twins(case: Case, data: bytes) -> None:
    """The engine gives up where the careful twin refuses; where it does not give up both find the same."""
    try:
        careful = case.layout.decode(data)
    except CodecError:
        with pytest.raises(GaveUp):
            case.fast.decode(data)
    else:
        assert case.codec.decode(data) == careful


@every_engine
@every_record
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_several_damaged_bytes_too(name: str, engine: str, data: st.DataObject) -> None:
    each = case(name, engine)
    damaged = bytearray(each.codec.encode(*data.draw(each.values)))
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    compare_twins(each, bytes(damaged))


PAIR = {
    "type": "record",
    "name": "test.Pair",
    "fields": [
        {"name": "words", "type": {"type": "array", "items": "string"}},
        {"name": "counts", "type": {"type": "map", "values": "long"}},
    ],
}


class Pair(Struct, frozen=True):
    words: tuple[str, ...]
    counts: dict[str, int]


PAIRS = {engine: compile_record(PAIR, {"test.Pair": Pair}, engine=engine) for engine in ENGINES}


@every_engine
def test_several_blocks_and_blocks_with_a_size_are_read(engine: str) -> None:
    pair = PAIRS[engine]
    assert pair.decode(b"\2\2a\4\2b\2c\0\0") == Pair(("a", "b", "c"), {})
    assert pair.decode(b"\1\4\2a\0\1\6\2k\6\0") == Pair(("a",), {"k": 3})


@every_engine
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "words: ends too early"),
        (b"\2\1\0\0", r"words\[0\]: length -1"),
        (b"\2\6ab\0\0", r"words\[0\]: length 3 with 4 bytes left|counts"),
        (b"\2\2\xff\0\0", r"words\[0\]: .*utf-8"),
        (b"\2\xc0", r"words\[0\]: ends too early|is no string"),
        (b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\1\0", "words: 9223372036854775807 items with 1 bytes left"),
        (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\1\0\0", "words: block of 9223372036854775808 items"),
        (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x03\0\0", "words: integer longer than 64 bits"),
        (b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01\0", "words: integer longer than 64 bits"),
        (b"\x80\0\0", "words: integer not in its shortest form"),
        (b"\0\0\0", "1 bytes after the record"),
    ],
)
def test_hostile_bytes_are_refused_at_once(data: bytes, message: str, engine: str) -> None:
    with pytest.raises(CodecError, match=message):
        PAIRS[engine].decode(data)


@every_engine
def test_enums_outside_their_symbols_are_refused(engine: str) -> None:
    class Color(StrEnum):
        RED = "red"
        BLUE = "blue"

    class Thing(Struct):
        color: Color

    enum = {"type": "enum", "name": "test.Color", "symbols": ["RED", "BLUE"]}
    schema = {"type": "record", "name": "test.Thing", "fields": [{"name": "color", "type": enum}]}
    codec = compile_record(schema, {"test.Thing": Thing, "test.Color": Color}, engine=engine)
    assert codec.encode(Thing(Color.BLUE)) == b"\2"
    assert codec.decode(b"\2").color is Color.BLUE
    for data in (b"\4", b"\1", b"\x80\1"):
        with pytest.raises(CodecError, match="test.Thing.color"):
            codec.decode(data)
    with pytest.raises(CodecError, match="'green' is no symbol of test.Color"):
        codec.encode(Thing("green"))  # type: ignore[arg-type]


@every_engine
def test_long_lists_and_long_strings_stay_equal(engine: str) -> None:
    value = Pair(tuple(str(n) for n in range(20_000)), {"x" * 20_000: 1})
    out = io.BytesIO()
    fastavro.schemaless_writer(out, PAIR, {"words": list(value.words), "counts": value.counts})
    assert PAIRS[engine].encode(value) == out.getvalue()
    assert PAIRS[engine].decode(out.getvalue()) == value


@every_engine
def test_another_header_is_refused(engine: str) -> None:
    codec = compile_record(PAIR, {"test.Pair": Pair}, header=header_of(9), engine=engine)
    with pytest.raises(CodecError, match="header 0000000008 instead of 0000000009"):
        codec.decode(header_of(8) + b"\0\0")


def test_framing() -> None:
    assert header_of(258) == b"\0\0\0\1\2"
    assert schema_id_of(header_of(258) + b"rest") == 258
    for data in (b"", b"\0\0\0\1", b"\1\0\0\0\1"):
        with pytest.raises(CodecError, match="not framed"):
            schema_id_of(data)


@every_engine
def test_classes_must_fit_their_records(engine: str) -> None:
    class Swapped(Struct):
        counts: dict[str, int]
        words: tuple[str, ...]

    with pytest.raises(CodecError, match="its fields are words, counts, those of .*Swapped.* counts, words"):
        compile_record(PAIR, {"test.Pair": Swapped}, engine=engine)
    with pytest.raises(CodecError, match="test.Pair: no class given"):
        compile_record(PAIR, {}, engine=engine)


@every_engine
def test_a_class_that_refuses_its_values_is_a_codec_error(engine: str) -> None:
    def refuse(*_: Any) -> Any:
        raise ValueError("never")

    with pytest.raises(CodecError, match="test.Pair: never"):
        compile_record(PAIR, {"test.Pair": refuse}, engine=engine).decode(b"\0\0")
