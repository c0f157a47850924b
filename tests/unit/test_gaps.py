"""The gaps of a span of time: which there are, who fills them, and what plain ``gaps`` looks at."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from etl_tasks.cli.gaps_screen import as_dict, fill_command, print_gaps, verdict
from etl_tasks.core.gaps import (
    CoverageFacts,
    FailedRun,
    PartitionCoverage,
    by_partition,
    default_interval,
    due_window,
    find_gaps,
)
from etl_tasks.core.slicing import SlicingRules
from etl_tasks.core.spans import Span, seconds_of
from etl_tasks.core.windows import Window, to_seconds
from etl_tasks.errors import UsageError

MIDNIGHT = datetime(2025, 8, 8, tzinfo=UTC)
DAYS = 20250807, 20250808, 20250809, 20250810
RULES = SlicingRules(step_min=10, lag_min=2)


def at(hours: float) -> datetime:
    """Hours after the midnight of the eighth."""
    return MIDNIGHT + timedelta(hours=hours)


def span(first: float, last: float) -> Span:
    return to_seconds(at(first)), to_seconds(at(last))


def window(first: float, last: float) -> Window:
    return Window(at(first), at(last))


def facts(*partitions: PartitionCoverage, **more: object) -> CoverageFacts:
    return CoverageFacts(partitions, **{"failed": (), "loading": {}, **more})  # type: ignore[arg-type]


def test_days_without_a_row_are_gaps_that_join_over_midnight() -> None:
    eighth = PartitionCoverage(20250808, not_loaded=[span(0, 2), span(23, 24)], not_published=[])

    found = find_gaps(window(-6, 60), facts(eighth))

    # Six hours of the seventh and two of the eighth; from 23:00 on the ninth, and half of the tenth.
    assert list(found.missing) == [span(-6, 2), span(23, 60)]
    assert seconds_of(found.missing) == (8 + 37) * 3600
    assert found.any
    assert list(by_partition(found.missing)) == [
        (DAYS[0], [span(-6, 0)]),
        (DAYS[1], [span(0, 2), span(23, 24)]),
        (DAYS[2], [span(24, 48)]),
        (DAYS[3], [span(48, 60)]),
    ]


def test_all_loaded_and_published_is_no_gap() -> None:
    found = find_gaps(window(0, 24), facts(PartitionCoverage(20250808, [], [])))
    assert (found.any, list(found.missing), verdict(found)) == (False, [], "gaps: none")


def test_what_an_active_run_is_to_load_is_no_gap() -> None:
    eighth = PartitionCoverage(20250808, not_loaded=[span(0, 4), span(6, 8)], not_published=[])
    # It reads [3, 5) again too, of which one hour is loaded.
    found = find_gaps(window(0, 24), facts(eighth, loading={7: [span(3, 5)], 9: [span(6, 8)], 11: [span(10, 11)]}))
    assert list(found.missing) == [span(0, 3)]
    assert (found.loading, found.loading_runs) == ([span(3, 4), span(6, 8)], [7, 9])

    found = find_gaps(window(0, 24), facts(eighth, loading={7: [span(0, 8)]}))
    assert not found.any


def test_a_publish_that_is_due_or_runs_is_no_gap() -> None:
    states = ("idle", "error", "due", "running")
    partitions = [
        PartitionCoverage(day, [], [span(24 * number - 24, 24 * number)], state)
        for number, (day, state) in enumerate(zip(DAYS, states, strict=True))
    ]
    found = find_gaps(window(-24, 72), facts(*partitions))
    assert [each.partition for each in found.unpublished] == list(DAYS[:2])
    assert [each.partition for each in found.publishing] == list(DAYS[2:])
    assert found.not_published(found.unpublished) == [span(-24, 24)]
    assert found.any
    assert not find_gaps(window(24, 72), facts(*partitions[2:])).any


def test_an_idle_publish_that_somebody_is_to_make_due_is_no_gap(capsys: pytest.CaptureFixture[str]) -> None:
    awaited = PartitionCoverage(20250808, [], [span(0, 1)], "idle", awaited=True)
    found = find_gaps(window(0, 24), facts(awaited))
    assert (found.any, list(found.publishing)) == (False, [awaited])
    (entry,) = as_dict(found, "stg.codes", 0)["partitions"]
    assert (entry["publish"], entry["command"]) == ("idle", None)
    print_gaps(found, "stg.codes", 0, None)
    screen = capsys.readouterr().out
    assert "comes by itself" in screen and "publish --partition" not in screen
    # One that has failed is not tried again until there is a load, or somebody.
    assert find_gaps(window(0, 24), facts(replace(awaited, publish_state="error"))).any


def test_a_gap_is_filled_by_the_newest_run_that_left_all_of_it() -> None:
    eighth = PartitionCoverage(20250808, [span(1, 2), span(3, 4), span(5, 6), span(7, 8)], [])
    older = FailedRun(4, [span(1, 2), span(3, 4), span(5, 5.5)])
    newer = FailedRun(6, [span(7, 8), span(3, 3.5), span(3.5, 4)])
    found = find_gaps(window(0, 24), facts(eighth, failed=[newer, older]))
    assert list(found.missing) == [span(1, 2), span(3, 4), span(5, 6), span(7, 8)]
    assert found.runs == {span(1, 2): older, span(3, 4): newer, span(7, 8): newer}
    assert fill_command(span(1, 2), older, 0) == "python -m etl_tasks resume 4"
    assert fill_command(span(5, 6), None, 0) == (
        "python -m etl_tasks run --manual --since 2025-08-08T05:00:00Z --until 2025-08-08T06:00:00Z"
    )


def test_commands_are_in_business_time() -> None:
    # The source is five hours behind: 05:00 in the business is 00:00 in the source.
    assert fill_command(span(0, 1), None, -300).endswith("--since 2025-08-08T05:00:00Z --until 2025-08-08T06:00:00Z")


def test_the_lag_is_not_due_and_the_shift_moves_the_window() -> None:
    rules = SlicingRules(step_min=10, lag_min=2, shift_min=-300)
    now = at(12)
    assert due_window(at(5), at(8), rules, now) == (window(0, 3), [])
    # Now less the lag is 11:58 in the source, 16:58 in the business.
    found, notices = due_window(at(5), at(20), rules, now)
    assert found == Window(at(0), at(12) - timedelta(minutes=2))
    assert "what is newer than 2025-08-08T16:58:00Z is left out" in notices[0]
    with pytest.raises(UsageError, match=r"nothing of .* may be read yet"):
        due_window(at(17), at(20), rules, now)
    with pytest.raises(UsageError, match="holds nothing"):
        due_window(at(3), at(3), rules, now)


def test_plain_gaps_looks_from_the_first_load_to_what_had_to_be_loaded() -> None:
    covered, now = window(0, 10), at(12)
    # The schedule comes by every ten minutes and stays two behind.
    assert default_interval(covered, at(6), RULES, now) == (at(0), at(12) - timedelta(minutes=12))
    # It has just been by.
    just_been = Window(at(0), at(12) - timedelta(minutes=3))
    assert default_interval(just_been, at(6), RULES, now) == (at(0), at(12) - timedelta(minutes=3))
    # Nobody has ever used it.
    assert default_interval(covered, None, RULES, now) == (at(0), at(10))


def test_json_lists_sets_and_partitions(capsys: pytest.CaptureFixture[str]) -> None:
    eighth = PartitionCoverage(20250808, [span(23, 24)], [span(1, 2)], "error", None, "CountMismatch: less\nmore")
    found = find_gaps(window(0, 25), facts(eighth))
    shown = json.loads(json.dumps(as_dict(found, "stg.codes", 0)))
    assert shown["gaps"] is True
    command = "python -m etl_tasks run --manual --since 2025-08-08T23:00:00Z --until 2025-08-09T01:00:00Z"
    whole = {"since": "2025-08-08T23:00:00Z", "until": "2025-08-09T01:00:00Z", "seconds": 7200}
    assert shown["not_loaded"] == [{**whole, "run": None, "command": command}]
    assert (shown["not_loaded_s"], shown["not_published_s"]) == (7200, 3600)
    first, second = shown["partitions"]
    assert (first["partition"], first["not_loaded_s"], first["not_published_s"]) == (20250808, 3600, 3600)
    assert first["command"] == "python -m etl_tasks publish --partition 20250808"
    assert (second["partition"], second["not_loaded_s"]) == (20250809, 3600)

    print_gaps(found, "stg.codes", 0, at(3))
    screen = capsys.readouterr().out
    assert command in screen
    assert "CountMismatch: less" in screen
    assert "the schedule's next run reads what of it is after its watermark, 2025-08-08T03:00:00Z" in screen
    assert screen.endswith(
        "gaps: 1 interval never loaded (2 h 0 min), 1 partition (1 h 0 min) loaded and not published\n"
    )
