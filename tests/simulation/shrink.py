"""From a failing run to a small one: fewer faults, fewer orders, fewer workers, as long as it still fails."""

from collections.abc import Callable

from msgspec import structs

from simulation.run import Plan, Result

Run = Callable[[Plan], Result]
RUNS_MAX = 60


def shrink(failed: Result, run: Run, runs_max: int = RUNS_MAX) -> tuple[Result, int]:
    """The smallest failing run found, and how many runs it took."""
    best, runs = failed, 0

    def fails(plan: Plan) -> bool:
        nonlocal best, runs
        if runs >= runs_max:
            return False
        runs += 1
        found = run(plan)
        if found.problems:
            best = found
        return bool(found.problems)

    _fewer_faults(best.plan, fails)
    while best.plan.load.orders > 2 and runs < runs_max:
        fewer = max(2, best.plan.load.orders // 2)
        if not fails(structs.replace(best.plan, load=structs.replace(best.plan.load, orders=fewer))):
            break
    _fewer_faults(best.plan, lambda plan: fails(structs.replace(plan, load=best.plan.load)))
    for calmer in ({"lost": 0.0, "answer_lost": 0.0}, {"late": 0.0, "twice": 0.0}, {"oversized": 0.0}, {"poison": 0}):
        fails(structs.replace(best.plan, load=structs.replace(best.plan.load, **calmer)))
    fails(structs.replace(best.plan, interleave=0.0))
    if best.plan.workers > 1:
        fails(structs.replace(best.plan, workers=best.plan.workers - 1))
    return best, runs


def _fewer_faults(plan: Plan, fails: Callable[[Plan], bool]) -> None:
    """Leave out halves, then single faults."""
    faults = plan.faults
    size = max(1, len(faults) // 2)
    while faults:
        position, shorter = 0, False
        while position < len(faults):
            tried = faults[:position] + faults[position + size :]
            if fails(structs.replace(plan, faults=tried)):
                faults, shorter = tried, True
            else:
                position += size
        if size == 1 and not shorter:
            return
        size = max(1, size // 2)
