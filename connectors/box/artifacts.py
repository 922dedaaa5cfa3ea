"""The files of the box: named by `artifacts.lock`, fetched once from a Maven repository, verified, kept in the user's cache.

The one rule: nothing is resolved at run time. The lock lists every file with its SHA-256 and size, so a second start needs
no network and two machines run the same bytes. `relock.py` writes the lock.
"""

import hashlib
import http.client
import os
import ssl
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TextIO
from xml.etree import ElementTree

CENTRAL = "https://repo1.maven.org/maven2"
LOCK = Path(__file__).with_name("artifacts.lock")
CHUNK_BYTES = 1 << 20
CONNECTIONS = 8
ATTEMPTS = 3
TIMEOUT_S = 30.0

OnProgress = Callable[[str, int, int], None]
"""`(step, done, total)`: bytes while something is downloaded, 0 of 0 when a step has no measure."""


class ArtifactError(Exception):
    """A file of the box could not be had; the message says from where and what to set."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """One file of a Maven repository and what its bytes must be."""

    group: str
    name: str
    version: str
    classifier: str
    ext: str
    sha256: str
    size_bytes: int

    @property
    def path(self) -> str:
        """Where a repository keeps it, relative to the base URL."""
        suffix = f"-{self.classifier}" if self.classifier else ""
        return f"{self.group.replace('.', '/')}/{self.name}/{self.version}/{self.name}-{self.version}{suffix}.{self.ext}"


def parse_coordinates(text: str) -> tuple[str, str, str, str, str]:
    """`group:artifact:version[:classifier[:ext]]` -> group, artifact, version, classifier ("" = none), ext ("jar")."""
    fields = text.split(":")
    if not 3 <= len(fields) <= 5 or not all(fields[:3]):
        raise ValueError(f"{text!r} is not group:artifact:version[:classifier[:ext]]")
    group, name, version, classifier, ext = [*fields, "", ""][:5]
    return group, name, version, classifier, ext or "jar"


def read_lock(part: str, lock: Path = LOCK) -> tuple[Artifact, ...]:
    """The files of one part, the `[part]` section of the lock, in the order of the lock.

    Raises:
        ValueError: a line is not `coordinates sha256 size`, or the part has no files.
    """
    section, found = "", []
    for number, line in enumerate(lock.read_text().splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        if line.startswith("["):
            section = line.strip("[]")
        elif section == part:
            fields = line.split()
            if len(fields) != 3 or len(fields[1]) != 64:
                raise ValueError(f"{lock.name}:{number}: expected `coordinates sha256 size`, found {line!r}")
            found.append(Artifact(*parse_coordinates(fields[0]), fields[1], int(fields[2])))
    if not found:
        raise ValueError(f"{lock.name} has no files for part {part!r}")
    return tuple(found)


def cache_dir() -> Path:
    """The user's cache folder for orderflow: XDG_CACHE_HOME, else the platform's usual place."""
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "orderflow"
    return Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "orderflow"


def repository_url() -> str:
    """The base URL of the Maven repository: ORDERFLOW_MAVEN_URL, else a mirror of `central` in ~/.m2/settings.xml, else Maven Central."""
    return (os.environ.get("ORDERFLOW_MAVEN_URL") or _mirror(Path.home() / ".m2" / "settings.xml") or CENTRAL).rstrip("/")


def _mirror(settings: Path) -> str | None:
    """The first mirror that stands for `central`, as Maven's guide to mirrors defines `mirrorOf`."""
    if not settings.is_file():
        return None
    try:
        mirrors = ElementTree.parse(settings).iterfind(".//{*}mirror")
    except ElementTree.ParseError as error:
        raise ArtifactError(f"{settings} is not XML: {error}") from error
    for mirror in mirrors:
        of = [word.strip() for word in (mirror.findtext("{*}mirrorOf") or "").split(",")]
        if "!central" not in of and not {"central", "*", "external:*"}.isdisjoint(of):
            return (mirror.findtext("{*}url") or "").strip() or None
    return None


def fetch(artifacts: tuple[Artifact, ...], *, step: str, on_progress: OnProgress, cancelled: threading.Event) -> tuple[Path, ...]:
    """Put every artifact into the cache, several at a time, and return their paths in the same order.

    A file that is already there with the right size is taken as it is: it was verified before it got its name.

    Raises:
        ArtifactError: the repository cannot be reached, lacks a file, or its bytes are not the locked ones.
    """
    root = cache_dir() / "maven"
    paths = tuple(root / artifact.path for artifact in artifacts)
    missing = [(a, p) for a, p in zip(artifacts, paths, strict=True) if not (p.is_file() and p.stat().st_size == a.size_bytes)]
    if not missing:
        return paths
    counter = _Counter(step, sum(artifact.size_bytes for artifact, _ in missing), on_progress)
    base, context = repository_url(), _tls()
    with ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="box-fetch") as pool:
        jobs = [pool.submit(_download, base, artifact, path, context, counter, cancelled) for artifact, path in missing]
        try:
            for job in jobs:
                job.result()
        except BaseException:
            cancelled.set()
            pool.shutdown(cancel_futures=True)
            raise
    return paths


class _Counter:
    """Adds up the bytes of parallel downloads."""

    def __init__(self, step: str, total: int, on_progress: OnProgress) -> None:
        self._step, self._total, self._on_progress = step, total, on_progress
        self._done = 0
        self._lock = threading.Lock()
        on_progress(step, 0, total)

    def add(self, count: int) -> None:
        with self._lock:
            self._done += count
            self._on_progress(self._step, self._done, self._total)


def _tls() -> ssl.SSLContext:
    """The usual trust: the system's (SSL_CERT_FILE, SSL_CERT_DIR), plus the bundles other clients are pointed to."""
    context = ssl.create_default_context()
    for variable in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        bundle = os.environ.get(variable)
        if bundle and Path(bundle).is_file():
            context.load_verify_locations(bundle)
    return context


def _download(base: str, artifact: Artifact, path: Path, context: ssl.SSLContext, counter: _Counter, cancelled: threading.Event) -> None:
    """Fetch one file under a temporary name, verify it, give it its name. Tried again on network errors only."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}.part")
    url = f"{base}/{artifact.path}"
    try:
        for attempt in range(1, ATTEMPTS + 1):
            digest, received = hashlib.sha256(), 0
            try:
                with urllib.request.urlopen(url, timeout=TIMEOUT_S, context=context) as source, part.open("wb") as target:
                    for chunk in _chunks(source, cancelled):
                        target.write(chunk)
                        digest.update(chunk)
                        received += len(chunk)
                        counter.add(len(chunk))
                if received < artifact.size_bytes:
                    raise ConnectionError(f"it ended after {received} of {artifact.size_bytes} bytes")
                break
            except (OSError, http.client.HTTPException) as error:
                counter.add(-received)
                missing = isinstance(error, urllib.error.HTTPError) and error.code < 500
                if missing or attempt == ATTEMPTS or cancelled.wait(attempt):
                    raise ArtifactError(_advice(url, error)) from error
        if digest.hexdigest() != artifact.sha256:
            raise ArtifactError(f"{url} has SHA-256 {digest.hexdigest()}, the lock says {artifact.sha256}; nothing was kept")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _chunks(source: IO[bytes], cancelled: threading.Event) -> Iterator[bytes]:
    while chunk := source.read(CHUNK_BYTES):
        if cancelled.is_set():
            raise ArtifactError("download cancelled")
        yield chunk


def _advice(url: str, error: Exception) -> str:
    return (
        f"cannot fetch {url}: {error}. The first start of the box needs a Maven repository: set HTTPS_PROXY or SSL_CERT_FILE, "
        "point ORDERFLOW_MAVEN_URL to a mirror, or use servers of your own (--bootstrap, --registry)"
    )


def print_progress(stream: TextIO = sys.stderr) -> OnProgress:
    """Progress as plain lines: one for each new step and each tenth of a download. Safe to call from several threads."""
    shown: dict[str, int] = {}
    lock = threading.Lock()

    def on_progress(step: str, done: int, total: int) -> None:
        tenth = done * 10 // total if total else 0
        with lock:
            if shown.get(step, -1) >= tenth:
                return
            shown[step] = tenth
        size = f" {done >> 20} of {total >> 20} MiB" if total else ""
        print(f"box: {step}{size}", file=stream, flush=True)

    return on_progress
