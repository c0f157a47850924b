"""What is chosen by measurement: compression on the wire, rows of a frame, and children side by side.

Each variant is a worker of its own on the canned source; all take turns, medians are shown. The baseline of all is
the first of them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from statistics import median

from benchmarks.canned import Canned, canned
from benchmarks.exactness import WINDOW
from benchmarks.recording import WINDOW_MS
from benchmarks.report import Measure
from benchmarks.sides import BenchDeployment, Copied, Product, bench_deployed
from benchmarks.source_table import recorded
from benchmarks.worker import SETTINGS, SINCE, services
from devstack.deployment import ms
from devstack.stack import Stack

PHOENIX = False
WINDOWS = 4


@dataclass(frozen=True)
class Variant:
    """A way to run a worker, and what came of it."""

    name: str
    settings: dict[str, str] = field(default_factory=dict)
    children: int = 1
    copied: list[Copied] = field(default_factory=list)

    def middle(self, name: str) -> float:
        """The median of a number of its rounds."""
        return float(median(getattr(side, name) for side in self.copied))


def add_options(parser: argparse.ArgumentParser) -> None:
    """How often each variant has its turn."""
    parser.add_argument("--turns", type=int, default=2, metavar="N", help="choices: turns of each variant")


def prepare(stack: Stack) -> None:
    """The recording, if there is none yet: it needs the real Query Server, which is stopped after it."""
    recorded(stack)


def run(stack: Stack, scratch: Path, options: argparse.Namespace) -> tuple[Sequence[Measure], Sequence[str]]:
    """Every variant in turn, ``--turns`` times over the same rows."""
    base, *others = variants()
    with (
        canned(recorded(stack), ms(SINCE), WINDOWS) as source,
        bench_deployed(stack, "bench_choices", scratch, PQS_URL=source.url, **SETTINGS) as deployment,
    ):
        for turn in range(1, options.turns + 1):
            for variant in (base, *others):
                variant.copied.append(_copy(deployment, source, variant))
                side = variant.copied[-1]
                print(f"  turn {turn}, {variant.name}: {side.rate:,.0f} rows/s, {side.cpu_s:.1f} s of CPU", flush=True)
    return [measure for variant in (base, *others) for measure in _measures(variant, base)], (
        f"{options.turns} turns of {WINDOWS} slices, {source.rows:,} rows together, on the canned source",
        "a frame is never asked to be larger than 8 MiB, whatever PHX_FETCHMANY_SIZE allows",
    )


def variants() -> list[Variant]:
    """The baseline, then the others, each of which differs from it in one thing."""
    settings = {"CH_COMPRESSION": "lz4", "PHX_FETCHMANY_SIZE": "5000"}
    others = [("CH_COMPRESSION", "zstd"), ("CH_COMPRESSION", "none")]
    others += [("PHX_FETCHMANY_SIZE", f"{rows}") for rows in (1_000, 2_000, 10_000, 20_000)]
    return [
        Variant("lz4, 5,000 rows a frame, 1 child", settings),
        *(Variant(f"{name}={value}", {**settings, name: value}) for name, value in others),
        *(Variant(f"{count} children", settings, count) for count in (2, 4)),
    ]


def _copy(deployment: BenchDeployment, source: Canned, variant: Variant) -> Copied:
    until = SINCE + timedelta(milliseconds=WINDOWS * WINDOW_MS)
    worker = Product(deployment, variant.children, **variant.settings)
    try:
        # A window a child, so that each has had its first slice.
        worker.warm(SINCE, SINCE + variant.children * WINDOW)
        deployment.empty()
        copied = worker.copy(SINCE, until, services(deployment, source))
    finally:
        worker.stop()
    assert copied.rows == source.rows, f"{variant.name}: {copied.rows} rows of {source.rows}"
    return copied


def _measures(variant: Variant, base: Variant) -> list[Measure]:
    def server_cpu_us(of: Variant) -> float:
        return 1e6 * median(side.others_cpu_s["ClickHouse"] / side.rows for side in of.copied)

    return [
        Measure(f"{variant.name}: rows a second", variant.middle("rate"), "rows/s", baseline=base.middle("rate")),
        Measure(
            "  CPU of the children, a row",
            1e6 / variant.middle("cpu_rate"),
            "µs",
            baseline=1e6 / base.middle("cpu_rate"),
        ),
        Measure("  CPU of ClickHouse, a row", server_cpu_us(variant), "µs", baseline=server_cpu_us(base)),
        Measure("  peak of a child", variant.middle("peak_mb"), "MB", baseline=base.middle("peak_mb")),
    ]
