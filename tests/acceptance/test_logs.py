"""The log of a real worker in its JSON form: every line parses, and says whose it is."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from devstack.dataset import DAY, MAIN_COLUMNS, DatasetSpec, Row
from devstack.deployment import Deployment, iso, midnight, ms
from devstack.oracle import Rows
from etl_tasks.events import EVENTS
from etl_tasks.log import PACKAGE

Deploy = Callable[..., Deployment]
Line = dict[str, Any]
TODAY = midnight(0)
YESTERDAY, DAY_BEFORE = TODAY - timedelta(days=1), TODAY - timedelta(days=2)
SINCE, UNTIL = DAY_BEFORE + timedelta(hours=22), YESTERDAY + timedelta(hours=4)
DAYS = [int(f"{day:%Y%m%d}") for day in (DAY_BEFORE, YESTERDAY)]
TOO_LATE_MS = 253402300800000 + DAY
"""Past the year 9999, which DateTime64 does not hold; Phoenix does."""
SETTINGS = {
    "LOG_FORM": "json",
    "BUSINESS_TZ": "Europe/Berlin",
    "PHX_QUERY_SHIFT_MINUTES": "-60",
    "PHX_QUERY_OVERLAP_MINUTES": "5",
    "PHX_INITIAL_SLICE_MIN": "60",
    "STEP_MIN": "30",
}
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def lines_of(log: Path) -> list[Line]:
    """Every line as JSON; the test fails at the first that is none."""
    found = []
    for line in log.read_text().splitlines():
        assert line.startswith("{"), f"not JSON: {line!r}"
        found.append(json.loads(line))
    return found


def ours(lines: list[Line]) -> list[Line]:
    return [line for line in lines if line["logger"].partition(".")[0] == PACKAGE]


def told(lines: list[Line], event: str) -> list[Line]:
    return [line for line in lines if line["event"] == event]


def one(lines: list[Line], event: str) -> Line:
    (line,) = told(lines, event)
    return line


def window(start: datetime, end: datetime) -> str:
    return f"[{iso(start)}, {iso(end)})"


def plan_by_message(deployment: Deployment) -> Any:
    """A run by hand, planned by a worker; its row once it has ended."""
    kwargs = {"since": iso(SINCE), "until": iso(UNTIL), "manual": True}
    deployment.celery("call", "etl_tasks.plan_interval", "--kwargs", json.dumps(kwargs))
    return deployment.wait_for_run(deployment.wait_for_new_run(0, timeout_s=120))


def test_every_line_of_a_worker_parses_and_says_whose_it_is(deploy: Deploy) -> None:
    deployment = deploy("logs", **SETTINGS)
    deployment.seed(Rows(DatasetSpec(rows=600, days=2, seed=17, until_ms=ms(TODAY))))
    misfit_at = YESTERDAY + timedelta(hours=1, minutes=30)
    misfit: Row = tuple(
        {"c": "misfit", "t": 7, "opd": ms(misfit_at), "exd": TOO_LATE_MS}.get(name) for name in MAIN_COLUMNS
    )
    deployment.seeder.upsert([misfit])
    worker = deployment.start_worker(concurrency=2)
    run = plan_by_message(deployment)
    # A task that Celery itself has to say something about.
    deployment.celery("call", "etl_tasks.extract_load_slice", "--args", "[1, 2]")
    deployment.until(lambda: "TypeError" in worker.log.read_text(), "Celery tells of a task with wrong arguments", 120)
    deployment.stop_workers()

    lines = lines_of(worker.log)

    for line in lines:
        assert {"event", "level", "timestamp", "logger", "worker"} <= set(line), line
        assert datetime.fromisoformat(line["timestamp"]).utcoffset() == timedelta(0)
    mine = ours(lines)
    assert {line["event"] for line in mine} <= set(EVENTS)
    _check_start_and_end(lines, run)
    _check_ids(deployment, mine, run)
    _check_slicing(one(mine, "run_planned"))


def _check_start_and_end(lines: list[Line], run: Any) -> None:
    started = one(lines, "worker_started")
    assert (started["queues"], started["concurrency"]) == (["backfill", "extract", "plan", "publish"], 2)
    assert "PHX_QUERY_SHIFT_MINUTES=-60 and BUSINESS_TZ=Europe/Berlin" in one(lines, "setting_doubted")["warning"]
    ended = one(lines, "run_ended")
    assert (ended["run"], ended["status"], ended["process"]) == (run.id, "error", "manual_codes_logs")
    # Celery's own: the task that failed has its id, and its words at the stop are lines too.
    failed = [line for line in lines if "TypeError" in line.get("message", "") + line.get("exception", "")]
    assert failed and all(UUID.fullmatch(line["task"]) and line["level"] == "error" for line in failed)
    assert any("Warm shutdown" in line.get("message", "") for line in lines)


def _check_ids(deployment: Deployment, mine: list[Line], run: Any) -> None:
    main = one(mine, "worker_started")["worker"]
    slices = {each.id: each for each in deployment.slices(run.id)}
    publishes = {each.id: each for each in deployment.journal("SELECT * FROM {j} WHERE process_name LIKE '%%:dedup'")}
    for line in mine:
        in_child = line["worker"] != main
        assert in_child == bool(UUID.fullmatch(line.get("task", ""))), f"a child works for a task: {line}"
        if line.get("slice") in slices and line["event"] != "slice_dropped":
            each = slices[line["slice"]]
            assert (line["run"], line["partition"]) == (run.id, each.partition), line
            assert (line["process"], line["attempt"]) == ("manual_codes_logs", 1), line
            assert line["window"] == window(each.window_from, each.window_to)
            assert line["worker"] == each.worker, "as in the journal"
        if line["logger"] == "etl_tasks.pipeline.extract" and line["event"] != "slice_dropped":
            assert "slice" in line, line
        if line["event"].startswith("publish") and line["event"] not in ("publish_dropped", "publish_postponed"):
            each = publishes[line["run"]]
            assert (line["process"], line["partition"]) == ("codes_logs:dedup", each.details["partition"]), line
            assert line["attempt"] >= 1 and line["token"] > 0
    done, failed = told(mine, "slice_done"), one(mine, "slice_ended_in_error")
    assert {line["slice"] for line in done} | {failed["slice"]} == set(slices)
    assert failed["error_kind"] == "RowRejected" and "exd" in failed["error"]
    assert sum(line["rows_read"] for line in done) == sum(each.rows_read for each in slices.values() if each.rows_read)
    assert sorted({line["partition"] for line in told(mine, "published")}) == sorted(DAYS)
    stages = {line["stage"] for line in told(mine, "publish_stage_ended")}
    assert {"drop_buf", "attach_clean", "insert_dedup", "check", "replace_clean"} <= stages


def _check_slicing(line: Line) -> None:
    """Six hours of business time, shifted by one, five minutes of overlap, cut at the hours and at midnight."""
    first, last = DAY_BEFORE + timedelta(hours=20, minutes=55), YESTERDAY + timedelta(hours=3)
    expected: dict[str, object] = {
        "level": "info",
        "process": "manual_codes_logs",
        "business_tz": "Europe/Berlin",
        "shift_min": -60,
        "overlap_min": 5,
        "overlap_only_first": True,
        "lag_min": 0,
        "step_min": 30,
        "initial_slice_min": 60,
        "grid": "utc",
        "steps": 12,
        "windows": 1,
        "first_window": window(first, last),
        "last_window": window(first, last),
        "slices": 7,
        "first_slice": window(first, first + timedelta(minutes=5)),
        "last_slice": window(last - timedelta(hours=1), last),
        "partitions": DAYS,
    }
    assert {key: line[key] for key in expected} == expected
    for key, moment in (("since", SINCE), ("until", UNTIL), ("asked_until", UNTIL)):
        assert datetime.fromisoformat(line[key]) == moment
    for key, moment in (("since_local", SINCE), ("until_local", UNTIL)):
        local = datetime.fromisoformat(line[key])
        assert local == moment and local.utcoffset() in (timedelta(hours=1), timedelta(hours=2)), "Berlin's"


def test_a_command_logs_the_slicing_too_where_it_is_asked_to(deploy: Deploy) -> None:
    deployment = deploy("logscli", **{**SETTINGS, "LOG_FORM": "console"})
    deployment.seed(Rows(DatasetSpec(rows=200, days=2, seed=18, until_ms=ms(TODAY))))
    deployment.start_worker()
    interval = ("--since", iso(SINCE), "--until", iso(UNTIL))

    told_after = deployment.cli("run", *interval, "--log=INFO", "--log-form", "json").stderr
    told_before = deployment.cli("--log", "INFO", "run", "--manual", *interval).stderr
    told_without = deployment.cli("run", "--manual", *interval).stderr

    logged = [json.loads(line) for line in told_after.splitlines() if line.startswith("{")]
    line = one(logged, "run_planned")
    assert (line["slices"], line["process"]) == (7, "codes_logscli")
    _check_slicing({**line, "process": "manual_codes_logs"})
    (text,) = [line for line in told_before.splitlines() if "run_planned" in line]
    for fact in ("slices=7", "steps=12", "shift_min=-60", "business_tz=Europe/Berlin", "grid=utc"):
        assert fact in text
    assert "run_planned" not in told_without
