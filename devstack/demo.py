"""`make demo`: the main job on real services, through real workers, and the proof of its result.

Exit 0 only when every column of every row of CLEAN is what the seeder says; else 1 with the difference.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from devstack import overload
from devstack.dataset import DatasetSpec, indexes_between
from devstack.deployment import ROOT, Deployment, iso, ms
from devstack.errors import DevstackError
from devstack.oracle import Change, Late, Rows
from devstack.stack import Stack

OVERLAP = timedelta(minutes=5)
LATE_ROWS = 500
CHANGED_ROWS = 2_000
DAYS = 3


class DemoFailed(Exception):
    """What the demo promises did not happen; the message says what."""


@dataclass
class Demo:
    """The demo's steps share the deployment, and what they found out."""

    deployment: Deployment
    console: Console
    rows: int
    seed: int
    loaded_until: datetime = field(default_factory=lambda: datetime.now(UTC).replace(microsecond=0))
    spec: DatasetSpec = field(init=False)

    def __post_init__(self) -> None:
        self.spec = DatasetSpec(rows=self.rows, days=DAYS, seed=self.seed, until_ms=ms(self.loaded_until))
        # The last of the days is the one that ``loaded_until`` is in, also when midnight passes while the demo runs.
        self.since = self.loaded_until.replace(hour=0, minute=0, second=0) - timedelta(days=DAYS - 1)

    def say(self, text: str) -> None:
        """A step begins."""
        self.console.print(f"[bold]▶[/bold] {text}")

    def run(self, *arguments: str, **settings: str) -> Any:
        """``python -m etl_tasks run …`` with its output shown; the run's row. Raises DemoFailed unless it is ok."""
        self.console.print(f"  [dim]$ python -m etl_tasks run {' '.join(arguments)}[/dim]")
        code = subprocess.run(
            [sys.executable, "-m", "etl_tasks", "run", *arguments],
            cwd=ROOT,
            env={**self.deployment.process_env, **settings},
            check=False,
        ).returncode
        last = self.deployment.runs()[-1]
        if code != 0 or last.status != "ok":
            raise DemoFailed(f"run {last.id} ended {last.status}, exit {code}\n{self.deployment.describe()}")
        return last

    def seed_source(self) -> None:
        """The source, its index (without which every window would be a full scan), and its statistics."""
        self.say(f"seeding {self.rows} rows over {DAYS} UTC days into Phoenix")
        began = time.monotonic()
        self.deployment.seed(Rows(self.spec))
        overload.arrange(self.deployment.settings["PQS_URL"], self.deployment.settings["HBASE_MAIN_TABLE"])
        self.console.print(f"  {self.rows} rows and their index in {time.monotonic() - began:.0f} s")

    def backfill(self) -> None:
        """All of it, in the schedule's lane: it sets the watermark."""
        self.say("backfill of three days with two worker processes")
        run = self.run("--since", iso(self.since), "--until", iso(self.loaded_until))
        if run.watermark != self.loaded_until:
            raise DemoFailed(f"the watermark is {run.watermark}, not {self.loaded_until}")
        self._assert_exact(self.since, self.loaded_until)

    def incremental(self) -> None:
        """New rows and changes; the schedule brings what is new or inside the overlap, and reads no day again."""
        overlap = (self.loaded_until - OVERLAP, self.loaded_until)
        inside = min(50, len(indexes_between(self.spec, ms(overlap[0]), ms(overlap[1]))) // 2)
        self.say(
            f"{LATE_ROWS} rows have arrived since, {CHANGED_ROWS} changed "
            f"({inside} of them inside the overlap): the incremental"
        )
        arrived_until = datetime.now(UTC).replace(microsecond=0)
        self.deployment.seed(Late(self.spec, LATE_ROWS, ms(overlap[0]), ms(arrived_until), version=1))
        if inside:
            self.deployment.seed(Change(self.spec, inside, ms(overlap[0]), ms(overlap[1]), version=2))
        untouched = {row[:3]: row for row in self.deployment.expected(self.since, overlap[0])}
        self.deployment.seed(Change(self.spec, CHANGED_ROWS - inside, ms(self.since), ms(overlap[0]), version=3))
        changed = sum(row != untouched[row[:3]] for row in self.deployment.expected(self.since, overlap[0]))
        run = self.run()
        first = min(piece.window_from for piece in self.deployment.slices(run.id))
        if first != overlap[0]:
            raise DemoFailed(
                f"the incremental read from {first}, not from the watermark less the overlap, {overlap[0]}"
            )
        self._assert_exact(overlap[0], run.covered_until)
        stale = self.deployment.clean_difference(self.since, overlap[0])
        if (stale.differing, stale.missing, stale.extra) != (changed, 0, 0):
            raise DemoFailed(
                f"{changed} changed rows of the days before should be as they were, but {stale}: "
                "the incremental read those days again, or lost something of them"
            )
        self.console.print(
            f"  read from {iso(first)} only; {changed} changed rows of the days before wait for a run by hand"
        )

    def changed_days(self) -> None:
        """The days that changed, by hand."""
        self.say("the changed days by hand, in a lane of their own")
        self.run("--manual", "--since", iso(self.since), "--until", iso(self.loaded_until))
        self._assert_exact(self.since, datetime.now(UTC))

    def overloaded_day(self) -> None:
        """One day once more, in slices so wide that the Query Server rejects them."""
        day = self.since + timedelta(days=1)
        self.say(f"the Query Server in its overload form, and {day:%Y-%m-%d} once more in slices of 12 hours")
        self.deployment.stack.set_overload(True)
        # All alike: what the planner may know of the day would spare it the splits that are to be shown.
        wide = {"PHX_INITIAL_SLICE_MIN": "720", "PHX_SLICE_SIZING": "fixed"}
        run = self.run("--manual", "--since", iso(day), "--until", iso(day + timedelta(days=1)), **wide)
        slices = self.deployment.slices(run.id)
        depth = max((piece.depth for piece in slices if piece.state == "split"), default=-1)
        rejected = sum(piece.overloads for piece in slices)
        if rejected == 0 or depth < 1:
            raise DemoFailed(
                f"{rejected} rejections, splits down to depth {depth + 1}: the source was not overloaded for real"
            )
        self.console.print(
            f"  {rejected} rejections, {sum(s.state == 'split' for s in slices)} splits, {depth + 1} levels deep"
        )
        self.deployment.stack.set_overload(False)
        self.deployment.reopen_seeder()

    def prove(self) -> None:
        """Every column of every row against the seeder; the product's own reconcile besides."""
        self.say("the proof")
        until = datetime.now(UTC) + timedelta(days=1)
        rows = self._assert_exact(self.since, until)
        self.console.print(self._table(rows, until))
        subprocess.run(
            [
                sys.executable,
                "-m",
                "etl_tasks",
                "reconcile",
                "--since",
                iso(self.since),
                "--until",
                iso(self.loaded_until),
            ],
            cwd=ROOT,
            env=self.deployment.process_env,
            check=True,
        )
        self.console.print("[bold green]reconciled: exact[/bold green]", highlight=False)

    def _assert_exact(self, since: datetime, until: datetime) -> int:
        found = self.deployment.clean_difference(since, until)
        if found:
            raise DemoFailed(f"CLEAN differs from what the seeder says in [{iso(since)}, {iso(until)}):\n{found}")
        return len(self.deployment.expected(since, until))

    def _table(self, rows: int, until: datetime) -> Table:
        deployment = self.deployment
        slices = deployment.journal("SELECT state, overloads FROM {j}_slices")
        partitions = deployment.journal("SELECT partition, last_duration_ms FROM {j}_partitions ORDER BY partition")
        keys = len({row[:3] for row in deployment.rows(deployment.clean_all, self.since, until)})
        table = Table(title="what moved", show_header=False)
        for name, value in (
            ("rows in the source", deployment.seeder.count()),
            (
                "rows in RAW (repeats are what publish is for)",
                deployment.query(f"SELECT count() FROM {deployment.raw_all}")[0][0],
            ),
            ("rows in CLEAN_ALL", deployment.query(f"SELECT count() FROM {deployment.clean_all}")[0][0]),
            ("keys in CLEAN_ALL", keys),
            ("rows compared with the seeder, 32 columns each", rows),
            ("slices", len(slices)),
            ("rejections by the Query Server", sum(piece.overloads for piece in slices)),
            ("splits", sum(piece.state == "split" for piece in slices)),
            *(
                (f"seconds of the last publish of {p.partition}", f"{(p.last_duration_ms or 0) / 1000:.2f}")
                for p in partitions
            ),
        ):
            table.add_row(name, str(value))
        return table


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; 0 when the result is proved, 1 when it is not."""
    parser = argparse.ArgumentParser(
        prog="python -m devstack.demo", description=__doc__.splitlines()[0] if __doc__ else None
    )
    parser.add_argument("--rows", type=int, default=60_000, help="rows to seed (60000)")
    parser.add_argument("--seed", type=int, default=1, help="which rows (1)")
    options = parser.parse_args(argv)
    console = Console(highlight=False)
    stack = Stack.load(report=lambda line: console.print(f"  {line}"))
    began = time.monotonic()
    try:
        console.print(
            "[bold]▶[/bold] starting PostgreSQL, Redis, two shards of ClickHouse, HBase, Phoenix and its Query Server"
        )
        stack.up(overload=False)
    except DevstackError as error:
        console.print(f"[bold red]the stack did not start:[/bold red] {error}", highlight=False)
        return 1
    scratch = stack.config.state_dir / "demo"
    scratch.mkdir(exist_ok=True)
    for old in scratch.glob("worker*.log"):
        old.unlink()
    deployment = Deployment(stack, scratch, _settings(stack))
    try:
        _steps(Demo(deployment, console, options.rows, options.seed))
    except (DemoFailed, AssertionError, subprocess.SubprocessError) as error:
        console.print(f"[bold red]the demo failed:[/bold red] {error}", highlight=False, markup=False)
        return 1
    finally:
        deployment.stop_workers()
        deployment.seeder.close()
    _say_how_to_look(console, stack, scratch, time.monotonic() - began)
    return 0


def _steps(demo: Demo) -> None:
    demo.deployment.create()
    demo.seed_source()
    for _ in range(2):
        demo.deployment.start_worker(concurrency=1)
    demo.backfill()
    demo.incremental()
    demo.changed_days()
    demo.overloaded_day()
    demo.prove()


def _settings(stack: Stack) -> dict[str, str]:
    env = stack.env()
    table = env["HBASE_MAIN_TABLE"]
    return {
        **env,
        "PHX_QUERY_HINT": f'INDEX("{table}" "{table}_BY_OPD")',
        "PHX_INITIAL_SLICE_MIN": "30",
        "PHX_QUERY_OVERLAP_MINUTES": str(OVERLAP // timedelta(minutes=1)),
        "PHX_QUERY_LAG_MINUTES": "0",
        "PHX_OVERLOAD_MAX_DEPTH": "8",
        "PHX_OVERLOAD_MAX_ATTEMPTS": "2",
        "PUBLISH_EVERY_SLICES": "0",
        "SWEEP_EVERY_S": "2",
    }


def _say_how_to_look(console: Console, stack: Stack, scratch: Path, seconds: float) -> None:
    python = Path(sys.executable)
    shown = python.relative_to(ROOT) if python.is_relative_to(ROOT) else "python"
    env = stack.config.state_dir / "env"
    logs = scratch.relative_to(ROOT) if scratch.is_relative_to(ROOT) else scratch
    env_shown = env.relative_to(ROOT) if env.is_relative_to(ROOT) else env
    console.print(
        f"\ndone in {seconds:.0f} s. The services stay up; look around:\n"
        f"  set -a; . {env_shown}; set +a\n"
        f"  {shown} -m etl_tasks status\n"
        f"  {shown} -m celery -A etl_tasks worker          (and, to watch it: {shown} -m celery -A etl_tasks flower)\n"
        f"stop them: make down    (logs of the demo's workers: {logs})",
        markup=False,
    )


if __name__ == "__main__":
    sys.exit(main())
