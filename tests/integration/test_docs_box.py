"""The snippets of the pages that need a system, against a real one: every page on a fresh system with the demo's data, top to bottom."""

import asyncio
import os
import shutil
from pathlib import Path

import pytest
from docs_harness import BASE, ROOT, Snippet, pages, run, snippets
from integration_harness import ANSWERS, PATIENT

from orderflow.cli.system import System
from orderflow.cli.up import seed
from orderflow.connectors.box.box import Servers
from orderflow.schemas.catalog import SPACES, Catalog

pytestmark = [pytest.mark.box, pytest.mark.slow]


def of_system(page: Path) -> list[Snippet]:
    return [snippet for snippet in snippets(page) if snippet.needs == "system"]


PAGES = [page for page in pages() if of_system(page)]


def test_there_are_pages_to_run() -> None:
    assert ROOT / "docs" / "tutorial.md" in PAGES and len(PAGES) > 3


@pytest.mark.skipif(not shutil.which("curl"), reason="the pages call curl")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_does_what_it_shows(box: Servers, tmp_path: Path, page: Path) -> None:
    """Other tests share the broker, so topics have another prefix here than on the page; the system is where `orderflow up` puts it."""
    prefix = f"docs-{page.stem}-{os.getpid()}"
    own = {"ORDERFLOW_PREFIX": prefix, "ORDERFLOW_GROUP": prefix}
    with System(tmp_path / "orderflow", servers=box, payments=True, environment={**own, **PATIENT, **ANSWERS}) as system:
        asyncio.run(seed(system.url))
        environment = {
            **own,
            "XDG_DATA_HOME": str(tmp_path),
            "ORDERFLOW_URL": system.url,
            "ORDERFLOW_BOOTSTRAP": box.bootstrap,
            "ORDERFLOW_REGISTRY": box.registry_url,
        }
        logs = {Catalog().commands_topic(space.name): Catalog(prefix).commands_topic(space.name) for space in SPACES}
        for snippet in of_system(page):
            run(snippet, place=tmp_path, environment=environment, names={BASE: system.url, **logs})
