"""docs/benchmarks*.md and their charts are what the raw results say."""

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import contest
import j1_contest
import pytest
import report

ROOT = Path(__file__).resolve().parents[2]
FILES = dict(report.files(ROOT))


@pytest.mark.parametrize("file", sorted(FILES), ids=lambda file: file.name)
def test_a_file_is_made_from_the_raw_results(file: Path) -> None:
    assert file.is_file() and file.read_text() == FILES[file], "run `orderflow bench report`"


def test_no_chart_is_left_over() -> None:
    charts = set((ROOT / "docs" / "benchmarks").glob("*.svg"))
    assert charts == {file for file in FILES if file.suffix == ".svg"}


def result(name: str, speed: int, **changed: Any) -> dict[str, Any]:
    figures = {"cpu_us_per_event": 1e6 / speed, "events_per_s": speed, "broker_us_per_event": 2.0, "peak_rss_mb": 90}
    return {"round": 1, "contestant": name, "void": False, "fault": "", **figures, **changed}


def document(speed: int) -> dict[str, Any]:
    """Raw results of J1: one contestant that is right and one that is not."""
    results = [result("orderflow", speed), result("quix", 90_000, fault="oversold")]
    return {
        "job": "j1",
        "records": 1000,
        "facts": {"cpu": "a CPU", "cores": 2, "kernel": "6", "python": "3.11", "kafka": "4.3.1", "at": "2026-01-01T00:00"},
        "contestants": {"orderflow": {"records": 1000}, "quix": {"records": 1000}},
        "not_run": {},
        "against": "orderflow",
        "median": contest.medians(results, j1_contest.METRICS),
        "ratio": {metric: contest.ratios(results, metric, "orderflow") for metric in j1_contest.METRICS[:2]},
        "rounds": results,
    }


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A page with one place, and raw results for it."""
    (tmp_path / "docs" / "benchmarks").mkdir(parents=True)
    (tmp_path / "docs" / "benchmarks.md").write_text("# Page\n\n<!-- bench: j1 -->\nold\n<!-- end -->\n\nMore.\n")
    contest.save(document(50_000), tmp_path / "docs" / "benchmarks" / "j1.json")
    return tmp_path


def page_of(tree: Path) -> str:
    return dict(report.files(tree))[tree / "docs" / "benchmarks.md"]


def test_the_page_shows_the_raw_results_and_nothing_old(tree: Path) -> None:
    page = page_of(tree)
    assert page.startswith("# Page\n\n<!-- bench: j1 -->\n| contestant |") and page.endswith("<!-- end -->\n\nMore.\n")
    assert "| orderflow | 20 | 50 000 |" in page and "FAILED 1 of 1: oversold" in page and "old" not in page.replace("oversold", "")
    assert "90 000" not in page, "who is wrong has no figure"


def test_another_figure_makes_another_page(tree: Path) -> None:
    before = page_of(tree)
    contest.save(document(40_000), tree / "docs" / "benchmarks" / "j1.json")
    assert "| orderflow | 25 | 40 000 |" in page_of(tree) != before


def test_writing_twice_changes_nothing(tree: Path) -> None:
    (tree / "docs" / "benchmarks.md").write_text(page_of(tree))
    assert (tree / "docs" / "benchmarks.md").read_text() == page_of(tree)


def test_charts_are_well_formed(tree: Path) -> None:
    charts = {file.name: text for file, text in report.files(tree) if file.suffix == ".svg"}
    assert set(charts) == {"j1-cpu.svg", "j1-events.svg"}
    assert all(ElementTree.fromstring(text).tag.endswith("svg") for text in charts.values())


def test_a_result_without_a_place_is_refused(tree: Path) -> None:
    contest.save(document(50_000), tree / "docs" / "benchmarks" / "new.json")
    with pytest.raises(report.Missing, match="no place for new.json"):
        page_of(tree)


def test_a_place_without_a_result_is_refused_unless_it_may_wait(tree: Path) -> None:
    (tree / "docs" / "benchmarks" / "j1.json").unlink()
    with pytest.raises(report.Missing, match=r"j1.json does not exist"):
        page_of(tree)
    (tree / "docs" / "benchmarks.md").write_text("<!-- bench: j1, when measured -->\n<!-- end -->\n")
    assert "Not measured" in page_of(tree)
