"""What the benchmarks of the running system say is what was measured: gaps, matches, windows, targets, warnings, commands."""

import os
import random
from pathlib import Path
from typing import Any

import flame
import fleet
import hot
import j1
import latency
import micro
import product
import pytest
import rebalance
import report
import restart
import restore
import scale
import soak
import targets
import traffic
import typer

from orderflow.cli import bench_system, machine
from orderflow.cli.main import app
from orderflow.schemas.partitioner import partition_of
from orderflow.streams.domain.order_records import StockAnswerRecorded, StockAsked
from orderflow.streams.domain.parts import Money
from orderflow.streams.domain.payment_records import Ledger, PaymentAuthorized, PaymentRequested

ROOT = Path(__file__).resolve().parents[2]
RATE = 100.0


# -- answers ------------------------------------------------------------------------------------------------------------------------
def answers(count: int, *, late_s: float = 0.01) -> list[tuple[float, j1.Decided]]:
    """The right answers to the first `count` commands, each `late_s` after it was due."""
    found = []
    for number, asked in enumerate(j1.commands(count)):
        decided = j1.Decided(asked.command_id, asked.order_id, asked.sku, asked.location_id, asked.quantity, True, 1, 1, 1)
        found.append((number / RATE + late_s, decided))
    return found


def test_every_answer_is_matched_with_its_command() -> None:
    exchanges = traffic.match(answers(300), 300, 0.0, RATE, 4)
    assert [round(each.wait_s, 6) for each in exchanges] == [0.01] * 300
    skus = [asked.sku for asked in j1.commands(300)]
    assert [each.partition for each in exchanges] == [partition_of(sku.encode(), 4) for sku in skus]


def test_repeats_of_a_command_are_matched_in_order() -> None:
    """2 % of the input are repeats: 300 commands have some."""
    ids = [asked.command_id for asked in j1.commands(300)]
    assert len(set(ids)) < 300
    exchanges = traffic.match(answers(300), 300, 0.0, RATE, 4)
    assert [each.due for each in exchanges] == [number / RATE for number in range(300)]


def test_a_lost_answer_is_noticed() -> None:
    with pytest.raises(AssertionError, match="1 of 300 commands have no answer"):
        traffic.match(answers(300)[:-1], 300, 0.0, RATE, 4)


def test_a_doubled_answer_is_noticed() -> None:
    seen = answers(300)
    with pytest.raises(AssertionError, match="an answer too many"):
        traffic.match([*seen, seen[0]], 300, 0.0, RATE, 4)


def test_an_answer_to_nobody_is_noticed() -> None:
    seen = answers(300)
    with pytest.raises(AssertionError, match="an answer too many"):
        traffic.match([*seen[:-1], answers(301)[-1]], 300, 0.0, RATE, 4)


def test_percentiles_are_of_the_values_in_milliseconds() -> None:
    assert traffic.spread(number / 1000 for number in range(1, 101)) == {"p50": 51.0, "p95": 96.0, "p99": 100.0, "max": 100.0}
    assert traffic.spread([]) == {}


# -- gaps ---------------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("times", "gap"),
    [
        ([0.0, 1.0, 2.0, 3.0, 4.0], 1.0),
        ([0.0, 1.9, 5.0], 1.1),  # begins before the end, counts until the end
        ([0.0, 0.5, 2.5, 3.0], 1.5),  # began before the event, counts from it
        ([0.0, 9.0], 2.0),  # silent all the time
        ([], 2.0),
    ],
)
def test_a_gap_is_what_lies_between_the_event_and_its_end(times: list[float], gap: float) -> None:
    assert rebalance.longest_gap(times, 1.0, 3.0) == pytest.approx(gap)


def test_moved_and_kept_partitions_are_judged_apart() -> None:
    kept = [traffic.Exchange(number / 10, number / 10 + 0.02, 0) for number in range(100)]
    moved = [traffic.Exchange(number / 10, (number / 10 if number < 30 else max(number / 10, 5.0)) + 0.02, 1) for number in range(100)]
    event = {"event": "join", "at": 2.5, "until": 8.0, "moved": [1], "running_after_s": 2.0}
    judged = rebalance.judge(event, [*kept, *moved])
    assert judged["kept_gap_s"] == pytest.approx(0.1, abs=0.01) and judged["kept_wait_s"] == pytest.approx(0.02)
    assert judged["moved_gap_s"] == pytest.approx(2.1) and judged["moved_wait_s"] == pytest.approx(2.02)


def test_a_command_that_the_next_event_delays_is_not_held_against_this_one() -> None:
    exchanges = [traffic.Exchange(number / 10, number / 10 + 0.02, 0) for number in range(99)] + [traffic.Exchange(9.9, 20.0, 0)]
    before = {"event": "join", "at": 2.0, "until": 10.0, "moved": [0], "running_after_s": 1.0}
    after = {**before, "event": "kill", "at": 10.0, "until": 21.0}
    assert rebalance.judge(before, exchanges)["moved_wait_s"] == pytest.approx(0.1)
    judged = rebalance.judge(after, exchanges)
    assert judged["moved_wait_s"] == pytest.approx(10.1) and judged["moved_gap_s"] == pytest.approx(10.0)


def test_the_worst_of_all_events_is_what_the_target_sees() -> None:
    events = [
        {
            "event": kind,
            "moved": [1],
            "moved_gap_s": gap,
            "moved_wait_s": gap,
            "kept_gap_s": 0.1,
            "kept_wait_s": 0.1,
            "running_after_s": 1.0,
        }
        for kind, gap in (("join", 1.0), ("leave", 4.0), ("kill", 12.0))
    ]
    cold = {"events": events, "session_timeout_s": 10.0, "standby": False}
    found = rebalance.targets([cold])
    assert [(each["measured"], each["met"]) for each in found] == [(4.0, False), (None, None), (0.1, True), (12.0, True)]
    warm = {**cold, "events": [{**event, "moved_gap_s": 0.4} for event in events], "standby": True}
    assert [(each["measured"], each["met"]) for each in rebalance.targets([cold, warm])][:2] == [(4.0, False), (0.4, True)]


# -- windows ------------------------------------------------------------------------------------------------------------------------
def mark(at: float, records: int, cpu_s: float, *partitions: int, committed: int = 10) -> fleet.Mark:
    return fleet.Mark(at, 1, committed, records, int(at), 0, cpu_s, at / 10, at / 20, 100, partitions)


def test_a_window_begins_after_the_warm_up_and_when_all_work() -> None:
    alone = [mark(float(at), at * 100, at * 0.1, 0, 1) for at in range(1, 11)]
    late = [
        mark(5.0, 0, 0.5, 2, committed=0),
        mark(5.5, 0, 0.5, 2, committed=0),
        *(mark(6.0 + at, 50 + at * 50, 0.5 + at * 0.05, 2) for at in range(5)),
    ]
    found = fleet._window({"a": alone, "b": late}, 1250, 300)
    # From 6.0, when b commits its first records (a: 600), to 10.0 (a: 1000, b: 250).
    assert found["events"] == 400 + 200 and found["seconds"] == pytest.approx(4.0)
    assert found["cpu_us_per_event"] == pytest.approx((0.4 + 0.2) / 600 * 1e6, rel=0.01)


def test_workers_that_never_worked_together_give_no_figure() -> None:
    with pytest.raises(fleet.BenchError, match="side by side"):
        fleet._window({"a": [mark(1.0, 100, 0.1, 0)], "b": []}, 100, 30)


# -- targets ------------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("measured", "limits", "met"),
    [
        (10.0, {"at_most": 10.0}, True),
        (10.1, {"at_most": 10.0}, False),
        (9.0, {"at_least": 10.0}, False),
        (10.0, {"at_least": 10.0}, True),
        (None, {"at_most": 1.0}, None),
    ],
)
def test_a_target_is_met_or_missed(measured: float | None, limits: dict[str, float], met: bool | None) -> None:
    assert targets.target("x", measured, "ms", **limits)["met"] is met


def test_a_missed_target_is_said_as_plainly_as_a_met_one() -> None:
    found = {"targets": [targets.target("a", 3.5, "s", at_most=3.0), targets.target("b", 2.0, "s", at_most=3.0)]}
    assert list(targets.rows(found)) == [("a", "3.5 s", "<= 3 s", "missed"), ("b", "2 s", "<= 3 s", "met")]


def test_scale_compares_the_last_point_of_a_curve_with_the_first() -> None:
    common = {"void": False, "fault": "", "workers": 1}
    results: list[dict[str, Any]] = [
        {**common, "partitions": 4, "cpu_us_per_event": 20.0, "rss_mb": [100]},
        {**common, "partitions": 16, "cpu_us_per_event": 36.0, "rss_mb": [100]},
        {**common, "keys": 100, "cpu_us_per_event": 20.0, "rss_mb": [100]},
        {**common, "keys": 500, "cpu_us_per_event": 28.0, "rss_mb": [100]},
        {**common, "reservations": 0, "cpu_us_per_event": 20.0, "rss_mb": [100]},
        {**common, "reservations": 500_000, "cpu_us_per_event": 20.0, "rss_mb": [150]},
    ]
    found = scale.targets(results)
    assert [(each["measured"], each["met"]) for each in found] == [(1.8, False), (1.4, True), (100.0, True)]


def test_a_wrong_result_is_no_figure() -> None:
    wrong = [
        {"partitions": size, "workers": 1, "cpu_us_per_event": 1.0, "rss_mb": [1], "void": False, "fault": "oversold"} for size in (4, 16)
    ]
    assert [each["met"] for each in scale.targets(wrong)] == [None]


def test_restore_is_judged_at_the_largest_state_and_by_the_ratio_to_the_smallest() -> None:
    small, large = ({"rows": rows, "records_per_s": 400_000, "back_s": back} for rows, back in ((100_000, 2.0), (5_000_000, 2.6)))
    assert [(each["measured"], each["met"]) for each in restore.targets([small, large])] == [(400_000, True), (2.6, True), (1.3, False)]


WAITS = {"p50": 5.0, "p95": 9.0, "p99": 12.0, "max": 40.0}
ROUNDS: dict[str, dict[str, Any]] = {
    "latency": {
        "workers": 1,
        "rate": 200.0,
        "samples": 10,
        "wait_ms": WAITS,
        "held": True,
        "cpu_share": [0.1],
        "records_per_commit": [2.0],
    },
    "product": {
        "workers": 1,
        "rate": 5.0,
        "items": 1,
        "prepaid": True,
        "wait_ms": WAITS,
        "steps_ms": {"reserve": {**WAITS, "samples": 5}},
        "statuses": {"201": 5},
        "cpu_share": {"edge": 0.1},
    },
    "restore": {
        "rows": 1000,
        "records_per_s": 400_000,
        "back_s": 2.0,
        "rebuilt": [{"records_per_s": 400_000, "cpu_us_per_record": 2.1, "seconds": 2.5, "disk_mb": 7, "rss_mb": 90}],
        "back": [{"kill_to_commit_s": 2.0, "start_to_commit_s": 1.5, "restored": 3}],
    },
    "rebalance": {
        "session_timeout_s": 10.0,
        "standby": False,
        "events": [
            {"event": "leave", "exit_code": 12, "moved_gap_s": 1.0, "moved_wait_s": 1.1, "kept_gap_s": 0.2, "kept_wait_s": 0.3}
            | {"running_after_s": 1.0}
        ],
    },
    "scale": {"contestant": "keys=10", "keys": 10, "events_per_s": 30_000, "cpu_us_per_event": 20.0, "rss_mb": [100]},
    "restart": {"contestant": "orderflow", "what": "the product", "kill_to_commit_s": 2.0, "start_to_commit_s": 1.5},
    "soak": {
        "rate": 40.0,
        "minutes": 30.0,
        "processes": {
            "kafka": {"memory_mb": [500, 600, 700], "files": [90, 90, 90], "tables": [0, 0, 0], "threads": [80, 80, 80]},
            "worker-1": {"memory_mb": [200, 300, 303], "files": [40, 41, 41], "tables": [0, 9, 30], "threads": [20, 20, 20]},
        },
        "wait_ms": {third: WAITS for third in ("first", "middle", "last")},
        "statuses": {"201": 5},
    },
    "hot": {"round": 1, "contestant": "uniform", "events_per_s": 30_000, "cpu_us_per_event": 20.0},
}


@pytest.mark.parametrize("name", sorted(ROUNDS))
def test_what_is_measured_can_be_shown(name: str) -> None:
    job = report.reader({"job": name})
    rounds = [{**ROUNDS[name], "void": False, "fault": ""}]
    if name == "hot":
        rounds = [{**rounds[0], "contestant": pick} for pick in hot.PICKS]
    wanted = job.targets(rounds)
    document = targets.document(name, {}, rounds, wanted)
    lines = list(job.rows(document))
    assert lines and {len(line) for line in lines} == {len(job.HEAD)}
    table = job.table(document)
    assert "right" in table and all(each["name"] in table for each in wanted)
    assert all(text.startswith("<svg") for _, text in job.charts(document))


def test_a_worker_that_left_badly_is_said() -> None:
    (line,) = rebalance.rows({"rounds": [{**ROUNDS["rebalance"], "void": False, "fault": ""}]})
    assert "ended with [12]" in line[-1]


def test_a_peer_that_cannot_be_built_is_listed_and_is_no_target() -> None:
    ours = {**ROUNDS["restart"], "void": False, "fault": ""}
    missing = {"contestant": "kafka-streams", "what": "the peer", "void": False, "fault": "not run: no Maven"}
    document = {"rounds": [ours, missing]}
    assert [line[0] for line in restart.rows(document)] == ["the product", "the peer"]
    assert list(restart.rows(document))[1][-1] == "not run: no Maven"
    ((_, chart),) = restart.charts(document)
    assert "no round counts" in chart
    assert [(each["measured"], each["met"]) for each in restart.targets([ours, missing])] == [(2.0, True)]


# -- soak ---------------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("values", "grown"),
    [
        ([10, 20, 30, 30, 30, 30, 30, 30, 30], 1.0),  # caches that fill up at first
        ([10, 10, 10, 20, 20, 20, 30, 30, 30], 1.5),
        ([10, 10, 10, 20, 20, 20, 20, 20, 90], 1.0),  # one peak
        ([0, 0, 0], 1.0),  # the kernel does not say
    ],
)
def test_growth_is_from_the_middle_third_to_the_last(values: list[int], grown: float) -> None:
    assert soak.growth(values) == grown


def test_only_what_is_ours_may_not_grow() -> None:
    found = soak.targets([ROUNDS["soak"]])
    assert [(each["measured"], each["met"]) for each in found] == [(1.01, True), (1.0, True), (1.0, True), (1.0, True)]
    leaking = {"edge": {"memory_mb": [100, 100, 110], "files": [9, 9, 9], "tables": [0, 0, 0], "threads": [3, 3, 4]}}
    found = soak.targets([{**ROUNDS["soak"], "processes": leaking}])
    assert [each["met"] for each in found] == [False, True, False, True]


def test_tables_are_no_files_that_leak(tmp_path: Path) -> None:
    before = machine.held(os.getpid())
    with (tmp_path / "000007.sst").open("w"), (tmp_path / "book.log").open("w"):
        now = machine.held(os.getpid())
    assert (now.files - before.files, now.tables - before.tables) == (1, 1)
    assert now.memory_mb > 10 and now.threads >= 1
    assert machine.held(2**22 + 1) == (0, 0, 0, 0), "no such process"


# -- flame graphs -------------------------------------------------------------------------------------------------------------------
STACKS = """\
main (a.py:1);work (b.py:10);0x7f00aa (libc.so.6) 30
main (a.py:1);work (b.py:12);rocksdb::Insert (rocks.so) 50
main (a.py:2);idle (c.py:3) 20
other (d.py:1);Condition.wait (threading.py:327) 900
"""


def test_a_flame_graph_shows_shares_of_what_did_not_wait() -> None:
    root = flame.tree(flame.folded(STACKS.splitlines()))
    (main,) = root.calls.values()
    assert (root.count, main.count) == (100, 100)
    assert {name: child.count for name, child in main.calls.items()} == {"work (b.py)": 80, "idle (c.py)": 20}
    picture = flame.svg(root, "a title")
    assert "work (b.py): 80 samples, 80.0%" in picture and "rocksdb::Insert (rocks.so): 50 samples, 50.0%" in picture
    assert "Condition" not in picture and "a title" in picture


# -- keys ---------------------------------------------------------------------------------------------------------------------------
def test_zipf_prefers_the_first_skus_and_reaches_the_last_ones() -> None:
    pick, choose = hot.zipf(1000), random.Random(1)  # noqa: S311  (a fixed seed is the point)
    found = [pick(choose) for _ in range(20_000)]
    assert max(found) > 900 and max(set(found), key=found.count) == 0
    assert found.count(0) / found.count(1) == pytest.approx(2**1.1, rel=0.15)


def test_one_key_is_one_key() -> None:
    assert {asked.sku for asked in j1.commands(200, hot.single)} == {"SKU-000000"}


# -- micro --------------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("ratio", "warned"), [(0.10, False), (0.119, False), (0.125, True), (0.05, False)])
def test_a_part_that_became_dearer_is_a_warning(ratio: float, warned: bool) -> None:
    document = {"parts": {"turn": {"us": 1.0, "ratio": ratio, "fault": ""}, "new": {"us": 1.0, "ratio": 9.0, "fault": ""}}}
    assert bool(micro.warnings(document, {"turn": 0.1, "gone": 1.0})) is warned


def test_parts_do_what_they_are_timed_for(tmp_path: Path) -> None:
    """All but the one that needs a broker, once each, with their own checks."""
    from contextlib import ExitStack

    with ExitStack() as opened:
        parts = [
            *micro._codec_parts(),
            *micro._row_parts(tmp_path, opened),
            *micro._rocks_parts(tmp_path, opened),
            micro._j1_part(tmp_path, opened),
            micro._stock_part(tmp_path, opened),
        ]
        for part in parts:
            part.ready()
            part.run()
        assert dict(micro._faults(parts)) == {}


# -- commands and pages -------------------------------------------------------------------------------------------------------------
def test_all_commands_are_taken_in() -> None:
    bench = typer.main.get_command(app).commands["bench"]  # type: ignore[attr-defined]
    assert {command.__name__ for command in bench_system.COMMANDS} <= set(bench.commands)


def test_a_void_result_is_said() -> None:
    document = {"facts": {"pinned": True}, "rounds": [{"void": True}, {"void": False}]}
    assert list(bench_system.doubts(document)) == ["1 of 2 results are void: the machine changed its speed, or others used it"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, "right"),
        ({"held": False, "last_answer_behind_s": 3.5}, "right, but 3.5 s behind"),
        ({"held": False, "last_answer_behind_s": None, "unanswered": 7}, "not held: 7 commands had no answer two minutes later"),
    ],
)
def test_a_rate_that_is_too_high_says_so(change: dict[str, Any], said: str) -> None:
    result = {**ROUNDS["latency"], "fault": "", "void": False, **change}
    (row,) = latency.rows({"rounds": [result]})
    assert row[-1] == said


@pytest.mark.parametrize("name", ["latency", "product", "restore", "restart", "rebalance", "scale", "hot", "soak", "micro"])
def test_the_page_can_show_it(name: str) -> None:
    assert report.reader({"job": name}).__name__ == name


def test_a_place_may_wait_for_its_results(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    (docs / "benchmarks").mkdir(parents=True)
    (docs / "benchmarks-system.md").write_text("<!-- bench: hot, when measured -->\n<!-- end -->\n")
    (page,) = dict(report.files(tmp_path)).values()
    assert page == (
        "<!-- bench: hot, when measured -->\n"
        "Not measured on a quiet machine yet: `--save docs/benchmarks/hot.json` keeps the results for this place.\n<!-- end -->\n"
    )


def test_the_steps_of_a_saga_last_from_what_was_asked_to_each_answer() -> None:
    def answer(sku: str) -> StockAnswerRecorded:
        return StockAnswerRecorded(f"{sku}~o1~1", sku, "reserved", 1)

    authorize = PaymentRequested("o1~A1", "authorize", 1, "key", "local", "card", Money(100, "EUR"))
    authorized = PaymentAuthorized("o1", "o1~A1", "authorize", 1, Money(100, "EUR"), Ledger("EUR"))
    facts = [
        (0, "o0", answer("A")),  # asked before the measurement began
        (1000, "o1", StockAsked("reserve", 1)),
        (1010, "o1", answer("A")),
        (1030, "o1", answer("B")),
        (1031, "o1", authorize),
        (1131, "o1", authorized),
        (1140, "o1", StockAsked("commit", 1)),
        (1150, "o1", answer("A")),
    ]
    assert list(product.steps(facts)) == [("reserve", 0.01), ("reserve", 0.03), ("authorize", 0.1), ("commit", 0.01)]
