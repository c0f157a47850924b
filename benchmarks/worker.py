"""What a worker costs a row beside the loop that anyone writes, on a canned source, so that the worker is what limits.

The two sides take turns on the same 32-column rows into the same ClickHouse node; medians are shown. The product's side
is a real Celery worker with one child; its slices hold 60,000 rows each.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from statistics import median

from benchmarks.canned import Canned, canned
from benchmarks.exactness import WINDOW, assert_exact
from benchmarks.recording import WINDOW_MS
from benchmarks.report import Measure
from benchmarks.sides import BenchDeployment, Copied, Product, bench_deployed, plain_loop
from benchmarks.source_table import ROWS, recorded
from devstack.deployment import midnight, ms
from devstack.stack import Stack

PHOENIX = False
CPU_RATIO = 4.0
WALL_RATIO = 3.0
PEAK_MB = 200.0
SETTINGS = {"PHX_INITIAL_SLICE_MIN": f"{WINDOW_MS // 60_000}"}
SINCE = midnight(1) + timedelta(hours=10)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The size of a round and how many there are."""
    parser.add_argument("--windows", type=int, default=5, metavar="N", help=f"worker: windows of {ROWS:,} rows a round")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="worker, source, choices: rounds a side")


def prepare(stack: Stack) -> None:
    """The recording, if there is none yet: it needs the real Query Server, which is stopped after it."""
    recorded(stack)


def run(stack: Stack, scratch: Path, options: argparse.Namespace) -> tuple[Sequence[Measure], Sequence[str]]:
    """Both sides in turn. AssertionError unless what each wrote is exact."""
    until = SINCE + options.windows * WINDOW
    with (
        canned(recorded(stack), ms(SINCE), options.windows) as source,
        bench_deployed(stack, "bench_worker", scratch, PQS_URL=source.url, **SETTINGS) as deployment,
    ):
        product, plain = _rounds(deployment, source, until, options.rounds)
        facts = assert_exact(deployment, deployment.raw_all, SINCE, options.windows)
    return _measures(product, plain, source), (*_limits(product), *facts)


def services(deployment: BenchDeployment, source: Canned) -> dict[str, int]:
    """The processes beside the worker whose CPU is told, by name."""
    clickhouse = deployment.stack.pid("clickhouse1")
    assert clickhouse is not None, "clickhouse1 does not run"
    return {"ClickHouse": clickhouse, "the canned source": source.pid}


def _rounds(
    deployment: BenchDeployment, source: Canned, until: datetime, rounds: int
) -> tuple[list[Copied], list[Copied]]:
    worker = Product(deployment)
    others = services(deployment, source)
    worker.warm(SINCE, SINCE + WINDOW)
    product, plain = [], []
    for number in range(1, rounds + 1):
        deployment.empty()
        plain.append(plain_loop(deployment, SINCE, until, others))
        product.append(worker.copy(SINCE, until, others))
        for name, side in (("plain loop", plain[-1]), ("worker", product[-1])):
            print(
                f"  round {number}, {name}: {side.rows:,} rows in {side.seconds:.1f} s, {side.cpu_s:.1f} s of CPU",
                flush=True,
            )
            assert side.rows == source.rows, f"{name} copied {side.rows} rows of {source.rows}"
    return product, plain


def _measures(product: Sequence[Copied], plain: Sequence[Copied], source: Canned) -> list[Measure]:
    def middle(sides: Sequence[Copied], name: str) -> float:
        return float(median(getattr(side, name) for side in sides))

    return [
        Measure(
            "rows a CPU second of the worker child",
            middle(product, "cpu_rate"),
            "rows/s",
            baseline=middle(plain, "cpu_rate"),
            least_ratio=CPU_RATIO,
        ),
        Measure(
            "rows a second, end to end",
            middle(product, "rate"),
            "rows/s",
            baseline=middle(plain, "rate"),
            least_ratio=WALL_RATIO,
        ),
        Measure(
            "CPU of the child, a row", 1e6 / middle(product, "cpu_rate"), "µs", baseline=1e6 / middle(plain, "cpu_rate")
        ),
        Measure(
            "peak of the child", middle(product, "peak_mb"), "MB", bound=PEAK_MB, baseline=middle(plain, "peak_mb")
        ),
        *(
            Measure(
                f"CPU of {name}, a row",
                1e6 * median(side.others_cpu_s[name] for side in product) / source.rows,
                "µs",
                baseline=1e6 * median(side.others_cpu_s[name] for side in plain) / source.rows
                if name in plain[0].others_cpu_s
                else None,
            )
            for name in product[0].others_cpu_s
        ),
    ]


def _limits(product: Sequence[Copied]) -> list[str]:
    """Where the time goes now: the child's stages, and how busy it and the others were."""
    # Of the round in the middle: medians of each stage need not add up.
    middle = sorted(product, key=lambda side: side.seconds)[len(product) // 2]
    told = ", ".join(f"{name} {1000 * spent / middle.rows:.1f}" for name, spent in middle.stages_ms.items())
    idle = 1e6 * middle.seconds / middle.rows - 1000 * sum(middle.stages_ms.values()) / middle.rows
    busy = {"the child": middle.cpu_s, **middle.others_cpu_s}
    return [
        f"stages of a slice, µs a row: {told}; between slices and in the journal {idle:.1f}",
        "cores in use: " + ", ".join(f"{name} {used / middle.seconds:.2f}" for name, used in busy.items()),
        f"{len(product)} rounds a side in turn of {product[0].rows:,} rows, medians; the baseline is the plain loop "
        "(benchmarks/baseline.py), without the imports of either side",
    ]
