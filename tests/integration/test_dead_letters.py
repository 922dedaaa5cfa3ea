"""What cannot be processed is set aside with its bytes, its place and the cause; its neighbours are processed, in the same batch.

The origin's consumers swallowed such records, or deduplicated real ones by an empty id (bug 29).
"""

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import pytest
from integration_harness import PATIENCE_S, Place, Raw, Rig, started, until
from msgspec import structs

from orderflow.connectors.box.box import Servers
from orderflow.schemas.catalog import INPUT_BYTES_MAX
from orderflow.schemas.partitioner import partition_of
from orderflow.streams.domain.contract import ReplyTo
from orderflow.streams.domain.order_records import PlacedLine, PlaceOrder
from orderflow.streams.domain.stock_records import AdjustStock, ReceiveStock, ReleaseReservation
from orderflow.streams.turn import RECORD_BYTES_MAX

pytestmark = pytest.mark.box

BEFORE, AFTER = 3, 4
"""Units that the neighbours of a wrong record bring: before it one by one, because a worker that waits takes the first record alone."""


@pytest.fixture(scope="module")
def rig(box: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with started(box, tmp_path_factory.mktemp("letters"), "letters") as running:
        yield running


class Letter(NamedTuple):
    """A dead letter."""

    place: Place
    key: bytes | None
    value: bytes | None
    headers: dict[str, bytes]

    @property
    def came_from(self) -> Place:
        return Place(self.headers["topic"].decode(), int(self.headers["partition"]), int(self.headers["offset"]))


def letters(rig: Rig, space: str) -> list[Letter]:
    found = []
    for each in rig.read(rig.names.dlq_topic(space)):
        place = Place(each.topic(), each.partition(), each.offset())
        found.append(Letter(place, each.key(), each.value(), dict(each.headers() or ())))
    return found


def letter_of(rig: Rig, space: str, origin: Place) -> Letter:
    """The one dead letter of the record at this place."""
    until(lambda: any(letter.came_from == origin for letter in letters(rig, space)), f"a dead letter of {origin}")
    (letter,) = (letter for letter in letters(rig, space) if letter.came_from == origin)
    return letter


def receipt(rig: Rig, sku: str, quantity: int, **meta: Any) -> Raw:
    return rig.command("stock", sku, ReceiveStock("main", quantity, reference="test"), **meta)


async def neighbours_are_there(rig: Rig, sku: str) -> None:
    """Their units and their events, and nothing else of the sku."""
    await rig.stock_becomes(sku, BEFORE + AFTER, BEFORE + AFTER, 0, 0)
    moved = [event.value.quantity for event in rig.events("stock", sku) if event.name == "MovementRecorded"]
    assert moved == [1] * BEFORE + [AFTER]


Spoil = Callable[[Any], Raw]
Make = Callable[[Rig, str], Raw]
WRONG: dict[str, tuple[str, Spoil | None]] = {
    "no Avro at all": ("UNDECODABLE", lambda raw: raw._replace(value=b"{}")),
    "a schema nobody registered": ("UNDECODABLE", lambda raw: raw._replace(value=b"\0\x7f\xff\xff\xff" + raw.value[5:])),
    "cut off": ("UNDECODABLE", lambda raw: raw._replace(value=raw.value[:-3])),
    "longer than its record": ("UNDECODABLE", lambda raw: raw._replace(value=raw.value + b"\0")),
    "of another topic": ("UNDECODABLE", None),
    "without a value": ("EMPTY", lambda raw: raw._replace(value=None)),
    "with an empty value": ("EMPTY", lambda raw: raw._replace(value=b"")),
    "under another key": ("WRONG_KEY", lambda raw: raw._replace(key=b"ANOTHER")),
    "under another tenant": ("WRONG_KEY", lambda raw: raw._replace(key=b"other/" + raw.key)),
    "without a key": ("WRONG_KEY", lambda raw: raw._replace(key=None)),
    "with an empty key": ("WRONG_KEY", lambda raw: raw._replace(key=b"")),
}


@pytest.mark.parametrize("how", WRONG)
async def test_a_wrong_record_is_set_aside_and_its_neighbours_are_processed(rig: Rig, how: str) -> None:
    sku = f"SKU-{uuid.uuid4().hex[:8]}"
    reason, spoil = WRONG[how]
    headers = (("traceparent", b"00-" + b"1" * 32 + b"-" + b"2" * 16 + b"-01"),)
    sound = receipt(rig, sku, 1000)._replace(headers=headers, partition=partition_of(sku.encode(), rig.names.partitions))
    wrong = spoil(sound) if spoil else sound._replace(value=rig.command("orders", sku, PlaceOrder("box")).value)

    *_, origin, _ = rig.produce([*(receipt(rig, sku, 1) for _ in range(BEFORE)), wrong, receipt(rig, sku, AFTER)])

    letter = letter_of(rig, "stock", origin)
    assert (letter.key or b"", letter.value or b"") == (wrong.key or b"", wrong.value or b"")
    assert letter.place.partition == origin.partition
    assert letter.headers["reason"].decode() == reason
    assert letter.headers["cause"] and len(letter.headers["cause"]) <= 4096
    assert letter.headers["traceparent"] == dict(headers)["traceparent"]
    assert letter.headers["code_version"] and int(letter.headers["timestamp"]) > 0
    await neighbours_are_there(rig, sku)


@pytest.mark.parametrize("nothing", ["the key", "the command id"])
async def test_an_empty_id_is_set_aside_and_swallows_no_other(rig: Rig, nothing: str) -> None:
    sku = f"SKU-{uuid.uuid4().hex[:8]}"
    mine = rig.records.of("stock")
    partition = partition_of(sku.encode(), rig.names.partitions)
    sound = receipt(rig, sku, 1000)
    meta, _, command = mine.decode_command(sound.value or b"")
    if nothing == "the key":
        wrong = Raw(mine.commands, b"", mine.encode_command(meta, "", command), partition=partition)
    else:
        wrong = sound._replace(value=mine.encode_command(structs.replace(meta, command_id=""), sku, command))

    first, *_, second, _ = rig.produce([wrong, *(receipt(rig, sku, 1) for _ in range(BEFORE)), wrong, receipt(rig, sku, AFTER)])

    for origin in (first, second):
        assert letter_of(rig, "stock", origin).headers["reason"] == b"EMPTY_ID"
    await neighbours_are_there(rig, sku)


async def test_a_command_whose_outputs_are_too_large_is_parked_whole_and_whoever_waits_is_told(rig: Rig) -> None:
    sku, order_id, other = (f"{word}-{uuid.uuid4().hex[:8]}" for word in ("SKU", "big", "small"))
    await rig.receive(sku, 10)
    lines = (PlacedLine("1", sku, 2),)
    large = PlaceOrder("box", lines=lines, attributes={"note": "x" * RECORD_BYTES_MAX})
    wrong = rig.command("orders", order_id, large, reply_to=ReplyTo("nobody", 0, "request"))
    assert wrong.value is not None and len(wrong.value) < INPUT_BYTES_MAX, "it is no larger than what a log takes"

    _, origin = rig.produce([rig.command("orders", other, PlaceOrder("box", lines=lines)), wrong])
    (again,) = rig.produce([rig.command("orders", order_id, PlaceOrder("box", lines=lines))])

    letter = letter_of(rig, "orders", origin)
    assert (letter.key, letter.value) == (order_id.encode(), wrong.value)
    assert letter.headers["reason"] == b"TOO_LARGE"
    assert f"{RECORD_BYTES_MAX}" in letter.headers["cause"].decode()
    replies = [rig.records.decode_reply(each.value()) for each in rig.read(rig.records.replies_topic)]
    told = [reply for reply in replies if reply.request_id == "request"]
    assert [(reply.outcome, reply.reason) for reply in told] == [("refused", "PARKED")]

    assert (await rig.decided(other))["state"] == "processing"
    assert (await rig.decided(order_id))["state"] == "processing", "nothing of the parked command is left to stand in the way"
    asked = [command for command in rig.commands("stock", sku) if command.name == "ReserveStock"]
    assert sorted(command.value.holder.order_id for command in asked) == sorted((other, order_id)), "two partitions have no common order"
    assert {event.meta.command_id for event in rig.events("orders", order_id)}.isdisjoint({_command_id(rig, wrong)})
    assert again.offset > origin.offset
    await rig.stock_becomes(sku, 10, 6, 0, 4)


def _command_id(rig: Rig, raw: Raw) -> str:
    meta, _, _ = rig.records.of("orders").decode_command(raw.value or b"")
    return meta.command_id


def test_the_command_line_lists_and_shows_them(rig: Rig) -> None:
    wrong = Raw(rig.names.commands_topic("catalog"), b"\xffkey", b"\0\x01\x02", (("note", b"kept"),))
    (origin,) = rig.produce([wrong])
    letter = letter_of(rig, "catalog", origin)

    (listed,) = json.loads(orderflow(rig, "dlq", "list", "--space", "catalog", "--json"))
    shown = json.loads(orderflow(rig, "dlq", "show", "catalog", str(letter.place.partition), str(letter.place.offset), "--json"))

    assert listed == shown
    assert shown["came_from"] == f"{origin.topic}[{origin.partition}] offset {origin.offset}"
    assert (shown["space"], shown["partition"], shown["offset"]) == ("catalog", letter.place.partition, letter.place.offset)
    assert shown["reason"] == "UNDECODABLE" and "decoded" in shown["cause"]
    assert bytes.fromhex(shown["value_hex"]) == wrong.value
    assert shown["key"] == "\\xffkey"
    assert shown["headers"]["note"] == "kept"
    everywhere = json.loads(orderflow(rig, "dlq", "list", "--json"))
    assert shown in everywhere and {each["space"] for each in everywhere} >= {"stock", "catalog"}
    assert "UNDECODABLE" in orderflow(rig, "dlq", "list", "--space", "catalog")


def test_a_place_without_a_letter_is_an_error(rig: Rig) -> None:
    with pytest.raises(subprocess.CalledProcessError) as ended:
        orderflow(rig, "dlq", "show", "catalog", "0", "999999")
    assert ended.value.returncode == 1 and "no dead letter" in ended.value.stderr


LARGE: dict[str, Make] = {
    "its headers": lambda rig, sku: receipt(rig, sku, 1)._replace(headers=(("traceparent", b"x" * (INPUT_BYTES_MAX - 360)),)),
    "its key": lambda rig, sku: rig.command("stock", sku + "k" * 330_000, AdjustStock("main", delta=1, reason="count")),
    "its id": lambda rig, sku: receipt(rig, sku, 1, command_id="i" * 990_000),
    "a name in it": lambda rig, sku: rig.command("stock", sku, ReleaseReservation(f"{sku}~{'o' * (INPUT_BYTES_MAX - 600)}~1")),
}
"""Records that a log takes but whose outputs no log would take: the events, a changelog row with its key, a refusal."""


async def test_a_record_that_is_too_large_in_any_part_stops_no_partition(rig: Rig) -> None:
    """Last, because a worker that cannot get over such a record serves nobody any more."""
    skus = {what: f"SKU-{uuid.uuid4().hex[:8]}" for what in LARGE}
    wrong = {what: make(rig, skus[what]) for what, make in LARGE.items()}
    origins = dict(zip(wrong, rig.produce(wrong.values()), strict=True))
    rig.produce(receipt(rig, skus[what], AFTER)._replace(partition=origin.partition) for what, origin in origins.items())

    for what, origin in origins.items():
        letter = letter_of(rig, "stock", origin)
        assert (letter.key, letter.value) == (wrong[what].key, wrong[what].value), what
        assert letter.headers["reason"] == b"TOO_LARGE", what
    for what, sku in skus.items():
        until(partial(rig.events, "stock", sku), f"the record after the one that is too large in {what} is processed")


def orderflow(rig: Rig, *arguments: str) -> str:
    """What the command line prints."""
    environment = {**os.environ, "ORDERFLOW_BOOTSTRAP": rig.bootstrap, "ORDERFLOW_PREFIX": rig.names.prefix}
    program = [sys.executable, "-m", "orderflow.cli", *arguments]
    return subprocess.run(program, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=True).stdout
