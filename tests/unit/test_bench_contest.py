"""The contest can tell right from wrong: doctored outputs fail, void and faulty results count nowhere, and both are shown as such."""

import contextlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import contest
import contestants
import j1
import j1_contest
import plots
import pytest

from orderflow.cli import bench, machine

ON_HAND = 3


class Output:
    """What a right contestant leaves after five commands for one SKU of three units: 2, 2 (refused), the first again, 1, 1 (refused)."""

    def __init__(self) -> None:
        self.sent: Counter[str] = Counter({"a": 2, "b": 1, "c": 1, "d": 1})
        decided = [
            j1.Decided("a", "O1", "S", "W", 2, True, 1, 1, 7),
            j1.Decided("b", "O2", "S", "W", 2, False, 1, 1, 8),
            j1.Decided("a", "O1", "S", "W", 2, True, 1, 1, 7),
            j1.Decided("c", "O3", "S", "W", 1, True, 0, 2, 9),
            j1.Decided("d", "O4", "S", "W", 1, False, 0, 2, 9),
        ]
        self.answers = [(each.order_id.encode(), j1.DECIDED.encode(each)) for each in decided]
        self.stock = {"S|W": j1.STOCK.encode(j1.StockRow(ON_HAND, 3, 2))}
        self.held = {each.command_id: j1.DECIDED.encode(each) for each in decided}

    def answer(self, at: int, **changed: Any) -> None:
        """Change one answer, and its reservation row with it."""
        before = j1.DECIDED.decode(self.answers[at][1])
        after = j1.Decided(**{name: changed.get(name, getattr(before, name)) for name in before.__struct_fields__})
        self.answers[at] = (after.order_id.encode(), j1.DECIDED.encode(after))
        self.held[after.command_id] = self.answers[at][1]

    def judge(self) -> dict[str, Any]:
        return j1.judge(self.sent, self.answers, self.stock, self.held, ON_HAND)


def test_a_right_output_is_right() -> None:
    assert Output().judge() == {"commands": 5, "distinct": 4, "refused": 2, "reserved_rows": 1}


WRONG: dict[str, tuple[Callable[[Output], Any], str]] = {
    "an answer is missing": (lambda it: it.answers.pop(), "5 commands, 4 answers"),
    "an answer too many": (lambda it: it.answers.append(it.answers[0]), "5 commands, 6 answers"),
    "a repeat gets another answer": (lambda it: it.answer(2, decided_at=11), "two answers"),
    "a repeat reserves again": (lambda it: it.answer(2, available_after=0, version=2), "two answers"),
    "another key": (lambda it: it.answers.__setitem__(0, (b"S", it.answers[0][1])), "not keyed by its order"),
    "refused though there was enough": (lambda it: it.answer(3, reserved=False, available_after=1, version=1), "there was enough"),
    "refused by a number that was never left": (lambda it: it.answer(4, available_after=-1), "not what was left"),
    "oversold": (lambda it: it.answer(3, quantity=2, available_after=-1), "oversold"),
    "a version is skipped": (lambda it: it.answer(3, version=3), "version 3"),
    "a stock row is not the sum": (lambda it: it.stock.update({"S|W": j1.STOCK.encode(j1.StockRow(ON_HAND, 2, 2))}), "not the sums"),
    "a stock row is missing": (lambda it: it.stock.clear(), "not the sums"),
    "a reservation row is missing": (lambda it: it.held.pop("d"), "not the answers"),
    "a reservation row is another": (lambda it: it.held.update(b=it.held["a"]), "not the answers"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_doctored_output_is_found(name: str) -> None:
    doctor, said = WRONG[name]
    output = Output()
    doctor(output)
    with pytest.raises(AssertionError, match=said):
        output.judge()


# -- what counts ----------------------------------------------------------------------------------------------------------------------
def result(number: int, name: str, speed: int, *, void: bool = False, fault: str = "") -> contest.Result:
    figures = {"cpu_us_per_event": 1e6 / speed, "events_per_s": speed, "broker_us_per_event": 1.0, "peak_rss_mb": 9}
    return {"round": number, "contestant": name, "fault": fault, "void": void, **figures}


RESULTS = [
    result(1, "orderflow", 60),
    result(1, "quix", 20),
    result(2, "orderflow", 900, void=True),
    result(2, "quix", 30),
    result(3, "orderflow", 80),
    result(3, "quix", 5000, fault="two answers for a\nmore"),
]


def test_void_and_faulty_results_are_in_no_median() -> None:
    found = contest.medians(RESULTS, ["events_per_s"])
    assert found["orderflow"] == {"rounds": 2, "events_per_s": {"median": 70, "from": 60, "to": 80}}
    assert found["quix"] == {"rounds": 2, "events_per_s": {"median": 25, "from": 20, "to": 30}}


def test_a_ratio_needs_both_in_its_round() -> None:
    assert contest.ratios(RESULTS, "events_per_s", "orderflow")["quix"] == {"median": 0.333, "from": 0.333, "to": 0.333, "rounds": 1}


def speeds_met(monkeypatch: pytest.MonkeyPatch, *speeds: float) -> None:
    met = iter(speeds)

    @contextlib.contextmanager
    def watched() -> Iterator[contest.Result]:
        conditions: contest.Result = {}
        yield conditions
        speed = next(met)
        conditions.update(calibration_s=[speed, speed], drift=0.0, foreign_cores=0.0, void=False)

    monkeypatch.setattr(contest, "watched", watched)


def test_contestants_take_turns_and_a_fault_is_not_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    speeds_met(monkeypatch, *[1.0] * 4)
    checked: list[tuple[int, str]] = []

    def measure(number: int, name: str) -> contest.Figures:
        return {"fault": "stood still"} if name == "b" else {"events_per_s": number}

    def check(number: int, name: str) -> contest.Figures:
        checked.append((number, name))
        return {"fault": "wrong"} if number == 2 else {"checked": {}}

    results = contest.take_turns(2, ["a", "b"], measure, check=check)
    assert [(each["round"], each["contestant"], each["fault"]) for each in results] == [
        (1, "a", ""),
        (1, "b", "stood still"),
        (2, "a", "wrong"),
        (2, "b", "stood still"),
    ]
    assert checked == [(1, "a"), (2, "a")]


def test_after_a_measurement_it_is_known_how_the_machine_behaved() -> None:
    with contest.watched() as conditions:
        time.sleep(0.3)
    assert conditions.keys() == {"calibration_s", "drift", "foreign_cores", "void"} and all(conditions["calibration_s"])


def test_who_met_another_speed_than_its_round_is_void_and_the_round_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    speeds_met(monkeypatch, 1.0, 1.1, 1.3, 1.3, 1.3, 1.3)
    results = contest.take_turns(1, ["a", "b", "c"], lambda number, name: {})
    assert [(each["round"], each["void"]) for each in results] == [(1, False), (1, False), (1, True), (2, False), (2, False), (2, False)]


def test_void_rounds_end_too(monkeypatch: pytest.MonkeyPatch) -> None:
    speeds_met(monkeypatch, *(1.0, 1.5, 1.0) * 4)
    results = contest.take_turns(2, ["a", "b", "c"], lambda number, name: {})
    assert len(results) == 12 and sum(each["void"] for each in results) == 4


def test_the_gauge_says_the_speed_of_both_halves() -> None:
    gauge = machine.Gauge(1)
    gauge.start()
    time.sleep(0.6)
    assert all(0.001 < seconds < 100 for seconds in gauge.stop())


def document() -> dict[str, Any]:
    return {
        "contestants": {"orderflow": {"records": 1000}, "quix": {"records": 1000}},
        "not_run": {"kafka-streams": "mvn is not on PATH\nmore"},
        "median": contest.medians(RESULTS, j1_contest.METRICS),
        "ratio": {metric: contest.ratios(RESULTS, metric, "orderflow") for metric in j1_contest.METRICS[:2]},
        "rounds": RESULTS,
    }


def test_who_failed_and_who_did_not_run_is_listed() -> None:
    listed = {row[0]: row for row in j1_contest.rows(document())}
    assert listed["orderflow"][-2:] == ["2 of 3", "right"]
    assert listed["quix"][-2:] == ["2 of 3", "FAILED 1 of 3: two answers for a"]
    assert listed["kafka-streams"][-1] == "not run: mvn is not on PATH"
    assert all(len(row) == len(j1_contest.HEAD) for row in listed.values())


def test_bars_have_one_weight_and_who_has_no_figure_has_a_note() -> None:
    faulty = [result(1, "orderflow", 60), result(1, "quix", 90, fault="oversold")]
    shown = document() | {"rounds": faulty, "median": contest.medians(faulty, j1_contest.METRICS)}
    bars = list(j1_contest.bars(shown, "events_per_s"))
    assert [(bar.label, bar.value, bar.note) for bar in bars] == [
        ("orderflow", 60, ""),
        ("quix", None, "failed"),
        ("kafka-streams", None, "not run"),
    ]
    svg = plots.bars("title", "unit", [plots.Bar("ours", 1, 1, 1), plots.Bar("<theirs>", 2, 1, 3)])
    drawn = [line for line in svg.splitlines() if line.startswith("<rect x")]
    assert len({line.split("fill=")[1] for line in drawn}) == 1 and len({line.split("height=")[1] for line in drawn}) == 1
    assert "&lt;theirs&gt;" in svg


# -- the peers ------------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("record", [j1.ReserveStock, j1.StockRow, j1.Decided])
def test_the_peers_have_our_schemas(record: Any) -> None:
    assert json.loads((contestants.PEERS / "avro" / f"{record.__name__}.avsc").read_text()) == j1.schema(record)


def test_the_command_knows_the_peers() -> None:
    assert bench.PEERS == contestants.NAMES
    assert set(bench.CODECS) == set(contestants.OURS)


@pytest.mark.parametrize("script", ["faust_plain", "quix"])
def test_every_version_of_a_python_peer_is_pinned(script: str) -> None:
    lines = (contestants.PEERS / f"{script}.requirements.txt").read_text().split()
    assert lines and all(line.count("==") == 1 for line in lines)


def test_a_build_that_fails_is_missing_and_is_tried_again(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    tries = []

    def build(home: Any) -> None:
        tries.append(home)
        if len(tries) == 1:
            contestants._run("false", cwd=home)

    with pytest.raises(contestants.Missing, match="`false` ended with 1"):
        contestants._made("peer", [], build)
    assert contestants._made("peer", [], build) == contestants._made("peer", [], build) == tries[0]
    assert len(tries) == 2
