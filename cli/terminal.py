"""What people and scripts see of a command: its exit code, its errors, its lines, its JSON, its progress.

Results go to stdout, everything else to stderr, so `--json` output can always be piped.
"""

import contextlib
import json
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, TypeAlias

import typer

DONE = 0
NO = 1
"""The answer is no: a refusal by a rule, a failed check, a difference."""
UNAVAILABLE = 69
"""Something the command needs does not answer (EX_UNAVAILABLE of sysexits.h)."""
UNDECIDED = 75
"""Accepted but not decided yet, or a partition is moving: the same command may be repeated (EX_TEMPFAIL)."""
MISCONFIGURED = 78
"""The settings, topics or schemas are not as they must be; every reason is printed (EX_CONFIG)."""

AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
OnStep: TypeAlias = Callable[[str, int, int], None]
"""`(step, done, total)`: bytes while something is downloaded, 0 of 0 when a step has no measure."""


class Failure(Exception):
    """A command cannot do what it was asked: what was wrong, what to do next, and its exit code."""

    def __init__(self, wrong: str | Sequence[str], *, then: str = "", code: int = NO, document: Mapping[str, Any] | None = None) -> None:
        self.wrong = [wrong] if isinstance(wrong, str) else list(wrong)
        self.then, self.code = then, code
        self.document = document or {"errors": self.wrong, "advice": then}
        super().__init__("; ".join(self.wrong))

    def show(self, as_json: bool) -> None:
        """All that was wrong, one a line, then the advice, on stderr; with `as_json` also the document on stdout."""
        if as_json:
            print(json.dumps(self.document, indent=2, default=str))
        for reason in self.wrong:
            print(f"error: {reason}", file=sys.stderr)
        if self.then:
            print(f"       {self.then}", file=sys.stderr)


def group(help_text: str) -> typer.Typer:
    """A noun with its verbs."""
    return typer.Typer(help=help_text, no_args_is_help=True, rich_markup_mode=None)


def show(value: Any, as_json: bool, lines: Callable[[Any], Iterable[str]]) -> None:
    """Print a result: as JSON, or as lines for people. In one write, so that `| head` does not break the pipe half-way."""
    text = json.dumps(value, indent=2, default=str) if as_json else "\n".join(lines(value))
    sys.stdout.write(f"{text}\n" if text else "")


def columns(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    """Rows under their heads, as wide as they need; nothing is cut, so the lines can be read by other programs too."""
    table = [[str(name) for name in head], *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(line[index]) for line in table) for index in range(len(head))]
    for line in table:
        yield "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()


def fields(value: Mapping[str, Any]) -> Iterator[str]:
    """One `name  value` line per field; what is empty is left out."""
    shown = {name: each for name, each in value.items() if each not in (None, "", [], {})}
    width = max((len(name) for name in shown), default=0)
    for name, each in shown.items():
        text = each if isinstance(each, str) else json.dumps(each, default=str)
        yield f"{name.ljust(width)}  {text}"


@contextlib.contextmanager
def progress() -> Iterator[OnStep]:
    """Shows the steps of long work on stderr: bars on a terminal, plain lines elsewhere. Safe to call from several threads."""
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        yield _plain_lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

    layout = SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    with Progress(*layout, console=Console(stderr=True), transient=True) as shown:
        tasks: dict[str, TaskID] = {}

        def on_step(step: str, done: int, total: int) -> None:
            part = step.partition(":")[0]
            if part not in tasks:
                tasks[part] = shown.add_task(step, total=None)
            finished = step.endswith(": ready")
            shown.update(tasks[part], description=step, completed=1 if finished else done, total=1 if finished else total or None)

        yield on_step


def _plain_lines() -> OnStep:
    """One line for each new step and each tenth of a download."""
    shown: dict[str, int] = {}
    lock = threading.Lock()

    def on_step(step: str, done: int, total: int) -> None:
        tenth = done * 10 // total if total else 0
        with lock:
            if shown.get(step, -1) >= tenth:
                return
            shown[step] = tenth
        size = f" {done >> 20} of {total >> 20} MiB" if total else ""
        print(f"{step}{size}", file=sys.stderr, flush=True)

    return on_step
