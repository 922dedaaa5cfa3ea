"""J1 as a Quix Streams application: exactly once, RocksDB state, one transaction per 100 ms.

Tuning, from the docstrings of quixstreams' Application and RocksDBOptions and from Kafka's client settings: a checkpoint per 100 ms as for
everybody; bytes in and out and in state (`get_bytes`, `set_bytes`), so that nothing is turned into JSON; larger memtables;
librdkafka's larger batches. State belongs to a message key, so a key's stock row and its reservations are in the one default store.
"""

import time

from quixstreams import Application, State
from quixstreams.state.rocksdb import RocksDBOptions
from records import APP, BOOTSTRAP, COMMANDS, ON_HAND, OUT, STATE, decide, decode, encode

app = Application(
    broker_address=BOOTSTRAP,
    consumer_group=APP,
    processing_guarantee="exactly-once",
    commit_interval=0.1,
    auto_offset_reset="earliest",
    auto_create_topics=True,
    state_dir=STATE,
    rocksdb_options=RocksDBOptions(write_buffer_size=64 << 20),
    producer_extra_config={
        "partitioner": "murmur2_random",
        "linger.ms": 5,
        "batch.size": 1 << 20,
        "queue.buffering.max.messages": 1_000_000,
    },
    consumer_extra_config={"fetch.queue.backoff.ms": 5, "queued.min.messages": 20_000},
    loglevel="WARNING",
)
commands = app.topic(COMMANDS, key_deserializer="bytes", value_deserializer="bytes")
answers = app.topic(OUT, key_serializer="bytes", value_serializer="bytes")


def reserve(value: bytes, state: State) -> bytes:
    """The answer to a command, from the state of its SKU."""
    command = decode("ReserveStock", value)
    known: bytes | None = state.get_bytes(command["command_id"].encode())
    if known is not None:
        return known
    key = f"{command['sku']}|{command['location_id']}".encode()
    stored = state.get_bytes(key)
    row = decode("StockRow", stored) if stored else {"on_hand": ON_HAND, "reserved": 0, "version": 0}
    decided = decide(command, row, time.time_ns() // 1000)
    if decided["reserved"]:
        state.set_bytes(key, encode("StockRow", row))
    answer = encode("Decided", decided)
    state.set_bytes(command["command_id"].encode(), answer)
    return answer


def order_of(answer: bytes) -> bytes:
    """The key of an answer: its order."""
    order: str = decode("Decided", answer)["order_id"]
    return order.encode()


app.dataframe(commands).apply(reserve, stateful=True).to_topic(answers, key=order_of)

if __name__ == "__main__":
    app.run()
