"""Whose data directory this is: format, instance, cluster, topics, schemas. What does not belong together is refused, never patched.

Everything here is about `orderflow.json`; the rows are in rocks.py.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import structlog

log = structlog.get_logger(__name__)

FORMAT = 2
FORMATS_READ = (1, 2)
"""2 remembers when each partition was written; a directory of format 1 is read, its partitions count as old (see restore.py)."""
FILE = "orderflow.json"
EMPTY_IS_FINE = "or an empty data directory: state is restored from the changelogs"


class StoreError(Exception):
    """The data directory cannot be used as it is; the message says why and what to do."""


class Identity:
    """The file `orderflow.json` of a data directory. Every method may raise StoreError."""

    def __init__(self, path: Path, instance: str = "") -> None:
        self.file = path / FILE
        self.is_new = not self.file.exists()
        self._values: dict[str, Any] = {} if self.is_new else self._read()
        before = dict(self._values)
        self._values["format"] = FORMAT
        self._values["instance"] = instance or before.get("instance") or f"w-{uuid4().hex[:8]}"
        if self._values != before:
            self._save()

    @property
    def instance(self) -> str:
        """This worker's name in the group and the last part of its transactional id."""
        return str(self._values["instance"])

    def _read(self) -> dict[str, Any]:
        try:
            values: dict[str, Any] = json.loads(self.file.read_text())
            found = values.get("format")
        except (ValueError, AttributeError, UnicodeDecodeError) as error:
            raise StoreError(f"{self.file} cannot be read ({error}). Use a sound copy of it, {EMPTY_IS_FINE}.") from None
        if found not in FORMATS_READ:
            newer = isinstance(found, int) and found > FORMAT
            raise StoreError(
                f"{self.file.parent}: data format {found}, this version reads {', '.join(map(str, FORMATS_READ))}. "
                f"Use {'the newer version that wrote it' if newer else 'the version that wrote it'}, {EMPTY_IS_FINE}."
            )
        return values

    def _save(self) -> None:
        write_json(self.file, self._values)

    def copy_to(self, path: Path) -> None:
        """The identity of a copy of this directory: all but the instance, which two workers must never share."""
        write_json(path / FILE, {name: value for name, value in self._values.items() if name != "instance"})

    def forget_rows(self) -> None:
        """The rows are gone: topics and schemas they were written with count no more."""
        self._values.pop("topics", None)
        self._values.pop("schemas", None)
        self._save()

    def claim_place(self, cluster: str, prefix: str) -> None:
        """Remember the Kafka cluster and the prefix of the topics; refuse others."""
        for name, here, means in (("cluster", cluster, "Kafka cluster"), ("prefix", prefix, "topic prefix")):
            known = self._values.setdefault(name, here)
            if known != here:
                raise StoreError(
                    f"{self.file.parent} belongs to {means} {known}, this worker was told of {here}. "
                    f"Check ORDERFLOW_BOOTSTRAP, ORDERFLOW_PREFIX and ORDERFLOW_DATA; use the directory of this system, {EMPTY_IS_FINE}."
                )
        self._save()

    def claim_topics(self, topic_ids: Mapping[str, str]) -> list[str]:
        """Remember each topic's id; the names of those that were made anew since."""
        known: dict[str, str] = self._values.setdefault("topics", {})
        changed = [topic for topic, uid in topic_ids.items() if known.get(topic, uid) != uid]
        known.update(topic_ids)
        return changed

    def save(self) -> None:
        """Keep what was claimed."""
        self._save()

    def claim_schemas(self, fingerprints: Mapping[int, str]) -> None:
        """Refuse ids that mean another schema than the rows on disk were written with."""
        known: dict[str, str] = self._values.setdefault("schemas", {})
        for schema_id, fingerprint in fingerprints.items():
            if known.setdefault(str(schema_id), fingerprint) != fingerprint:
                raise StoreError(
                    f"{self.file.parent}: schema id {schema_id} is another schema here than at the registry: these rows belong to another "
                    f"registry. Use that registry, {EMPTY_IS_FINE}."
                )
        self._save()


def write_json(path: Path, value: object) -> None:
    """Whole or not at all."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(value, indent=1, sort_keys=True))
    os.replace(temporary, path)
