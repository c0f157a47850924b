"""The same hours read by more children than the source takes: without a limit of concurrent reads, and with it.

The source is the real Query Server in its overload form (a small pool and queue, as issue 1 measured it). Each side is
run several times, one after the other in turn, each time by fresh workers on a journal that remembers no limit.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from benchmarks.report import Measure
from devstack import overload
from devstack.dataset import DatasetSpec
from devstack.deployment import Deployment, deployed, midnight, ms
from devstack.oracle import Late
from devstack.stack import Stack

DAY_ROWS = 60_000  # the density at which the overload form was measured
NAME = "bench_reads"
RUN_TIMEOUT_S = 1_200.0
EMPTY_DAYS_BEFORE, EMPTY_HOURS = 9, 12
MOST = 64
SIDES = {"unlimited": 0, "limited": MOST}


@dataclass(frozen=True)
class Round:
    """One run: seconds from the first claim to the last slice's end, tries and rejections of the source, slices split,
    and the limit at the end (0: none).
    """

    seconds: float
    tries: int
    rejections: int
    splits: int
    limit: int


PHOENIX = True


def add_options(parser: argparse.ArgumentParser) -> None:
    """How much is read, by how many, how often."""
    parser.add_argument("--read-hours", type=int, default=12, metavar="H", help="read_limit: hours of a day to read")
    parser.add_argument("--read-children", type=int, default=16, metavar="C", help="read_limit: children that read")
    parser.add_argument("--read-slice-min", type=int, default=30, metavar="M", help="read_limit: minutes of a slice")
    parser.add_argument("--read-rounds", type=int, default=3, metavar="N", help="read_limit: runs of each side")


def run(stack: Stack, scratch: Path, options: argparse.Namespace) -> tuple[Sequence[Measure], Sequence[str]]:
    """Both sides in turn, and how they compare by their medians. AssertionError unless every run moved every row."""
    since = midnight(1)
    until = since + timedelta(hours=options.read_hours)
    minutes = options.read_slice_min
    rows = DAY_ROWS * options.read_hours // 24
    table = f"ACC_{NAME.upper()}"
    settings = {
        "PHX_INITIAL_SLICE_MIN": f"{minutes}",
        "PHX_QUERY_OVERLAP_MINUTES": "0",
        "PHX_QUERY_HINT": f'INDEX("{table}" "{table}_BY_OPD")',
        "OVERLOAD_BACKOFF_BASE_S": "0.5",
        "OVERLOAD_BACKOFF_CAP_S": "30",
        "PHX_OVERLOAD_MIN_SPLIT_MIN": "1",
    }
    rounds: dict[str, list[Round]] = {side: [] for side in SIDES}
    try:
        with deployed(stack, NAME, scratch, **settings) as deployment:
            deployment.seed(
                Late(DatasetSpec(rows=0, days=1, seed=91, until_ms=ms(until)), rows, ms(since), ms(until), 1)
            )
            overload.arrange(deployment.settings["PQS_URL"], table)
            stack.set_overload(True)
            _read(deployment, since, until, rows, 2, MOST)  # warms all caches
            for turn in range(options.read_rounds):
                for side in sorted(SIDES, reverse=turn % 2 == 0):
                    one = _read(deployment, since, until, rows, options.read_children, SIDES[side])
                    print(f"  {side}: {one}", flush=True)
                    rounds[side].append(one)
            deployment.assert_exact(since, until)
            # The deployment is taken down by an ordinary Query Server: the overload form rejects that too.
            stack.set_overload(False)
    finally:
        stack.set_overload(False)
    without, limited = rounds["unlimited"], rounds["limited"]

    def measure(name: str, unit: str, field: str, bound_ratio: float | None = None) -> Measure:
        baseline, value = (statistics.median(getattr(each, field) for each in side) for side in (without, limited))
        bound = None if bound_ratio is None else baseline * bound_ratio
        return Measure(name, value, unit, bound, baseline)

    measures = [
        measure("total time, first claim to last slice", "s", "seconds", 1.0),
        measure("rejections by the source", "", "rejections", 1.0),
        measure("queries of a window, rejected ones included", "", "tries"),
        measure("slices split", "", "splits"),
        measure("limit at the end", "reads", "limit"),
    ]
    notes = (
        f"baseline: PHX_MAX_CONCURRENT_READS=0; beside it {MOST}, beginning with no limit known to the journal",
        f"{rows:,} rows in {options.read_hours * 60 // minutes} slices of {minutes} minutes by "
        f"{options.read_children} children; medians of {options.read_rounds} runs each, the sides in turn",
        "the real Query Server in overload form: a pool of 2 threads, a queue of 8; every run moved every row",
    )
    return measures, notes


def _read(deployment: Deployment, since: datetime, until: datetime, rows: int, children: int, most: int) -> Round:
    """One run by a fresh worker, on a journal that knows no limit of this source."""
    deployment.start_worker(concurrency=children, PHX_MAX_CONCURRENT_READS=f"{most}")
    try:
        # Every child first makes its connections, over hours without rows.
        empty = since - timedelta(days=EMPTY_DAYS_BEFORE)
        deployment.wait_for_run(deployment.plan(empty, empty + timedelta(hours=EMPTY_HOURS)), RUN_TIMEOUT_S)
        deployment.journal("DELETE FROM {j}_read_limits")
        run_id = deployment.plan(since, until)
        row = deployment.wait_for_run(run_id, RUN_TIMEOUT_S)
        assert row.status == "ok", f"the run ended {row.status}: {deployment.describe()}"
        limits = deployment.journal("SELECT reads FROM {j}_read_limits")
    finally:
        deployment.stop_workers()
    (sums,) = deployment.journal(
        "SELECT extract(epoch FROM max(finished_at) - min(started_at))::float AS seconds, "
        "sum(overloads)::int AS rejections, count(*) FILTER (WHERE state = 'split')::int AS splits, "
        "count(*) FILTER (WHERE state = 'done')::int AS done, sum(rows_read)::int AS rows "
        "FROM {j}_slices WHERE run_id = %s",
        run_id,
    )
    assert sums.rows == rows, f"{sums.rows} rows were read, not {rows}"
    return Round(
        seconds=sums.seconds,
        tries=sums.rejections + sums.done,
        rejections=sums.rejections,
        splits=sums.splits,
        limit=limits[0].reads if limits else 0,
    )
