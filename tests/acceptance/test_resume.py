"""``resume``: a run with windows in error, the cause removed, and just those windows loaded, by real workers."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from devstack.dataset import MAIN_COLUMNS, DatasetSpec, Row
from devstack.deployment import Deployment, iso, midnight, ms
from devstack.oracle import Change, Rows

Deploy = Callable[..., Deployment]
SINCE = midnight(2) + timedelta(hours=22)
UNTIL = SINCE + timedelta(hours=4)
SLICE = timedelta(minutes=30)
INTERVAL = ("--since", iso(SINCE), "--until", iso(UNTIL))
SPEC = DatasetSpec(rows=4800, days=2, seed=71, until_ms=ms(midnight(0)))
YEAR_10000_MS = 253402300800000
# Two windows that touch, and one of the next day.
BAD = (2, 3, 6)


def window(number: int) -> tuple[Any, Any]:
    return SINCE + number * SLICE, SINCE + (number + 1) * SLICE


def bad_row(number: int, exd_ms: int) -> Row:
    """A row in the window; with a date of the year 10000 it fits no column of ClickHouse."""
    values: dict[str, object] = dict.fromkeys(MAIN_COLUMNS)
    values |= {"c": f"bad {number}", "t": 7, "opd": ms(window(number)[0] + timedelta(minutes=5)), "exd": exd_ms}
    return tuple(values[name] for name in MAIN_COLUMNS)  # type: ignore[return-value]


def spoil(deployment: Deployment) -> None:
    table = deployment.settings["HBASE_MAIN_TABLE"]
    for number in BAD:
        at = window(number)[0] + timedelta(minutes=5)
        deployment.seeder.execute(
            f'UPSERT INTO {table} ("c", "t", "opd", "exd") VALUES (\'bad {number}\', 7, '
            f"TIMESTAMP '{at:%Y-%m-%d %H:%M:%S}.000', CAST(TO_NUMBER('{YEAR_10000_MS}') AS TIMESTAMP))"
        )


def read(deployment: Deployment, run_id: int) -> list[tuple[Any, Any]]:
    return [(each.window_from, each.window_to) for each in deployment.slices(run_id)]


def watermark(deployment: Deployment) -> Any:
    """The schedule's."""
    (row,) = deployment.journal("SELECT max(watermark) AS w FROM {j} WHERE NOT manual AND ts_end IS NOT NULL")
    return row.w


def test_only_the_failed_windows_are_read_again_and_then_all_is_there(deploy: Deploy) -> None:
    deployment = deploy("resume", PHX_INITIAL_SLICE_MIN="30", PHX_QUERY_OVERLAP_MINUTES="0")
    deployment.seed(Rows(SPEC))
    spoil(deployment)
    deployment.start_worker()
    deployment.cli("run", *INTERVAL, expect=1)
    (first,) = deployment.runs()
    assert first.status == "error"
    assert [each.state for each in deployment.slices(first.id)] == [
        "error" if number in BAD else "done" for number in range(8)
    ]
    assert watermark(deployment) == window(BAD[0])[0]

    # Before it is mended: the same windows, the same end.
    said = deployment.cli("resume", str(first.id), expect=1)

    second = deployment.runs()[-1]
    assert f"run {second.id} resumes run {first.id}" in said.stdout
    assert "3 rows of the run do not fit" in said.stderr
    assert read(deployment, second.id) == [window(number) for number in BAD]
    assert (second.process_name, second.status, second.manual) == ("manual_codes_resume", "error", True)

    # What was read before may have changed since: a resumption that read it again would show.
    elsewhere = window(4)[0], window(6)[0]
    changed = Change(SPEC, rows=50, since_ms=ms(elsewhere[0]), until_ms=ms(elsewhere[1]), version=1)
    deployment.seeder.apply(changed)
    deployment.upsert([bad_row(number, ms(UNTIL)) for number in BAD])
    said = deployment.cli("resume", str(first.id))

    third = deployment.runs()[-1]
    assert (third.status, third.details["resumes"]) == ("ok", first.id)
    assert read(deployment, third.id) == [window(number) for number in BAD], "cut as they were"
    assert re.search(rf"^run {third.id} ok: .* 3 slices, 0 splits, 2 of 2 partitions published", said.stdout, re.M)
    deployment.assert_exact(SINCE, UNTIL)
    assert watermark(deployment) == window(BAD[0])[0], "the lane of runs by hand moves no watermark of the schedule"

    # Nothing is left of any of the three, and it is said so.
    for run in (first, second, third):
        said = deployment.cli("resume", str(run.id), expect=2)
        assert f"nothing to resume: run {run.id} of" in said.stderr
    said = deployment.cli("resume", "999999", expect=2)
    assert "the journal has no run 999999" in said.stderr
    assert [run.id for run in deployment.runs()] == [first.id, second.id, third.id]


def test_an_active_run_is_not_resumed_and_what_is_only_owed_is_published(deploy: Deploy) -> None:
    deployment = deploy(
        "resumeowed", PHX_INITIAL_SLICE_MIN="120", PHX_QUERY_OVERLAP_MINUTES="0", ALWAYS_PUBLISH_AT_END="0",
        PUBLISH_EVERY_MINUTES="600",
    )  # fmt: skip
    deployment.seed(Rows(SPEC))
    run_id = deployment.plan(SINCE, UNTIL)

    said = deployment.cli("resume", str(run_id), expect=2)

    assert re.search(rf"run {run_id} of manual_codes_resumeowed is (planned|running): wait for its end", said.stderr)
    deployment.start_worker()
    assert deployment.wait_for_run(run_id).status == "ok"
    assert deployment.rows(deployment.clean_all, SINCE, UNTIL) == [], "loaded, and owed"

    said = deployment.cli("resume", str(run_id))

    days = ", ".join(f"{day:%Y%m%d}" for day in (SINCE, UNTIL))
    assert f"2 partitions are loaded and not published, their publish is due now: {days}" in said.stdout
    deployment.until(lambda: not deployment.clean_difference(SINCE, UNTIL), "the owed publishes are done", 60)
    deployment.assert_exact(SINCE, UNTIL)
    assert [run.id for run in deployment.runs()] == [run_id]
