"""The schema registry: schemas are registered at set-up (`apply`) and never by producers; a worker only asks for ids (`fetch_ids`).

Spoken over the part of Confluent's REST API that Confluent, Karapace and Apicurio (`/apis/ccompat/v7`) answer alike: subjects,
versions, ids, one compatibility level a subject. Refusals are told by status code 409, never by their text.
"""

import http.client
import json
import os
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct

from orderflow.schemas.avsc import Json, Record, SchemaError, fingerprint, parse
from orderflow.schemas.catalog import Catalog, Subject
from orderflow.schemas.compatibility import problems

TIMEOUT_S = 5.0
"""A registry answers in milliseconds; who asks can wait and ask again."""
PARALLEL = 8
AGAIN_S = (0.1, 0.4, 1.0)
"""Waits before a request is repeated that the registry dropped or was too busy for. All of ours may be repeated."""
CONTENT_TYPE = "application/vnd.schemaregistry.v1+json"


class RegistryError(Exception):
    """The registry refused a request for a reason that is not about compatibility."""


class RegistryUnavailable(RegistryError):
    """The registry does not answer. Wait and try again; nothing is known to be wrong with the data."""


class RegistryBusy(RegistryUnavailable):
    """The registry is there and gave no answer this time: overloaded, or it dropped the connection."""


class UnknownSchema(RegistryError):
    """The registry answers and has no schema under this id."""


class NotRegistered(RegistryError):
    """Subjects of the catalogue are missing in the registry, all of them named."""


class ForeignRegistry(RegistryError):
    """These ids are another registry's: rows written under them would be read wrongly."""


class IncompatibleSchemas(RegistryError):
    """Changes that a subject's compatibility level forbids, each with subject and field."""


class Registry:
    """One registry by the base URL of its Confluent API. Every method may raise RegistryUnavailable and RegistryError."""

    def __init__(self, url: str, timeout_s: float = TIMEOUT_S) -> None:
        if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
            raise RegistryError(f"{url!r} is no registry: its URL starts with http:// or https://")
        self.url = url.rstrip("/")
        self._timeout_s = timeout_s
        local = urllib.parse.urlsplit(url).hostname in ("127.0.0.1", "localhost", "::1")
        self._opener = urllib.request.build_opener(*[urllib.request.ProxyHandler({})] if local else [])

    def register(self, subject: str, schema: Json) -> int:
        """The id of the schema under the subject, new or as it was. IncompatibleSchemas when its level forbids it."""
        found: int = self._ask("POST", f"/subjects/{_quote(subject)}/versions", _as_text(schema))["id"]
        return found

    def id_of(self, subject: str, schema: Json) -> int | None:
        """The id of exactly this schema under the subject; None when it was never registered."""
        found = self._find("POST", f"/subjects/{_quote(subject)}", _as_text(schema))
        return None if found is None else int(found["id"])

    def versions(self, subject: str) -> tuple[Json, ...]:
        """Every schema of the subject, oldest first."""
        numbers = self._find("GET", f"/subjects/{_quote(subject)}/versions") or []
        path = f"/subjects/{_quote(subject)}/versions/"
        return tuple(json.loads(self._ask("GET", f"{path}{number}")["schema"]) for number in sorted(numbers))

    def schema(self, schema_id: int) -> Json:
        """The schema of an id. UnknownSchema when there is none."""
        found = self._find("GET", f"/schemas/ids/{schema_id}")
        if found is None:
            raise UnknownSchema(f"no schema {schema_id} at {self.url}")
        schema: Json = json.loads(found["schema"])
        return schema

    def level(self, subject: str) -> str | None:
        """The subject's compatibility level; None, or the registry's default, when it has none of its own."""
        found = self._find("GET", f"/config/{_quote(subject)}")
        return None if found is None else str(found["compatibilityLevel"])

    def set_level(self, subject: str, level: str) -> None:
        """Set the subject's compatibility level."""
        self._ask("PUT", f"/config/{_quote(subject)}", {"compatibility": level})

    def _find(self, method: str, path: str, body: Json | None = None) -> Any:
        try:
            return self._ask(method, path, body)
        except UnknownSchema:
            return None

    def _ask(self, method: str, path: str, body: Json | None = None) -> Any:
        for wait_s in AGAIN_S:
            try:
                return self._ask_once(method, path, body)
            except RegistryBusy:
                time.sleep(wait_s)
        return self._ask_once(method, path, body)

    def _ask_once(self, method: str, path: str, body: Json | None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": CONTENT_TYPE}, method=method)
        try:
            with self._opener.open(request, timeout=self._timeout_s) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            text = f"{method} {self.url}{path}: {error.code} {error.read().decode(errors='replace')[:500]}"
            match error.code:
                case 404:
                    raise UnknownSchema(text) from None
                case 409:
                    raise IncompatibleSchemas(text) from None
                case code if code >= 500 or code == 429:
                    raise RegistryBusy(text) from None
            raise RegistryError(text) from None
        except (OSError, http.client.HTTPException, json.JSONDecodeError) as error:
            cause = error.reason if isinstance(error, urllib.error.URLError) else error
            dropped = isinstance(cause, http.client.HTTPException | ConnectionResetError | BrokenPipeError | json.JSONDecodeError)
            kind = RegistryBusy if dropped else RegistryUnavailable
            raise kind(f"{method} {self.url}{path}: {error}") from error


class Change(Struct, frozen=True):
    """What `apply` would do to a subject, or why it must not."""

    subject: Subject
    what: Literal["register", "new version", "set compatibility"]
    problems: tuple[str, ...] = ()


def plan(registry_url: str, catalog: Catalog) -> tuple[Change, ...]:
    """What the registry lacks, in the catalogue's order; empty: it is as the catalogue says."""
    registry = Registry(registry_url)
    with ThreadPoolExecutor(PARALLEL) as pool:
        return tuple(change for change in pool.map(lambda subject: _change(registry, subject), catalog.subjects()) if change)


def apply(registry_url: str, catalog: Catalog) -> tuple[Change, ...]:
    """Register every schema of the catalogue and set the level of its subject; what was done.

    Nothing is done when a change is incompatible: IncompatibleSchemas names every subject and field.
    """
    registry = Registry(registry_url)
    changes = plan(registry_url, catalog)
    if faults := [f"{change.subject.name}: {problem}" for change in changes for problem in change.problems]:
        raise IncompatibleSchemas("\n".join(faults))
    with ThreadPoolExecutor(PARALLEL) as pool:
        for _ in pool.map(lambda change: _do(registry, change), changes):
            pass
    return changes


def _change(registry: Registry, subject: Subject) -> Change | None:
    schema = subject.schema
    if registry.id_of(subject.name, schema) is not None:
        return None if registry.level(subject.name) == subject.compatibility else Change(subject, "set compatibility")
    olds = registry.versions(subject.name)
    if not olds:
        return Change(subject, "register")
    return Change(subject, "new version", _problems(parse(schema), olds, subject.compatibility))


def _problems(new: Record, olds: tuple[Json, ...], level: str) -> tuple[str, ...]:
    try:
        return problems(new, [parse(old) for old in olds], level)
    except SchemaError as error:
        return (f"an older version is not one of ours: {error}",)


def _do(registry: Registry, change: Change) -> None:
    """Level first, so that it judges the new version; a new subject has to exist before it can have a level."""
    subject = change.subject
    if change.what != "register":
        registry.set_level(subject.name, subject.compatibility)
    if change.what != "set compatibility":
        registry.register(subject.name, subject.schema)
    if change.what == "register":
        registry.set_level(subject.name, subject.compatibility)


class SchemaIds(Struct, frozen=True):
    """The ids of one registry: subject to id of our schema, and every schema seen under an id, also of other versions."""

    ids: Mapping[str, int]
    schemas: Mapping[int, Json]

    @property
    def fingerprints(self) -> dict[int, str]:
        """What each id means (avsc.fingerprint), for the data directory."""
        return {schema_id: fingerprint(schema) for schema_id, schema in self.schemas.items()}


def fetch_ids(registry_url: str, catalog: Catalog, cache_file: Path) -> SchemaIds:
    """The ids of the catalogue's schemas, asked of the registry and kept in `cache_file`; from there alone while it does not answer.

    NotRegistered names all missing subjects, ForeignRegistry a registry that is not the one of the file, RegistryUnavailable a registry
    that does not answer while the file does not cover the catalogue.
    """
    cached = _read(cache_file)
    try:
        found = _ask_ids(Registry(registry_url), catalog)
    except RegistryUnavailable as error:
        wanted = {subject.name: subject.schema for subject in catalog.subjects()}
        if all(cached.schemas.get(cached.ids.get(name, -1)) == schema for name, schema in wanted.items()):
            return cached
        raise RegistryUnavailable(f"{error}; {cache_file} does not hold all ids either") from error
    _compare(cached, found, registry_url, cache_file)
    merged = SchemaIds({**cached.ids, **found.ids}, {**cached.schemas, **found.schemas})
    _write(cache_file, merged)
    return merged


def schema_by_id(registry_url: str, schema_id: int) -> Json:
    """The schema another version wrote under. RegistryUnavailable: wait and ask again, never park; UnknownSchema: nobody can read it."""
    return Registry(registry_url).schema(schema_id)


def _ask_ids(registry: Registry, catalog: Catalog) -> SchemaIds:
    subjects = catalog.subjects()
    with ThreadPoolExecutor(PARALLEL) as pool:
        ids = list(pool.map(lambda subject: registry.id_of(subject.name, subject.schema), subjects))
    if missing := [subject.name for subject, schema_id in zip(subjects, ids, strict=True) if schema_id is None]:
        raise NotRegistered(f"not registered at {registry.url}, run `orderflow schemas apply`: {', '.join(missing)}")
    known = {subject.name: (schema_id, subject.schema) for subject, schema_id in zip(subjects, ids, strict=True) if schema_id is not None}
    return SchemaIds({name: at for name, (at, _) in known.items()}, dict(known.values()))


def _compare(cached: SchemaIds, found: SchemaIds, registry_url: str, cache_file: Path) -> None:
    """A registry never changes what an id means nor gives a known schema of a subject another id."""
    before, now = cached.fingerprints, found.fingerprints
    faults = [f"id {schema_id} is another schema" for schema_id in now if before.get(schema_id, now[schema_id]) != now[schema_id]]
    for subject, schema_id in found.ids.items():
        old = cached.ids.get(subject, schema_id)
        if old != schema_id and cached.schemas.get(old) == found.schemas[schema_id]:
            faults.append(f"{subject} is id {schema_id}, was {old}")
    if faults:
        raise ForeignRegistry(
            f"{registry_url} gives other ids than those in {cache_file}: {'; '.join(faults[:5])}. Use the registry this data was written"
            " with, or start with an empty data directory."
        )


def _read(cache_file: Path) -> SchemaIds:
    try:
        return msgspec.json.decode(cache_file.read_bytes(), type=SchemaIds)
    except (FileNotFoundError, msgspec.DecodeError):
        return SchemaIds({}, {})


def _write(cache_file: Path, ids: SchemaIds) -> None:
    cache_file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=cache_file.parent, prefix=cache_file.name, delete=False) as file:
        file.write(msgspec.json.encode(ids))
    os.replace(file.name, cache_file)


def _as_text(schema: Json) -> Json:
    return {"schema": json.dumps(schema)}


def _quote(subject: str) -> str:
    return urllib.parse.quote(subject, safe="")
