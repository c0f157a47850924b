"""``status`` as it is typed: what it prints of a real journal, how it watches, and how it ends."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest

from devstack.relay import Relay
from etl_tasks.core.states import process_for
from etl_tasks.core.windows import halve
from etl_tasks.errors import Overloaded, RowRejected
from tests.integration.journal import world as journal_world
from tests.integration.journal.world import World, at, even_windows

pytestmark = pytest.mark.integration
ROOT = Path(__file__).parents[2]
PATIENCE_S = 240.0


@pytest.fixture
def world(stack_env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """An empty journal, for the CLEAN table that the commands' settings name."""
    monkeypatch.setattr(journal_world, "CLEAN", "stg.status_command")
    made = World(stack_env["PG_DSN"], f"status_command_{uuid.uuid4().hex[:12]}")
    yield made
    made.drop()


@pytest.fixture
def environment(stack_env: dict[str, str], world: World, tmp_path: Path) -> dict[str, str]:
    """The commands' environment: the journal above, and no .env."""
    return {
        **os.environ,
        **stack_env,
        "PYTHONPATH": str(ROOT),
        "ETL_ENV_FILE": os.devnull,
        "JOURNAL_TABLE": world.config.table,
        "CH_CLEAN_TABLE": "stg.status_command",
        "PROCESS_NAME": "codes",
    }


def typed(environment: Mapping[str, str], *arguments: str, expect: int = 0) -> str:
    """What ``status`` prints; its errors too."""
    done = subprocess.run(
        [sys.executable, "-m", "etl_tasks", "status", *arguments],
        env=dict(environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == expect, done.stdout
    return done.stdout


@contextmanager
def watching(
    environment: Mapping[str, str], *arguments: str, stdout: int = subprocess.PIPE
) -> Iterator[subprocess.Popen[str]]:
    """``status … --watch=0.5`` in the background; killed at the end of the block if it still runs."""
    process = subprocess.Popen(
        [sys.executable, "-m", "etl_tasks", "status", *arguments, "--watch=0.5"],
        env={**environment, "PYTHONUNBUFFERED": "1"},
        stdout=stdout,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=PATIENCE_S)


class Reader:
    """What a process writes, read as it comes."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.text = ""

    def until(self, words: str, after: int = 0) -> int:
        """Read until ``words`` stand behind the position ``after``; the position behind them."""
        deadline = time.monotonic() + PATIENCE_S
        while words not in self.text[after:]:
            assert time.monotonic() < deadline, f"{words!r} did not come:\n{self.text}"
            if select.select([self._descriptor], [], [], 0.2)[0]:
                try:
                    read = os.read(self._descriptor, 65536)
                except OSError:  # the other end of a terminal is closed
                    read = b""
                assert read, f"it ended before {words!r}:\n{self.text}"
                self.text += read.decode(errors="replace")
        return self.text.index(words, after) + len(words)


def failing_run(world: World) -> int:
    """Five hours by the schedule: three loaded, one split and loaded, one in error; it is published and has ended."""
    run_id = world.plan(even_windows(24)[:5]).run_id
    slices = world.journal.slices
    ids = world.slices(run_id)
    for slice_id in ids[:3]:
        world.load(slice_id, rows=1000)
    claim = world.must_claim(ids[3])
    halves = halve(claim.window)
    for child in slices.split(claim, halves, Overloaded("x"), "thread pool full").children:
        world.load(child, rows=500)
    slices.fail(world.must_claim(ids[4]), RowRejected("x"), "row ('a', 1): st holds 300")
    world.publish()
    assert world.journal.runs.finalize(run_id) == "error"
    return run_id


def test_a_failed_run_at_a_glance_and_whole(world: World, environment: dict[str, str]) -> None:
    empty = typed(environment)
    assert "nothing has run yet\n  next: python -m etl_tasks run --since … --until …" in empty

    run_id = failing_run(world)
    screen = typed(environment)
    assert screen.splitlines()[0].startswith("stg.status_command  journal ")
    assert f"1 window is NOT LOADED (RowRejected; run {run_id})" in screen.splitlines()[1]
    # The watermark is of 2025; but what failed comes first.
    assert "BEHIND by" in screen.splitlines()[1]
    assert screen.splitlines()[2] == f"  next: python -m etl_tasks status {run_id}"
    assert "never reconciled with the source" in screen
    assert "row ('a', 1): st holds 300" in screen
    assert "nothing is owed" in screen

    whole = typed(environment, str(run_id))
    assert f"next: python -m etl_tasks resume {run_id}" in whole.splitlines()[2]
    assert "4,000 rows, 7 slices" in whole.splitlines()[1]
    for words in ("20250808", ", a hole", "slowest windows", "most split windows", "thread pool full"):
        assert words in whole

    at_a_glance = json.loads(typed(environment, "--json"))
    assert (at_a_glance["level"], at_a_glance["next"]) == ("failed", f"python -m etl_tasks status {run_id}")
    assert [(each["run"], each["windows"]) for each in at_a_glance["unloaded"]] == [(run_id, 1)]
    printed = json.loads(typed(environment, str(run_id), "--json"))
    assert (printed["level"], printed["run"], printed["rows"]) == ("failed", run_id, 4000)
    assert printed["slices"] == {"planned": 0, "running": 0, "done": 5, "split": 1, "error": 1}
    assert [each["descendants"] for each in printed["most_split"]] == [2]
    (partition,) = printed["partitions"]
    assert (partition["partition"], partition["published"], partition["failed_slices"]) == (20250808, True, 1)
    assert (printed["eta_s"], printed["eta_unknown"]) == (None, "it has ended")

    publish = next(each for each in at_a_glance["processes"] if each["process"] == "codes:dedup")["runs"][0]["run"]
    assert "publish of partition 20250808, ok" in typed(environment, str(publish))


def test_a_run_of_the_old_system(world: World, environment: dict[str, str]) -> None:
    run_id = world.one(
        "INSERT INTO public.inc_processing (process_name, status, ts_end, watermark) "
        "VALUES ('codes', 'ok', clock_timestamp(), '2025-08-08') RETURNING id"
    ).id
    whole = typed(environment, str(run_id))
    assert f"run {run_id}  of the old system" in whole
    assert "ok: 0 rows, 0 slices" in whole
    assert "2025-08-08T00:00:00Z" in typed(environment)


@pytest.mark.parametrize("run_id", ["4711", "0", "abc"])
def test_no_such_run(environment: dict[str, str], run_id: str) -> None:
    said = typed(environment, run_id, expect=2)
    assert run_id in said
    assert "Traceback" not in said


def test_watching_a_run_ends_with_it(world: World, environment: dict[str, str]) -> None:
    run_id = world.plan(even_windows(24)[:2]).run_id
    with watching(environment, str(run_id)) as process:
        assert process.stdout is not None
        reader = Reader(process.stdout.fileno())
        first = reader.until("0 of 2 slices")
        world.load_all(run_id)
        world.publish()
        assert world.journal.runs.finalize(run_id) == "ok"
        reader.until("ok: 20 rows, 2 slices", first)
        assert process.wait(PATIENCE_S) == 0


def test_json_is_a_line_each_time(world: World, environment: dict[str, str]) -> None:
    run_id = world.load_publish_end(even_windows(24)[:1])
    with watching(environment, str(run_id), "--json") as process:
        said, _ = process.communicate(timeout=PATIENCE_S)
    (line,) = said.splitlines()
    assert json.loads(line)["status"] == "ok"


def test_a_postgresql_that_goes_away_is_said_and_asked_again(world: World, environment: dict[str, str]) -> None:
    parts = urlsplit(environment["PG_DSN"])
    assert parts.port is not None
    with Relay(parts.port) as relay:
        through = urlunsplit(parts._replace(netloc=parts.netloc.replace(f":{parts.port}", f":{relay.port}")))
        with watching({**environment, "PG_DSN": through}) as process:
            assert process.stdout is not None
            reader = Reader(process.stdout.fileno())
            first = reader.until("nothing has run yet")
            relay.refuse()
            away = reader.until("trying again", first)
            assert "PostgreSQL" in reader.text[first:away]
            failing_run(world)
            relay.restore()
            reader.until("NOT LOADED", away)
            process.send_signal(signal.SIGINT)
            assert process.wait(PATIENCE_S) == 0
    assert "Traceback" not in reader.text


def test_a_terminal_is_redrawn_and_keeps_the_last_screen(world: World, environment: dict[str, str]) -> None:
    manual = process_for("codes", manual=True)
    run_id = world.plan(even_windows(24)[:2], process=manual, manual=True, until=at(2)).run_id
    ours, theirs = pty.openpty()
    try:
        with watching({**environment, "TERM": "xterm", "COLUMNS": "120", "LINES": "40"}, stdout=theirs) as process:
            reader = Reader(ours)
            drawn = reader.until("manual_codes")
            reader.until("manual_codes", drawn)
            process.send_signal(signal.SIGINT)
            left = reader.until("\x1b[?1049l", drawn)
            reader.until(str(run_id), left)
            assert process.wait(PATIENCE_S) == 0
    finally:
        os.close(ours)
        os.close(theirs)
    assert "\x1b[?1049h" in reader.text
    assert "Traceback" not in reader.text
