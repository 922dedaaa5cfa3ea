"""The workers of a running system, as the log names them, and how to ask one of them about its state."""

import json
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from orderflow.cli import contracts
from orderflow.cli.terminal import NO, UNAVAILABLE, UNDECIDED, Failure

if TYPE_CHECKING:
    from orderflow.streams.records import Records
    from orderflow.streams.settings import WorkerSettings

REQUEST_TIMEOUT_S = 300.0
"""A scan of a large partition takes its time."""


class Place(Struct, frozen=True):
    """A partition of a key space and where its owner answers; an empty address: nobody owns it."""

    space: str
    partition: int
    address: str


def load_records(settings: "WorkerSettings") -> "Records":
    """The codecs of this system. Raises Failure 69 or 78."""
    from orderflow.schemas.catalog import Catalog

    with tempfile.TemporaryDirectory(prefix="orderflow-tables-") as directory:
        return contracts.load_records(settings.registry, Catalog(settings.prefix, settings.partitions), Path(directory) / "schemas.json")


def places(settings: "WorkerSettings", records: "Records", spaces: tuple[str, ...]) -> list[Place]:
    """Every partition of these key spaces with its owner. Raises Failure 69 or 78."""
    owners: dict[str, str] = {}
    for message in contracts.read_topic(settings.bootstrap, records.workers_topic):
        key, value = (message.key() or b"").decode(), message.value()
        owners[key] = records.decode_worker(value).address if value is not None else ""
    return [Place(space, number, owners.get(f"{space}:{number}", "")) for space in spaces for number in range(settings.partitions)]


def ask(address: str, path: str, *, method: str = "GET") -> Any:
    """JSON of a page of a worker. Raises Failure: 69 when it does not answer, 75 when its partition is moving, 1 when it says no."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(f"{address}{path}", method=method)
    try:
        with opener.open(request, timeout=REQUEST_TIMEOUT_S) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        detail = _detail(error)
        code = UNDECIDED if error.code in (421, 503) else NO
        then = "a partition is moving: try again in a moment" if code == UNDECIDED else ""
        raise Failure(f"{address}{path}: {error.code} {detail}", then=then, code=code) from None
    except (OSError, ValueError) as error:
        advice = "its owner is gone or not reachable from here: another takes over within its session timeout"
        raise Failure(f"the worker {address} does not answer ({error})", then=advice, code=UNAVAILABLE) from None


def _detail(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.load(error).get("detail", ""))
    except (ValueError, AttributeError):
        return ""
