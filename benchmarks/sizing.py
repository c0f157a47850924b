"""A skewed day, most of its rows in two hours, on the real Query Server in its overload form, with and without sizing.

Both are run by turns over the same day and the same journal; the first run of all, which has statistics and no
experience yet, is told apart. Every run is compared with the seeder's oracle.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from benchmarks.report import Measure
from devstack import overload
from devstack.dataset import DatasetSpec
from devstack.deployment import Deployment, deployed, iso, midnight, ms
from devstack.oracle import Late, Rows
from devstack.stack import Stack

DENSE_HOURS = (10, 12)
QUIET_ROWS = 9_600  # 400 an hour: two or three chunks
DENSE_ROWS = 20_000  # 10,000 an hour: fifty chunks, of a pool and queue of ten
READERS = 2
RUN_TIMEOUT_S = 1_200.0
PHOENIX = True


@dataclass(frozen=True)
class Cost:
    """What one run of the day cost the source, and how long it took from being asked for to the last slice loaded."""

    slices: int
    statements: int
    rejections: int
    splits: int
    seconds: float


def add_options(parser: argparse.ArgumentParser) -> None:
    """How often."""
    parser.add_argument("--sizing-rounds", type=int, default=3, metavar="N", help="sizing: runs of each kind")


def run(stack: Stack, scratch: Path, options: argparse.Namespace) -> tuple[Sequence[Measure], Sequence[str]]:
    """The day by turns with and without sizing, once from slices of an hour and once from slices of five minutes.

    AssertionError unless CLEAN is exact after every run.
    """
    day = midnight(1)
    table = "ACC_BENCH_SIZING"
    hint = f'INDEX("{table}" "{table}_BY_OPD")'
    with deployed(
        stack, "bench_sizing", scratch, PHX_QUERY_OVERLAP_MINUTES="0", PHX_OVERLOAD_MAX_DEPTH="6", PHX_QUERY_HINT=hint
    ) as deployment:
        _seed(deployment, day)
        stack.set_overload(True)
        try:
            deployment.start_worker(concurrency=READERS)
            hour = {"PHX_INITIAL_SLICE_MIN": "60"}
            first = _cost(deployment, day, "first run, nothing learned", hour)
            fixed, sized = _by_turns(deployment, day, "1 h", hour, {}, options.sizing_rounds)
            small = {"PHX_INITIAL_SLICE_MIN": "5"}
            five, put_together = _by_turns(
                deployment, day, "5 min", small, {"PHX_SLICE_MAX_MIN": "60"}, options.sizing_rounds
            )
        finally:
            stack.set_overload(False)
    measures = [
        *_measures("slices of 1 h", sized, fixed, bounded=("statements", "rejections", "splits")),
        # Wider slices are bought with some rejections where two are read at once: that is told, not bounded.
        *_measures("slices of 5 min, put together up to 1 h", put_together, five, bounded=("statements",)),
        Measure("the first run, sized without experience: rejections", first.rejections, "", None, fixed.rejections),
        Measure("the same: splits", first.splits, "", None, fixed.splits),
        Measure("the same: seconds", first.seconds, "s", None, fixed.seconds),
    ]
    notes = (
        "baseline: PHX_SLICE_SIZING=fixed, the same day, journal and worker, by turns; medians of "
        f"{options.sizing_rounds} runs each",
        f"{QUIET_ROWS:,} rows over the day and {DENSE_ROWS:,} more in two hours of it; {READERS} readers at once; "
        "pool 2 and queue 8 on the Query Server",
        "statements: a count and a read a loaded window, one a rejected try, and the planner's EXPLAINs",
        "seconds: from the command to the last slice in RAW, planning with its EXPLAINs among them",
        "every run is exact: every column of every row of CLEAN_ALL compared with the seeder's oracle",
    )
    return measures, notes


def _measures(title: str, cost: Cost, baseline: Cost, bounded: Sequence[str]) -> list[Measure]:
    def measure(what: str, pick: Callable[[Cost], float], unit: str = "") -> Measure:
        most = pick(baseline) if what in bounded else None
        return Measure(f"{title}: {what}", pick(cost), unit, most, pick(baseline))

    return [
        measure("slices planned", lambda each: each.slices),
        measure("statements", lambda each: each.statements),
        measure("rejections", lambda each: each.rejections),
        measure("splits", lambda each: each.splits),
        measure("seconds", lambda each: each.seconds, "s"),
    ]


def _seed(deployment: Deployment, day: datetime) -> None:
    began = time.monotonic()
    spec = DatasetSpec(rows=QUIET_ROWS, days=1, seed=71, until_ms=ms(day + timedelta(days=1)))
    since, until = (ms(day + timedelta(hours=hour)) for hour in DENSE_HOURS)
    dense = Late(spec, DENSE_ROWS, since, until, version=1)
    rows = deployment.seed(Rows(spec)) + deployment.seed(dense)
    overload.arrange(deployment.settings["PQS_URL"], deployment.settings["HBASE_MAIN_TABLE"])
    print(f"  seeded {rows:,} rows in {time.monotonic() - began:.0f} s", flush=True)


def _by_turns(
    deployment: Deployment, day: datetime, title: str, both: dict[str, str], sized: dict[str, str], rounds: int
) -> tuple[Cost, Cost]:
    """Medians of fixed and sized runs."""
    costs: dict[str, list[Cost]] = {"fixed": [], "auto": []}
    for _ in range(rounds):
        costs["fixed"].append(_cost(deployment, day, f"{title} fixed", {**both, "PHX_SLICE_SIZING": "fixed"}))
        costs["auto"].append(_cost(deployment, day, f"{title} sized", {**both, **sized}))
    return _median(costs["fixed"]), _median(costs["auto"])


def _median(costs: Sequence[Cost]) -> Cost:
    def of(pick: Callable[[Cost], float]) -> float:
        return statistics.median(pick(cost) for cost in costs)

    return Cost(
        slices=int(of(lambda cost: cost.slices)),
        statements=int(of(lambda cost: cost.statements)),
        rejections=int(of(lambda cost: cost.rejections)),
        splits=int(of(lambda cost: cost.splits)),
        seconds=of(lambda cost: cost.seconds),
    )


def _cost(deployment: Deployment, day: datetime, title: str, settings: dict[str, str]) -> Cost:
    """Load the day once; AssertionError unless it is exact afterwards."""
    until = day + timedelta(days=1)
    asked_at = datetime.now(UTC)
    deployment.cli(
        "run", "--manual", "--since", iso(day), "--until", iso(until), expect=0, timeout_s=RUN_TIMEOUT_S, **settings
    )
    run = deployment.runs()[-1]
    slices = deployment.slices(run.id)
    done = [each for each in slices if each.state == "done"]
    rejections = sum(each.overloads for each in slices)
    cost = Cost(
        slices=sum(each.depth == 0 for each in slices),
        statements=2 * len(done) + rejections + run.details.get("sizing", {}).get("estimates", 0),
        rejections=rejections,
        splits=sum(each.state == "split" for each in slices),
        seconds=(max(each.finished_at for each in done) - asked_at).total_seconds(),
    )
    deployment.assert_exact(day, until)
    print(f"  {title}: {cost}; {run.details.get('sizing', {}).get('why', 'all alike')}", flush=True)
    return cost
