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

from benchmarks.processes import only_child, peak_mb, resident_mb
from benchmarks.report import Measure
from benchmarks.sides import run_baseline
from devstack.dataset import MAIN_COLUMNS, DatasetSpec
from devstack.deployment import Deployment, deployed, iso, midnight, ms
from devstack.errors import DevstackError
from devstack.oracle import Late, Operation, Wide
from devstack.phoenix import HEAP_VARIABLE
from devstack.phoenix_seed import timestamp
from devstack.stack import Stack

PHOENIX = True
BOUND_MB = 200.0
HEAP = "2g"
WIDE_BYTES = 4_000_000
SLICE = timedelta(minutes=5)
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
    parser.add_argument("--rows", type=int, default=300_000, metavar="N", help="memory: rows of the slice")
    parser.add_argument("--wide-rows", type=int, default=300, metavar="N", help="memory: rows of 4 MB of the other")


def run(stack: Stack, scratch: Path, options: argparse.Namespace) -> tuple[Sequence[Measure], Sequence[str]]:
    """Both slices, each by a fresh child, and the plain loop on the first one's rows. AssertionError unless exact."""
    since = midnight(1) + timedelta(hours=10)
    until = since + SLICE
    spec = DatasetSpec(rows=0, days=1, seed=91, until_ms=ms(until))
    many = Late(spec, options.rows, ms(since), ms(until), version=1)
    wide = Wide(options.wide_rows, WIDE_BYTES, ms(since), ms(until))

    with deployed(stack, "bench_many", scratch, PHX_QUERY_OVERLAP_MINUTES="0") as deployment:
        _seed(deployment, many)
        plain = _plain_loop(deployment, since, until)
        loaded = _load(deployment, since, until)
    _give_heap(stack)
    with deployed(stack, "bench_wide", scratch, PHX_QUERY_OVERLAP_MINUTES="0") as deployment:
        _seed(deployment, wide)
        loaded_wide = _load(deployment, since, until)

    rate = loaded.rows / loaded.seconds
    plain_rate = plain["rows"] / plain["seconds"]
    measures = [
        Measure(
            f"peak of a worker child, a slice of {loaded.rows:,} rows", loaded.peak_mb, "MB", BOUND_MB, plain["peak_mb"]
        ),
        Measure(
            f"peak of a worker child, a slice of {loaded_wide.rows:,} rows of 4 MB", loaded_wide.peak_mb, "MB", BOUND_MB
        ),
        Measure("of both, held before the first task", loaded.idle_mb, "MB"),
        Measure(f"resident after the slice of {loaded.rows:,} rows", loaded.after_mb, "MB"),
        Measure(f"resident after the slice of {loaded_wide.rows:,} wide rows", loaded_wide.after_mb, "MB"),
        Measure("rows a second, count, read and insert", rate, "rows/s", None, plain_rate),
        Measure("megabytes a second, wide rows", loaded_wide.rows * WIDE_BYTES / 1e6 / loaded_wide.seconds, "MB/s"),
    ]
    notes = (
        "baseline: the plain loop (phoenixdb fetchmany → clickhouse-driver rows) on the same rows, in its own process",
        "peak: VmHWM of the prefork child over the slice and the publish after it; MB are 1,000,000 bytes",
        "both slices are exact: every column of every row of CLEAN_ALL compared with the seeder's oracle",
    )
    return measures, notes


def _seed(deployment: Deployment, operation: Operation) -> None:
    began = time.monotonic()
    rows = deployment.seed(operation)
    print(f"  seeded {rows:,} rows in {time.monotonic() - began:.0f} s", flush=True)


def _load(deployment: Deployment, since: datetime, until: datetime) -> Load:
    """One slice through a worker with one child, which must be exact in the end."""
    worker = deployment.start_worker(concurrency=1)
    child = only_child(worker.process.pid)
    idle_mb = peak_mb(child)
    deployment.cli("run", "--manual", "--since", iso(since), "--until", iso(until), timeout_s=RUN_TIMEOUT_S)
    assert only_child(worker.process.pid) == child, "the child was replaced: its peak is not the whole story"
    peak, after = peak_mb(child), resident_mb(child)
    (piece,) = deployment.slices(deployment.runs()[-1].id)
    print(f"  {piece.rows_read:,} rows in one slice, peak {peak:.0f} MB; timings_ms {piece.timings_ms}", flush=True)
    _assert_exact(deployment, since, until)
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


def _plain_loop(deployment: Deployment, since: datetime, until: datetime) -> dict[str, float]:
    database = deployment.settings["CH_DB"]
    deployment.query(f"CREATE TABLE {database}.plain AS {database}.codes_raw ENGINE = MergeTree ORDER BY (c, opd, t)")
    host, port = deployment.stack.env()["CH_HOSTS"].split(",")[0].rsplit(":", 1)
    names = ", ".join(f'"{name}"' for name in MAIN_COLUMNS)
    job = {
        "url": deployment.settings["PQS_URL"],
        "sql": f"SELECT {names} FROM {deployment.settings['HBASE_MAIN_TABLE']} "
        f'WHERE "opd" >= {timestamp(ms(since))} AND "opd" < {timestamp(ms(until))}',
        "columns": MAIN_COLUMNS,
        "host": host,
        "port": int(port),
        "user": deployment.settings["CH_USER"],
        "password": deployment.settings["CH_PASSWORD"],
        "target": f"{database}.plain",
    }
    result: dict[str, float] = run_baseline(job, deployment.process_env)
    rows, seconds, peak = (result[name] for name in ("rows", "seconds", "peak_mb"))
    print(f"  the plain loop: {rows:,} rows in {seconds:.0f} s, peak {peak:.0f} MB", flush=True)
    return result


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
