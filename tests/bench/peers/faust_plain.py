"""J1 as a Faust application without anything of orderflow: agents, tables in RocksDB, changelogs, as Faust's user guide has them.

J1_GUARANTEE is Faust's `processing_guarantee`, `at_least_once` or `exactly_once`. Tuning, from Faust's settings reference: a commit per 100
ms as for everybody; `stream_buffer_maxsize` of 131 072, which its documentation recommends for throughput; uvloop; raw bytes in and out of
the tables, so that nothing is turned into JSON; no leader election topic, no web server; sends are not awaited one by one.
"""

import os
import time

import faust
from records import APP, BOOTSTRAP, COMMANDS, ON_HAND, OUT, STATE, decide, decode, encode

PARTITIONS = 4

app = faust.App(
    APP,
    broker=f"kafka://{BOOTSTRAP}",
    processing_guarantee=os.environ["J1_GUARANTEE"],
    store="rocksdb://",
    datadir=STATE,
    topic_partitions=PARTITIONS,
    topic_disable_leader=True,
    web_enabled=False,
    consumer_auto_offset_reset="earliest",
    broker_commit_interval=0.1,
    stream_buffer_maxsize=131_072,
)
commands = app.topic(COMMANDS, key_serializer="raw", value_serializer="raw")
answers = app.topic(OUT, key_serializer="raw", value_serializer="raw")
stock = app.Table("stock", partitions=PARTITIONS, key_type=bytes, value_type=bytes)
reservations = app.Table("reservation", partitions=PARTITIONS, key_type=bytes, value_type=bytes)


@app.agent(commands)
async def reserve(stream: faust.StreamT[bytes]) -> None:
    """Answer every command."""
    async for value in stream:
        command = decode("ReserveStock", value)
        name = command["command_id"].encode()
        answer = reservations.get(name)
        if answer is None:
            key = f"{command['sku']}|{command['location_id']}".encode()
            stored = stock.get(key)
            row = decode("StockRow", stored) if stored else {"on_hand": ON_HAND, "reserved": 0, "version": 0}
            decided = decide(command, row, time.time_ns() // 1000)
            if decided["reserved"]:
                stock[key] = encode("StockRow", row)
            answer = encode("Decided", decided)
            reservations[name] = answer
            order = decided["order_id"]
        else:
            order = decode("Decided", answer)["order_id"]
        await answers.send(key=order.encode(), value=answer)


if __name__ == "__main__":
    app.main()
