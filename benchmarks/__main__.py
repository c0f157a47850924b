"""``python -m benchmarks [NAME …]``: exit 1 when a bound is broken or what was moved is not exact."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from benchmarks import choices, growth, memory, plan, publish, read_limit, sizing, source, worker
from benchmarks.report import Measure, as_markdown, show
from benchmarks.versions import versions
from devstack.errors import DevstackError
from devstack.phoenix import HEAP_VARIABLE
from devstack.stack import PHOENIX, Stack

# Those that read the real Query Server come first: for the others it is stopped, since it takes CPU even when idle.
BENCHMARKS: dict[str, ModuleType] = {
    "memory": memory,
    "source": source,
    "sizing": sizing,
    "read_limit": read_limit,
    "plan": plan,
    "worker": worker,
    "choices": choices,
    "publish": publish,
    "growth": growth,
}
FAILURES = (DevstackError, AssertionError, TimeoutError, RuntimeError, subprocess.TimeoutExpired)


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
    results: dict[str, Sequence[Measure]] = {}
    failed = []
    for name in options.names or BENCHMARKS:
        try:
            results[name] = _run(name, stack, options)
        except FAILURES as error:
            print(f"benchmark {name}: {error}", file=sys.stderr)
            failed.append(name)
    if not results:
        return 1
    print("\n" + as_markdown(results, versions(stack)), flush=True)
    broken = [f"{name}: {measure.name}" for name, measures in results.items() for measure in measures if measure.broken]
    for line in broken:
        print(f"bound broken: {line}", file=sys.stderr)
    return 1 if broken or failed else 0


def _run(name: str, stack: Stack, options: argparse.Namespace) -> Sequence[Measure]:
    """One benchmark, with the services it wants and no others of the stack; its measures, which are shown."""
    module = BENCHMARKS[name]
    print(f"▶ {name}", flush=True)
    if module.PHOENIX:
        stack.up(overload=False)
    else:
        module.prepare(stack)
        for part in reversed(PHOENIX):
            stack.stop(part)
        stack.up(phoenix=False)
    with tempfile.TemporaryDirectory(prefix=f"benchmark-{name}-") as scratch:
        measures, notes = module.run(stack, Path(scratch), options)
    show(name, measures, notes)
    found: Sequence[Measure] = measures
    return found


if __name__ == "__main__":
    sys.exit(main())
