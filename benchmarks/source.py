"""How much of what the real Query Server can give a worker takes: a slice beside a drain of the same frames.

The drain asks for the same frames by the product's own connection, one ahead as the product does, and throws them away:
a frame's rows are counted by their lengths, nothing is decoded or written. COUNT(*) is left out on both sides. The two
take turns; medians are shown.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from statistics import median

from benchmarks.recording import START_MS, WINDOW_MS
from benchmarks.report import Measure
from benchmarks.sides import Copied, Product, bench_deployed
from benchmarks.source_table import ROWS, TABLE, TIME_COLUMN, read_statement, seeded
from devstack.dataset import MAIN_COLUMNS
from devstack.deployment import EPOCH
from devstack.stack import Stack
from etl_tasks.adapters.phoenix import PhoenixConfig
from etl_tasks.adapters.phoenix.connection import FramePace, QueryServerConnection

PHOENIX = True
LEAST_RATIO = 0.9
FETCH_ROWS = 5_000
SETTINGS = {"PHX_INITIAL_SLICE_MIN": f"{WINDOW_MS // 60_000}", "PHX_FETCHMANY_SIZE": f"{FETCH_ROWS}"}
SINCE = EPOCH + timedelta(milliseconds=START_MS)
UNTIL = SINCE + timedelta(milliseconds=WINDOW_MS)


def add_options(parser: argparse.ArgumentParser) -> None:
    """None of its own; ``--rounds`` is the worker's."""


def run(stack: Stack, scratch: Path, options: argparse.Namespace) -> tuple[Sequence[Measure], Sequence[str]]:
    """Drain and slice in turn. AssertionError unless each got all rows."""
    seeded(stack)
    config = PhoenixConfig(
        url=stack.env()["PQS_URL"], table=TABLE, ts_column=TIME_COLUMN, columns=MAIN_COLUMNS, fetch_rows=FETCH_ROWS
    )
    drained: list[float] = []
    loaded: list[Copied] = []
    with bench_deployed(stack, "bench_source", scratch, **SETTINGS) as deployment:
        worker = Product(deployment)
        drain(config)  # the server's own first time, too, is unmeasured
        worker.warm(SINCE, UNTIL)
        for number in range(1, options.rounds + 1):
            deployment.empty()
            drained.append(ROWS / drain(config))
            loaded.append(worker.copy(SINCE, UNTIL))
            assert loaded[-1].rows == ROWS, f"the slice read {loaded[-1].rows} rows of {ROWS}"
            print(f"  round {number}: drained {drained[-1]:,.0f} rows/s, loaded {_rate(loaded[-1]):,.0f}", flush=True)
    rate, plain = median(map(_rate, loaded)), median(drained)
    count_ms = median(side.stages_ms["count"] for side in loaded)
    measures = [
        Measure("rows a second of a slice", rate, "rows/s", baseline=plain, least_ratio=LEAST_RATIO),
        Measure("CPU of the worker child, a row", 1e6 / median(side.cpu_rate for side in loaded), "µs"),
        Measure(f"COUNT(*) of its {ROWS:,} rows, left out above", count_ms, "ms"),
    ]
    notes = (
        "baseline: the same frames by the same connection, one asked for ahead on both sides, counted and thrown away",
        "a slice: from its claim to its end in the journal, with its last insert, without COUNT(*)",
        f"{options.rounds} rounds a side in turn of {ROWS:,} rows, medians; HBase, the Query Server, ClickHouse and "
        "both sides share the cores",
    )
    return measures, notes


def drain(config: PhoenixConfig) -> float:
    """Seconds that it takes to fetch the window's frames, as many rows each as the product asks for."""
    connection = QueryServerConnection(config)
    pace = FramePace(config.fetch_rows, config.max_frame_bytes)
    began = time.monotonic()
    statement = read_statement(START_MS, START_MS + WINDOW_MS)
    total = sum(frame.count for frame in connection.frames(statement, pace, "draining"))
    seconds = time.monotonic() - began
    connection.close()
    assert total == ROWS, f"{total} rows were drained of {ROWS}"
    return seconds


def _rate(side: Copied) -> float:
    return side.rows / (side.seconds - side.stages_ms["count"] / 1000)
