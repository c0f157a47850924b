"""``python -m tests.chaos``: random faults for some minutes, then what came of it. Exit 0 when every promise held."""

from __future__ import annotations

import argparse
import logging
import os
import random
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from devstack.stack import Stack
from tests.chaos.harness import Chaos, Report


def main() -> int:
    """The process's exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument(
        "--seconds", type=float, default=float(os.environ.get("CHAOS_S", "180")), help="how long faults are drawn"
    )
    parser.add_argument("--seed", type=int, default=int(os.environ.get("CHAOS_SEED", "0")) or random.randrange(2**31))
    parser.add_argument("--scratch", type=Path, help="where logs are kept; a new directory when not given")
    options = parser.parse_args()
    console = Console()
    # Its tracebacks of services that are away are what is wanted here.
    logging.getLogger("clickhouse_driver").setLevel(logging.CRITICAL)
    scratch = options.scratch or Path(tempfile.mkdtemp(prefix="chaos-"))
    scratch.mkdir(parents=True, exist_ok=True)
    console.print(f"seed {options.seed}, {options.seconds:g} s of faults; logs in {scratch}", highlight=False)
    stack = Stack.load()
    stack.up(overload=False)
    report = Chaos(stack, scratch, options.seed, lambda line: console.print(line, highlight=False)).run(options.seconds)
    print_report(report, console)
    return 0 if report.good else 1


def print_report(report: Report, console: Console) -> None:
    """The report as tables."""
    faults = Table("fault", "times", title=f"{sum(report.faults.values())} faults of {len(report.faults)} kinds")
    for name, times in report.faults.most_common():
        faults.add_row(name, str(times))
    result = Table("", "", title=f"seed {report.seed}, {report.seconds:.0f} s", show_header=False)
    runs = ", ".join(f"{number} {status}" for status, number in report.runs.most_common())
    for name, value in (
        ("runs", f"{sum(report.runs.values())}: {runs}; {report.slices} slices"),
        ("rows compared, 32 columns each", f"{report.compared_rows:,}"),
        ("wrong rows", str(report.wrong)),
        ("missing rows", str(report.missing)),
        ("doubled rows", str(report.doubled)),
        ("looks of the reader at CLEAN", f"{report.looks:,}"),
        ("longest time without progress", f"{report.longest_stall_s:.1f} s"),
    ):
        result.add_row(name, value)
    console.print(faults, result)
    for complaint in report.complaints:
        console.print(f"BROKEN: {complaint}", style="red", highlight=False, markup=False)


if __name__ == "__main__":
    sys.exit(main())
