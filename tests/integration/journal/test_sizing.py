"""What the real journal remembers of the sizes of windows."""

from __future__ import annotations

from datetime import timedelta

import pytest

from etl_tasks.core.row_profile import LoadedStretch
from etl_tasks.core.slice_sizing import Experience, SizeClass
from etl_tasks.core.windows import Window, halve
from etl_tasks.errors import Overloaded
from tests.integration.journal.world import CLEAN, World, even_windows, hours

pytestmark = pytest.mark.integration


def split(world: World, slice_id: int) -> list[int]:
    """Replace the slice by its halves; their ids in order of time."""
    claim = world.must_claim(slice_id)
    transition = world.journal.slices.split(claim, halve(claim.window), Overloaded("rejected"), "rejected")
    return list(transition.children)


def test_an_empty_journal_knows_nothing(world: World) -> None:
    assert world.journal.sizing.experience() == Experience([], None)
    assert world.journal.sizing.loads(hours(0, 24)) == []


def test_rows_a_second_by_the_quarter_of_an_hour(world: World) -> None:
    """Two loads of one window count by their average, a wide one as far as it reaches, nothing outside a week."""
    for rows in (100, 300):
        run = world.plan([hours(1, 1.25)]).run_id
        world.load(world.slices(run)[0], rows=rows)
        world.publish()
        world.journal.runs.finalize(run)
    run = world.plan([hours(2, 4)]).run_id
    world.load(world.slices(run)[0], rows=7_200)
    assert world.journal.sizing.loads(hours(0, 24)) == [
        LoadedStretch(hours(1, 1.25), 400 / 1_800),
        LoadedStretch(hours(2, 4), 1.0),
    ]
    in_a_week = Window(hours(24 * 7, 24 * 7 + 1).start, hours(24 * 7, 24 * 7 + 1).end)
    assert len(world.journal.sizing.loads(in_a_week)) == 2
    assert (
        world.journal.sizing.loads(Window(*(edge + timedelta(days=1) for edge in (in_a_week.start, in_a_week.end))))
        == []
    )


def test_a_split_has_the_rows_of_all_its_parts(world: World) -> None:
    """A window split into 1,500 and (split again) 500 + 1,000 had 3,000 rows; one with open parts is not counted."""
    run = world.plan(even_windows(4)).run_id
    first, second, quiet, _ = world.slices(run)
    left, right = split(world, first)
    world.load(left, rows=1_500)
    for part, rows in zip(split(world, right), (500, 1_000), strict=True):
        world.load(part, rows=rows)
    split(world, second)
    world.load(quiet, rows=40)
    assert list(world.journal.sizing.experience().classes) == [
        SizeClass(32, done=1, split=0),
        SizeClass(256, done=1, split=0),
        SizeClass(512, done=1, split=0),
        SizeClass(1_024, done=1, split=1),
        SizeClass(2_048, done=0, split=1),
    ]


def test_what_is_older_than_a_week_is_forgotten(world: World) -> None:
    run = world.plan(even_windows(2)).run_id
    one, other = world.slices(run)
    for part in split(world, one):
        world.load(part, rows=100)
    world.load(other, rows=100)
    assert list(world.journal.sizing.experience().classes) == [SizeClass(64, 3, 0), SizeClass(128, 0, 1)]
    world.rows("UPDATE public.inc_processing_slices SET finished_at = finished_at - interval '8 days'")
    assert world.journal.sizing.experience() == Experience([], None)


def test_the_pace_is_of_windows_with_rows_enough_at_the_first_try(world: World) -> None:
    run = world.plan(even_windows(4)).run_id
    ids = world.slices(run)
    for slice_id, rows in zip(ids, (2_000, 4_000, 10, 50_000), strict=True):
        world.load(slice_id, rows=rows)
    world.rows("UPDATE public.inc_processing_slices SET finished_at = started_at + interval '10 s'")
    world.rows("UPDATE public.inc_processing_slices SET overloads = 2 WHERE id = %s", ids[3])
    assert world.journal.sizing.experience().rows_a_second == pytest.approx(6_000 / 20)
    # What a slice waited for its turn to read says nothing of its rows.
    world.rows("UPDATE public.inc_processing_slices SET timings_ms = '{\"turn_wait\": 4000}' WHERE id = %s", ids[0])
    assert world.journal.sizing.experience().rows_a_second == pytest.approx(6_000 / 16)


def test_other_tables_teach_nothing(world: World) -> None:
    run = world.plan(even_windows(2)).run_id
    for part in split(world, world.slices(run)[0]):
        world.load(part, rows=5_000)
    world.rows("UPDATE public.inc_processing_slices SET clean_table = 'another'")
    assert world.journal.sizing.experience() == Experience([], None)
    assert world.journal.sizing.loads(hours(0, 24)) == []
    world.rows("UPDATE public.inc_processing_slices SET clean_table = %s", CLEAN)
    assert world.journal.sizing.loads(hours(0, 24)) != []
