"""Who takes part in J1, how each is built and started, and where its output is. Their code and settings: peers/.

Every contestant is one process that is told everything by J1_... variables, runs until SIGTERM and is measured from outside. What a
peer needs (a Maven build, a virtual environment with pinned versions) is made once, in the user's cache, never in the tree.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import j1
from msgspec import Struct

from orderflow.connectors.box import java
from orderflow.connectors.box.artifacts import cache_dir, repository_url
from orderflow.connectors.box.ports import free_port
from orderflow.schemas import codec

HERE = Path(__file__).resolve().parent
PEERS = HERE / "peers"
SLOW_RECORDS = 40_000
"""What a peer gets that needs more than 100 µs a record: enough for ten seconds or more."""
BUILD_TIMEOUT_S = 900
TAIL_LINES = 15
JVM = (
    *("-Xms1g", "-Xmx1g", "-Xmn600m", "-XX:+UseSerialGC"),
    "-Dorg.apache.avro.specific.use_custom_coders=true",
    "-Dorg.apache.avro.SERIALIZABLE_PACKAGES=j1",
    *("-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "--enable-native-access=ALL-UNNAMED", "--sun-misc-unsafe-memory-access=allow"),
)
"""A young generation that holds a commit interval's garbage, and one collector thread for one core; Avro's generated encoders."""


class Missing(Exception):
    """A peer cannot run here; the message says what is not there."""


class Lane(Struct, frozen=True):
    """One run of a contestant: where it reads, writes and lives."""

    bootstrap: str
    app: str
    commands: str
    state: Path
    on_hand: int

    @property
    def out(self) -> str:
        return f"{self.app}.out"

    @property
    def environment(self) -> dict[str, str]:
        told = {"BOOTSTRAP": self.bootstrap, "APP": self.app, "COMMANDS": self.commands, "OUT": self.out, "STATE": self.state}
        return {f"J1_{name}": str(value) for name, value in {**told, "ON_HAND": self.on_hand, "PORT": free_port()}.items()}


class Contestant(Struct, frozen=True):
    """How a contestant gets ready, is started, and where it leaves its rows."""

    name: str
    what: str
    ready: Callable[[], tuple[str, ...]]
    """Builds what is not there yet and returns the command line. Raises Missing."""
    places: Callable[[Lane], j1.Places]
    environment: Mapping[str, str] = {}
    changelogs: Callable[[Lane], tuple[str, ...]] = lambda lane: ()
    """Compacted topics that must be there when it starts; the others make theirs."""
    records_max: int | None = None


# -- ours -----------------------------------------------------------------------------------------------------------------------------
def _ours(engine: str) -> Callable[[], tuple[str, ...]]:
    def ready() -> tuple[str, ...]:
        if refusal := codec.refusal(engine):
            raise Missing(refusal)
        return sys.executable, str(HERE / "j1.py")

    return ready


def _our_changelogs(lane: Lane) -> tuple[str, ...]:
    return tuple(f"{lane.app}.{name}" for name in ("stock", "reservation", "meta"))


def _our_places(lane: Lane) -> j1.Places:
    return j1.Places(lane.out, f"{lane.app}.stock", f"{lane.app}.reservation")


# -- Kafka Streams --------------------------------------------------------------------------------------------------------------------
def _kafka_streams() -> tuple[str, ...]:
    if shutil.which("mvn") is None:
        raise Missing("Maven (mvn) and a JDK are needed to build it, and mvn is not on PATH")
    folders = [PEERS / name for name in ("avro", "kafka_streams")]

    def build(home: Path) -> None:
        for folder in folders:
            shutil.copytree(folder, home / folder.name)
        _run("mvn", "-q", "-B", *_mirror(home), "package", cwd=home / "kafka_streams")

    target = _made("kafka-streams", [file for folder in folders for file in sorted(folder.rglob("*")) if file.is_file()], build)
    target = target / "kafka_streams" / "target"
    return str(java.executable()), *JVM, "-cp", f"{target / 'kafka-streams-1.jar'}:{target / 'libs'}/*", "j1.app.Main"


def _mirror(home: Path) -> tuple[str, ...]:
    """Maven's settings file when ORDERFLOW_MAVEN_URL names a mirror; else Maven's own."""
    if "ORDERFLOW_MAVEN_URL" not in os.environ:
        return ()
    settings = home / "settings.xml"
    mirror = f"<mirror><id>orderflow</id><mirrorOf>central</mirrorOf><url>{repository_url()}</url></mirror>"
    settings.write_text(f"<settings><mirrors>{mirror}</mirrors></settings>\n")
    return "-s", str(settings)


def _streams_places(lane: Lane) -> j1.Places:
    return j1.Places(lane.out, f"{lane.app}-stock-changelog", f"{lane.app}-reservation-changelog")


# -- Python peers -----------------------------------------------------------------------------------------------------------------------
def _python(script: str, *arguments: str) -> Callable[[], tuple[str, ...]]:
    requirements = PEERS / f"{script}.requirements.txt"

    def build(home: Path) -> None:
        _run(sys.executable, "-m", "venv", str(home / "venv"), cwd=home)
        _run(str(home / "venv/bin/python"), "-m", "pip", "install", "--quiet", "-r", str(requirements), cwd=home)

    def ready() -> tuple[str, ...]:
        home = _made(script, [requirements], build)
        return str(home / "venv/bin/python"), str(PEERS / f"{script}.py"), *arguments

    return ready


def _faust_places(exactly_once: bool) -> Callable[[Lane], j1.Places]:
    def places(lane: Lane) -> j1.Places:
        return j1.Places(lane.out, f"{lane.app}-stock-changelog", f"{lane.app}-reservation-changelog", exactly_once=exactly_once)

    return places


def _quix_places(lane: Lane) -> j1.Places:
    """One store for all; the key of a row follows the message's key: SKU|row key."""
    topic = f"changelog__{lane.app}--{lane.commands}--default"
    return j1.Places(lane.out, topic, topic, lambda key: key.partition(b"|")[2].decode())


def _faust_changelogs(lane: Lane) -> tuple[str, ...]:
    """Faust may make them too late for its own first records: `PartitionsMismatch`, again and again, on a slow machine."""
    return f"{lane.app}-stock-changelog", f"{lane.app}-reservation-changelog"


def _orderflow(name: str, engine: str, what: str) -> Contestant:
    return Contestant(name, what, _ours(engine), _our_places, {"ORDERFLOW_CODEC": engine}, _our_changelogs)


def _faust(name: str, guarantee: str) -> Contestant:
    what = f"faust-streaming 0.15.3 as it is, {guarantee.replace('_', ' ')}"
    ready = _python("faust_plain", "--loop", "uvloop", "worker", "--loglevel", "error", "--without-web")
    places = _faust_places(guarantee == "exactly_once")
    return Contestant(name, what, ready, places, {"J1_GUARANTEE": guarantee}, _faust_changelogs, SLOW_RECORDS)


ALL = {
    each.name: each
    for each in (
        _orderflow("orderflow", "compiled", "the product, compiled codec"),
        _orderflow("orderflow-python", "python", "the product, pure-Python codec"),
        Contestant("kafka-streams", "Kafka Streams 4.3.1, exactly_once_v2", _kafka_streams, _streams_places),
        _faust("faust", "at_least_once"),
        _faust("faust-exactly-once", "exactly_once"),
        Contestant("quix", "Quix Streams 3.28.1, exactly once", _python("quix"), _quix_places, records_max=SLOW_RECORDS),
    )
}
OURS = {"compiled": ["orderflow"], "python": ["orderflow-python"], "both": ["orderflow", "orderflow-python"]}
NAMES = tuple(name for name in ALL if not name.startswith("orderflow"))


# -- building ---------------------------------------------------------------------------------------------------------------------------
def _made(name: str, sources: Sequence[Path], build: Callable[[Path], None]) -> Path:
    """The folder in the cache for exactly these sources, built when it is not there yet. Raises Missing."""
    digest = hashlib.sha256(sys.version.encode())
    for file in sources:
        digest.update(file.name.encode() + file.read_bytes())
    home = cache_dir() / "bench" / f"{name}-{digest.hexdigest()[:12]}"
    if not (home / "ready").exists():
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        build(home)
        (home / "ready").touch()
    return home


def _run(*command: str, cwd: Path) -> None:
    try:
        done = subprocess.run(
            command, cwd=cwd, capture_output=True, text=True, timeout=BUILD_TIMEOUT_S, stdin=subprocess.DEVNULL, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Missing(f"{command[0]}: {error}") from error
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-TAIL_LINES:])
        raise Missing(f"`{' '.join(command)}` ended with {done.returncode}:\n{tail}")
