"""One deployment of the product on the stack: tables, journal, broker, workers. What the demo and the tests drive."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import psycopg2
import psycopg2.extras
import redis
from clickhouse_driver import Client

from devstack.clean_reader import CleanReader
from devstack.dataset import MAIN_COLUMNS, Row
from devstack.failpoints import VARIABLE as FAILPOINTS_VARIABLE
from devstack.failpoints import Failpoints
from devstack.oracle import (
    CleanRow,
    Differences,
    Operation,
    State,
    clean_row,
    difference,
    expected_rows,
)
from devstack.phoenix_seed import PhoenixSeeder
from devstack.stack import Stack
from devstack.supervisor import Supervisor
from devstack.worker import Worker, worker_command

T = TypeVar("T")
ROOT = Path(__file__).parents[1]
PLAN = """\
import sys
from datetime import datetime
from etl_tasks.celery import wiring
from etl_tasks.pipeline.plan import PlanRequest, plan_interval
since, until = map(datetime.fromisoformat, sys.argv[1:3])
print(plan_interval(PlanRequest(since, until, manual=sys.argv[3] == "manual"), wiring().plan_context()).run_id)
"""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
TIMES = frozenset({"opd", "emd", "apd", "exd", "tm"})


def ms(moment: datetime) -> int:
    """Milliseconds since the epoch."""
    return (moment - EPOCH) // timedelta(milliseconds=1)


def iso(moment: datetime) -> str:
    """As the command line takes it."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def midnight(days_ago: int) -> datetime:
    """A UTC midnight, 0 being today's."""
    now = datetime.now(UTC)
    return now.replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=days_ago)


def named_settings(stack: Stack, name: str) -> dict[str, str]:
    """Settings with a source table, database, journal schema and process of this name, quick to come back after
    a fault.
    """
    base = stack.env()
    database = f"acc_{name}"
    return {
        **base,
        "HBASE_MAIN_TABLE": f"ACC_{name.upper()}",
        "CH_DB": database,
        "CH_RAW_TABLE": f"{database}.codes_raw_all",
        "CH_CLEAN_TABLE": f"{database}.codes",
        "CH_CLEAN_ALL_TABLE": f"{database}.codes_all",
        "CH_DEDUP_BUF_TABLE": f"{database}.codes_dedup_buf",
        "JOURNAL_TABLE": f"{database}.inc_processing",
        "PROCESS_NAME": f"codes_{name}",
        "REDIS_URL": base["REDIS_URL"].rsplit("/", 1)[0] + "/9",
        "PHX_QUERY_LAG_MINUTES": "0",
        "SWEEP_EVERY_S": "2",
        "OVERLOAD_BACKOFF_BASE_S": "0.2",
        "OVERLOAD_BACKOFF_CAP_S": "2",
        "PUBLISH_EVERY_SLICES": "0",
        "PUBLISH_EVERY_MINUTES": "0",
    }


class Deployment:
    """Settings (ENV names), processes and state of one deployment; ``scratch`` holds its logs."""

    def __init__(self, stack: Stack, scratch: Path, settings: dict[str, str]) -> None:
        self.stack = stack
        self.scratch = scratch
        self.settings = dict(settings)
        self.state = State(())
        self.extra: dict[tuple[Any, ...], Row] = {}
        self.seeder = self._open_seeder()
        self.workers: list[Worker] = []
        self.failpoints: Failpoints | None = None

    @property
    def clean_all(self) -> str:
        """CLEAN over all shards."""
        return self.settings["CH_CLEAN_ALL_TABLE"]

    @property
    def raw_all(self) -> str:
        """RAW over all shards."""
        return self.settings["CH_RAW_TABLE"]

    # -- making and unmaking --------------------------------------------------------------------------------------

    def create(self) -> None:
        """Source table, target tables and journal, empty."""
        self.destroy()
        self.seeder.create_table()
        self.cli("migrate")

    def destroy(self) -> None:
        """Everything of this deployment on the stack."""
        self.stop_workers()
        self.reopen_seeder()
        self.seeder.drop_table()
        self.each_shard(f"DROP DATABASE IF EXISTS {self.settings['CH_DB']} SYNC")
        schema, base = self.settings["JOURNAL_TABLE"].split(".")
        for suffix in (
            "",
            "_slices",
            "_run_partitions",
            "_partitions",
            "_rejects",
            "_fences",
            "_reconciles",
            "_totals",
            "_read_limits",
            "_read_turns",
        ):
            self.journal(f"DROP TABLE IF EXISTS {schema}.{base}{suffix}")
        redis.Redis.from_url(self.settings["REDIS_URL"]).flushdb()

    def close(self) -> None:
        """Everything of this deployment, and the connections to it."""
        self.destroy()
        self.seeder.close()

    def stop_workers(self) -> None:
        """Every worker that this deployment started."""
        for worker in self.workers:
            worker.stop()
        self.workers.clear()

    def reopen_seeder(self) -> None:
        """New connections to the source, after its Query Server was restarted; the old ones are dropped without
        a word.
        """
        self.seeder = self._open_seeder()

    def _open_seeder(self) -> PhoenixSeeder:
        return PhoenixSeeder(self.settings["PQS_URL"], table=self.settings["HBASE_MAIN_TABLE"])

    # -- the source -----------------------------------------------------------------------------------------------

    def seed(self, operation: Operation) -> int:
        """Do an operation of the dataset on the source; the oracle remembers it."""
        self.state = self.state.then(operation)
        return self.seeder.apply(operation)

    def upsert(self, rows: Sequence[Row]) -> None:
        """Rows of the test's own."""
        self.seeder.upsert(rows)
        for row in rows:
            self.extra[row[:3]] = row

    def expected(self, since: datetime, until: datetime) -> list[CleanRow]:
        """What CLEAN must hold of ``[since, until)``, known without the pipeline."""
        first, last = ms(since), ms(until)
        rows = {row[:3]: row for row in expected_rows(self.state, first, last)}
        for row in self.extra.values():
            clean = clean_row(row)
            if first <= int(str(clean[2])) < last:
                rows[clean[:3]] = clean
        return list(rows.values())

    # -- the target -----------------------------------------------------------------------------------------------

    @property
    def endpoints(self) -> list[tuple[str, int]]:
        """Every shard's own address, whatever stands between it and the product."""
        hosts = [host.rsplit(":", 1) for host in self.stack.env()["CH_HOSTS"].split(",")]
        return [(name, int(port)) for name, port in hosts]

    def reader(self) -> CleanReader:
        """A reader who polls CLEAN on every shard; a context manager."""
        return CleanReader(
            self.endpoints, self.settings["CH_USER"], self.stack.env()["CH_PASSWORD"], self.settings["CH_CLEAN_TABLE"]
        )

    def query(self, sql: str, parameters: dict[str, Any] | None = None, shard: int = 0) -> list[tuple[Any, ...]]:
        """Rows of a question to one shard's ClickHouse, over a connection of its own."""
        name, port = self.endpoints[shard]
        client = Client(name, port, user=self.settings["CH_USER"], password=self.stack.env()["CH_PASSWORD"])
        try:
            rows: list[tuple[Any, ...]] = client.execute(sql, parameters)
        finally:
            client.disconnect()
        return rows

    def each_shard(self, sql: str) -> list[list[tuple[Any, ...]]]:
        """The answers of all shards, in their order."""
        return [self.query(sql, shard=shard) for shard in range(len(self.endpoints))]

    def rows(self, table: str, since: datetime, until: datetime, shard: int = 0) -> list[tuple[Any, ...]]:
        """Rows of ``database.table`` in the oracle's form."""
        selected = ", ".join(f"toUnixTimestamp64Milli({name})" if name in TIMES else name for name in MAIN_COLUMNS)
        rows = self.query(
            f"SELECT {selected} FROM {table} "
            "WHERE opd >= fromUnixTimestamp64Milli(%(since)s) AND opd < fromUnixTimestamp64Milli(%(until)s)",
            {"since": ms(since), "until": ms(until)},
            shard,
        )
        return [tuple(tuple(cell) if isinstance(cell, list) else cell for cell in row) for row in rows]

    def clean_difference(self, since: datetime, until: datetime, shard: int = 0) -> Differences:
        """How CLEAN_ALL differs from what it must hold; false when it is exact. A key there twice is a difference."""
        actual = self.rows(self.clean_all, since, until, shard)
        keys = [row[:3] for row in actual]
        assert len(keys) == len(set(keys)), f"{len(keys) - len(set(keys))} keys of CLEAN_ALL are there twice"
        return self.differences(since, until, actual)

    def differences(self, since: datetime, until: datetime, actual: Sequence[tuple[Any, ...]]) -> Differences:
        """How rows in the oracle's form differ from what CLEAN must hold of ``[since, until)``."""
        return difference(self.expected(since, until), actual)

    def assert_exact(self, since: datetime, until: datetime) -> int:
        """CLEAN_ALL is exact, and not empty; the number of its rows."""
        found = self.clean_difference(since, until)
        assert not found, str(found)
        count = len(self.expected(since, until))
        assert count > 0, "the oracle expects nothing here: the test would show nothing"
        return count

    # -- the product ----------------------------------------------------------------------------------------------

    @property
    def process_env(self) -> dict[str, str]:
        """The environment of the product's processes: these settings and no other of ours."""
        kept = {
            key: os.environ[key] for key in ("PATH", "HOME", "LANG", "TZ", "TMPDIR", "VIRTUAL_ENV") if key in os.environ
        }
        # A developer's own .env must not reach a test.
        empty = self.scratch / "empty.env"
        empty.touch()
        armed = {FAILPOINTS_VARIABLE: str(self.failpoints.directory)} if self.failpoints else {}
        ours = {"ETL_ENV_FILE": str(empty), "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        return {**kept, **self.settings, **armed, **ours}

    def cli(
        self, *arguments: str, expect: int | None = 0, timeout_s: float = 240, **settings: str
    ) -> subprocess.CompletedProcess[str]:
        """``python -m etl_tasks …``; fails the test unless it exits with ``expect`` (None: any)."""
        done = subprocess.run(
            [sys.executable, "-m", "etl_tasks", *arguments],
            cwd=ROOT,
            env={**self.process_env, **settings},
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        if expect is not None:
            assert done.returncode == expect, (
                f"etl_tasks {' '.join(arguments)} exited {done.returncode}:\n"
                f"{done.stdout}\n{done.stderr}\n{self.worker_logs()}"
            )
        return done

    def celery(self, *arguments: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        """``celery -A etl_tasks …``, which must exit 0."""
        done = subprocess.run(
            [sys.executable, "-m", "celery", "-A", "etl_tasks", *arguments],
            cwd=ROOT,
            env=self.process_env,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert done.returncode == 0, f"celery {' '.join(arguments)}:\n{done.stdout}\n{done.stderr}"
        return done

    def start_worker(
        self,
        concurrency: int = 2,
        queues: str = "plan,extract,backfill,publish",
        program: Sequence[str] = ("celery", "-A", "etl_tasks"),
        **settings: str,
    ) -> Worker:
        """A worker that ends with the deployment, or sooner. ``settings`` hold for it alone."""
        before = self.settings
        self.settings = {**before, **settings}
        try:
            name = f"worker{len(self.workers)}"
            worker = Worker(
                worker_command(name, concurrency, queues, program), self.process_env, self.scratch / f"{name}.log"
            )
        finally:
            self.settings = before
        self.workers.append(worker)
        return worker

    def supervise(self, workers: int = 1, concurrency: int = 2, **settings: str) -> Supervisor:
        """Workers ``worker_s1``, ``worker_s2`` … that are started again whenever they end; a context manager."""
        programs = {f"worker_s{n}": worker_command(f"worker_s{n}", concurrency) for n in range(1, workers + 1)}
        return Supervisor(programs, {**self.process_env, **settings}, self.scratch)

    def plan(self, since: datetime, until: datetime, *, manual: bool = True, **settings: str) -> int:
        """Plan by the product's own step, in a process of its own that follows nothing; the run's id."""
        done = self.start_plan(since, until, manual=manual, **settings)
        out, err = done.communicate(timeout=120)
        assert done.returncode == 0, err
        return int(out.splitlines()[-1])

    def start_plan(
        self, since: datetime, until: datetime, *, manual: bool = True, **settings: str
    ) -> subprocess.Popen[str]:
        """The same, without waiting for its end; it prints the run's id."""
        return subprocess.Popen(
            [sys.executable, "-c", PLAN, since.isoformat(), until.isoformat(), "manual" if manual else "schedule"],
            cwd=ROOT,
            env={**self.process_env, **settings},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def until(self, condition: Callable[[], T], what: str, timeout_s: float = 40) -> T:
        """The first true answer of ``condition``; AssertionError, with journal and logs, when none comes."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if answer := condition():
                return answer
            time.sleep(0.1)
        raise AssertionError(f"{what}: not in {timeout_s} s\n{self.describe()}\n{self.worker_logs()}")

    def worker_logs(self, lines: int = 60) -> str:
        """The end of every worker's log."""
        return "\n".join(
            f"--- {log.name}\n" + "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
            for log in sorted(self.scratch.glob("worker*.log"))
        )

    # -- the journal ----------------------------------------------------------------------------------------------

    def journal(self, sql: str, *parameters: Any) -> list[Any]:
        """Rows (named tuples) of a question to the journal; ``{j}`` stands for JOURNAL_TABLE."""
        connection = psycopg2.connect(self.settings["PG_DSN"], cursor_factory=psycopg2.extras.NamedTupleCursor)
        try:
            with connection, connection.cursor() as cursor:
                cursor.execute(sql.replace("{j}", self.settings["JOURNAL_TABLE"]), parameters or None)
                return list(cursor.fetchall()) if cursor.description else []
        finally:
            connection.close()

    def runs(self, manual: bool | None = None) -> list[Any]:
        """Loading runs, oldest first."""
        rows = self.journal("SELECT * FROM {j} WHERE process_name NOT LIKE '%:dedup' ORDER BY id")
        return [row for row in rows if manual is None or row.manual is manual]

    def wait_for_run(self, run_id: int, timeout_s: float = 180) -> Any:
        """The run's row once it has ended."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            row = self.journal("SELECT * FROM {j} WHERE id = %s", run_id)[0]
            if row.ts_end is not None:
                return row
            time.sleep(0.3)
        raise AssertionError(f"run {run_id} has not ended after {timeout_s} s: {self.describe()}\n{self.worker_logs()}")

    def wait_for_new_run(self, after_id: int, timeout_s: float = 60) -> int:
        """The id of the first loading run after ``after_id``."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            newer = [row.id for row in self.runs() if row.id > after_id]
            if newer:
                return int(newer[0])
            time.sleep(0.3)
        raise AssertionError(f"no run came after {after_id} in {timeout_s} s\n{self.worker_logs()}")

    def slices(self, run_id: int) -> list[Any]:
        """Slices of a run in order of time."""
        return self.journal("SELECT * FROM {j}_slices WHERE run_id = %s ORDER BY window_from, depth", run_id)

    def describe(self) -> str:
        """The journal in a few lines, for a failed test."""
        runs = [f"{r.id} {r.process_name} {r.status} {json.dumps(r.details, default=str)[:400]}" for r in self.runs()]
        states = self.journal(
            "SELECT run_id, partition, state, count(*) AS n, max(last_error) AS error FROM {j}_slices "
            "GROUP BY 1, 2, 3 ORDER BY 1, 2, 3"
        )
        return "\n".join([*runs, *(str(tuple(row)) for row in states)])


@contextlib.contextmanager
def deployed(stack: Stack, name: str, scratch: Path, **settings: str) -> Iterator[Deployment]:
    """A deployment for the length of a test."""
    deployment = Deployment(stack, scratch, {**named_settings(stack, name), **settings})
    try:
        deployment.create()
        yield deployment
    finally:
        deployment.close()
