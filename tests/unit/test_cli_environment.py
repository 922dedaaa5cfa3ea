"""Settings: a wrong value, a missing group, a misspelt variable refuse the start, all at once, each by its name."""

import json
import os
import re
from pathlib import Path

import pytest

from orderflow.cli import channels, environment, runstate, startcheck
from orderflow.cli.main import main
from orderflow.cli.runstate import Process, RunState
from orderflow.cli.terminal import Failure
from orderflow.connectors.payments.settings import PaymentSettings
from orderflow.http.settings import EdgeSettings
from orderflow.schemas.catalog import Catalog
from orderflow.streams.domain.channel import ChannelPolicy
from orderflow.streams.settings import WorkerSettings

NOBODY = "127.0.0.1:9"


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests begin without any of our variables, and do not wait long for brokers that are not there."""
    for name in [name for name in os.environ if name.startswith(environment.PREFIX)]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(startcheck, "BROKER_TIMEOUT_S", 0.3)


def test_a_misspelt_variable_is_named_with_the_near_one() -> None:
    assert environment.unknown({"ORDERFLOW_BOOTSTRP": "x", "HOME": "/"}) == [
        "ORDERFLOW_BOOTSTRP is no setting: did you mean ORDERFLOW_BOOTSTRAP?"
    ]


def test_every_variable_that_is_read_is_known() -> None:
    names = {environment.variable(field) for model in (WorkerSettings, EdgeSettings) for field in model.model_fields}
    assert environment.unknown(dict.fromkeys(names | set(environment.OTHERS), "")) == []


def test_every_variable_the_code_asks_for_by_name_is_known() -> None:
    root = Path(environment.__file__).parent.parent
    files = [
        file for folder in ("cli", "connectors", "http", "schemas", "streams", "tables", "tests") for file in (root / folder).rglob("*.py")
    ]
    asked = {name for file in files for name in re.findall(r'environ(?:\.get\(|\[)"(ORDERFLOW_\w+)"', file.read_text())}
    assert asked >= {"ORDERFLOW_MAVEN_URL", "ORDERFLOW_FAULT"}, "the search finds what is there"
    assert environment.unknown(dict.fromkeys(asked, "")) == []


def test_a_missing_group_and_a_wrong_number_are_told_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORDERFLOW_GROUP", "")
    monkeypatch.setenv("ORDERFLOW_PARTITIONS", "four")
    settings, found = environment.read(WorkerSettings)
    assert settings is None
    assert [text.partition("=")[0] for text in found] == ["ORDERFLOW_PARTITIONS", "ORDERFLOW_GROUP"]


def test_options_go_before_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORDERFLOW_BOOTSTRAP", "one:9092")
    assert environment.load(WorkerSettings, bootstrap="two:9092", group=None).bootstrap == "two:9092"
    assert environment.load(WorkerSettings).bootstrap == "one:9092"


def test_the_refusals_of_the_settings_are_among_the_problems() -> None:
    _, found = environment.read(WorkerSettings, give_up_s=10)
    assert "ORDERFLOW_GIVE_UP_S=10" in found[0]
    _, found = environment.read(EdgeSettings, profile="demo", host="0.0.0.0")  # noqa: S104 - what must be refused
    assert "ORDERFLOW_HOST=0.0.0.0" in found[0]


def test_every_setting_has_a_source_and_most_a_meaning() -> None:
    entries = {entry["variable"]: entry for entry in environment.entries({"ORDERFLOW_PORT": "9090"})}
    assert entries["ORDERFLOW_PORT"]["value"] == "9090" and entries["ORDERFLOW_PORT"]["source"] == "environment"
    assert entries["ORDERFLOW_GROUP"]["source"] == "default" and "workers that share" in entries["ORDERFLOW_GROUP"]["meaning"]
    assert entries["ORDERFLOW_BOOTSTRAP"]["read_by"] == "worker, edge, payments"


def test_a_silent_broker_is_a_problem() -> None:
    (problem,) = startcheck.broker_problems(NOBODY, Catalog())
    assert problem.startswith(f"ORDERFLOW_BOOTSTRAP={NOBODY}: the broker does not answer")


def test_a_silent_registry_is_a_problem_when_no_ids_are_cached(tmp_path: Path) -> None:
    (problem,) = startcheck.schema_problems(f"http://{NOBODY}", Catalog(), tmp_path / "schemas.json")
    assert problem.startswith(f"ORDERFLOW_REGISTRY=http://{NOBODY}: ") and "does not hold all ids" in problem


def test_a_worker_lists_everything_and_exits_78(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ORDERFLOW_GRUP", "x")
    monkeypatch.setenv("ORDERFLOW_LOCATIONS", ",")
    with pytest.raises(SystemExit) as ended:
        main(["worker", "--bootstrap", NOBODY, "--registry", f"http://{NOBODY}", "--data", str(tmp_path), "--json"])
    assert ended.value.code == 78
    told = "\n".join(json.loads(capsys.readouterr().out)["errors"])
    for name in ("ORDERFLOW_LOCATIONS", "ORDERFLOW_GRUP", "ORDERFLOW_BOOTSTRAP", "ORDERFLOW_REGISTRY"):
        assert name in told


@pytest.mark.parametrize("command", [["worker"], ["serve"], ["config", "check", "--offline"]])
def test_an_unknown_variable_refuses_every_start(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORDERFLOW_PROFILE", "demo")
    monkeypatch.setenv("ORDERFLOW_BOOTSTRAP", NOBODY)
    monkeypatch.setenv("ORDERFLOW_REGISTRY", f"http://{NOBODY}")
    monkeypatch.setenv("ORDERFLOW_NOTHING", "1")
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert ended.value.code == 78


def test_right_settings_pass_the_check(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("ORDERFLOW_PROFILE", "demo")
    with pytest.raises(SystemExit) as ended:
        main(["config", "check", "--offline"])
    assert not ended.value.code and "can start" in capsys.readouterr().out


def test_the_production_profile_refuses_to_start_without_authentication(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["serve"])
    assert ended.value.code == 78 and "ORDERFLOW_PROFILE" in capsys.readouterr().err


# -- channel files ------------------------------------------------------------------------------------------------------------------
def test_a_channel_file_is_read_as_json_and_as_toml(tmp_path: Path) -> None:
    wanted = {"shop": ChannelPolicy(payment_terms="prepaid", currency="VND")}
    (tmp_path / "c.json").write_text('{"shop": {"payment_terms": "prepaid", "currency": "VND"}}')
    (tmp_path / "c.toml").write_text('[shop]\npayment_terms = "prepaid"\ncurrency = "VND"\n')
    assert channels.read_file(tmp_path / "c.json") == channels.read_file(tmp_path / "c.toml") == wanted


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[]", "names no channel"),
        ("{", "Expecting"),
        ('{"a b": {}}', "is no channel name"),
        ('{"shop": 1}', "must be a table"),
        ('{"shop": {"payment_term": "x"}}', "did you mean payment_terms"),
        ('{"shop": {"fraud": "yes"}}', "shop: Expected `bool`"),
    ],
)
def test_a_wrong_channel_file_is_told(text: str, fault: str, tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(Failure, match=fault):
        channels.read_file(tmp_path / "c.json")


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`orderflow up` runs, with a payment provider."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    environment.data_dir().mkdir()
    processes = (Process("worker-1", 1, url="http://w"), Process("provider", 2, url="http://p"))
    runstate.write(environment.data_dir(), RunState(1, "http://e", "kafka:1", "http://r", "d", "orderflow", 4, processes))


def test_a_command_finds_the_servers_and_the_provider_of_the_running_system(running: None, monkeypatch: pytest.MonkeyPatch) -> None:
    found = environment.load(PaymentSettings)
    assert (found.bootstrap, found.registry, found.provider_url) == ("kafka:1", "http://r", "http://p")
    assert environment.load(PaymentSettings, provider_url="http://q").provider_url == "http://q"
    monkeypatch.setenv("ORDERFLOW_PROVIDER_URL", "http://env")
    assert environment.load(PaymentSettings).provider_url == "http://env"


@pytest.mark.parametrize("other", [{"bootstrap": "kafka:2"}, {"bootstrap": "kafka:1", "prefix": "shop"}])
def test_the_provider_of_another_system_is_not_taken(running: None, other: dict[str, str]) -> None:
    default = PaymentSettings.model_fields["provider_url"].default
    assert environment.load(PaymentSettings, **other).provider_url == default
    assert environment.load(PaymentSettings, bootstrap="kafka:1").provider_url == "http://p"
