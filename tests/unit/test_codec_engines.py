"""The two engines of the codec are one codec: built where it can be, chosen as asked, equal on every input, and the compiled one is safe.

Safe: whatever the bytes are and whatever the values do while they are written, nothing leaks and nothing is read that is gone.
"""

import gc
import os
import random
import subprocess
import sys
import sysconfig
import tracemalloc
import weakref
from collections.abc import Callable
from enum import IntEnum, StrEnum
from pathlib import Path
from shutil import which
from types import MappingProxyType, SimpleNamespace
from typing import Any, ClassVar

import pytest
from msgspec import Struct
from test_codec import PAIR, PAIRS, RECORDS, Pair, built, case, typical_values

from orderflow.schemas import codec
from orderflow.schemas.codec import ENGINES, CodecError, RecordCodec, compile_record

SCHEMAS = Path(codec.__file__).parent
COMPILER = which(os.environ.get("CC") or "gcc") and (Path(sysconfig.get_path("include")) / "Python.h").exists()
RANDOM_INPUTS = 150


# -- which one ----------------------------------------------------------------------------------------------------------------------
@pytest.mark.skipif(not COMPILER and os.environ.get("CI") != "true", reason="there is no C compiler here")
def test_the_extension_is_built_from_the_source_at_hand() -> None:
    assert "compiled" in ENGINES, "install again: ORDERFLOW_BUILD_CODEC=required tells what is missing"
    source, extension = SCHEMAS / "_codec.pyx", Path(str(ENGINES["compiled"].__file__))
    assert extension.stat().st_mtime >= source.stat().st_mtime, "_codec.pyx was changed since: install again"


@pytest.mark.parametrize(
    ("choice", "engine", "refused"),
    [
        ("", next(iter(ENGINES)), False),
        ("auto", next(iter(ENGINES)), False),
        ("python", "python", False),
        ("compiled", next(iter(ENGINES)), "compiled" not in ENGINES),
        ("cython", next(iter(ENGINES)), True),
    ],
)
def test_the_variable_chooses_the_engine_or_refuses_the_start(choice: str, engine: str, refused: bool) -> None:
    script = (
        "from orderflow.cli import environment; from orderflow.schemas import codec\n"
        "print(codec.ENGINE, environment.unknown(), dict(each[:2] for each in environment.other_values())['ORDERFLOW_CODEC'])"
    )
    environ = {name: value for name, value in os.environ.items() if not name.startswith("ORDERFLOW_")} | {"ORDERFLOW_CODEC": choice}
    done = subprocess.run([sys.executable, "-c", script], env=environ, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"{engine} [") and done.stdout.endswith(f"] {choice or 'auto'} ({engine})\n")
    assert (f"ORDERFLOW_CODEC={choice}:" in done.stdout) == refused


def test_a_refused_choice_makes_no_codec() -> None:
    script = (
        "from orderflow.schemas import avsc; from orderflow.schemas.codec import compile_record\n"
        "compile_record(avsc.expanded('orderflow.engine.MetaRow'), {})"
    )
    environ = os.environ | {"ORDERFLOW_CODEC": "cython"}
    done = subprocess.run([sys.executable, "-c", script], env=environ, capture_output=True, text=True, check=False)
    assert "RuntimeError: ORDERFLOW_CODEC=cython" in done.stderr


# -- equal --------------------------------------------------------------------------------------------------------------------------
def together(*values: Any) -> Any:
    return values


def outcome(function: Any, *arguments: Any) -> Any:
    """What it returns, or the refusal's text."""
    try:
        return function(*arguments)
    except CodecError as error:
        return str(error)


@built
@pytest.mark.parametrize("name", RECORDS)
def test_random_bytes_mean_the_same_to_both_engines(name: str) -> None:
    """Noise, and records cut, spliced and damaged anywhere: the same value or the same refusal."""
    python, compiled = case(name, "python"), case(name, "compiled")
    choose = random.Random(name)  # noqa: S311
    usual = [python.codec.encode(*typical_values(python, full=full)) for full in (True, False)]
    for _ in range(RANDOM_INPUTS):
        data = bytearray(choose.choice(usual))
        for _ in range(choose.randrange(4)):
            data[choose.randrange(5, len(data))] = choose.choice((0, 1, 2, 127, 128, 255, choose.randrange(256)))
        start, end = sorted((choose.randrange(5, len(data)), choose.randrange(5, len(data))))
        data[start:end] = choose.choice((data[start:end], b"", choose.randbytes(choose.randrange(9)), choose.choice(usual)[5:]))
        expected = outcome(python.layout.decode, bytes(data))
        assert outcome(compiled.codec.decode, bytes(data)) == outcome(compiled.layout.decode, bytes(data))
        assert outcome(python.codec.decode, bytes(data)) == expected
        assert repr(outcome(compiled.codec.decode, bytes(data))) == repr(expected)


class Size(IntEnum):
    LARGE = 3


class Color(StrEnum):
    RED = "red"
    BLUE = "blue"


class Other(StrEnum):
    RED = "RED"


class Text(str):
    """A string of a class of its own."""


class Thing(Struct):
    text: str
    raw: bytes
    flag: bool
    small: int
    large: int
    color: Color
    maybe: int | None
    words: tuple[str, ...]
    counts: dict[str, int]


THING = {
    "type": "record",
    "name": "test.Thing",
    "fields": [
        {"name": "text", "type": "string", "default": "usual"},
        {"name": "raw", "type": "bytes"},
        {"name": "flag", "type": "boolean"},
        {"name": "small", "type": "int"},
        {"name": "large", "type": "long"},
        {"name": "color", "type": {"type": "enum", "name": "test.Color", "symbols": ["RED", "BLUE"]}},
        {"name": "maybe", "type": ["null", "long"]},
        {"name": "words", "type": {"type": "array", "items": "string"}},
        {"name": "counts", "type": {"type": "map", "values": "long"}},
    ],
}
MAKERS = {"test.Thing": Thing, "test.Color": Color}
GIVEN: dict[str, Any] = {
    "text": "usual",
    "raw": b"\0",
    "flag": True,
    "small": 1,
    "large": 2,
    "color": Color.BLUE,
    "maybe": None,
    "words": (),
    "counts": {},
}
BOUNDS = [-1, 0, 63, 64, -64, -65, 8191, 8192, (1 << 31) - 1, 1 << 31, -(1 << 31), -(1 << 31) - 1]
ODD: list[Any] = [
    *BOUNDS,
    *((1 << 63) - 1, 1 << 63, -(1 << 63), -(1 << 63) - 1, 1 << 200),
    *(None, True, False, 1.0, 0.5, Size.LARGE, object(), b"", b"x", bytearray(b"xy"), memoryview(b"xyz")),
    *("", "usual", "red", "RED", "é", "\U0001f600", "a\0b", "\ud800", Text("text"), Color.RED, Other.RED),
    *((), [], ("a",), ["a"], ("a", 1), (None,), {}, {"a": 1}, {1: 1}, {"a": "b"}, {"\ud800": 1}, MappingProxyType({"a": 1})),
]


def things() -> dict[str, RecordCodec]:
    return {engine: compile_record(THING, MAKERS, engine=engine) for engine in ENGINES}


@built
@pytest.mark.parametrize("field", GIVEN)
def test_odd_values_are_written_alike_or_refused_alike(field: str) -> None:
    codecs = things()
    for value in ODD:
        for made in (Thing(**GIVEN | {field: value}), SimpleNamespace(**GIVEN | {field: value})):
            python, compiled = (outcome(codecs[engine].encode, made) for engine in ("python", "compiled"))
            assert python == compiled, value


@built
def test_numbers_at_every_length_mean_the_same_to_both_engines() -> None:
    """Both kinds of integer: short and long forms of the same number, the last bits of 32 and 64, and beyond."""
    kinds = [{"name": "small", "type": "int"}, {"name": "large", "type": "long"}]
    schemas = [{"type": "record", "name": "test.Number", "fields": [field]} for field in kinds]
    numbers = [b"\xff" * length + bytes((last,)) for length in range(11) for last in range(256)]
    numbers += [b"\x80" * length + bytes((last,)) for length in range(11) for last in (0, 1, 2, 127)]
    for schema in schemas:
        python, compiled = (compile_record(schema, {"test.Number": together}, engine=engine) for engine in ("python", "compiled"))
        for data in numbers:
            assert outcome(compiled.decode, data) == outcome(python.decode, data)


@built
def test_what_is_read_is_of_the_same_types() -> None:
    data = PAIRS["compiled"].encode(Pair(("a", "é"), {"k": 1}))
    for source in (data, bytearray(data), memoryview(data)):
        assert repr(PAIRS["compiled"].decode(source)) == repr(PAIRS["python"].decode(data))  # type: ignore[arg-type]


# -- safe ---------------------------------------------------------------------------------------------------------------------------
@built
def test_an_instance_that_is_not_quite_the_class_is_asked_by_name() -> None:
    class Derived(Thing):
        @property
        def large(self) -> int:  # type: ignore[override]
            return 77

    class Slotted:
        __slots__ = tuple(GIVEN)

        def __init__(self, *values: Any) -> None:
            for name, value in zip(GIVEN, values, strict=True):
                setattr(self, name, value)

    slotted = compile_record(THING, MAKERS | {"test.Thing": Slotted}, engine="compiled")
    values = slotted.decode(slotted.encode(Slotted(*GIVEN.values())))
    assert [getattr(values, name) for name in GIVEN] == list(GIVEN.values())
    plain = things()["python"]
    assert things()["compiled"].encode(Derived(**GIVEN)) == plain.encode(Derived(**GIVEN)) == plain.encode(Thing(**GIVEN | {"large": 77}))


@built
def test_a_member_that_was_deleted_is_refused() -> None:
    thing = Thing(**GIVEN)
    del thing.large
    with pytest.raises(CodecError, match="test.Thing: Thing has no large"):
        things()["compiled"].encode(thing)


class Vandal:
    """Does its damage when it is asked for its name, while it is written."""

    def __init__(self, damage: Callable[[], object]) -> None:
        self.damage = damage

    @property
    def name(self) -> str:
        self.damage()
        gc.collect()
        return "x" * 20


def encoder_of(kind: str, inside: str) -> Callable[[Any], bytes]:
    """Of a record with the one field `held`: an array or a map of records with the one field `name`."""
    inner = {"type": "record", "name": "test.Inner", "fields": [{"name": "name", "type": "string"}]}
    outer = {"type": "record", "name": "test.Outer", "fields": [{"name": "held", "type": {"type": kind, inside: inner}}]}
    return compile_record(outer, {"test.Outer": together, "test.Inner": together}, engine="compiled").encode


@built
def test_a_map_that_changes_while_it_is_written_is_never_written_half() -> None:
    encode = encoder_of("map", "values")
    held: dict[str, Vandal] = {}
    held.update((str(n), Vandal(held.clear)) for n in range(5))
    assert encode(SimpleNamespace(held=held)) == b"\0"
    held.update((str(n), Vandal(lambda: held.update((str(100 + len(held) + m), Vandal(int)) for m in range(100)))) for n in range(5))
    with pytest.raises(RuntimeError, match="changed size"):
        encode(SimpleNamespace(held=held))


@built
def test_a_value_may_let_go_of_what_is_being_written() -> None:
    outer = SimpleNamespace()
    outer.held = tuple(Vandal(outer.__dict__.clear) for _ in range(5))
    assert encoder_of("array", "items")(outer) == b"\x0a" + (b"\x28" + b"x" * 20) * 5 + b"\0"


@built
@pytest.mark.parametrize("name", RECORDS)
def test_nothing_is_left_behind_by_what_is_refused(name: str) -> None:
    each = case(name, "compiled")
    values = typical_values(each, full=True)
    data = each.codec.encode(*values)
    cuts = [data[:cut] for cut in range(5, len(data), 7)]

    def use() -> None:
        for _ in range(20):
            assert each.fast.decode(each.fast.encode(*values)) is not None
            for cut in cuts:
                try:
                    each.fast.decode(cut)
                except Exception:
                    continue

    use()
    gc.collect()
    makers = list(each.layout.makers.values())
    counts, blocks = [sys.getrefcount(made) for made in makers], sys.getallocatedblocks()
    use()
    gc.collect()
    assert sys.getallocatedblocks() - blocks < 50
    assert [sys.getrefcount(made) for made in makers] == counts


@built
def test_what_values_share_is_counted_right_and_long_records_are_freed() -> None:
    thing = Thing(**GIVEN | {"words": ("x" * 500,) * 20, "maybe": 1 << 40})
    codec = things()["compiled"]
    usual = codec.decode(codec.encode(thing)).text
    assert usual == "usual" and usual is codec.decode(codec.encode(thing)).text

    def use() -> None:
        for _ in range(200):
            codec.decode(codec.encode(thing))
            outcome(codec.encode, Thing(**GIVEN | {"words": thing.words, "counts": {1: 1}}))
        gc.collect()  # Python's own store of small tuples too

    tracemalloc.start()
    use()
    counts, (before, _) = [sys.getrefcount(each) for each in (usual, Color.BLUE)], tracemalloc.get_traced_memory()
    use()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after - before < 20_000
    assert [sys.getrefcount(each) for each in (usual, Color.BLUE)] == counts


@built
def test_a_codec_that_its_class_holds_is_collected_with_it() -> None:
    class Kept(Struct, dict=True, weakref=True):
        words: tuple[str, ...]
        counts: dict[str, int]
        codec: ClassVar[RecordCodec]

    Kept.codec = compile_record(PAIR, {"test.Pair": Kept}, engine="compiled")
    gone = weakref.ref(Kept)
    assert Kept.codec.decode(b"\0\0") == Kept((), {})
    del Kept
    gc.collect()
    assert gone() is None
