"""What the pages say is so: links lead somewhere, commands exist, variables and paths are real, snippets that need no server run."""

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from docs_harness import ROOT, Snippet, Step, fits, masked, pages, prose, run, snippets, steps

from orderflow.cli import docs, environment
from orderflow.cli.main import app
from orderflow.http import openapi

FOLDERS = (*tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-dir"].values(), "docs", "tests")
PAGES = pages()
SNIPPETS = [snippet for page in PAGES for snippet in snippets(page)]
SHELLS = ("console", "bash", "sh")
ROOT_COMMAND: Any = typer.main.get_command(app)
WORDS = re.compile(r"`([^`]+)`")


def of_page(page: Path) -> str:
    return str(page.relative_to(ROOT))


# -- links --------------------------------------------------------------------------------------------------------------------------
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def anchors(page: Path) -> set[str]:
    """What `#...` may name on a page: headings as GitHub spells them, and anchors that are written out."""
    found = set(re.findall(r'<a id="([^"]+)"', page.read_text()))
    for _, line in prose(page):
        heading = re.match(r"#+ +(.*)", line)
        if heading:
            text = re.sub(r"<[^>]+>|`", "", heading[1]).strip().lower()
            found.add(re.sub(r"[^\w\- ]", "", text).replace(" ", "-"))
    return found


@pytest.mark.parametrize("page", PAGES, ids=of_page)
def test_every_link_leads_somewhere(page: Path) -> None:
    broken = []
    for number, line in prose(page):
        for target in LINK.findall(line):
            path, _, anchor = target.partition("#")
            if re.match(r"[a-z]+:", target):
                continue
            file = (page.parent / path).resolve() if path else page
            if not file.exists() or (anchor and anchor not in anchors(file)):
                broken.append(f"line {number}: {target}")
    assert not broken


def test_every_page_of_the_docs_is_on_the_map() -> None:
    index = ROOT / "docs" / "index.md"
    linked = {(index.parent / target.partition("#")[0]).resolve() for _, line in prose(index) for target in LINK.findall(line)}
    reference = {ROOT / "docs" / "reference" / name for name in docs.pages()}
    assert {page for page in PAGES if page.is_relative_to(ROOT / "docs")} | reference - {index} <= linked | {index}


@pytest.mark.parametrize("page", PAGES, ids=of_page)
def test_every_file_that_is_named_exists(page: Path) -> None:
    """`streams/domain/stock.py` and the like, in prose; also with a line or a function behind it."""
    missing = []
    for number, line in prose(page):
        for word in WORDS.findall(line):
            name = re.fullmatch(rf"((?:{'|'.join(FOLDERS)})/[\w./-]*)(?::\w+)?", word)
            if name and not (ROOT / name[1]).exists():
                missing.append(f"line {number}: {word}")
    assert not missing


def test_every_test_that_is_named_exists() -> None:
    named = [
        word for page in PAGES for _, line in prose(page) for word in WORDS.findall(line) if "::" in word and word.startswith("tests/")
    ]
    missing = []
    for word in named:
        path, name = word.split("::")
        if not re.search(rf"^(async )?def {name}\(", (ROOT / path).read_text(), re.MULTILINE):
            missing.append(word)
    assert missing == [] and len(named) > 30


@pytest.mark.parametrize("page", PAGES, ids=of_page)
def test_nothing_is_left_to_be_filled_in(page: Path) -> None:
    assert re.findall(r"@[A-Z]+@|\b(?:TO" + r"DO|FIX" + r"ME|TBD)\b", page.read_text()) == []


# -- commands -----------------------------------------------------------------------------------------------------------------------
def calls(text: str) -> Iterator[list[str]]:
    """The arguments of every call of orderflow in a piece of shell."""
    lexer = shlex.shlex(text.replace("\\\n", " ").replace("\n", " ; "), posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    lexer.commenters = ""
    simple: list[str] = []
    for word in (*(word for word in lexer if not word.startswith("#")), ";"):
        if set(word) <= set("();<>|&"):
            at = next((n for n, each in enumerate(simple) if each.rpartition("/")[2] == "orderflow"), None)
            if at is not None and all(re.match(r"\w+=|do$|then$|exec$|sudo$", each) for each in simple[:at]):
                yield simple[at + 1 :]
            simple = []
        else:
            simple.append(word)


def without_comment(line: str) -> str:
    return re.sub(r"\s+#.*$", "", line)


def parse(arguments: list[str]) -> None:
    """As the program would read them; a usage error is raised."""
    command, name = ROOT_COMMAND, "orderflow"
    rest = list(arguments)
    while rest and rest[0] in getattr(command, "commands", {}):
        name = rest.pop(0)
        command = command.commands[name]
    if rest in (["--help"], ["-h"], ["--version"]):
        return
    assert not getattr(command, "commands", {}), f"{name}: no such command, or its verb is missing"
    command.make_context(name, rest)


SHELL_STEPS = [(snippet, step) for snippet in SNIPPETS if snippet.language in SHELLS for step in steps(snippet)]


@pytest.mark.parametrize(("snippet", "step"), SHELL_STEPS, ids=[f"{snippet}-{n}" for n, (snippet, _) in enumerate(SHELL_STEPS)])
def test_every_command_that_is_shown_can_be_given(snippet: Snippet, step: Step) -> None:
    for arguments in calls("\n".join(without_comment(line) for line in step.command.splitlines())):
        parse(arguments)


def test_every_command_of_the_compose_file_can_be_given() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    commands = [service["command"] for service in services.values() if "command" in service]
    given = [found for command in commands for found in calls(command[2] if command[0] == "sh" else shlex.join(command))]
    for arguments in given:
        parse(arguments)
    assert [" ".join(arguments[:2]) for arguments in given[:4]] == ["topics apply", "schemas apply", "channels apply", "channels apply"]
    assert ["payments", "connect", "--provider-url", "http://provider:8090"] in given


def test_commands_are_found_at_all() -> None:
    found = list(calls("A=1 .venv/bin/orderflow up --demo | tail -n 1; for x in 1; do orderflow stock get X; done && echo orderflow"))
    assert found == [["up", "--demo"], ["stock", "get", "X"]]
    assert sum(bool(list(calls(step.command))) for _, step in SHELL_STEPS) > 20


@pytest.mark.parametrize(
    "arguments", [["up", "--demoo"], ["stok", "get", "X"], ["orders"], ["verify", "race", "--orders", "many"], ["orders", "get"]]
)
def test_a_command_that_does_not_exist_is_noticed(arguments: list[str]) -> None:
    with pytest.raises(Exception, match=r"(?i)no such|missing|valid integer"):
        parse(arguments)


@pytest.mark.parametrize("page", PAGES, ids=of_page)
def test_every_command_that_is_named_exists(page: Path) -> None:
    """In prose arguments may be missing; `verify race | ordering | stuck` names three."""
    for _, line in prose(page):
        for word in WORDS.findall(line):
            if not word.startswith("orderflow ") or "<" in word:
                continue
            first, *others = (part.split() for part in word.split(" | "))
            command, rest = ROOT_COMMAND, first[1:]
            within = command
            while rest and rest[0] in getattr(command, "commands", {}):
                within, command = command, command.commands[rest.pop(0)]
            assert command is not ROOT_COMMAND, word
            options = {name for parameter in command.params for name in parameter.opts}
            assert {each for each in rest if each.startswith("--")} <= options | {"--help"}, word
            assert all(other[0] in within.commands for other in others), word


@pytest.mark.parametrize("name", sorted(name for name, text in docs.command_helps(ROOT_COMMAND, "orderflow") if "Example:" in text))
def test_the_examples_of_the_help_can_be_given(name: str) -> None:
    text = dict(docs.command_helps(ROOT_COMMAND, "orderflow"))[name]
    example = text.split("Example:")[1].split("Exit codes:")[0]
    found = list(calls(example))
    assert found
    for arguments in found:
        parse(arguments)


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    shown = [(snippet.page, step.command) for snippet, step in SHELL_STEPS]
    named = [(page, word) for page in PAGES for _, line in prose(page) for word in WORDS.findall(line)]
    used = {
        (page, target) for page, text in (*shown, *named) for target in re.findall(r"(?:^|\s)make ([a-z][\w-]*)$", without_comment(text))
    }
    assert used and {(page, target) for page, target in used if target not in targets} == set()


def test_every_variable_that_is_named_is_read_by_somebody() -> None:
    planted = {"ORDERFLOW_GRUP"}  # operate-a-worker.md shows what a misspelt one leads to
    named = {name for page in PAGES for name in re.findall(r"\bORDERFLOW_[A-Z_]+\b", page.read_text())}
    assert environment.unknown(dict.fromkeys(named - planted, "")) == []


def test_every_route_that_is_named_exists() -> None:
    table = [(route.method, re.sub(r"\{\w+\}", "[^/?]+", route.path)) for route in openapi.table()]
    for page in PAGES:
        for method, path in re.findall(r"\b(GET|POST) (/[\w/{}.-]+)", page.read_text()):
            concrete = re.sub(r"\{\w+\}", "x", path)
            assert any(method == known and re.fullmatch(pattern, concrete) for known, pattern in table), f"{of_page(page)}: {method} {path}"


# -- snippets -----------------------------------------------------------------------------------------------------------------------
OFFLINE = [each for each in SNIPPETS if each.needs == "offline" or (each.language == "python" and not each.needs)]


@pytest.mark.parametrize("snippet", OFFLINE, ids=str)
def test_snippets_that_need_no_server_do_what_the_page_shows(snippet: Snippet, tmp_path: Path) -> None:
    run(snippet, place=ROOT if snippet.language == "python" else tmp_path, environment={})


def test_what_is_left_out_and_what_differs_is_not_compared() -> None:
    assert fits("a\n...\nd 2026-11-25T00:57:50.869000Z", "a\nb\nc\nd   2027-01-01T00:00:00.1Z\n")
    assert fits("error: x: ...", "error: x: anything\n") and fits("...", "") and fits("a\n...", "a\n")
    assert not fits("a\nb", "a\n") and not fits("available 6", "available 7\n") and not fits("a\n...\nd", "a\nb\nc\n")
    assert masked("stock:LIMITED-SKU:5:0 streams/domain/stock.py:179") == "stock:LIMITED-SKU:<event> streams/domain/stock.py:<line>"


def test_a_snippet_whose_output_is_another_fails(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- run: offline -->\n```console\n$ echo one\ntwo\n```\n\n```console\n$ exit 3\n```\n")
    wrong, ends = snippets(page)
    assert (wrong.needs, ends.needs) == ("offline", "")
    for snippet in (Snippet(ROOT / "README.md", 1, "console", each.text) for each in (wrong, ends)):
        with pytest.raises(AssertionError):
            run(snippet, place=tmp_path, environment={})


# -- reference ----------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", sorted(docs.pages()))
def test_the_reference_is_as_the_code_says(name: str) -> None:
    file = ROOT / docs.FOLDER / name
    assert file.is_file() and file.read_text() == docs.pages()[name], "run `make docs`"


def test_the_reference_holds_nothing_else() -> None:
    assert {file.name for file in (ROOT / docs.FOLDER).iterdir()} == set(docs.pages())
