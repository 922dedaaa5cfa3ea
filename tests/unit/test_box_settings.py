"""The box and docker-compose.yml run the same servers with the same settings, on ports that nothing else is given."""

import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from orderflow.connectors.box import kafka, ports, registry
from orderflow.connectors.box.artifacts import read_lock

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    services: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    return services


def test_compose_names_the_versions_of_the_lock(services: dict[str, Any]) -> None:
    versions = {artifact.name: artifact.version for part in ("kafka", "registry") for artifact in read_lock(part)}
    assert services["kafka"]["image"] == f"apache/kafka:{versions['kafka_2.13']}"
    assert services["registry"]["image"] == f"apicurio/apicurio-registry:{versions['apicurio-registry-app']}"


def test_compose_carries_every_setting_of_the_boxs_broker(services: dict[str, Any]) -> None:
    carried = services["kafka"]["environment"]
    wanted = {f"KAFKA_{name.upper().replace('.', '_')}": value for name, value in kafka.SETTINGS.items()}
    assert {name: carried.get(name) for name in wanted} == wanted


def test_compose_carries_every_setting_of_the_boxs_registry(services: dict[str, Any]) -> None:
    assert registry.SETTINGS.items() <= services["registry"]["environment"].items()


def test_compose_publishes_ports_on_this_machine_only(services: dict[str, Any]) -> None:
    published = [port for service in services.values() for port in service.get("ports", ())]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


@pytest.mark.skipif(not shutil.which("docker-compose"), reason="docker-compose is not installed")
def test_compose_accepts_the_file() -> None:
    subprocess.run(["docker-compose", "-f", str(ROOT / "docker-compose.yml"), "config", "-q"], check=True)


def test_a_free_port_can_be_listened_on_and_is_not_ephemeral() -> None:
    port = ports.free_port()
    ephemeral = Path("/proc/sys/net/ipv4/ip_local_port_range")
    assert port < (int(ephemeral.read_text().split()[0]) if ephemeral.exists() else 32768)
    with socket.create_server(("127.0.0.1", port)):
        assert not ports.is_free(port)
        assert ports.accepts(port)
    assert ports.is_free(port)
    assert not ports.accepts(port)


def test_a_taken_port_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "LOW", ports.free_port())
    monkeypatch.setattr(ports, "HIGH", ports.LOW)
    with pytest.raises(OSError, match="no free port"):
        ports.free_port({ports.LOW})


def test_server_properties_hold_settings_and_place(tmp_path: Path) -> None:
    lines = kafka.properties(tmp_path / "data", 9001, 9002).splitlines()
    assert f"log.dirs={tmp_path}/data" in lines
    assert "advertised.listeners=PLAINTEXT://127.0.0.1:9001" in lines
    assert "controller.quorum.voters=1@127.0.0.1:9002" in lines
    assert "auto.create.topics.enable=false" in lines


def test_variables_for_other_java_programs_do_not_reach_the_servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-Xmx16m")
    monkeypatch.setenv("QUARKUS_HTTP_PORT", "1")
    monkeypatch.setenv("APICURIO_STORAGE_KIND", "kafkasql")
    given = registry.environment(tmp_path, tmp_path / "log", 9001, 9002)
    assert "JAVA_TOOL_OPTIONS" not in given
    assert (given["QUARKUS_HTTP_PORT"], given["APICURIO_STORAGE_KIND"]) == ("9001", "sql")
