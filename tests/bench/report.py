"""docs/benchmarks*.md from the raw results in docs/benchmarks/: pages that cannot drift from their figures.

Every `docs/benchmarks/NAME.json` has its place in a page, between `<!-- bench: NAME -->` and `<!-- end -->`: a table, then the charts. The
document's `job` names the module of this folder that shows it (`table(document)` in Markdown, `charts(document)` of (name, SVG)). A place
`<!-- bench: NAME, when measured -->` may be without results, and then says so.

Every `docs/benchmarks/flame-NAME.txt.gz`, folded stacks, is a flame graph.
"""

import gzip
import importlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import flame

READERS = {"j1": "j1_contest"}
"""Where a job's reader is, when not in the module of its name."""
SECTION = re.compile(r"(<!-- bench: (?P<name>[\w-]+)(?P<later>, when measured)? -->\n).*?(<!-- end -->)", re.DOTALL)


class Missing(Exception):
    """The page and the raw results do not fit; the message says what to add."""


def reader(document: Mapping[str, Any]) -> ModuleType:
    """The module that shows a document. Raises Missing when it shows nothing."""
    name = document["job"]
    module = importlib.import_module(READERS.get(name, name.replace("-", "_")))
    if not (hasattr(module, "table") and hasattr(module, "charts")):
        raise Missing(f"{module.__name__} has no table(document) and charts(document)")
    return module


def files(root: Path) -> Iterator[tuple[Path, str]]:
    """Every file that is made from the raw results, with its text: the charts, then the pages. Raises Missing."""
    pages = {page: page.read_text() for page in sorted((root / "docs").glob("benchmarks*.md"))}
    for raw in sorted((root / "docs" / "benchmarks").glob("flame-*.txt.gz")):
        name = raw.name.removesuffix(".txt.gz")
        stacks = gzip.decompress(raw.read_bytes()).decode().splitlines()
        yield raw.with_name(f"{name}.svg"), flame.svg(flame.tree(flame.folded(stacks)), f"J1, one worker, {name.removeprefix('flame-')}")
    sections = {}
    for raw in sorted((root / "docs" / "benchmarks").glob("*.json")):
        document = json.loads(raw.read_text())
        shows = reader(document)
        images = []
        for name, svg in shows.charts(document):
            chart = raw.with_name(f"{raw.stem}-{name}.svg")
            yield chart, svg
            images.append(f"![{raw.stem}: {name}](benchmarks/{chart.name})")
        source = f"Raw results: [{raw.name}](benchmarks/{raw.name})."
        sections[raw.stem] = "\n\n".join([shows.table(document), *images, source])
    marked = {found["name"]: (page, found["later"]) for page, text in pages.items() for found in SECTION.finditer(text)}
    for name in sections.keys() - marked.keys():
        raise Missing(f"there is no place for {name}.json: add `<!-- bench: {name} -->` and `<!-- end -->` to a page")
    for name, (page, later) in marked.items():
        if name in sections:
            continue
        if not later:
            raise Missing(
                f"{page.name} shows {name}, and docs/benchmarks/{name}.json does not exist: `orderflow bench` makes it with --save"
            )
        sections[name] = f"Not measured on a quiet machine yet: `--save docs/benchmarks/{name}.json` keeps the results for this place."
    for page, text in pages.items():
        yield page, SECTION.sub(lambda found: f"{found[1]}{sections[found['name']]}\n{found[4]}", text)
