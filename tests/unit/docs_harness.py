"""The documentation as tests see it: pages, their links and snippets, and a run of a snippet whose output is compared.

    <!-- run: system -->
    ```console
    $ orderflow stock get LIMITED-SKU
    sku         LIMITED-SKU
    ...
    ```

The comment before a fence says what the snippet needs: `offline` nothing, `system` a running one with the demo's data; with
`eventually` it is repeated until its output is right. A console snippet is its `$` lines and what they print; `...` stands for any
lines, or inside a line for any text. A snippet of another language is run whole and must succeed.
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from msgspec import Struct

ROOT = Path(__file__).resolve().parents[2]
BASE = "http://127.0.0.1:8080"
"""The address that the pages use; a test's system has another."""
RUN_TIMEOUT_S = 120
EVENTUALLY_S = 180.0
REPEAT_S = 0.5

_FENCE = re.compile(r"^(?P<indent> *)(?P<ticks>```+)(?P<language>[\w-]*)\s*$")
_TAG = re.compile(r"^ *<!-- run: (?P<needs>offline|system)(?P<eventually>, eventually)? -->\s*$")
_MASKS = (
    (re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+(?:Z|\+00:00)"), "<time>"),
    (re.compile(r"\bORD-\d{8}-[0-9A-Z]{8}\b"), "<number>"),
    (re.compile(r"(?:ord_)?\b[0-9A-HJKMNP-TV-Z]{26}\b|ord_[0-9A-Z]{26}"), "<id>"),
    (re.compile(r"\b(orders|stock|catalog):([\w.-]+):\d+(?::\d+)?"), r"\1:\2:<event>"),
    (re.compile(r"\b(127\.0\.0\.1|localhost):\d{4,5}\b"), "<address>"),
    (re.compile(r"(\.py):\d+\b"), r"\1:<line>"),
    (re.compile(r"\b\d+\.\d+\b(?=,?$| s\b)"), "<seconds>"),
    (re.compile(r"(worker_killed\": )\d+"), r"\1<pid>"),
    (re.compile(r"(offset )\d+"), r"\1<offset>"),
    (re.compile(r"\b\d{13}\b"), "<milliseconds>"),
    (re.compile(r"[ \t]+"), " "),
)
"""What differs from run to run, and how wide a column is."""


class Snippet(Struct, frozen=True):
    """A fenced block of a page; `line` is the one of its fence."""

    page: Path
    line: int
    language: str
    text: str
    needs: str = ""
    eventually: bool = False

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


class Step(Struct, frozen=True):
    """A command and what it prints; `shown` is None where the page shows nothing."""

    command: str
    shown: str | None


def pages() -> list[Path]:
    """Every page that people read, generated ones included."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return sorted({ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()})


def snippets(page: Path) -> Iterator[Snippet]:
    """The fenced blocks of a page, in order, also those inside of list items."""
    lines = page.read_text().splitlines()
    number = 0
    while number < len(lines):
        opened = _FENCE.match(lines[number])
        if opened is None:
            number += 1
            continue
        start, indent = number, len(opened["indent"])
        number += 1
        while lines[number].strip() != opened["ticks"]:
            number += 1
        text = "\n".join(line[indent:] for line in lines[start + 1 : number])
        tag = _TAG.match(lines[start - 1]) if start else None
        yield Snippet(page, start + 1, opened["language"], text, tag["needs"] if tag else "", bool(tag and tag["eventually"]))
        number += 1


def prose(page: Path) -> Iterator[tuple[int, str]]:
    """The lines of a page outside of its fenced blocks, with their numbers."""
    inside = False
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if _FENCE.match(line):
            inside = not inside
        elif not inside:
            yield number, line


def steps(snippet: Snippet) -> list[Step]:
    """The commands of a snippet: the `$` lines of a console with what follows them, anything else as one."""
    if snippet.language != "console":
        return [Step(snippet.text, None)]
    found: list[Step] = []
    for part in re.split(r"^\$ ", snippet.text, flags=re.MULTILINE)[1:]:
        command, _, shown = part.partition("\n")
        while command.endswith("\\"):
            more, _, shown = shown.partition("\n")
            command += "\n" + more
        found.append(Step(command, shown.rstrip("\n") or None))
    return found


def translated(text: str, names: Mapping[str, str]) -> str:
    for name, other in names.items():
        text = text.replace(name, other)
    return text


def masked(text: str) -> str:
    """The text without what no two runs have in common."""
    lines = text.splitlines()
    for pattern, name in _MASKS:
        lines = [pattern.sub(name, line) for line in lines]
    return "\n".join(line.strip() for line in lines).strip("\n")


def fits(shown: str, printed: str) -> bool:
    """Is this what the page shows, but for what is masked and left out?"""
    pattern = ""
    for line in masked(shown).splitlines():
        pattern += r"(?:.*\n)*?" if line == "..." else re.escape(line).replace(re.escape("..."), ".*") + r"\n"
    return re.fullmatch(pattern, masked(printed) + "\n") is not None


def run(snippet: Snippet, *, place: Path, environment: Mapping[str, str], names: Mapping[str, str] | None = None) -> None:
    """Run a snippet and compare. AssertionError shows what was printed instead.

    Args:
        place: the working directory.
        environment: further variables.
        names: what is called otherwise here than on the page: the page's name to ours.
    """
    everything = {**os.environ, "PYTHONUNBUFFERED": "1", "NO_COLOR": "1", **environment}
    everything["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{everything['PATH']}"
    for step in steps(snippet):
        command = translated(step.command, names or {})
        program = [sys.executable, "-c", command] if snippet.language == "python" else ["bash", "-o", "pipefail", "-c", command]
        deadline = time.monotonic() + (EVENTUALLY_S if snippet.eventually else 0)
        while True:
            done = subprocess.run(
                program, cwd=place, env=everything, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=RUN_TIMEOUT_S
            )
            printed = translated(done.stdout, {ours: theirs for theirs, ours in (names or {}).items()})
            right = done.returncode == 0 and (step.shown is None or fits(step.shown, printed))
            if right or time.monotonic() > deadline:
                break
            time.sleep(REPEAT_S)
        assert done.returncode == 0, f"{snippet}: {step.command}\nended with {done.returncode}\n{printed}"
        assert right, f"{snippet}: {step.command}\nprinted\n{masked(printed)}\nbut the page shows\n{masked(step.shown or '')}"
