"""``python -m benchmarks [NAME …]``: exit 1 when a bound is broken or what was moved is not exact."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import growth, memory, plan, publish
from benchmarks.report import show
from devstack.errors import DevstackError
from devstack.phoenix import HEAP_VARIABLE
from devstack.stack import Stack

BENCHMARKS = {"memory": memory, "plan": plan, "publish": publish, "growth": growth}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmarks named, or all; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}; default: all")
    for module in BENCHMARKS.values():
        module.add_options(parser)
    options = parser.parse_args(argv)
    unknown = [name for name in options.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"no benchmark is called {unknown[0]}; they are {', '.join(BENCHMARKS)}")
    os.environ.setdefault(HEAP_VARIABLE, memory.HEAP)  # where this starts HBase, it is large enough
    stack = Stack.load(report=lambda line: print(line, flush=True))
    broken = []
    try:
        stack.up(overload=False)
        for name in options.names or BENCHMARKS:
            print(f"▶ {name}", flush=True)
            with tempfile.TemporaryDirectory(prefix=f"benchmark-{name}-") as scratch:
                measures, notes = BENCHMARKS[name].run(stack, Path(scratch), options)
            show(name, measures, notes)
            broken += [f"{name}: {measure.name}" for measure in measures if measure.broken]
    except (DevstackError, AssertionError, TimeoutError, subprocess.TimeoutExpired) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    for line in broken:
        print(f"bound broken: {line}", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
