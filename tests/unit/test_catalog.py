"""The catalogue: topics and settings of contracts.md 4, subjects of 3.5, words and codes; and the pages rendered from it."""

from pathlib import Path

import pytest

from orderflow.schemas import avsc, docs
from orderflow.schemas.catalog import ALIASES, REASONS, REPLIES_PARTITIONS, SPACES, VALUES, Catalog, ce_type, http_code, space_named

CATALOG = Catalog()


def test_topics_are_named_keyed_and_partitioned_as_the_contract_says() -> None:
    found = {topic.name: (topic.key, topic.partitions) for topic in CATALOG.topics()}
    assert found["orderflow.orders.commands.v1"] == ("order_id", 4)
    assert found["orderflow.stock.events.v1"] == ("sku", 4)
    assert found["orderflow.fulfillment.status.v1"] == ("fulfillment_id", 4)
    assert found["orderflow.orders.stock-answer.changelog.v1"][1] == 4
    assert found["orderflow.catalog.meta.v1"] == ("<space>:<partition>", 4)
    assert found["orderflow.stock.dlq.v1"][1] == 4
    assert found["orderflow.replies.v1"] == ("edge_id", REPLIES_PARTITIONS)
    assert found["orderflow.workers.v1"][1] == found["orderflow.settings.v1"][1] == 1
    assert len(found) == len(CATALOG.topics())


def test_settings_are_those_of_the_contract() -> None:
    def config(name: str) -> dict[str, str]:
        return dict(CATALOG.topic(name).config)

    commands, events = config(CATALOG.commands_topic("stock")), config(CATALOG.events_topic("stock"))
    assert (commands["cleanup.policy"], commands["retention.ms"]) == ("delete", "604800000")
    assert (events["cleanup.policy"], events["retention.ms"]) == ("delete", "-1")
    assert commands["message.timestamp.type"] == events["message.timestamp.type"] == "LogAppendTime"
    changelog = config(CATALOG.changelog_topic("stock", "stock"))
    assert changelog == config(CATALOG.meta_topic("stock"))
    assert changelog == {
        "cleanup.policy": "compact",
        "segment.bytes": "67108864",
        "segment.ms": "3600000",
        "min.cleanable.dirty.ratio": "0.1",
        "max.compaction.lag.ms": "3600000",
        "delete.retention.ms": "604800000",
    }
    assert config(CATALOG.replies)["retention.ms"] == "600000"
    assert int(config(CATALOG.dlq_topic("stock"))["max.message.bytes"]) == 2 * int(commands["max.message.bytes"])
    assert config(CATALOG.dlq_topic("stock"))["retention.ms"] == str(30 * 24 * 3600 * 1000)
    for compacted in (CATALOG.status_topic("order"), CATALOG.workers, CATALOG.settings):
        assert config(compacted)["cleanup.policy"] == "compact"


def test_a_prefix_renames_every_topic_and_subject_but_no_record() -> None:
    other = Catalog(prefix="test-7", partitions=2)
    assert all(topic.name.startswith("test-7.") for topic in other.topics())
    assert {topic.partitions for topic in other.topics()} == {1, 2, REPLIES_PARTITIONS}
    assert {subject.record for subject in other.subjects()} == {subject.record for subject in CATALOG.subjects()}


def test_subjects_carry_the_record_where_a_topic_has_several() -> None:
    names = {subject.name: subject for subject in CATALOG.subjects()}
    assert names["orderflow.stock.commands.v1-orderflow.stock.ReserveStock"].compatibility == "FULL_TRANSITIVE"
    assert names["orderflow.catalog.events.v1-orderflow.catalog.Refused"].owner == "catalog"
    assert names["orderflow.stock.status.v1-value"].record == "orderflow.stock.StockSnapshot"
    assert names["orderflow.stock.stock.changelog.v1-value"].compatibility == "BACKWARD_TRANSITIVE"
    assert names["orderflow.stock.meta.v1-value"].compatibility == "BACKWARD_TRANSITIVE"
    assert names["orderflow.replies.v1-value"].compatibility == "FULL_TRANSITIVE"
    assert len(names) == len(CATALOG.subjects())
    with pytest.raises(KeyError):
        CATALOG.topic("orderflow.replies.v1").subject("orderflow.engine.Worker")


def test_every_table_is_named_after_its_row() -> None:
    for space in SPACES:
        for table in space.tables:
            words = table.row.rpartition(".")[2].removesuffix("Row")
            assert table.name == "".join(f"-{c.lower()}" if c.isupper() else c for c in words).lstrip("-")


def test_registered_schemas_are_self_contained() -> None:
    for subject in CATALOG.subjects():
        avsc.parse(subject.schema)
        assert avsc.fingerprint(subject.schema)


def test_a_fingerprint_tells_bytes_apart_and_nothing_else() -> None:
    schema = avsc.expanded("orderflow.engine.HeadRow")
    assert avsc.fingerprint(schema) == avsc.fingerprint(schema | {"doc": "another"})
    assert avsc.fingerprint(schema) != avsc.fingerprint(schema | {"name": "TailRow"})


def test_unknown_names_are_refused() -> None:
    with pytest.raises(avsc.SchemaError, match=r"orderflow\.stock\.Nothing"):
        avsc.expanded("orderflow.stock.Nothing")
    with pytest.raises(KeyError):
        CATALOG.topic("orderflow.nothing.v1")
    with pytest.raises(KeyError):
        space_named("nothing")


def test_events_go_out_under_their_origin_names() -> None:
    assert ce_type("orderflow.orders.OrderStatusChanged") == "orders.order.status_changed"
    assert ce_type("StockRefused") == "StockRefused"
    assert len(set(ALIASES.values())) == len(ALIASES)


@pytest.mark.parametrize(
    ("code", "reasons"),
    [
        (200, ["STALE_STATUS"]),
        (400, ["SCHEMA_INVALID", "DUE_TIME_MISSING", "EMPTY_LINES"]),
        (402, ["PAYMENT_DECLINED"]),
        (404, ["NOT_FOUND"]),
        (409, ["INSUFFICIENT_STOCK", "ALREADY_FINAL", "RESERVATION_FINAL", "PREDECESSOR_MISSING", "WOULD_GO_NEGATIVE", "VERSION_CONFLICT"]),
        (410, ["RESERVATION_EXPIRED"]),
        (422, ["UNKNOWN_SKU", "UNKNOWN_LOCATION", "UNKNOWN_CHANNEL", "UNKNOWN_STATUS", "QUANTITY_INVALID", "LINE_LIMIT", "KEY_REUSED"]),
        (429, ["RATE_LIMITED"]),
        (503, ["DEADLINE_PASSED"]),
        (504, ["STEP_TIMED_OUT"]),
        (409, ["A_REASON_OF_A_NEWER_VERSION"]),
    ],
)
def test_reasons_have_the_codes_of_the_contract(code: int, reasons: list[str]) -> None:
    assert {http_code(reason) for reason in reasons} == {code}


def test_a_version_conflict_is_a_failed_precondition_where_one_was_given() -> None:
    assert http_code("VERSION_CONFLICT", if_match=True) == 412
    assert http_code("INSUFFICIENT_STOCK", if_match=True) == 409


def test_word_lists_hold_no_word_twice() -> None:
    assert all(len(set(words)) == len(words) for words in VALUES.values())
    assert all(reason == reason.upper() for reason in REASONS)


def test_pages_name_every_topic_subject_record_and_reason() -> None:
    topics, records = docs.topics(), docs.records()
    assert all(f"| `{topic.name}` |" in topics for topic in CATALOG.topics())
    assert all(f"| `{subject.name}` |" in topics for subject in CATALOG.subjects())
    assert all(f"`{reason}`" in topics for reason in REASONS)
    for name in avsc.files():
        assert records.count(f'<a id="{name.removeprefix("orderflow.").replace(".", "-").lower()}"></a>') == 1
    assert f"One of {', '.join(VALUES['orderflow.stock.ReceiveStock.disposition'])}" not in records


def test_every_schema_file_is_in_the_place_of_its_name(tmp_path: Path) -> None:
    folder = Path(avsc.__file__).parent / "avro"
    places = {file.relative_to(folder).with_suffix("").as_posix().replace("/", ".") for file in folder.rglob("*.avsc")}
    assert {f"orderflow.{place}" for place in places} == set(avsc.files())
