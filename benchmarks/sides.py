"""The two sides that are compared, each copying a window once: the product's worker and the plain loop."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.processes import children_of, cpu_s, peak_mb
from benchmarks.source_table import TABLE, KeptSource, read_statement
from devstack.clickhouse import ALONE
from devstack.dataset import MAIN_COLUMNS
from devstack.deployment import ROOT, Deployment, ms, named_settings
from devstack.phoenix_seed import PhoenixSeeder
from devstack.stack import Stack

RUN_TIMEOUT_S = 900.0
NEVER_PUBLISH = {"ALWAYS_PUBLISH_AT_END": "0", "PUBLISH_EVERY_MINUTES": "1440"}


@dataclass(frozen=True)
class Copied:
    """What one side did with a window. ``cpu_s`` is of the process that copies; ``stages_ms`` and ``others_cpu_s`` (by
    name) are known of the product's side alone.
    """

    rows: int
    seconds: float
    cpu_s: float
    peak_mb: float
    stages_ms: Mapping[str, int]
    others_cpu_s: Mapping[str, float]

    @property
    def rate(self) -> float:
        """Rows a second."""
        return self.rows / self.seconds

    @property
    def cpu_rate(self) -> float:
        """Rows a CPU second."""
        return self.rows / self.cpu_s


class BenchDeployment(Deployment):
    """A deployment on the first ClickHouse node alone that reads the benchmarks' table, which it leaves where it is."""

    def _open_seeder(self) -> PhoenixSeeder:
        return KeptSource(self.settings["PQS_URL"], table=TABLE)

    @property
    def database(self) -> str:
        """Of all its tables."""
        return self.settings["CH_DB"]

    @property
    def plain_table(self) -> str:
        """Where the plain loop writes: of the form of RAW."""
        return f"{self.database}.plain"

    def empty(self) -> None:
        """RAW and the plain loop's table without rows."""
        self.query(f"CREATE TABLE IF NOT EXISTS {self.plain_table} AS {self.database}.codes_raw")
        for table in (self.plain_table, f"{self.database}.codes_raw"):
            self.query(f"TRUNCATE TABLE {table} SYNC")


@contextmanager
def bench_deployed(stack: Stack, name: str, scratch: Path, **settings: str) -> Iterator[BenchDeployment]:
    """A deployment without publishes; ``settings`` must name the Query Server unless it is the stack's."""
    ours = {
        "HBASE_MAIN_TABLE": TABLE,
        "CH_HOSTS": stack.env()["CH_HOSTS"].split(",")[0],
        "CH_CLUSTER": ALONE,
        "PHX_QUERY_OVERLAP_MINUTES": "0",
        "SWEEP_EVERY_S": "10",
        "REDIS_URL": stack.env()["REDIS_URL"].rsplit("/", 1)[0] + "/7",
        **NEVER_PUBLISH,
    }
    deployment = BenchDeployment(stack, scratch, {**named_settings(stack, name), **ours, **settings})
    try:
        deployment.create()
        yield deployment
    finally:
        deployment.close()


class Product:
    """A worker whose children do nothing but slices; another one does what is left, so that it is not counted."""

    def __init__(self, deployment: BenchDeployment, children: int = 1, **settings: str) -> None:
        self._deployment = deployment
        self._worker = deployment.start_worker(concurrency=children, queues="extract,backfill", **settings)
        self._rest = deployment.start_worker(concurrency=1, queues="plan,publish")
        self._children: list[int] = []
        self._settings = settings

    def warm(self, since: datetime, until: datetime) -> None:
        """Load the window unmeasured: what a child does once, at its first slice, is not a row's cost."""
        self.copy(since, until)
        # Not before: on a busy machine a child that does not report in time is replaced at the start.
        self._children = children_of(self._worker.process.pid)

    def stop(self) -> None:
        """Both workers."""
        self._deployment.stop_workers()

    def copy(self, since: datetime, until: datetime, others: Mapping[str, int] | None = None) -> Copied:
        """Load the window by a run of its own, whose status must be ok.

        ``seconds`` is from the first claim of a slice to the last one's end: with count, read, insert and journal, and
        with the time between slices. ``others`` are pids by name.
        """
        deployment = self._deployment
        pids = {"main of the worker": self._worker.process.pid, **(others or {})}
        before = {name: cpu_s(pid) for name, pid in pids.items()}
        children_before = self._children_cpu_s() if self._children else 0.0
        run_id = deployment.plan(since, until, manual=True, **self._settings)
        run = deployment.wait_for_run(run_id, RUN_TIMEOUT_S)
        used, after = self._children_cpu_s() - children_before, {name: cpu_s(pid) for name, pid in pids.items()}
        assert run.status == "ok", f"the run ended {run.status}: {deployment.describe()}\n{deployment.worker_logs()}"
        slices = deployment.slices(run_id)
        stages: dict[str, int] = {}
        for piece in slices:
            for stage, spent in piece.timings_ms.items():
                stages[stage] = stages.get(stage, 0) + spent
        first, last = min(piece.started_at for piece in slices), max(piece.finished_at for piece in slices)
        return Copied(
            rows=sum(piece.rows_read for piece in slices),
            seconds=(last - first).total_seconds(),
            cpu_s=used,
            peak_mb=max(peak_mb(child) for child in self._pids()),
            stages_ms=stages,
            others_cpu_s={name: after[name] - before[name] for name in pids},
        )

    def _pids(self) -> list[int]:
        found = children_of(self._worker.process.pid)
        assert not self._children or found == self._children, (
            f"a child was replaced: what it used is not known\n{self._deployment.worker_logs()}"
        )
        return found

    def _children_cpu_s(self) -> float:
        return sum(cpu_s(child) for child in self._pids())


def plain_loop(deployment: BenchDeployment, since: datetime, until: datetime, others: Mapping[str, int]) -> Copied:
    """The window by the plain loop, in a process of its own, into ``plain_table``."""
    host, port = deployment.settings["CH_HOSTS"].rsplit(":", 1)
    job = {
        "url": deployment.settings["PQS_URL"],
        "sql": read_statement(ms(since), ms(until)),
        "columns": MAIN_COLUMNS,
        "host": host,
        "port": int(port),
        "user": deployment.settings["CH_USER"],
        "password": deployment.settings["CH_PASSWORD"],
        "target": deployment.plain_table,
    }
    before = {name: cpu_s(pid) for name, pid in others.items()}
    result = run_baseline(job, deployment.process_env)
    used = {name: cpu_s(pid) - before[name] for name, pid in others.items()}
    return Copied(stages_ms={}, others_cpu_s=used, **result)


def run_baseline(job: dict[str, Any], env: dict[str, str]) -> dict[str, Any]:
    """What ``benchmarks.baseline`` says of the job; AssertionError when it failed."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.baseline"],
        cwd=ROOT,
        env=env,
        input=json.dumps(job),
        capture_output=True,
        text=True,
        timeout=RUN_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, f"the plain loop failed:\n{done.stderr[-2000:]}"
    result: dict[str, Any] = json.loads(done.stdout)
    return result
