"""What more of something costs: rows of a day, slices of a run, slices in the journal; with the exponent of its growth.

An exponent of 1 is linear, 0 costs the same however much there is. By default the sizes take a few minutes;
``--growth-full`` goes up to ten million rows, a hundred thousand slices and a journal of a million, and to twenty
million rows for the ten-minute increment, and writes the plot anew.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.generated import NARROW, GeneratedDay, window_of
from benchmarks.growth_journal import CLAIMS, by_journal, by_slices
from benchmarks.report import Measure

if TYPE_CHECKING:
    from devstack.stack import Stack

PHOENIX = False
PLOTS = Path(__file__).parent / "plots"
SMALL = {"rows": (10**5, 3 * 10**5, 10**6), "slices": (10**2, 10**3, 10**4), "journal": (10**4, 10**5)}
FULL = {"rows": (10**5, 10**6, 10**7), "slices": (10**2, 10**3, 10**4, 10**5), "journal": (10**4, 10**5, 10**6)}
DAY_ROWS, FULL_DAY_ROWS = 10**6, 2 * 10**7
INCREMENT_ROWS = 5_000
NOON_MIN = 12 * 60


@dataclass(frozen=True)
class Growth:
    """What was measured at each size; ``series`` has a list of the sizes' length a name, whose unit ends it."""

    by: str
    sizes: Sequence[int]
    series: Mapping[str, Sequence[float]]


def prepare(stack: Stack) -> None:
    """Nothing is needed beforehand."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """How far it goes."""
    parser.add_argument(
        "--growth-full", action="store_true", help="growth: the full sizes, about an hour; and the plot"
    )
    parser.add_argument("--growth-rounds", type=int, default=3, metavar="N", help="growth: measurements of each size")
    parser.add_argument(
        "--growth-plot", type=Path, metavar="FILE", help=f"growth: the plot, as SVG; default with full: {PLOTS.name}/"
    )


def run(stack: Stack, scratch: Path, options: argparse.Namespace) -> tuple[Sequence[Measure], Sequence[str]]:
    """Every growth, and the increment. (Growth with workers is measured on the canned source, by ``worker``.)"""
    sizes = FULL if options.growth_full else SMALL
    growths = [
        Growth("slices of a run", sizes["slices"], by_slices(stack, sizes["slices"], options.growth_rounds)),
        Growth("slices in the journal", sizes["journal"], by_journal(stack, sizes["journal"], options.growth_rounds)),
        Growth("rows of a day", sizes["rows"], _by_rows(stack, sizes["rows"], options.growth_rounds)),
    ]
    increment = _increment(stack, FULL_DAY_ROWS if options.growth_full else DAY_ROWS, options.growth_rounds)
    path = options.growth_plot or (PLOTS / "growth.svg" if options.growth_full else scratch / "growth.svg")
    _plot(growths, path)
    measures = [measure for growth in growths for measure in _measures(growth)]
    return [*measures, *increment], (
        "the last column is the exponent: cost grows as size to its power (1 linear, 0 not at all)",
        f"{len(NARROW)} columns a row; of a run's slices {CLAIMS} are claimed and finished, the rest reckoned",
        f"ten minutes: {INCREMENT_ROWS:,} rows inserted into a day that CLEAN has, then published",
    )


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """The slope of the straight line that fits best through the logarithms of both."""
    xs, ys = [math.log(size) for size in sizes], [math.log(value) for value in values]
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    return sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True)) / sum((x - mean_x) ** 2 for x in xs)


def _measures(growth: Growth) -> list[Measure]:
    measures = []
    for name, values in growth.series.items():
        what, _, unit = name.rpartition(", ")
        grows = f"^ {exponent(growth.sizes, values):.2f}"
        for size, value in zip(growth.sizes, values, strict=True):
            last = size == growth.sizes[-1]
            measures.append(Measure(f"{size:,} {growth.by}: {what}", value, unit, against=grows if last else ""))
    return measures


def _by_rows(stack: Stack, sizes: Sequence[int], rounds: int) -> dict[str, list[float]]:
    series: dict[str, list[float]] = {"insert into RAW, s": [], "publish the day, s": [], "peak memory, MB": []}
    for size in sizes:
        inserts, publishes, peaks = [], [], []
        for _ in range(rounds if size < 10**7 else 1):
            with GeneratedDay(stack, "growth", size, NARROW) as day:
                inserts.append(day.fill(0, size, 1))
                cost = day.publish()
                publishes.append(cost.seconds)
                peaks.append(cost.peak_mb)
        for name, values in zip(series, (inserts, publishes, peaks), strict=True):
            series[name].append(median(values))
        print(
            f"  {size:,} rows: inserted in {median(inserts):.1f} s, published in {median(publishes):.1f} s", flush=True
        )
    return series


def _increment(stack: Stack, rows: int, rounds: int) -> list[Measure]:
    """Ten minutes of a day that has ``rows`` already."""
    with GeneratedDay(stack, "increment", rows, NARROW) as day:
        day.fill(0, rows, 1)
        whole = day.publish()
        inserts, publishes = [], []
        for version in range(2, 2 + rounds):
            inserts.append(day.fill(NOON_MIN * 60_000 * rows // 86_400_000, INCREMENT_ROWS, version))
            publishes.append(day.publish(window_of(day, NOON_MIN, 10)).seconds)
        kept, _ = day.found(day.config.clean_table)
        assert kept == rows, f"CLEAN has {kept} rows of {rows}"
    into = f"ten minutes into a day of {rows:,} rows"
    return [
        Measure(f"{into}: insert {INCREMENT_ROWS:,} rows", median(inserts), "s"),
        Measure(f"{into}: publish (baseline: the whole day's first)", median(publishes), "s", None, whole.seconds),
    ]


def _plot(growths: Sequence[Growth], path: Path) -> None:
    """All of it in one picture, on logarithmic axes; the same numbers give the same file."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    mpl.rcParams["svg.hashsalt"] = "growth"
    mpl.rcParams["svg.fonttype"] = "none"
    figure, panels = pyplot.subplots(1, len(growths), figsize=(4.2 * len(growths), 3.6), layout="constrained")
    for growth, panel in zip(growths, panels, strict=True):
        for name, values in growth.series.items():
            panel.loglog(growth.sizes, values, marker="o", label=f"{name} (^ {exponent(growth.sizes, values):.2f})")
        panel.set_xlabel(growth.by)
        panel.grid(visible=True, which="major", linewidth=0.3)
        panel.legend(fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Nothing of it belongs into a repository: not the day, and no host but the format's own.
    figure.savefig(path, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    pyplot.close(figure)
    print(f"  the plot is {path.name}", flush=True)
