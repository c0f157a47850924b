"""Gaps out of a real journal: coverage, publishes owed, runs that failed; and a journal of ten years."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import timedelta

import pytest

from etl_tasks.adapters.journal.gaps import GapJournal
from etl_tasks.core.cadence import CadenceRules
from etl_tasks.core.gaps import Gaps, find_gaps
from etl_tasks.core.spans import Span, seconds_of
from etl_tasks.core.windows import Window, to_seconds
from tests.integration.journal.world import AT_END, CLEAN, DAY, NEXT_DAY, World, at, hours

pytestmark = pytest.mark.integration

# Ten years: a little more than a million slices of five minutes.
DAYS = 3650
SLICES_A_DAY = 288
A_TIME = 200_000


def span(first: float, last: float) -> Span:
    return to_seconds(at(first)), to_seconds(at(last))


def gaps(world: World, first: float, last: float, cadence: CadenceRules = AT_END) -> Gaps:
    window = hours(first, last)
    return find_gaps(window, GapJournal(world.journal.database, CLEAN, cadence).facts(window))


def age_first_unpublished(world: World, minutes: int) -> None:
    """As if what is owed had been loaded that long ago."""
    world.rows(
        "UPDATE public.inc_processing_partitions SET "
        "first_unpublished_at = clock_timestamp() - make_interval(mins => %s)",
        minutes,
    )


def missing(found: Gaps) -> list[tuple[Span, int | None]]:
    return [(gap, found.runs[gap].run_id if gap in found.runs else None) for gap in found.missing]


def fail(world: World, slice_id: int) -> None:
    claim = world.must_claim(slice_id)
    world.journal.slices.fail(claim, ValueError("a bad row"), "a bad row")


def test_an_empty_journal_has_nothing_but_a_gap(world: World) -> None:
    assert GapJournal(world.journal.database, CLEAN, AT_END).covered() is None
    assert missing(gaps(world, 0, 30)) == [(span(0, 30), None)]


def test_loaded_published_failed_and_never_asked_for(world: World) -> None:
    world.load_publish_end([hours(0, 1), hours(1, 2)])
    run_id = world.plan(
        [hours(4, 5), hours(5, 6), hours(6, 7), hours(26, 27)], process="manual_codes", manual=True
    ).run_id
    first, second, third, fourth = world.slices(run_id)

    found = gaps(world, 0, 30)
    assert missing(found) == [(span(2, 4), None), (span(7, 26), None), (span(27, 30), None)]
    assert (found.loading, found.loading_runs) == ([span(4, 7), span(26, 27)], [run_id])

    world.load(first)
    fail(world, second)
    world.load(third)
    world.load(fourth)
    found = gaps(world, 0, 30)
    wanted = [(span(2, 4), None), (span(5, 6), run_id), (span(7, 26), None), (span(27, 30), None)]
    assert missing(found) == wanted
    assert found.runs[span(5, 6)].active
    # All of it is loaded to its end, so its publishes are due.
    assert [(each.partition, list(each.not_published)) for each in found.publishing] == [
        (DAY, [span(4, 5), span(6, 7)]),
        (NEXT_DAY, [span(26, 27)]),
    ]

    world.publish(DAY)
    claim = world.must_claim_publish(NEXT_DAY)
    world.journal.publishes.fail(claim, ValueError("no"))
    assert world.run_row(run_id).open_partitions == 0
    assert world.journal.runs.finalize(run_id) == "error"
    found = gaps(world, 0, 30)
    assert missing(found) == wanted
    (owed,) = found.unpublished
    assert (owed.partition, owed.publish_state, owed.error) == (NEXT_DAY, "error", "ValueError: no")
    assert not found.publishing

    # Only what is asked for.
    assert missing(gaps(world, 1, 3)) == [(span(2, 3), None)]
    assert not gaps(world, 0, 2).any
    assert GapJournal(world.journal.database, CLEAN, AT_END).covered() == hours(0, 27)


def test_what_is_loaded_again_is_owed_though_the_coverage_has_it(world: World) -> None:
    world.load_publish_end([hours(0, 1), hours(1, 2)])
    again = world.plan([hours(1, 2)], publish_at_end=False).run_id
    world.load_all(again)
    assert world.journal.runs.finalize(again) == "ok"
    row = world.partition_row()
    assert row.loaded == row.published
    assert not gaps(world, 0, 2).any, "the next sweep takes it"
    age_first_unpublished(world, 3)

    found = gaps(world, 0, 2)

    assert not found.missing
    assert [(each.partition, list(each.not_published)) for each in found.unpublished] == [(DAY, [span(1, 2)])]


def test_what_an_active_run_publishes_at_its_end_is_no_gap(world: World) -> None:
    by_hand = world.plan([hours(0, 1), hours(1, 2), hours(24, 25)], process="manual_codes", manual=True).run_id
    first = world.slices(by_hand)[0]
    world.load(first)
    age_first_unpublished(world, 600)
    found = gaps(world, 0, 2)
    assert world.partition_row().publish_state == "idle"
    assert (found.any, found.loading) == (False, [span(1, 2)])
    assert [(each.partition, list(each.not_published)) for each in found.publishing] == [(DAY, [span(0, 1)])]

    # The run ends before its time: nobody is to publish it any more but the sweep, which is late.
    world.journal.runs.abort(by_hand, "enough")
    world.rows("UPDATE public.inc_processing_partitions SET publish_state = 'idle', not_before = NULL")
    assert [each.partition for each in gaps(world, 0, 2).unpublished] == [DAY]


def test_an_active_run_that_publishes_nothing_at_its_end_takes_no_gap_in_hand(world: World) -> None:
    run_id = world.plan([hours(0, 1), hours(1, 2)], publish_at_end=False).run_id
    world.load(world.slices(run_id)[0])
    age_first_unpublished(world, 600)
    assert [each.partition for each in gaps(world, 0, 2).unpublished] == [DAY]


def test_what_the_cadence_is_about_to_take_is_no_gap_until_it_is_late(world: World) -> None:
    hourly = CadenceRules(every_minutes=60, every_slices=0, always_at_end=False)
    run_id = world.plan([hours(0, 1)], publish_at_end=False).run_id
    world.load_all(run_id)
    assert world.journal.runs.finalize(run_id) == "ok"
    for minutes, is_gap in ((0, False), (50, False), (70, True)):
        age_first_unpublished(world, minutes)
        assert gaps(world, 0, 1, hourly).any is is_gap, minutes
    # By the number of steps alone nobody knows when; but before RAW has forgotten half.
    age_first_unpublished(world, 50)
    by_steps = CadenceRules(every_minutes=0, every_slices=6, always_at_end=False)
    assert gaps(world, 0, 1, by_steps).any
    assert not gaps(world, 0, 1, replace(by_steps, raw_ttl_s=2 * 3600)).any


@pytest.fixture
def ten_years(world: World) -> World:
    """A million done slices behind ten years of partitions, in which nothing is loaded yet."""
    world.rows("ALTER TABLE public.inc_processing_slices SET UNLOGGED")
    for name in ("planned", "running", "run", "generation", "error"):
        world.rows(f"DROP INDEX {world.schema}.inc_processing_slices_{name}_idx")
    world.rows(
        "INSERT INTO public.inc_processing (process_name, status, ts_end, clean_table, watermark) "
        "SELECT 'codes', 'ok', clock_timestamp(), %s, '2025-08-01' FROM generate_series(1, 1000)",
        CLEAN,
    )
    for first in range(0, DAYS * SLICES_A_DAY, A_TIME):  # No statement may take longer than half a minute.
        world.rows(
            "INSERT INTO public.inc_processing_slices (run_id, clean_table, partition, window_from, window_to, step, "
            "state, released_at, attempt, spent, enqueued_at, sends, generation, rows_distinct, finished_at) "
            "SELECT 1 + i %% 1000, %s, to_char(t.moment, 'YYYYMMDD')::integer, t.moment, t.moment + interval '5 min', "
            "0, 'done', clock_timestamp(), 1, 1, clock_timestamp(), 1, 1 + i %% %s, 10, clock_timestamp() "
            "FROM generate_series(%s, %s - 1) AS i "
            "CROSS JOIN LATERAL (SELECT %s::timestamptz + i * interval '5 min' AS moment) t",
            CLEAN, SLICES_A_DAY, first, min(first + A_TIME, DAYS * SLICES_A_DAY), at(0),
        )  # fmt: skip
    world.rows(
        "INSERT INTO public.inc_processing_partitions (clean_table, partition, loaded_gen) "
        "SELECT %s, to_char(%s::timestamptz + i * interval '24 h', 'YYYYMMDD')::integer, %s "
        "FROM generate_series(0, %s - 1) AS i",
        CLEAN, at(0), SLICES_A_DAY, DAYS,
    )  # fmt: skip
    world.journal.ensure()
    return world


def cover(world: World, every_min: int, length_min: int) -> None:
    """The first ``length_min`` of each ``every_min`` minutes are loaded; one day in a hundred is not published."""
    world.rows(
        "UPDATE public.inc_processing_partitions p SET loaded = c.loaded, "
        "published = CASE WHEN p.partition %% 100 = 1 THEN '{}' ELSE c.loaded END, "
        "published_gen = CASE WHEN p.partition %% 100 = 1 THEN 0 ELSE loaded_gen END "
        "FROM generate_series(0, %s - 1) AS i "
        "CROSS JOIN LATERAL (SELECT %s::timestamptz + i * interval '24 h' AS day) d "
        "CROSS JOIN LATERAL (SELECT range_agg(tstzrange(d.day + n * interval '1 min', "
        "d.day + (n + %s) * interval '1 min')) AS loaded FROM generate_series(0, 1439, %s) AS n) c "
        "WHERE p.partition = to_char(d.day, 'YYYYMMDD')::integer",
        DAYS, at(0), length_min, every_min,
    )  # fmt: skip
    for name in ("", "_slices", "_partitions"):
        world.rows(f"ANALYZE public.inc_processing{name}")


def look(world: World) -> tuple[Gaps, float]:
    """The gaps of the ten years, and the seconds that the quickest of three answers took."""
    window = Window(at(0), at(0) + timedelta(days=DAYS))
    journal = GapJournal(world.journal.database, CLEAN, AT_END)
    took = []
    for _ in range(3):
        began = time.monotonic()
        found = find_gaps(window, journal.facts(window))
        took.append(time.monotonic() - began)
    print(f"gaps over {DAYS * SLICES_A_DAY:,} slices, {len(found.missing):,} intervals: {min(took):.2f} s")
    return found, min(took)


def test_a_journal_of_a_million_slices_answers_in_two_seconds(ten_years: World) -> None:
    cover(ten_years, every_min=480, length_min=470)
    found, took_s = look(ten_years)
    assert len(found.missing) == DAYS * 3
    assert seconds_of(found.missing) == DAYS * 30 * 60
    days = [int(f"{at(24 * number):%Y%m%d}") for number in range(DAYS)]
    assert [each.partition for each in found.unpublished] == [day for day in days if day % 100 == 1]
    assert took_s < 2

    # Half a million gaps. Seconds, on a machine that others work on as well.
    cover(ten_years, every_min=10, length_min=5)
    found, took_s = look(ten_years)
    assert len(found.missing) == DAYS * 144
    assert seconds_of(found.missing) == DAYS * 12 * 3600
    assert took_s < 20
