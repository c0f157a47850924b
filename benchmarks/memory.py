"""How much a worker child holds at most: on one slice of many rows, and on one of few rows that are megabytes wide.

The bound is the issue's, 200 MB of VmHWM. The baseline is the plain loop on the same rows, in a process of its own.
"""

from __future__ import annotations

import argparse
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path

from benchmarks.canned import canned
from benchmarks.exactness import WINDOW, assert_exact
from benchmarks.processes import only_child, peak_mb, resident_mb
from benchmarks.report import Measure
from benchmarks.sides import Copied, bench_deployed, plain_loop
from benchmarks.source_table import ROWS, recorded
from devstack.deployment import Deployment, deployed, iso, midnight, ms
from devstack.errors import DevstackError
from devstack.oracle import Operation, Wide
from devstack.phoenix import HEAP_VARIABLE
from devstack.stack import Stack

PHOENIX = True
BOUND_MB = 200.0
HEAP = "2g"
WIDE_BYTES = 4_000_000
SINCE = midnight(1) + timedelta(hours=10)
SLICE = timedelta(minutes=5)
MOST_WINDOWS = 12
PARTS_COMPARED = 12
RUN_TIMEOUT_S = 900.0


@dataclass(frozen=True)
class Load:
    """What a child did with one slice."""

    rows: int
    idle_mb: float
    peak_mb: float
    after_mb: float
    seconds: float


def add_options(parser: argparse.ArgumentParser) -> None:
    """The sizes, to scale a run down."""
    parser.add_argument(
        "--rows", type=int, default=300_000, metavar="N", help=f"memory: rows of the slice, in windows of {ROWS:,}"
    )
    parser.add_argument("--wide-rows", type=int, default=300, metavar="N", help="memory: rows of 4 MB of the other")


def run(stack: Stack, scratch: Path, options: argparse.Namespace) -> tuple[Sequence[Measure], Sequence[str]]:
    """Both slices, each by a fresh child, and the plain loop on the first one's rows. AssertionError unless exact."""
    windows = options.rows // ROWS
    if not 1 <= windows <= MOST_WINDOWS:
        raise DevstackError(
            f"--rows is {options.rows:,}: a slice may hold {ROWS:,} to {MOST_WINDOWS * ROWS:,} rows here"
        )
    loaded, plain, facts = _many(stack, scratch, windows)
    _give_heap(stack)
    loaded_wide = _wide(stack, scratch, options.wide_rows)
    measures = [
        Measure(
            f"peak of a worker child, a slice of {loaded.rows:,} rows", loaded.peak_mb, "MB", BOUND_MB, plain.peak_mb
        ),
        Measure(
            f"peak of a worker child, a slice of {loaded_wide.rows:,} rows of 4 MB", loaded_wide.peak_mb, "MB", BOUND_MB
        ),
        Measure("of both, held before the first task", loaded.idle_mb, "MB"),
        Measure(f"resident after the slice of {loaded.rows:,} rows", loaded.after_mb, "MB"),
        Measure(f"resident after the slice of {loaded_wide.rows:,} wide rows", loaded_wide.after_mb, "MB"),
        Measure("rows a second, count, read and insert", loaded.rows / loaded.seconds, "rows/s", None, plain.rate),
        Measure("megabytes a second, wide rows", loaded_wide.rows * WIDE_BYTES / 1e6 / loaded_wide.seconds, "MB/s"),
    ]
    notes = (
        "many rows come from the canned source; baseline: the plain loop on the same rows, in its own process",
        "peak: VmHWM of the prefork child over the slice and the publish after it; MB are 1,000,000 bytes",
        "wide rows: every column of every row of CLEAN_ALL equals the seeder's oracle",
        *facts,
    )
    return measures, notes


def _many(stack: Stack, scratch: Path, windows: int) -> tuple[Load, Copied, list[str]]:
    """One slice of so many windows of the canned source, and the plain loop on the same rows."""
    until = SINCE + windows * WINDOW
    settings = {"PHX_INITIAL_SLICE_MIN": "60", "ALWAYS_PUBLISH_AT_END": "1", "PUBLISH_EVERY_MINUTES": "0"}
    with (
        canned(recorded(stack), ms(SINCE), windows) as source,
        bench_deployed(stack, "bench_many", scratch, PQS_URL=source.url, **settings) as deployment,
    ):
        deployment.empty()
        plain = plain_loop(deployment, SINCE, until, {})
        print(
            f"  the plain loop: {plain.rows:,} rows in {plain.seconds:.0f} s, peak {plain.peak_mb:.0f} MB", flush=True
        )
        loaded = _load(deployment, SINCE, until)
        return loaded, plain, assert_exact(deployment, deployment.clean_all, SINCE, windows)


def _wide(stack: Stack, scratch: Path, rows: int) -> Load:
    """One slice of so many rows of 4 MB, from the real Query Server."""
    until = SINCE + SLICE
    wide = Wide(rows, WIDE_BYTES, ms(SINCE), ms(until))
    with deployed(stack, "bench_wide", scratch, PHX_QUERY_OVERLAP_MINUTES="0") as deployment:
        _seed(deployment, wide)
        loaded = _load(deployment, SINCE, until)
        _assert_exact(deployment, SINCE, until)
    return loaded


def _seed(deployment: Deployment, operation: Operation) -> None:
    began = time.monotonic()
    rows = deployment.seed(operation)
    print(f"  seeded {rows:,} rows in {time.monotonic() - began:.0f} s", flush=True)


def _load(deployment: Deployment, since: datetime, until: datetime) -> Load:
    """One slice through a worker with one child."""
    worker = deployment.start_worker(concurrency=1)
    child = only_child(worker.process.pid)
    idle_mb = peak_mb(child)
    deployment.cli("run", "--manual", "--since", iso(since), "--until", iso(until), timeout_s=RUN_TIMEOUT_S)
    assert only_child(worker.process.pid) == child, "the child was replaced: its peak is not the whole story"
    peak, after = peak_mb(child), resident_mb(child)
    (piece,) = deployment.slices(deployment.runs()[-1].id)
    print(f"  {piece.rows_read:,} rows in one slice, peak {peak:.0f} MB; timings_ms {piece.timings_ms}", flush=True)
    return Load(
        rows=piece.rows_read,
        idle_mb=idle_mb,
        peak_mb=peak,
        after_mb=after,
        seconds=(piece.finished_at - piece.started_at).total_seconds(),
    )


def _assert_exact(deployment: Deployment, since: datetime, until: datetime) -> None:
    """A part of the window at a time: the oracle's rows and ClickHouse's are both held for the comparison."""
    edges = [since + (until - since) * part // PARTS_COMPARED for part in range(PARTS_COMPARED + 1)]
    for low, high in pairwise(edges):
        found = deployment.clean_difference(low, high)
        assert not found, f"CLEAN_ALL is not exact in [{low}, {high}): {str(found)[:2000]}"
    (total,) = deployment.query(f"SELECT count() FROM {deployment.clean_all}")[0]
    owed = sum(1 for operation in deployment.state.operations for _ in operation.indexed_keys())
    assert total == owed > 0, f"CLEAN_ALL has {total} rows, the oracle {owed}"


def _give_heap(stack: Stack) -> None:
    """HBase restarts with more heap when it was started with less than rows of megabytes by the hundred need."""
    pid = stack.pid("hbase")
    command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    sizes = [re.fullmatch(rb"-Xmx(\d+)([mgMG])", argument) for argument in command]
    given = next((int(size[1]) * (1024 if size[2] in b"gG" else 1) for size in sizes if size), 0)
    if given >= 2048:
        return
    stack.report(f"HBase has {given} MB of heap: it starts again with {HEAP}, which it keeps until its next start")
    os.environ[HEAP_VARIABLE] = HEAP
    for name in ("pqs", "hbase"):
        stack.stop(name)
    for name in ("hbase", "pqs"):
        stack.start(name)
    if stack.pid("hbase") is None:
        raise DevstackError("HBase did not come back")
