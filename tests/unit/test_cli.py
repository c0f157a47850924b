"""The commands without any service: what they print, how errors are said, and how a run is followed."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Collection
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from etl_tasks.cli.following import IDLE_S, JOURNAL_PATIENCE_S, WORKER_COMMAND, Follower, Totals, partition_line
from etl_tasks.cli.headline import Expectations
from etl_tasks.cli.main import SECTIONS, cli, main
from etl_tasks.cli.migrate import what_changed
from etl_tasks.cli.run import why_not_ok
from etl_tasks.cli.status_json import as_dict
from etl_tasks.cli.texts import duration, first_line, iso, rough, short_interval
from etl_tasks.config import Settings
from etl_tasks.core.read_limit import SourceReads
from etl_tasks.core.status import (
    FailedSlice,
    PartitionProgress,
    ProcessView,
    RunProgress,
    RunView,
    SliceGroup,
    StatusReport,
    lag_of,
    slices_by_state,
)
from etl_tasks.core.windows import Window
from etl_tasks.errors import Unreachable

NOON = datetime(2025, 8, 8, 12, tzinfo=UTC)
DAY = ("--since", "2025-08-08T00:00:00Z", "--until", "2025-08-09T00:00:00Z")


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither an environment nor a ``.env``, and no way out to a service."""
    for name in (*(name.upper() for name in Settings.model_fields), "ETL_ENV_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)

    def refuse(*_: Any) -> None:
        raise AssertionError("a service was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)


# -- plan ------------------------------------------------------------------------------------------------------------


def test_plan_prints_the_slices_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *DAY, "--offline", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert set(printed) == {"process", "since", "until", "partitions", "slices", "sizing", "notices"}
    assert printed["sizing"] is None
    assert printed["process"] == "codes_history_increment"
    assert (printed["since"], printed["until"]) == ("2025-08-08T00:00:00Z", "2025-08-09T00:00:00Z")
    assert printed["partitions"] == [20250807, 20250808]
    # Five minutes of overlap before midnight, and 24 hours of twelve slices.
    assert len(printed["slices"]) == 1 + 24 * 12
    assert printed["slices"][:2] == [
        {"from": "2025-08-07T23:55:00Z", "to": "2025-08-08T00:00:00Z", "partition": 20250807, "step": 0},
        {"from": "2025-08-08T00:00:00Z", "to": "2025-08-08T00:05:00Z", "partition": 20250808, "step": 0},
    ]
    assert printed["slices"][-1] == {
        "from": "2025-08-08T23:55:00Z",
        "to": "2025-08-09T00:00:00Z",
        "partition": 20250808,
        "step": 143,
    }


def test_plan_obeys_the_settings_and_the_lane(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PHX_QUERY_SHIFT_MINUTES", "-300")
    monkeypatch.setenv("PHX_QUERY_OVERLAP_MINUTES", "0")
    monkeypatch.setenv("PHX_INITIAL_SLICE_MIN", "60")
    assert main(["plan", *DAY, "--offline", "--json", "--manual"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["process"] == "manual_codes_history_increment"
    assert printed["since"] == "2025-08-08T00:00:00Z"
    assert [printed["slices"][0]["from"], printed["slices"][-1]["to"]] == [
        "2025-08-07T19:00:00Z",
        "2025-08-08T19:00:00Z",
    ]
    assert [sum(each["partition"] == day for each in printed["slices"]) for day in (20250807, 20250808)] == [5, 19]


def test_plan_shows_a_line_a_partition(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *DAY, "--offline"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["20250807", "1", "1", "2025-08-07", "23:55", "2025-08-08", "00:00"] in lines
    assert ["20250808", "288", "144", "2025-08-08", "00:00", "2025-08-09", "00:00"] in lines
    assert ["144", "steps,", "289", "slices,", "2", "partitions"] in lines


def test_plan_where_nobody_can_be_asked_is_the_first_cut_and_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*_: Any) -> None:
        raise ConnectionRefusedError("Connection refused")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setenv("PG_DSN", "postgresql://localhost:1/etl")
    monkeypatch.setenv("PQS_URL", "http://localhost:1")
    assert main(["plan", *DAY, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert len(printed["slices"]) == 1 + 24 * 12
    assert {each["reason"] for each in printed["sizing"]["stretches"]} == {"unknown"}
    assert [notice.partition(":")[0] for notice in printed["notices"]] == [
        "slices are sized without the journal's experience",
        "slices are sized without the source's estimates",
    ]


def test_plan_says_that_the_future_is_not_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--since", "2999-01-01", "--until", "2999-01-02", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["slices"] == []
    assert "PHX_QUERY_LAG_MINUTES" in printed["notices"][0]


# -- errors and exit codes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["plan"], "--since"),
        (["plan", "--since", "2025-08-08", "--until", "2025-08-09T00:00:00Z"], "offset from UTC"),
        (["plan", "--since", "2025-08-09", "--until", "2025-08-09"], "is not before"),
        (["plan", "--since", "soon", "--until", "2025-08-09"], "is no time"),
        (["run", "--since", "2025-08-08"], "--since and --until go together"),
        (["run", "--manual"], "--manual needs --since and --until"),
        (["resume"], "RUN"),
        (["resume", "seven"], "RUN"),
        (["resume", "0"], "RUN"),
        (["nothing"], "No such command"),
        (["--log", "LOUD", "status"], "--log"),
        (["migrate", "--only", "redis"], "--only"),
    ],
)
def test_what_cannot_be_meant_exits_2(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""


def test_every_wrong_setting_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("STEP_MIN", "0")
    monkeypatch.setenv("CH_PORT", "http")
    assert main(["status"]) == 2
    assert {"STEP_MIN", "CH_PORT"} <= set(capsys.readouterr().err.replace("=", " ").split())


def test_an_error_is_one_message_without_password(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: Settings) -> None:
        raise Unreachable("postgresql://etl:hunter2@db:5432/etl does not answer; check PG_DSN")

    monkeypatch.setattr("etl_tasks.cli.status.open_wiring", fail)
    assert main(["status"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: postgresql://etl:")
    assert said.count("\n") == 1
    assert "does not answer; check PG_DSN" in said
    assert "hunter2" not in said


def test_interrupted_exits_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(_: Settings) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("etl_tasks.cli.status.open_wiring", interrupt)
    assert main(["status"]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_help_has_one_line_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-h"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in cli.commands:
        (at,) = [number for number, line in enumerate(lines) if line.startswith(f"  {name} ")]
        assert lines[at].rstrip().endswith(".")
    headings = [line for line in lines if line.endswith(":") and not line.startswith(" ")]
    assert headings == ["Options:", "Move rows:", "Look:", "Set up:"]


@pytest.mark.parametrize("name", sorted(command.name or "" for commands in SECTIONS.values() for command in commands))
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "-h"]) == 0
    assert f"Usage: python -m etl_tasks {name}" in capsys.readouterr().out


# -- texts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("span", "text"),
    [
        (None, "-"),
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (59.4, "59 s"),
        (60, "1 min 0 s"),
        (3599, "59 min 59 s"),
        (timedelta(hours=2, minutes=5, seconds=59), "2 h 5 min"),
        (timedelta(days=4, hours=3), "4 d 3 h"),
        (timedelta(minutes=-3), "-3 min 0 s"),
    ],
)
def test_durations(span: timedelta | float | None, text: str) -> None:
    assert duration(span) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (2520, "42 min"),
        (3599, "60 min"),
        (7500, "2 h 5 min"),
        (-90, "-2 min"),
    ],
)
def test_rough_spans(seconds: float, text: str) -> None:
    assert rough(timedelta(seconds=seconds)) == text


def test_short_intervals() -> None:
    midnight = datetime(2025, 8, 8, tzinfo=UTC)
    assert short_interval(NOON, NOON + timedelta(seconds=90)) == "2025-08-08 12:00–12:01:30"
    assert short_interval(midnight, midnight + timedelta(days=1)) == "2025-08-08 00:00–24:00"
    assert short_interval(midnight, midnight + timedelta(days=2)) == "2025-08-08 00:00–2025-08-10 00:00"
    assert short_interval(midnight, midnight + timedelta(hours=25)) == "2025-08-08 00:00–2025-08-09 01:00"
    assert short_interval(NOON, None) == "-"


def test_times_and_lines() -> None:
    east = datetime.fromisoformat("2025-08-08T05:00:00.250+05:00")
    assert iso(east) == "2025-08-08T00:00:00.250Z"
    assert iso(NOON) == "2025-08-08T12:00:00Z"
    assert first_line("  one\ntwo") == "one"
    assert first_line("abcdef", 4) == "abc…"
    assert first_line(None) == ""


def test_migrate_says_what_changed() -> None:
    before = {"public.runs": 5, "public.slices": None, "public.fences": 3}
    after = {"public.runs": 16, "public.slices": 30, "public.fences": 3}
    assert what_changed(before, after) == "1 table created (public.slices), 11 columns added"
    assert what_changed(after, after) == "complete already (3 tables)"


# -- status ----------------------------------------------------------------------------------------------------------


def run_view(**changes: Any) -> RunView:
    """A run under way, of the eighth of August."""
    view = RunView(7, "codes", "running", NOON, None, NOON, NOON + timedelta(hours=1), None, NOON, {})
    return replace(view, **changes)


def test_lag_is_in_business_time() -> None:
    # Source time is business time less five hours: at noon of the source it is 17:00 in the business.
    assert lag_of(datetime(2025, 8, 8, 16, 50, tzinfo=UTC), NOON, -300) == timedelta(minutes=10)
    assert lag_of(NOON - timedelta(minutes=3), NOON, 0) == timedelta(minutes=3)


def test_status_json_sums_up_a_run() -> None:
    window = Window(NOON, NOON + timedelta(minutes=5))
    groups = [
        SliceGroup(7, "done", None, 10, 1234, 2, 1, None, None),
        SliceGroup(7, "split", "Overloaded", 3, 0, 9, 1, window, "rejected"),
        SliceGroup(7, "error", "RowRejected", 1, 0, 0, 0, window, "row x\nmore"),
        SliceGroup(6, "done", None, 99, 1, 0, 0, None, None),
    ]
    report = StatusReport(
        now=NOON,
        processes=[
            ProcessView("codes", (run_view(heartbeat_at=NOON - timedelta(seconds=4)),), NOON - timedelta(hours=1))
        ],
        slices=groups,
        owed=[],
        incomplete=[20250808],
        rejected={7: 2},
        reads=[SourceReads("pqs.example:8765", limit=4, in_use=3, waiting=5, halvings=2)],
    )
    printed = as_dict(report, "stg.codes", Expectations(step_s=600, lag_s=120))
    (process,) = printed["processes"]
    assert process["lag_s"] == 3600
    (run,) = process["runs"]
    assert run["slices"] == {"planned": 0, "running": 0, "done": 10, "split": 3, "error": 1}
    assert (run["rows"], run["overloads"], run["rejected_rows"]) == (1234, 11, 2)
    assert run["splits"] == [{"error_kind": "Overloaded", "slices": 3}]
    assert [error["error_kind"] for error in run["errors"]] == ["RowRejected", "Overloaded"]
    assert printed["oldest_heartbeat"] == "2025-08-08T11:59:56Z"
    assert printed["incomplete_partitions"] == [20250808]
    assert printed["source_reads"] == [
        {"source": "pqs.example:8765", "limit": 4, "in_use": 3, "waiting": 5, "halvings": 2}
    ]
    assert slices_by_state(groups, 6)["done"] == 99


# -- following a run -------------------------------------------------------------------------------------------------


def partition(number: int = 20250808, **changes: Any) -> PartitionProgress:
    """A partition that loads."""
    loading = PartitionProgress(
        partition=number,
        state="loading",
        slices=12,
        open_slices=5,
        failed_slices=0,
        loaded=True,
        published=False,
        publish_failed=False,
        publish_state="idle",
        publish_waits=False,
        publish_ms=None,
        publish_error=None,
        clean_rows=None,
        loading_s=61.0,
        rows=700,
    )
    return replace(loading, **changes)


def done(number: int = 20250808, **changes: Any) -> PartitionProgress:
    """A partition that is published."""
    what = {"state": "done", "open_slices": 0, "published": True, "publish_ms": 1900, "clean_rows": 2000, "rows": 1000}
    return partition(number, **{**what, **changes})


class Screen:
    """Keeps what was said."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.notes: list[str] = []
        self.shown: list[tuple[int, int, int]] = []

    def show(self, progress: RunProgress, totals: Totals) -> None:
        self.shown.append((progress.done, progress.total, totals.rows))

    def line(self, text: str) -> None:
        self.lines.append(text)

    def note(self, text: str) -> None:
        self.notes.append(text)


class Journal:
    """Answers from a list, the last one for ever; sleeping moves its clock."""

    def __init__(self, *answers: RunProgress | Exception) -> None:
        self.answers = list(answers)
        self.settled: list[set[int]] = []
        self.now = 0.0
        self.on_sleep: Callable[[], None] = lambda: None

    def progress(self, run_id: int, settled: Collection[int] = ()) -> RunProgress:
        assert run_id == 7
        self.settled.append(set(settled))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def failed_slices(self, run_id: int, most: int) -> list[FailedSlice]:
        window = Window(NOON, NOON + timedelta(minutes=5))
        return [FailedSlice(window, "RowRejected", "row 'x' does not fit\nsecond line")][:most]

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.on_sleep()

    def follower(self, screen: Screen) -> Follower:
        return Follower(self, screen, sleep=self.sleep, clock=lambda: self.now)


def at(*partitions: PartitionProgress, ended: str = "", **changes: Any) -> RunProgress:
    """The run with these partitions."""
    run = run_view(status=ended or "running", ended_at=NOON + timedelta(minutes=2) if ended else None)
    return RunProgress(run, partitions, **changes)


def test_each_partition_is_announced_once_and_its_slices_are_counted_no_more() -> None:
    first, second = done(20250808), partition(20250809, state="waiting", rows=0, open_slices=12)
    journal = Journal(
        at(partition(20250808), second),
        at(first, second),
        # Settled: its slices are not counted again, so its rows come as 0; the total must keep them.
        at(replace(first, rows=0), partition(20250809, open_slices=3, rows=40)),
        at(replace(first, rows=0), done(20250809, rows=50), ended="ok"),
    )
    screen = Screen()
    follower = journal.follower(screen)
    assert follower.follow(7).run.status == "ok"
    assert [line.split()[0] for line in screen.lines] == ["20250808", "20250809"]
    assert screen.shown == [(7, 24, 700), (12, 24, 1000), (21, 24, 1040), (24, 24, 1050)]
    assert journal.settled == [set(), set(), {20250808}, {20250808}]
    assert (follower.totals.published, screen.notes) == (2, [])


def test_a_missing_worker_is_noticed_once() -> None:
    journal, screen = Journal(at(partition())), Screen()
    after: list[float] = []

    def end_at_last() -> None:
        if screen.notes and not after:
            after.append(journal.now)
        if journal.now > 4 * IDLE_S:
            journal.answers = [at(done(), ended="ok")]

    journal.on_sleep = end_at_last
    journal.follower(screen).follow(7)
    assert len(screen.notes) == 1
    assert WORKER_COMMAND in screen.notes[0]
    assert IDLE_S <= after[0] <= IDLE_S + 2


@pytest.mark.parametrize(
    "state",
    [
        at(partition(running=1)),
        at(partition(), publishing=True),
        at(partition(state="publishing", open_slices=0, publish_state="due", publish_waits=True)),
    ],
    ids=["a slice is read", "some publish is under way", "a publish is not due yet"],
)
def test_no_worker_is_missed_while(state: RunProgress) -> None:
    journal, screen = Journal(state), Screen()

    def end_at_last() -> None:
        if journal.now > 4 * IDLE_S:
            journal.answers = [at(done(), ended="ok")]

    journal.on_sleep = end_at_last
    journal.follower(screen).follow(7)
    assert screen.notes == []


def test_why_slices_wait_is_said_once() -> None:
    waiting = FailedSlice(Window(NOON, NOON + timedelta(minutes=5)), "Unreachable", "no answer\ndetails", NOON)
    journal = Journal(*[at(partition(waiting=5), waiting=waiting)] * 50, at(done(), ended="ok"))
    screen = Screen()
    journal.follower(screen).follow(7)
    assert screen.notes == [
        "5 slices wait to be tried again, the first at 2025-08-08T12:00:00Z: Unreachable: no answer"
    ]


def test_an_absent_journal_is_waited_for() -> None:
    screen = Screen()
    gone = Unreachable("PostgreSQL went away")
    assert Journal(gone, gone, at(done(), ended="ok")).follower(screen).follow(7).run.status == "ok"
    assert len(screen.notes) == 1
    journal = Journal(gone)
    with pytest.raises(Unreachable):
        journal.follower(Screen()).follow(7)
    assert JOURNAL_PATIENCE_S < journal.now < JOURNAL_PATIENCE_S + 10


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (
            done(splits=1),
            "20250808  published: 1,000 rows, 12 slices, 1 split, loaded and published in 1 min 1 s, "
            "the publish 1.9 s, 2,000 rows in CLEAN",
        ),
        (
            done(failed_slices=2, clean_rows=None),
            "20250808  published, INCOMPLETE: 1,000 rows, 12 slices, 2 slices in error, 0 splits, loaded and published "
            "in 1 min 1 s, the publish 1.9 s",
        ),
        (
            done(published=False, publish_failed=True, publish_error="too few\nkeys"),
            "20250808  NOT PUBLISHED: too few (1,000 rows, 12 slices, 0 splits)",
        ),
        (done(published=False), "20250808  loaded, its publish is owed (1,000 rows, 12 slices, 0 splits)"),
        (
            done(published=False, loaded=False, rows=0, failed_slices=12),
            "20250808  nothing loaded (0 rows, 12 slices, 12 slices in error, 0 splits)",
        ),
    ],
)
def test_the_line_of_a_partition(state: PartitionProgress, said: str) -> None:
    assert partition_line(state) == said


def test_why_a_run_is_not_ok() -> None:
    failed = done(failed_slices=3, publish_failed=True, publish_error="fewer keys than counted\nsecond")
    progress = at(failed, ended="error")
    progress = replace(progress, run=replace(progress.run, details={"error": "patience\nover"}))
    assert why_not_ok(progress, Journal(progress)) == [
        "patience",
        "[2025-08-08T12:00:00Z, 2025-08-08T12:05:00Z) RowRejected: row 'x' does not fit",
        "and 2 windows more: see python -m etl_tasks status",
        "partition 20250808 is not published: fewer keys than counted",
    ]
