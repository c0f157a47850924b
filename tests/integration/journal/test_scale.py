"""A journal with a million slices behind it is as quick as an empty one."""

from __future__ import annotations

import statistics
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from etl_tasks.core.windows import Window
from tests.integration.journal.world import ATTEMPTS, CLEAN, DAY, World, even_windows, result

pytestmark = pytest.mark.integration

MILLION = 1_000_000


@pytest.fixture
def million(world: World) -> World:
    """A million done slices of ended runs over eleven years of days, all published."""
    world.rows(
        "INSERT INTO public.inc_processing (process_name, status, ts_end, clean_table, watermark) "
        "SELECT 'codes', 'ok', clock_timestamp(), %s, '2025-08-01' FROM generate_series(1, 1000)",
        CLEAN,
    )
    # Quicker to fill without its indexes and its write-ahead log; ensure() makes the indexes again.
    world.rows("ALTER TABLE public.inc_processing_slices SET UNLOGGED")
    for name in ("planned", "running", "run", "generation", "error", "loaded", "sized", "parent"):
        world.rows(f"DROP INDEX {world.schema}.inc_processing_slices_{name}_idx")
    world.rows(
        "INSERT INTO public.inc_processing_slices (run_id, clean_table, partition, window_from, window_to, step, "
        "state, released_at, attempt, spent, enqueued_at, sends, generation, rows_read, rows_distinct, started_at, "
        "finished_at) "
        "SELECT 1 + i / 1000, %s, 20250808 - i %% 4000, '2014-01-01'::timestamptz + i * interval '5 min', "
        "'2014-01-01'::timestamptz + (i + 1) * interval '5 min', 0, 'done', clock_timestamp(), 1, 1, "
        "clock_timestamp(), 1, 1 + i / 4000, 10, 10, clock_timestamp(), clock_timestamp() "
        "FROM generate_series(0, %s - 1) AS i",
        CLEAN,
        MILLION,
    )
    world.rows(
        "INSERT INTO public.inc_processing_partitions (clean_table, partition, loaded_gen, published_gen) "
        "SELECT %s, 20250808 - i, 250, 250 FROM generate_series(0, 3999) AS i",
        CLEAN,
    )
    world.journal.ensure()
    for name in ("", "_slices", "_partitions"):
        world.rows(f"ANALYZE public.inc_processing{name}")
    return world


def plan_text(world: World, name: str, **parameters: Any) -> str:
    """What PostgreSQL would do for a named query."""
    database = world.journal.database
    with database.transaction() as transaction:
        cursor = transaction._cursor
        cursor.execute("EXPLAIN " + database._queries[name], parameters)
        return "\n".join(row[0] for row in cursor.fetchall())


def milliseconds(work: Any, times: int = 20) -> float:
    took = []
    for _ in range(times):
        began = time.monotonic()
        work()
        took.append((time.monotonic() - began) * 1000)
    return statistics.median(took)


def test_nothing_that_workers_do_walks_over_a_million_done_slices(million: World) -> None:
    world = million
    run_id = world.plan(even_windows(288)).run_id
    ids = world.slices(run_id)
    world.journal.slices.mark_sent(ids)
    for slice_id in ids[:30]:
        world.must_claim(slice_id)
    lease = {"worker": "w", "lease_s": 60, "max_attempts": ATTEMPTS, "clean_table": CLEAN}
    key = {"clean_table": CLEAN, "partition": DAY}
    sweeping: dict[str, Any] = {
        "grace_s": 10,
        "resend_after_s": 120,
        "queue_empty": False,
        "max_attempts": ATTEMPTS,
        "most": 5000,
    }
    plans = {
        "claim_slice": plan_text(world, "claim_slice", slice_id=ids[40], **lease),
        "touch_run_of_slice": plan_text(world, "touch_run_of_slice", slice_id=ids[40], clean_table=CLEAN),
        "spent_slices": plan_text(world, "spent_slices", clean_table=CLEAN, max_attempts=ATTEMPTS, slice_id=None),
        "sweep_slices": plan_text(world, "sweep_slices", clean_table=CLEAN, **sweeping),
        "queue_beliefs": plan_text(world, "queue_beliefs", clean_table=CLEAN),
        "unpublished_steps": plan_text(world, "unpublished_steps", **key),
        "windows_to_publish": plan_text(world, "windows_to_publish", **key, published_gen=250, target_gen=300),
        "mark_slices_sent": plan_text(world, "mark_slices_sent", slice_ids=ids[:30]),
        "finish_publish_if_running": plan_text(
            world, "finish_publish_if_running", **key, token=1, duration_ms=1, pinned="[]"
        ),
    }
    walks = {name: text for name, text in plans.items() if "Seq Scan on inc_processing_slices" in text}
    assert walks == {}
    assert "inc_processing_slices_running_idx" in plans["claim_slice"], plans["claim_slice"]
    queue = iter(ids[40:])
    claim_ms = milliseconds(lambda: world.must_claim(next(queue)))
    claims = [world.must_claim(slice_id) for slice_id in ids[100:120]]
    finish_ms = milliseconds(lambda: world.journal.slices.finish(claims.pop(), result()))
    sweep_ms = milliseconds(
        lambda: (
            world.journal.sweeps.due_slices(**sweeping),
            world.journal.sweeps.queue_beliefs(),
            world.journal.slices.fail_spent(CLEAN, ATTEMPTS),
        )
    )
    print(f"a claim {claim_ms:.1f} ms, a finish {finish_ms:.1f} ms, a sweep's questions {sweep_ms:.1f} ms")
    assert claim_ms < 25
    assert finish_ms < 50
    assert sweep_ms < 150


def test_sizes_are_remembered_as_quickly(million: World) -> None:
    """A ten-minute run asks of a week's quarters of hours, a month's backfill of five weeks of them."""
    sizing, newest = million.journal.sizing, datetime(2023, 7, 1, tzinfo=UTC)
    plans = {
        "sizing_loads": plan_text(
            million, "sizing_loads", clean_table=CLEAN, window_from=newest, window_to=newest + timedelta(days=8),
            cell_s=900, most_a_cell=50,
        ),
        "sizing_splits": plan_text(million, "sizing_splits", clean_table=CLEAN, days=7, most=300),
        "sizing_done": plan_text(million, "sizing_done", clean_table=CLEAN, days=7, most=3_000),
    }  # fmt: skip
    assert {name: text for name, text in plans.items() if "Seq Scan on inc_processing_slices" in text} == {}
    experience_ms = milliseconds(sizing.experience)
    ten_minutes_ms = milliseconds(lambda: sizing.loads(Window(newest, newest + timedelta(minutes=10))))
    month_ms = milliseconds(lambda: sizing.loads(Window(newest - timedelta(days=30), newest)), times=5)
    assert len(sizing.loads(Window(newest - timedelta(days=30), newest))) == 37 * 96
    print(f"experience {experience_ms:.1f} ms, ten minutes {ten_minutes_ms:.1f} ms, a month {month_ms:.1f} ms")
    assert experience_ms < 100
    assert ten_minutes_ms < 100
    assert month_ms < 500
