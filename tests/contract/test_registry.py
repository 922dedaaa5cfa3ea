"""Registering, refusing and finding schemas at a real registry; starting without it."""

import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from uuid import uuid4

import msgspec
import pytest

from orderflow.connectors.box.box import Servers
from orderflow.schemas import avsc, registry
from orderflow.schemas.catalog import Catalog, Subject
from orderflow.schemas.registry import (
    ForeignRegistry,
    IncompatibleSchemas,
    NotRegistered,
    Registry,
    RegistryUnavailable,
    SchemaIds,
    UnknownSchema,
    fetch_ids,
    schema_by_id,
)

box_test = pytest.mark.box


@pytest.fixture
def nowhere() -> str:
    """A URL where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture(scope="module")
def applied(box: Servers) -> Catalog:
    catalog = Catalog(prefix=f"test-{uuid4().hex[:8]}")
    changes = registry.apply(box.registry_url, catalog)
    assert [change.subject for change in changes] == list(catalog.subjects())
    assert {change.what for change in changes} == {"register"}
    return catalog


@box_test
def test_what_is_applied_needs_no_change_and_has_its_levels(box: Servers, applied: Catalog) -> None:
    assert registry.plan(box.registry_url, applied) == ()
    client = Registry(box.registry_url)
    for subject in applied.subjects():
        assert client.level(subject.name) == subject.compatibility
        (registered,) = client.versions(subject.name)
        assert avsc.parse(registered) == avsc.parse(subject.schema)


@box_test
def test_a_level_somebody_changed_is_set_back(box: Servers, applied: Catalog) -> None:
    subject = applied.subjects()[3]
    Registry(box.registry_url).set_level(subject.name, "NONE")
    (change,) = registry.apply(box.registry_url, applied)
    assert (change.subject, change.what) == (subject, "set compatibility")
    assert registry.plan(box.registry_url, applied) == ()


@box_test
def test_ids_come_from_the_registry_then_from_the_file(box: Servers, applied: Catalog, tmp_path: Path, nowhere: str) -> None:
    cache = tmp_path / "state" / "schemas.json"
    found = fetch_ids(box.registry_url, applied, cache)
    assert set(found.ids) == {subject.name for subject in applied.subjects()}
    for subject in applied.subjects():
        assert avsc.parse(schema_by_id(box.registry_url, found.ids[subject.name])) == avsc.parse(subject.schema)
        assert found.fingerprints[found.ids[subject.name]] == avsc.fingerprint(subject.schema)
    assert fetch_ids(nowhere, applied, cache) == found
    with pytest.raises(RegistryUnavailable, match="does not hold all ids either"):
        fetch_ids(nowhere, Catalog(prefix="never-registered"), cache)


@box_test
def test_missing_subjects_are_all_named_with_the_way_out(box: Servers, tmp_path: Path) -> None:
    catalog = Catalog(prefix="never-registered")
    with pytest.raises(NotRegistered) as error:
        fetch_ids(box.registry_url, catalog, tmp_path / "schemas.json")
    assert "orderflow schemas apply" in str(error.value)
    assert all(subject.name in str(error.value) for subject in catalog.subjects())
    assert not (tmp_path / "schemas.json").exists()


@box_test
def test_the_ids_of_another_registry_are_refused(box: Servers, applied: Catalog, tmp_path: Path) -> None:
    cache = tmp_path / "schemas.json"
    found = fetch_ids(box.registry_url, applied, cache)
    first, second = applied.subjects()[:2]
    swapped = dict(found.schemas) | {found.ids[first.name]: second.schema}
    cache.write_bytes(msgspec.json.encode(SchemaIds(found.ids, swapped)))
    with pytest.raises(ForeignRegistry, match=f"id {found.ids[first.name]} is another schema"):
        fetch_ids(box.registry_url, applied, cache)
    moved = dict(found.ids) | {first.name: 1_000_000}
    cache.write_bytes(msgspec.json.encode(SchemaIds(moved, dict(found.schemas) | {1_000_000: first.schema})))
    with pytest.raises(ForeignRegistry, match=f"{first.name} is id {found.ids[first.name]}, was 1000000"):
        fetch_ids(box.registry_url, applied, cache)


def _older(subject: Subject, *, without: str = "", **changed: str) -> avsc.Json:
    """The subject's schema as an earlier version might have been."""
    schema = subject.schema
    fields = [field | ({"type": changed[field["name"]]} if field["name"] in changed else {}) for field in schema["fields"]]
    return schema | {"fields": [field for field in fields if field["name"] != without]}


@box_test
def test_a_compatible_change_becomes_a_new_version(box: Servers) -> None:
    catalog = Catalog(prefix=f"test-{uuid4().hex[:8]}")
    (subject,) = (subject for subject in catalog.subjects() if subject.record == "orderflow.engine.AnswerRow" and subject.owner == "stock")
    client = Registry(box.registry_url)
    old = _older(subject, without="reply_to")
    client.register(subject.name, old)
    changes = {change.subject: change.what for change in registry.apply(box.registry_url, catalog)}
    assert changes[subject] == "new version"
    assert [avsc.parse(version) for version in client.versions(subject.name)] == [avsc.parse(old), avsc.parse(subject.schema)]
    assert client.level(subject.name) == "BACKWARD_TRANSITIVE"


@box_test
def test_incompatible_changes_are_all_named_and_nothing_is_registered(box: Servers) -> None:
    catalog = Catalog(prefix=f"test-{uuid4().hex[:8]}")
    by_record = {subject.record: subject for subject in catalog.subjects()}
    reply, refused = by_record["orderflow.engine.Reply"], by_record["orderflow.stock.StockRefused"]
    client = Registry(box.registry_url)
    client.register(reply.name, _older(reply, key="long"))
    client.register(refused.name, _older(refused, without="requested"))
    with pytest.raises(IncompatibleSchemas) as error:
        registry.apply(box.registry_url, catalog)
    lines = str(error.value).splitlines()
    assert f"{reply.name}: Reply.key: long cannot be read as string (reading older records)" in lines
    assert (
        f"{refused.name}: StockRefused.requested: the writer has no such field and the reader no default (reading older records)" in lines
    )
    assert client.versions(catalog.subjects()[0].name) == ()
    client.set_level(reply.name, "FULL_TRANSITIVE")
    with pytest.raises(IncompatibleSchemas, match="409"):
        client.register(reply.name, reply.schema)


@box_test
def test_an_id_nobody_gave_is_unknown(box: Servers) -> None:
    with pytest.raises(UnknownSchema):
        schema_by_id(box.registry_url, 2_000_000_000)


def test_a_registry_that_is_down_is_unavailable_and_never_unknown(nowhere: str, tmp_path: Path) -> None:
    with pytest.raises(RegistryUnavailable):
        schema_by_id(nowhere, 1)
    with pytest.raises(RegistryUnavailable):
        registry.plan(nowhere, Catalog())
    broken = tmp_path / "schemas.json"
    broken.write_text("{", encoding="utf-8")
    with pytest.raises(RegistryUnavailable, match=r"schemas\.json does not hold all ids either"):
        fetch_ids(nowhere, Catalog(), broken)


class Flaky(BaseHTTPRequestHandler):
    """A registry that drops the first connections and answers 503 to the next, as one under load does."""

    asked = 0
    dropped, busy = 2, 1

    def do_GET(self) -> None:
        type(self).asked += 1
        if self.asked <= self.dropped:
            self.connection.close()
            return
        self.send_response(503 if self.asked <= self.dropped + self.busy else 200)
        self.end_headers()
        self.wfile.write(b'{"schema": "{\\"type\\": \\"string\\"}"}')

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(("busy", "asked"), [(1, 4), (9, 4)])
def test_a_dropped_connection_and_a_busy_registry_are_asked_again_three_times(
    monkeypatch: pytest.MonkeyPatch, busy: int, asked: int
) -> None:
    monkeypatch.setattr(registry, "AGAIN_S", (0.0, 0.0, 0.0))
    handler = type("Handler", (Flaky,), {"busy": busy})
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        if busy == 1:
            assert schema_by_id(url, 1) == {"type": "string"}
        else:
            with pytest.raises(RegistryUnavailable, match="503"):
                schema_by_id(url, 1)
        server.shutdown()
    assert handler.asked == asked  # type: ignore[attr-defined]


def test_the_file_serves_only_the_schemas_of_this_version(nowhere: str, tmp_path: Path) -> None:
    catalog = Catalog()
    ids = {subject.name: number for number, subject in enumerate(catalog.subjects(), 1)}
    schemas = {ids[subject.name]: subject.schema for subject in catalog.subjects()}
    cache = tmp_path / "schemas.json"
    cache.write_bytes(msgspec.json.encode(SchemaIds(ids, schemas)))
    assert fetch_ids(nowhere, catalog, cache) == SchemaIds(ids, schemas)
    schemas[1] = schemas[1] | {"doc": "as an earlier version described it"}
    cache.write_bytes(msgspec.json.encode(SchemaIds(ids, schemas)))
    with pytest.raises(RegistryUnavailable):
        fetch_ids(nowhere, catalog, cache)
