"""The door: every command explains itself, every error names what was wrong, nothing heavy is loaded for a help text."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from orderflow.cli import client, docs, orders, runstate, terminal
from orderflow.cli.main import app, main
from orderflow.cli.terminal import Failure

COMMANDS = dict(docs.command_helps(typer.main.get_command(app), "orderflow"))
VERBS = {name: text for name, text in COMMANDS.items() if "COMMAND [ARGS]" not in text}
HEAVY = ("faust", "confluent_kafka", "pydantic_settings", "aiohttp", "rocksdict", "rich", "fastavro")


def run(*arguments: str) -> int:
    """The exit code of a command line in this process."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    code = ended.value.code
    assert isinstance(code, int | None)
    return code or 0


def test_the_nouns_of_the_issue_are_there() -> None:
    wanted = "up demo worker serve topology topics schemas orders stock dlq verify config channels bench docs fulfillment reservations"
    assert {f"orderflow {noun}" for noun in wanted.split()} <= set(COMMANDS)


@pytest.mark.parametrize("name", sorted(VERBS))
def test_every_command_shows_an_example_its_exit_codes_and_json(name: str) -> None:
    text = VERBS[name]
    assert "Example:" in text and f"{name.removeprefix('orderflow ')}" in text.split("Example:")[1].split("Exit codes:")[0]
    codes = [line.split()[0] for line in text.split("Exit codes:")[1].split("Options:")[0].splitlines() if line.strip()]
    assert codes[0] == "0"
    assert "--json" in text


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_ends_with_zero(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*name.split()[1:], "--help") == 0
    assert "Usage: " in capsys.readouterr().out


def test_help_loads_nothing_heavy() -> None:
    script = (
        "import sys\nfrom orderflow.cli.main import main\ntry:\n    main(['orders', 'place', '--help'])\nexcept SystemExit:\n    pass\n"
        f"print(sorted(set(sys.modules) & set({HEAVY!r})), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_help_has_no_colors_when_it_is_not_a_terminal() -> None:
    done = subprocess.run([sys.executable, "-m", "orderflow.cli", "--help"], capture_output=True, text=True, check=True)
    assert "\x1b" not in done.stdout and "orderflow demo" in done.stdout


def test_a_line_of_the_log_is_one_write_so_that_no_other_thread_comes_between_it_and_its_end() -> None:
    script = (
        "import sys\nfrom orderflow.cli import logs\nwritten = []\nsys.stderr.write = written.append\nlogs.configure('json')\n"
        "import structlog\nstructlog.get_logger('x').info('it.happened')\nprint([line.endswith('\\n') for line in written])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[True]"


def test_a_wrong_command_names_the_near_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("orders", "plac") == 2
    assert "place" in capsys.readouterr().err


def test_nobody_answers_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("orders", "get", "x", "--url", "http://127.0.0.1:9") == 69
    assert "orderflow up" in capsys.readouterr().err


def test_with_json_an_error_is_a_document_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("stock", "get", "x", "--url", "http://127.0.0.1:9", "--json") == 69
    assert "does not answer" in json.loads(capsys.readouterr().out)["errors"][0]


@pytest.mark.parametrize(
    ("text", "item"), [("A=2", {"sku": "A", "qty": 2}), ("A", {"sku": "A", "qty": 1}), ("A=0", {"sku": "A", "qty": 0})]
)
def test_items_are_read(text: str, item: dict[str, object]) -> None:
    """Zero is the edge's to refuse: the reason for it is one of the rules."""
    assert orders.parse_item(text) == item


@pytest.mark.parametrize("text", ["=2", "A=", "A=two", "A=-1", "A=1.5", "A=٣", ""])
def test_items_that_are_none_are_named(text: str) -> None:
    with pytest.raises(Failure, match="SKU=QUANTITY") as refused:
        orders.parse_item(text)
    assert refused.value.code == 2


@pytest.mark.parametrize("text", ['[{"items": []}, 1]', '{"items": []}\n\n1\n', ' [{"items": []},\n1]'])
def test_orders_of_a_file_are_an_array_or_one_a_line(text: str) -> None:
    assert orders.parse_orders(text) == [{"items": []}, 1]


@pytest.mark.parametrize("as_json", [False, True])
def test_what_was_placed_before_the_edge_was_gone_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    """600 orders are two requests; the second meets nobody."""
    keys: list[str] = []

    def ask(url: str, method: str, path: str, *, body: dict[str, list[object]], key: str) -> client.Answer:
        keys.append(key)
        if len(keys) > 1:
            raise Failure("the edge does not answer", code=69)
        items = [{"index": index, "status": 201, "order_id": f"ord_{index}"} for index in range(len(body["orders"]))]
        return client.Answer(207, {"placed": len(items), "pending": 0, "refused": 0, "not_taken": 0, "items": items})

    monkeypatch.setattr(orders, "ask", ask)
    file = tmp_path / "orders.jsonl"
    file.write_text('{"items": []}\n' * 600)
    assert run("orders", "place-many", str(file), "--key", "k", *["--json"] * as_json) == 69
    said = capsys.readouterr()
    assert keys == ["k", "k-500"] and "does not answer" in said.err
    if as_json:
        document = json.loads(said.out)
        assert (document["placed"], len(document["items"]), document["errors"]) == (500, 500, ["the edge does not answer"])
    else:
        assert said.out.startswith("500 placed\n") and "ord_499" in said.out


@pytest.mark.parametrize(("text", "why"), [("[1,", "no JSON array"), ("{}\nno", "line 2 is no JSON"), ("\n", "holds no order")])
def test_a_file_without_orders_is_refused(text: str, why: str) -> None:
    with pytest.raises(Failure, match=why) as refused:
        orders.parse_orders(text)
    assert refused.value.code == 2


def test_all_reasons_of_a_failure_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    Failure(["one", "two"], then="do this").show(False)
    assert capsys.readouterr().err.splitlines() == ["error: one", "error: two", "       do this"]


def test_columns_are_never_cut() -> None:
    assert list(terminal.columns(("a", "long name"), [("x" * 100, 1)])) == ["a" + " " * 101 + "long name", "x" * 100 + "  1"]


def test_up_wants_both_servers_or_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("up", "--bootstrap", "127.0.0.1:9") == 2
    assert "go together" in capsys.readouterr().err


def test_a_directory_without_a_system_is_told(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="no system runs") as refused:
        runstate.read(tmp_path)
    assert refused.value.code == 69


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("ORDERFLOW_URL", raising=False)
    yield
