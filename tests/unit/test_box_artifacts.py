"""The files of the box come from a Maven repository once, verified, and from the cache ever after. Served by a real HTTP server."""

import hashlib
import io
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from orderflow.connectors.box import artifacts
from orderflow.connectors.box.artifacts import Artifact, ArtifactError, fetch, parse_coordinates, print_progress, read_lock, repository_url

BODY = b"not really a jar\n" * 1000


class Repository(ThreadingHTTPServer):
    """Serves `files`, path -> bytes; fails the first `failures` requests with 503, cuts the next `cuts` short."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.failures = self.cuts = self.requests = 0
        self.url = f"http://127.0.0.1:{self.server_address[1]}/maven"


class Handler(BaseHTTPRequestHandler):
    server: Repository

    def do_GET(self) -> None:
        server, body = self.server, self.server.files.get(self.path.removeprefix("/maven/"))
        server.requests += 1
        if server.failures:
            server.failures -= 1
            self.send_error(503)
        elif body is None:
            self.send_error(404)
        else:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if server.cuts else body)
            server.cuts = max(0, server.cuts - 1)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the standard library
        """Quiet."""


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Repository]:
    server = Repository()
    monkeypatch.setenv("ORDERFLOW_MAVEN_URL", server.url)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def artifact(name: str = "thing", body: bytes = BODY) -> Artifact:
    return Artifact("org.example.sub", name, "1.2", "", "jar", hashlib.sha256(body).hexdigest(), len(body))


def get(*wanted: Artifact, progress: artifacts.OnProgress = lambda step, done, total: None) -> tuple[Path, ...]:
    return fetch(wanted, step="test", on_progress=progress, cancelled=threading.Event())


def kept(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "cache").rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("org.apache.kafka:kafka_2.13:4.3.1", ("org.apache.kafka", "kafka_2.13", "4.3.1", "", "jar")),
        ("g:a:1:linux", ("g", "a", "1", "linux", "jar")),
        ("io.apicurio:app:3.3.3:all:tar.gz", ("io.apicurio", "app", "3.3.3", "all", "tar.gz")),
    ],
)
def test_coordinates(text: str, fields: tuple[str, ...]) -> None:
    assert parse_coordinates(text) == fields


@pytest.mark.parametrize("text", ["", "g:a", "g::1", "g:a:1:c:e:x"])
def test_wrong_coordinates_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="group:artifact:version"):
        parse_coordinates(text)


def test_a_file_lies_where_every_maven_repository_keeps_it() -> None:
    assert artifact().path == "org/example/sub/thing/1.2/thing-1.2.jar"
    tarball = Artifact("io.apicurio", "app", "3.3.3", "all", "tar.gz", "0" * 64, 1)
    assert tarball.path == "io/apicurio/app/3.3.3/app-3.3.3-all.tar.gz"


def test_the_committed_lock_pins_each_file_once() -> None:
    jars, (registry,) = read_lock("kafka"), read_lock("registry")
    assert {(jar.name, jar.version) for jar in jars} >= {("kafka_2.13", "4.2.2"), ("log4j-slf4j-impl", "2.25.4")}
    assert (registry.name, registry.version, registry.ext) == ("apicurio-registry-app", "3.3.3", "tar.gz")
    assert len({(jar.group, jar.name, jar.classifier) for jar in jars}) == len(jars)
    assert all(jar.size_bytes > 0 and int(jar.sha256, 16) for jar in (*jars, registry))


def test_a_torn_lock_is_refused_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("[kafka]\ng:a:1 abc 5\n")
    with pytest.raises(ValueError, match="lock:2: expected"):
        read_lock("kafka", tmp_path / "lock")
    with pytest.raises(ValueError, match="no files for part 'other'"):
        read_lock("other", tmp_path / "lock")


def test_fetched_files_are_verified_kept_and_not_fetched_again(repository: Repository, tmp_path: Path) -> None:
    wanted = [artifact(f"n{number}") for number in range(20)]
    repository.files = {one.path: BODY for one in wanted}
    seen: list[tuple[int, int]] = []
    paths = get(*wanted, progress=lambda step, done, total: seen.append((done, total)))
    assert [path.name for path in paths] == [f"n{number}-1.2.jar" for number in range(20)]
    assert all(path.read_bytes() == BODY for path in paths)
    assert seen[0] == (0, 20 * len(BODY)) and seen[-1] == (20 * len(BODY), 20 * len(BODY))
    repository.files = {}
    assert get(*wanted) == paths
    assert repository.requests == 20


def test_other_bytes_than_the_locked_ones_are_refused_and_not_kept(repository: Repository, tmp_path: Path) -> None:
    repository.files = {artifact().path: BODY.swapcase()}
    with pytest.raises(ArtifactError, match="SHA-256 .* the lock says"):
        get(artifact())
    assert kept(tmp_path) == []


def test_a_cached_file_of_another_size_is_fetched_again(repository: Repository) -> None:
    repository.files = {artifact().path: BODY}
    (path,) = get(artifact())
    path.write_bytes(BODY[:10])
    assert get(artifact())[0].read_bytes() == BODY


def test_a_failing_or_torn_answer_is_tried_again(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    repository.files, repository.failures, repository.cuts = {artifact().path: BODY}, 1, 1
    seen: list[int] = []
    (path,) = get(artifact(), progress=lambda step, done, total: seen.append(done))
    assert path.read_bytes() == BODY
    assert (repository.requests, seen[-1]) == (3, len(BODY))


def test_a_missing_file_is_said_at_once_with_what_to_set(repository: Repository, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"thing-1\.2\.jar: HTTP Error 404.*ORDERFLOW_MAVEN_URL.*--bootstrap"):
        get(artifact())
    assert repository.requests == 1
    assert kept(tmp_path) == []


def test_cancelling_ends_a_download_and_keeps_nothing(repository: Repository, tmp_path: Path) -> None:
    repository.files = {artifact().path: BODY}
    cancelled = threading.Event()
    cancelled.set()
    with pytest.raises(ArtifactError, match="cancelled"):
        fetch((artifact(),), step="test", on_progress=lambda step, done, total: None, cancelled=cancelled)
    assert kept(tmp_path) == []


@pytest.mark.parametrize(
    ("mirror_of", "used"),
    [("central", True), ("*", True), ("external:*", True), ("other, central", True), ("*,!central", False), ("other", False)],
)
def test_a_mirror_of_central_in_the_users_maven_settings_is_used(
    mirror_of: str, used: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("ORDERFLOW_MAVEN_URL", raising=False)
    assert repository_url() == artifacts.CENTRAL
    (tmp_path / ".m2").mkdir()
    (tmp_path / ".m2" / "settings.xml").write_text(
        '<settings xmlns="http://maven.apache.org/SETTINGS/1.0.0"><mirrors><mirror><id>m</id>'
        f"<mirrorOf>{mirror_of}</mirrorOf><url> https://mirror.example/maven/ </url></mirror></mirrors></settings>"
    )
    assert repository_url() == ("https://mirror.example/maven" if used else artifacts.CENTRAL)
    monkeypatch.setenv("ORDERFLOW_MAVEN_URL", "https://mine.example/m2/")
    assert repository_url() == "https://mine.example/m2"


def test_broken_maven_settings_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("ORDERFLOW_MAVEN_URL", raising=False)
    (tmp_path / ".m2").mkdir()
    (tmp_path / ".m2" / "settings.xml").write_text("<settings>")
    with pytest.raises(ArtifactError, match=r"settings\.xml is not XML"):
        repository_url()


def test_the_cache_follows_the_platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert artifacts.cache_dir() == tmp_path / "xdg" / "orderflow"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr("sys.platform", "linux")
    assert artifacts.cache_dir() == tmp_path / ".cache" / "orderflow"
    monkeypatch.setattr("sys.platform", "darwin")
    assert artifacts.cache_dir() == tmp_path / "Library" / "Caches" / "orderflow"


def test_plain_progress_is_a_line_a_step_and_a_tenth() -> None:
    text = io.StringIO()
    show = print_progress(text)
    for done in range(0, 101):
        show("kafka: download", done << 20, 100 << 20)
    show("kafka: start", 0, 0)
    show("kafka: start", 0, 0)
    lines = text.getvalue().splitlines()
    assert lines[0] == "box: kafka: download 0 of 100 MiB"
    assert lines[-2:] == ["box: kafka: download 100 of 100 MiB", "box: kafka: start"]
    assert len(lines) == 12
