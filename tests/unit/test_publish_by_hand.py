"""Publishes by hand without any service: what a rebuild would take, which partition is meant, how one is followed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from etl_tasks.cli.publish import print_losses, read_partition
from etl_tasks.cli.publish_following import PublishFollower
from etl_tasks.core.publishing import PublishProgress, StageMetric
from etl_tasks.core.rebuilding import Loss, rebuild_outlook
from etl_tasks.core.windows import Window, from_seconds, windows_between
from etl_tasks.errors import UsageError

NOON = datetime(2025, 8, 8, 12, tzinfo=UTC)
DAY = 20250808
MINUTES = windows_between(range(0, 3601, 60))


def minutes(first: int, last: int) -> Window:
    return Window(from_seconds(first * 60), from_seconds(last * 60))


def test_what_a_rebuild_would_take(capsys: pytest.CaptureFixture[str]) -> None:
    raw = [5] * 60
    clean = list(raw)
    clean[3], clean[4] = 7, 4  # two too many, and one that a rebuild would bring
    clean[17] = 6
    clean[40:50] = [0] * 10  # nothing but to be won
    clean[59] = 9
    outlook = rebuild_outlook(DAY, MINUTES, clean, raw)
    assert outlook.losses == [Loss(minutes(0, 20), 102, 100, 3), Loss(minutes(50, 60), 54, 50, 4)]
    assert (outlook.clean_rows, outlook.raw_rows, outlook.lost_rows) == (256, 300, 7)
    assert rebuild_outlook(DAY, MINUTES, [1] * 60, [2] * 60).losses == []
    print_losses(outlook)
    said = capsys.readouterr().out
    assert "20250808: CLEAN has 256 rows, RAW 300 keys; a rebuild takes 7 rows or more" in said
    assert "1970-01-01 00:50" in said


@pytest.mark.parametrize("day", ["", "2025-08-08", "20250230", "00000101", "202508081", "٢٠٢٥٠٨٠٨", "-2025080"])
def test_what_is_no_utc_day_is_refused(day: str) -> None:
    with pytest.raises(UsageError, match="no UTC day: write it as 20250808"):
        read_partition(day)


def test_a_leap_day_is_one() -> None:
    assert read_partition("20240229") == 20240229


IDLE = PublishProgress(DAY, "idle", 5, 5, False, False, None, False, "", 3, [StageMetric("check", DAY, 7)], 9, 12, NOON)
OWED = replace(IDLE, loaded_gen=6)
DUE = replace(OWED, state="due")
STAGES = [StageMetric("attach_clean", DAY, 2), StageMetric("insert_dedup", DAY, 1300)]
RUNNING = replace(OWED, state="running", busy=True, publish_run_id=4, stages=STAGES[:1], rows=None)
DONE = replace(
    IDLE, loaded_gen=6, published_gen=6, publish_run_id=4, stages=STAGES, rows=12_345, duration_ms=1500,
    published_at=NOON + timedelta(minutes=1),
)  # fmt: skip


def follow(
    script: Sequence[PublishProgress], asked: Sequence[int | None] = (6,), *, rebuild: bool = False
) -> tuple[bool, int]:
    """Follow a publish whose states come one a second, the last one for ever; (published, how often it was asked)."""
    seconds = 0.0
    answers = list(asked)

    def read(_: int) -> PublishProgress:
        return script[min(int(seconds), len(script) - 1)]

    def sleep(span: float) -> None:
        nonlocal seconds
        seconds += span
        assert seconds < 1000, "it never ends"

    follower = PublishFollower(read, lambda _: answers.pop(0), sleep=sleep, clock=lambda: seconds)
    published = follower.follow([DAY], rebuild)
    return published, len(asked) - len(answers)


def test_stages_are_said_once_and_only_of_this_publish(capsys: pytest.CaptureFixture[str]) -> None:
    assert follow([OWED, DUE, RUNNING, RUNNING, replace(RUNNING, stages=STAGES), DONE]) == (True, 1)
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        [str(DAY), "attach_clean", "2", "ms"],
        [str(DAY), "insert_dedup", "1,300", "ms"],
        [str(DAY), "published:", "12,345", "rows", "in", "CLEAN,", "1.5", "s"],
    ]


def test_a_publish_in_error_is_not_published(capsys: pytest.CaptureFixture[str]) -> None:
    failed = replace(OWED, state="error", error="SchemaError: there is no table\nmore")
    assert follow([failed, DUE, RUNNING, replace(failed, publish_run_id=4)]) == (False, 1)
    assert f"{DAY}  NOT PUBLISHED: SchemaError: there is no table\n" in capsys.readouterr().err


def test_one_under_way_is_waited_for_and_then_asked_again(capsys: pytest.CaptureFixture[str]) -> None:
    assert follow([RUNNING, RUNNING, OWED, DUE, replace(RUNNING, publish_run_id=5), DONE]) == (True, 1)
    assert "is being published right now" in capsys.readouterr().err
    # It has published all there was.
    assert follow([RUNNING, RUNNING, IDLE], asked=[None]) == (True, 1)
    assert "nothing to publish: all that is loaded is published, at 2025-08-08T12:00:00Z" in capsys.readouterr().out


def test_a_rebuild_is_done_when_the_journal_says_so() -> None:
    asked = replace(IDLE, state="due", rebuild=True)
    running = replace(RUNNING, rebuild=True, rebuild_run_id=4, rebuild_error="no attempt of it has ended")
    published = replace(DONE, loaded_gen=5, published_gen=5, rebuild_run_id=4)
    assert follow([IDLE, asked, asked, running, published], asked=[5], rebuild=True) == (True, 1)


def test_a_publish_after_a_refused_rebuild_is_not_taken_for_it(capsys: pytest.CaptureFixture[str]) -> None:
    before = replace(OWED, rebuild_run_id=3)
    asked = replace(DUE, rebuild=True, rebuild_run_id=3)
    refused = replace(DUE, publish_run_id=4, rebuild_run_id=4, rebuild_error="TerminalError: RAW has less\nmore")
    published = replace(DONE, publish_run_id=5, rebuild_run_id=4, rebuild_error=refused.rebuild_error)
    in_error = replace(published, state="error", error="SchemaError: of the next publish")
    for end in (refused, published, in_error, replace(refused, state="idle", loaded_gen=5)):
        assert follow([before, asked, end], rebuild=True) == (False, 1)
        said = capsys.readouterr()
        assert said.err == f"{DAY}  NOT REBUILT, CLEAN keeps what it had: TerminalError: RAW has less\n"
        assert "published" not in said.out
    # Nobody came to it, and the one before had been done.
    assert follow([before, asked, replace(OWED, rebuild_run_id=3)], rebuild=True) == (False, 1)
    assert "no attempt of it was made" in capsys.readouterr().err
    # Done, and what was loaded meanwhile is due again or has failed.
    for end in (replace(DUE, loaded_gen=7), replace(OWED, state="error", error="SchemaError: of the next one")):
        assert follow([before, asked, replace(end, rebuild_run_id=4)], rebuild=True) == (True, 1)


def test_one_in_error_with_nothing_owed_is_published_when_it_was() -> None:
    """Its generation is reached from the start."""
    failed = replace(IDLE, state="error", error="TerminalError: no")
    again = replace(failed, publish_run_id=4)
    assert follow([failed, replace(IDLE, state="due"), replace(RUNNING, loaded_gen=5), again], asked=[5]) == (False, 1)
    assert follow([failed, replace(IDLE, state="due"), DONE], asked=[5]) == (True, 1)


def test_what_hinders_it_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert follow([OWED, *[DUE] * 40, DONE])[0]
    assert (
        capsys.readouterr().err.count("no worker has taken it for 15 s: start one with celery -A etl_tasks worker") == 1
    )
    # Others are published first: no reason to look for a worker.
    assert follow([OWED, *[replace(DUE, busy=True)] * 40, DONE])[0]
    assert capsys.readouterr().err == ""
    put_off = replace(DUE, waits=True, not_before=NOON + timedelta(seconds=5), error="Unreachable: away")
    assert follow([OWED, *[put_off] * 40, DONE])[0]
    assert capsys.readouterr().err == f"note: {DAY} is tried again from 2025-08-08T12:00:05Z: Unreachable: away\n"
