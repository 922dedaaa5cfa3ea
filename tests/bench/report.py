"""docs/benchmarks.md from the raw results in docs/benchmarks/: a page that cannot drift from its figures.

Every `docs/benchmarks/NAME.json` has its place in the page, between `<!-- bench: NAME -->` and `<!-- end -->`: a table, then the charts. The
document's `job` names the module of this folder that shows it (`table(document)` in Markdown, `charts(document)` of (name, SVG)).
"""

import importlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

READERS = {"j1": "j1_contest"}
"""Where a job's reader is, when not in the module of its name."""
SECTION = re.compile(r"(<!-- bench: (?P<name>[\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


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
    """Every file that is made from the raw results, with its text: the charts, then the page. Raises Missing."""
    page = root / "docs" / "benchmarks.md"
    text, sections = page.read_text(), {}
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
    marked = {found["name"] for found in SECTION.finditer(text)}
    for name in sections.keys() - marked:
        raise Missing(f"{page.name} has no place for {name}.json: add `<!-- bench: {name} -->` and `<!-- end -->`")
    for name in marked - sections.keys():
        raise Missing(f"{page.name} shows {name}, and docs/benchmarks/{name}.json does not exist: `orderflow bench` makes it with --save")
    yield page, SECTION.sub(lambda found: f"{found[1]}{sections[found['name']]}\n{found[3]}", text)
