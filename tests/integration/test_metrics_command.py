"""``metrics`` as a process: what it answers over HTTP with the journal there, away and hung, and how it ends."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from etl_tasks.cli.metrics import ANSWER_WITHIN_S
from tests.integration.journal.conftest import dsn as dsn
from tests.integration.journal.conftest import world as world
from tests.integration.journal.world import CLEAN, World, hours

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
Get = Callable[[], str]


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def environment(dsn: str, **settings: str) -> dict[str, str]:
    return {**os.environ, "ETL_ENV_FILE": os.devnull, "PG_DSN": dsn, "CH_CLEAN_TABLE": CLEAN, **settings}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "etl_tasks", "metrics", *arguments]


@contextmanager
def serving(env: dict[str, str]) -> Iterator[tuple[Get, subprocess.Popen[str]]]:
    """The command at work on a port of its own, and how to ask it."""
    port = free_port()
    process = subprocess.Popen(command("--port", str(port)), cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True)

    def get() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
            assert answer.status == 200
            return str(answer.read().decode())

    try:
        assert process.stderr is not None
        first = process.stderr.readline()
        assert first == f"metrics on http://127.0.0.1:{port}/metrics\n", first + process.stderr.read()
        yield get, process
    finally:
        process.kill()
        process.wait(60)
        if process.stderr is not None:
            process.stderr.close()


def samples(text: str) -> list[str]:
    return [line for line in text.splitlines() if not line.startswith("#")]


def test_it_serves_the_journal_scrape_after_scrape_and_ends_when_told(world: World, stack_env: dict[str, str]) -> None:
    env = environment(stack_env["PG_DSN"], JOURNAL_TABLE=world.config.table)
    with serving(env) as (get, process):
        assert "etl_rows_inserted_total 0.0" in samples(get())
        world.load_publish_end([hours(0, 1)])
        text = get()
        assert "etl_rows_inserted_total 10.0" in samples(text)
        assert 'etl_runs_ended_total{process="codes",status="ok"} 1.0' in samples(text)
        assert re.search(r"^# TYPE etl_lag_seconds gauge$", text, re.M)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) in (0, -signal.SIGTERM)


def test_once_prints_and_says_by_its_exit_code_whether_the_journal_is_there(
    world: World, stack_env: dict[str, str]
) -> None:
    there = environment(stack_env["PG_DSN"], JOURNAL_TABLE=world.config.table)
    done = subprocess.run(command("--once"), cwd=ROOT, env=there, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "etl_journal_up 1.0" in samples(done.stdout)
    away = environment(f"postgresql://ann:s3cret@127.0.0.1:{free_port()}/etl")
    done = subprocess.run(command("--once"), cwd=ROOT, env=away, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert samples(done.stdout) == ["etl_journal_up 0.0"]
    assert "does not answer" in done.stderr
    assert "s3cret" not in done.stderr + done.stdout
    unmade = environment(stack_env["PG_DSN"], JOURNAL_TABLE=f"{world.schema}.nothing_here")
    done = subprocess.run(command("--once"), cwd=ROOT, env=unmade, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "run: python -m etl_tasks migrate" in done.stderr


def test_once_waits_for_a_journal_that_takes_longer_than_a_scrape_may(world: World, stack_env: dict[str, str]) -> None:
    env = environment(stack_env["PG_DSN"], JOURNAL_TABLE=world.config.table)
    waiting = "SELECT 1 FROM pg_locks WHERE NOT granted AND relation = %s::regclass"
    with world.journal.database.transaction() as holder:
        holder._cursor.execute(f"LOCK TABLE {world.schema}.inc_processing IN ACCESS EXCLUSIVE MODE")
        once = subprocess.Popen(
            command("--once"), cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(600):
            if world.rows(waiting, world.config.table):
                break
            time.sleep(0.1)
            holder.now()
        for _ in range(10):
            time.sleep((ANSWER_WITHIN_S + 2) / 10)
            holder.now()
    stdout, stderr = once.communicate(timeout=60)
    assert (once.returncode, stderr) == (0, "")
    assert "etl_journal_up 1.0" in samples(stdout)


def test_a_journal_that_is_away_or_hangs_costs_no_scrape() -> None:
    with serving(environment(f"postgresql://127.0.0.1:{free_port()}/etl")) as (get, _):
        assert samples(get()) == samples(get()) == ["etl_journal_up 0.0"]
    with socket.create_server(("127.0.0.1", 0)) as silent:
        env = environment(f"postgresql://127.0.0.1:{silent.getsockname()[1]}/etl?connect_timeout=60")
        with serving(env) as (get, _):
            began = time.monotonic()
            assert samples(get()) == ["etl_journal_up 0.0"]
            assert time.monotonic() - began < 25, "Prometheus waits 10 s; the machine of the tests is slow"


def test_a_port_that_is_taken_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        env = environment(f"postgresql://127.0.0.1:{free_port()}/etl")
        done = subprocess.run(
            command("--port", str(port)), cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=120
        )
    assert done.returncode == 2
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use; see --port and --address" in done.stderr


def test_gaps_count_from_the_time_given_in_business_time(world: World, stack_env: dict[str, str]) -> None:
    world.load_publish_end([hours(0, 1)])
    world.load_publish_end([hours(3, 4)], since=hours(1, 2).start, until=hours(3, 4).end)
    env = environment(stack_env["PG_DSN"], JOURNAL_TABLE=world.config.table)

    def gap_s(*arguments: str) -> str:
        done = subprocess.run(
            command("--once", *arguments), cwd=ROOT, env=env, capture_output=True, text=True, check=True
        )
        return next(line for line in samples(done.stdout) if line.startswith("etl_gap_seconds"))

    assert gap_s() == "etl_gap_seconds 7200.0"
    assert gap_s("--since", "2025-08-08T02:30:00Z") == "etl_gap_seconds 1800.0"
    assert gap_s("--since", "2025-08-08T03:00:00Z") == "etl_gap_seconds 0.0"
