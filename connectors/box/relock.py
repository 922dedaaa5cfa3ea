"""Writes `artifacts.lock`: what the box runs, with every dependency resolved once, by Maven, on a developer's machine.

    python -m orderflow.connectors.box.relock

needs `mvn` on PATH. Change the versions here, run it, look at the diff, run the tests of the box.
"""

import hashlib
import re
import subprocess
import tempfile
import urllib.request
from pathlib import Path

from orderflow.connectors.box.artifacts import LOCK, Artifact, parse_coordinates, repository_url

ROOTS = {
    "kafka": ("org.apache.kafka:kafka_2.13:4.2.2", "org.apache.logging.log4j:log4j-slf4j-impl:2.25.4"),
    "registry": ("io.apicurio:apicurio-registry-app:3.3.3:all:tar.gz",),
}
HEADER = """\
# Written by `python -m orderflow.connectors.box.relock`; do not edit. One file a line: coordinates, SHA-256, bytes.
"""
POM = """\
<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>orderflow</groupId><artifactId>box</artifactId><version>1</version><dependencies>{}</dependencies></project>
"""
DEPENDENCY = "<dependency><groupId>{}</groupId><artifactId>{}</artifactId><version>{}</version></dependency>"


def closure(roots: tuple[str, ...]) -> list[str]:
    """The run-time jars of these roots, their dependencies included, as `group:artifact:version`, sorted."""
    with tempfile.TemporaryDirectory() as folder:
        dependencies = "".join(DEPENDENCY.format(*parse_coordinates(root)[:3]) for root in roots)
        Path(folder, "pom.xml").write_text(POM.format(dependencies))
        command = ["mvn", "-q", "-B", "dependency:list", "-DincludeScope=runtime", "-DoutputFile=list.txt"]
        subprocess.run(command, cwd=folder, check=True)
        listed = Path(folder, "list.txt").read_text()
    return sorted(f"{group}:{name}:{version}" for group, name, version in re.findall(r"([\w.-]+):([\w.-]+):jar:([\w.-]+):\w+", listed))


def pin(coordinates: str) -> str:
    """One line of the lock, of the bytes the repository serves now, checked against the checksum it publishes beside them."""
    url = f"{repository_url()}/{Artifact(*parse_coordinates(coordinates), '', 0).path}"
    with urllib.request.urlopen(url) as answer:
        content = answer.read()
    with urllib.request.urlopen(f"{url}.sha1") as answer:
        published = answer.read().decode().split()[0]
    if hashlib.sha1(content, usedforsecurity=False).hexdigest() != published:
        raise SystemExit(f"{url} does not have the SHA-1 published beside it")
    return f"{coordinates} {hashlib.sha256(content).hexdigest()} {len(content)}"


def main() -> None:
    """Resolve, download and pin every part."""
    lines = [HEADER]
    for part, roots in ROOTS.items():
        files = list(roots) if roots[0].count(":") > 2 else closure(roots)
        lines += [f"[{part}]", *map(pin, files), ""]
    LOCK.write_text("\n".join(lines).rstrip() + "\n")
    print(f"{LOCK}: {sum(':' in line and not line.startswith('#') for line in lines)} files")


if __name__ == "__main__":
    main()
