"""Apicurio Registry: unpacked once into the cache, run with its data in an H2 file, spoken to over the Confluent-compatible API.

H2 in a file, not in memory: kept Kafka data hold registry ids, and an id must never come to mean another schema.
"""

import tarfile
import tempfile
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from orderflow.connectors.box import java, ports
from orderflow.connectors.box.artifacts import Artifact, cache_dir

API = "/apis/ccompat/v7"
RUNNER = "quarkus-run.jar"
READY_TIMEOUT_S = 2.0

SETTINGS: Mapping[str, str] = {
    "APICURIO_STORAGE_KIND": "sql",
    "APICURIO_STORAGE_SQL_KIND": "h2",
    "APICURIO_RULES_GLOBAL_COMPATIBILITY": "BACKWARD",
}
"""What `docker-compose.yml` carries too (a test compares)."""


def home_of(artifact: Artifact) -> Path:
    """Where `unpack` puts it; the hash in the name says which bytes these are."""
    return cache_dir() / "unpacked" / f"{artifact.name}-{artifact.version}-{artifact.sha256[:12]}"


def unpack(artifact: Artifact, tarball: Path) -> Path:
    """Unpack the registry into its place, all or nothing, and drop the tarball, which is not needed again."""
    home = home_of(artifact)
    home.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home.parent, prefix=".unpack-") as folder:
        with tarfile.open(tarball) as archive:
            archive.extraction_filter = getattr(tarfile, "data_filter", None)  # Python 3.11.0 to 3.11.3 lack it
            archive.extractall(folder)
        runner = next(Path(folder).rglob(RUNNER))
        try:
            runner.parent.replace(home)
        except OSError:
            if not home.is_dir():  # otherwise another process was faster
                raise
    tarball.unlink(missing_ok=True)
    return home


def command(executable: Path, home: Path, logs: Path) -> list[str]:
    """The command line of the registry: a small JVM that starts fast and is asked rarely."""
    return [str(executable), "-Xmx512m", "-XX:TieredStopAtLevel=1", *java.options(logs), "-jar", str(home / RUNNER)]


def environment(data: Path, log: Path, port: int, management_port: int) -> dict[str, str]:
    """The registry's settings, which it reads from the environment. It logs everything to `log`, and warnings to stdout too."""
    return {
        **java.environment(),
        **SETTINGS,
        "APICURIO_DATASOURCE_URL": f"jdbc:h2:file:{data / 'registry'}",
        "QUARKUS_HTTP_HOST": "127.0.0.1",
        "QUARKUS_HTTP_PORT": str(port),
        "QUARKUS_MANAGEMENT_HOST": "127.0.0.1",
        "QUARKUS_MANAGEMENT_PORT": str(management_port),
        "QUARKUS_BANNER_ENABLED": "false",
        "QUARKUS_LOG_CONSOLE_LEVEL": "WARN",
        "QUARKUS_LOG_FILE_ENABLED": "true",
        "QUARKUS_LOG_FILE_PATH": str(log),
        "QUARKUS_LOG_FILE_ROTATION_MAX_FILE_SIZE": "10M",
        "QUARKUS_LOG_FILE_ROTATION_MAX_BACKUP_INDEX": "2",
        "QUARKUS_LOG_FILE_ROTATION_ROTATE_ON_BOOT": "false",
    }


def is_ready(port: int) -> bool:
    """True once the API answers with its list of subjects."""
    if not ports.accepts(port):
        return False
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(f"http://127.0.0.1:{port}{API}/subjects", timeout=READY_TIMEOUT_S) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
