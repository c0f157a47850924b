"""A slice that kills whoever takes it, and rows that do not fit: they fail alone, once, and by name."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from devstack.dataset import DAY, MAIN_COLUMNS, Row
from devstack.deployment import ms
from tests.faults import worker_events
from tests.faults.worker_events import events
from tests.faults.world import PARTITION, SINCE, UNTIL, World

PATIENCE_S = 150.0
ATTEMPTS = 3
SETTINGS = {**worker_events.SETTINGS, "SLICE_MAX_ATTEMPTS": str(ATTEMPTS)}
TOO_LATE_MS = ms(datetime(9999, 12, 31, tzinfo=UTC)) + DAY
"""The year 10000, which DateTime64 does not hold; Phoenix does."""
LATER = UNTIL + timedelta(hours=2)
"""Up to here the source has rows that nobody has loaded: a slice that fails leaves a hole."""
MISFIT = 3
"""Index of the slice with the misfit."""


def test_a_slice_that_kills_every_child_fails_alone(world: World) -> None:
    run_id = world.deployment.plan(UNTIL, LATER, manual=False)
    planned = world.deployment.slices(run_id)
    poison = planned[2]
    armed = world.failpoints.arm("slice.claimed", times=None, slice=poison.id)
    world.deployment.start_worker()

    run = world.deployment.wait_for_run(run_id, PATIENCE_S)

    assert len(armed.hits()) == ATTEMPTS
    assert len({hit["pid"] for hit in armed.hits()}) == ATTEMPTS
    slices = world.deployment.slices(run_id)
    assert [(one.state, one.spent) for one in slices if one.id != poison.id] == [("done", 1)] * (len(planned) - 1)
    (failed,) = [one for one in slices if one.id == poison.id]
    assert (failed.state, failed.spent, failed.error_kind) == ("error", ATTEMPTS, "AttemptLost")
    assert f"attempt {ATTEMPTS} ended without a word on {failed.worker}" in failed.last_error
    # The run says which day is not whole, and the watermark waits before the hole.
    assert (run.status, run.watermark) == ("error", poison.window_from)
    assert (run.details["failed_slices"], run.details["incomplete_partitions"]) == (1, [PARTITION])
    assert world.publish_row().incomplete
    said = " ".join(world.deployment.cli("status", expect=None).stdout.split())
    assert f"published with a hole: partitions {PARTITION}" in said
    # What was loaded is published, the rest of the day is there as before.
    world.deployment.assert_exact(UNTIL, poison.window_from)
    world.deployment.assert_exact(poison.window_to, LATER)
    assert world.deployment.rows(world.deployment.clean_all, poison.window_from, poison.window_to) == []
    armed.disarm()
    again = world.deployment.plan(UNTIL, LATER, manual=False)
    world.assert_exact(again, PATIENCE_S, UNTIL, LATER)
    assert world.deployment.runs()[-1].watermark == LATER
    assert not world.publish_row().incomplete, "a later run that loads the window makes the day whole"


def test_a_misfit_fails_its_slice_and_is_named(world: World, misfit: Row) -> None:
    run_id = world.plan(MAX_REJECTED_ROWS="0")
    world.deployment.start_worker(MAX_REJECTED_ROWS="0")

    run = world.deployment.wait_for_run(run_id, PATIENCE_S)

    slices = world.deployment.slices(run_id)
    (failed,) = [one for one in slices if one.state != "done"]
    assert failed.id == slices[MISFIT].id
    assert (failed.state, failed.spent, failed.error_kind) == ("error", 1, "RowRejected"), "no try can cure it"
    for told in (repr(misfit[0]), "exd", str(TOO_LATE_MS), "MAX_REJECTED_ROWS"):
        assert told in failed.last_error
    assert [(one.slice_id, one.column_name, one.value) for one in rejects(world, run_id)] == [
        (failed.id, "exd", str(TOO_LATE_MS))
    ]
    assert (run.status, run.details["incomplete_partitions"]) == ("error", [PARTITION])
    world.deployment.assert_exact(SINCE, failed.window_from)
    world.deployment.assert_exact(failed.window_to, UNTIL)
    (told,) = events(world, "slice_ended_in_error")
    assert (told["slice"], told["error_kind"]) == (failed.id, "RowRejected")


def test_a_misfit_within_the_limit_is_counted_once_though_its_slice_is_killed_and_retried(
    world: World, misfit: Row
) -> None:
    run_id = world.plan(MAX_REJECTED_ROWS="10")
    armed = world.failpoints.arm("slice.inserted", slice=world.deployment.slices(run_id)[MISFIT].id)
    world.deployment.start_worker(MAX_REJECTED_ROWS="10")

    slices = world.assert_exact(run_id, PATIENCE_S)

    counted = slices[MISFIT]
    assert len(armed.hits()) == 1
    assert (counted.attempt, counted.spent) == (2, 2)
    assert len(events(world, "rows_rejected", slice=counted.id)) == 2, "each attempt finds it"
    (reject,) = rejects(world, run_id)
    assert (reject.slice_id, reject.column_name, reject.value) == (counted.id, "exd", str(TOO_LATE_MS))
    assert str(misfit[0]) in reject.row_key
    assert [one.rows_rejected for one in slices] == [int(one.id == counted.id) for one in slices]
    assert counted.rows_read == counted.rows_distinct + 1


@pytest.fixture
def misfit(world: World) -> Iterator[Row]:
    """A row of the source whose ``exd`` no column of the target holds; it goes at the end."""
    at_ms = ms(SINCE) + (MISFIT * 30 + 7) * 60_000
    values = {"c": "misfit", "t": 7, "opd": at_ms, "exd": TOO_LATE_MS}
    row: Row = tuple(values.get(name) for name in MAIN_COLUMNS)
    world.deployment.seeder.upsert([row])
    yield row
    world.deployment.seeder.delete([("misfit", 7, at_ms)])


def rejects(world: World, run_id: int) -> list[Any]:
    """The run's rejects."""
    return world.deployment.journal("SELECT * FROM {j}_rejects WHERE run_id = %s", run_id)
