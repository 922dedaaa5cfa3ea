"""A flame graph as SVG text from folded stacks (`frame;frame;frame count` per line, as `py-spy record --format raw` writes them).

    py-spy record --native --rate 100 --format raw --output stacks.txt --pid PID
    python tests/bench/flame.py stacks.txt flame.svg "J1"

Threads that wait are left out: what is shown is where time was spent. Calls go from the top down, the width is the share of the samples.
"""

import re
import sys
from collections.abc import Iterable, Iterator
from html import escape
from pathlib import Path

import plots

WIDTH, ROW, TOP, LETTER = 1200, 17, 56, 6.6
THIN = 1.0
"""Narrower boxes are not drawn."""
WAITS = re.compile(r"acquire_lock|pthread_cond|select_epoll|queue_SimpleQueue_get|Condition\.wait")
"""Frames of a thread that waits."""
UNKNOWN = re.compile(r"^(0x[0-9a-f]|thread_run )")
LINE = re.compile(r":\d+\)$")
COLORS = {"python": "#f4b860", "native": "#9fb8e8"}


class Node:
    """A frame in its place: how many samples were in it, and what it called."""

    __slots__ = ("calls", "count")

    def __init__(self) -> None:
        self.count = 0
        self.calls: dict[str, Node] = {}

    @property
    def depth(self) -> int:
        """Of what it calls, itself included."""
        return 1 + max((each.depth for each in self.calls.values()), default=0)


def folded(lines: Iterable[str]) -> Iterator[tuple[list[str], int]]:
    """(frames, samples) of what did not wait, without the frames nobody has a name for."""
    for line in lines:
        stack, _, count = line.rstrip("\n").rpartition(" ")
        frames = stack.split(";")
        if not any(WAITS.search(frame) for frame in frames):
            yield [LINE.sub(")", frame) for frame in frames if not UNKNOWN.match(frame)], int(count)


def tree(stacks: Iterable[tuple[list[str], int]]) -> Node:
    """All stacks as one tree."""
    root = Node()
    for frames, count in stacks:
        node = root
        node.count += count
        for frame in frames:
            node = node.calls.setdefault(frame, Node())
            node.count += count
    return root


def svg(root: Node, title: str) -> str:
    """The picture; each box says its frame, samples and share when pointed at."""
    parts = [
        plots.text(16, 24, title, size=16, bold=True),
        plots.text(16, 43, f"{root.count} samples, threads that wait left out", size=12),
    ]
    parts.extend(_boxes(root, "all", 0.0, 0, root.count))
    return plots.svg(TOP + root.depth * ROW + 8, parts, width=WIDTH)


def _boxes(node: Node, name: str, left: float, level: int, total: int) -> Iterator[str]:
    width = node.count / total * WIDTH
    if width < THIN:
        return
    y = TOP + level * ROW
    kind = "python" if ".py)" in name else "native"
    said = escape(f"{name}: {node.count} samples, {node.count / total:.1%}")
    box = f'<rect x="{left:.1f}" y="{y}" width="{width:.1f}" height="{ROW - 1}" fill="{COLORS[kind]}"/>'
    letters = int((width - 4) / LETTER)
    label = plots.text(left + 2, y + ROW - 5, name[:letters], size=11) if letters > 3 else ""
    yield f"<g><title>{said}</title>{box}{label}</g>"
    for called, child in sorted(node.calls.items()):
        yield from _boxes(child, called, left, level + 1, total)
        left += child.count / total * WIDTH


if __name__ == "__main__":
    source, target, heading = sys.argv[1:4]
    with Path(source).open() as stacks:
        Path(target).write_text(svg(tree(folded(stacks)), heading))
