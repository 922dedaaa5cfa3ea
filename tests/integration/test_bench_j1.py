"""The J1 contest on a real Kafka: ours is right, a contestant that lies is listed as failed, one that dies too, nobody's fault is another's."""

import re
import sys
from pathlib import Path

import contestants
import j1
import j1_contest
import pytest

from orderflow.connectors.box.box import Box

LIAR = '''
"""Answers every command with yes, keeps no books, commits."""
import os, sys
sys.path.insert(0, {bench!r})
import j1
from confluent_kafka import Consumer, Producer

told = {{name: os.environ["J1_" + name] for name in ("BOOTSTRAP", "APP", "COMMANDS", "OUT")}}
consumer = Consumer({{"bootstrap.servers": told["BOOTSTRAP"], "group.id": told["APP"], "auto.offset.reset": "earliest"}})
producer = Producer({{"bootstrap.servers": told["BOOTSTRAP"]}})
consumer.subscribe([told["COMMANDS"]])
while True:
    for message in consumer.consume(500, 0.2):
        command = j1.COMMAND.decode(message.value())
        answer = j1.Decided(command.command_id, command.order_id, command.sku, command.location_id, command.quantity, True, 1, 1, 1)
        producer.produce(told["OUT"], j1.DECIDED.encode(answer), command.order_id.encode())
    producer.flush()
    if any(partition.offset > 0 for partition in consumer.position(consumer.assignment())):
        consumer.commit(asynchronous=False)
'''


@pytest.mark.box
@pytest.mark.slow
def test_who_is_wrong_is_listed_as_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_box: object) -> None:
    script = tmp_path / "liar.py"
    script.write_text(LIAR.format(bench=str(contestants.HERE)))
    for name, command, exactly_once in (
        ("liar", (sys.executable, str(script)), False),
        ("pretender", (sys.executable, str(script)), True),
        ("dead", (sys.executable, "-c", "raise SystemExit('no licence')"), False),
    ):
        entry = contestants.Contestant(
            name,
            "a doctored one",
            lambda command=command: command,
            lambda lane, exactly_once=exactly_once: j1.Places(
                lane.out, f"{lane.app}.stock", f"{lane.app}.reservation", exactly_once=exactly_once
            ),
            changelogs=lambda lane: (f"{lane.app}.stock", f"{lane.app}.reservation"),
        )
        monkeypatch.setitem(contestants.ALL, name, entry)
    assert callable(own_box)
    box: Box = own_box(registry=False)
    document = j1_contest.run(
        box,
        tmp_path,
        codec="python",
        peers=["liar", "pretender", "dead"],
        rounds=1,
        records=3000,
        data="scarce",
        say=lambda text: None,
    )
    shown = {row[0]: row[-1] for row in j1_contest.rows(document)}
    assert shown["orderflow-python"] == "right"
    assert "which is not what was left" in shown["liar"] or "the sums" in shown["liar"]
    failed = {name: re.match(r"FAILED ([12]) of \1: ", shown[name]) for name in ("liar", "pretender", "dead")}  # a void round is made again
    assert all(failed.values()), shown
    assert "exactly once in name only" in shown["pretender"] and "ended with 1 after 0 of 3000 records" in shown["dead"]
    assert all(document["median"][name] == {"rounds": 0} for name in ("liar", "pretender", "dead"))
