"""Backfills through real workers: exact in every column, whatever the rows look like."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from devstack.dataset import MAIN_COLUMNS, DatasetSpec, Row
from devstack.deployment import Deployment, iso, midnight, ms
from devstack.oracle import Change, Rows

Deploy = Callable[..., Deployment]
CH = MAIN_COLUMNS.index("ch")


def test_three_days_are_exact_and_set_the_watermark(deploy: Deploy) -> None:
    since, until = midnight(3), midnight(0)
    deployment = deploy("backfill", PHX_INITIAL_SLICE_MIN="30", PHX_QUERY_OVERLAP_MINUTES="0")
    deployment.seed(Rows(DatasetSpec(rows=6000, days=3, seed=11, until_ms=ms(until))))
    for _ in range(2):
        deployment.start_worker(concurrency=1)

    deployment.cli("run", "--since", iso(since), "--until", iso(until))

    (run,) = deployment.runs()
    assert (run.status, run.watermark, run.covered_until) == ("ok", until, until)
    assert deployment.assert_exact(since, until) == 6000
    slices = deployment.slices(run.id)
    assert len(slices) == 3 * 48
    assert {s.state for s in slices} == {"done"}
    assert [s.window_from for s in slices] == [since + timedelta(minutes=30 * i) for i in range(144)]
    assert sum(s.rows_distinct for s in slices) == 6000
    publishes = deployment.journal("SELECT * FROM {j} WHERE process_name LIKE '%:dedup' ORDER BY id")
    assert {p.process_name for p in publishes} == {"codes_backfill:dedup"}
    assert {p.status for p in publishes} == {"ok"}
    days = [int(f"{since + timedelta(days=i):%Y%m%d}") for i in range(3)]
    assert sorted(p.details["partition"] for p in publishes) == days
    for publish in publishes:
        stages = [stage["stage"] for stage in publish.details["stages"]]
        assert {"drop_buf", "insert_dedup", "replace_clean", "drop_buf_cleanup"} <= set(stages)
        assert all(set(stage) == {"stage", "part", "ms"} for stage in publish.details["stages"])
        assert list(publish.details["dedup_part_total_ms"]) == [str(publish.details["partition"])]
    coverage = deployment.journal(
        "SELECT partition, loaded = published AS same, loaded::text FROM {j}_partitions ORDER BY partition"
    )
    assert [row.partition for row in coverage] == days
    assert all(row.same for row in coverage)


def test_a_changed_row_wins_whole_a_null_over_a_value_too(deploy: Deploy) -> None:
    since, until = midnight(1), midnight(0)
    deployment = deploy("changed", PHX_INITIAL_SLICE_MIN="240")
    spec = DatasetSpec(rows=600, days=1, seed=5, until_ms=ms(until))
    deployment.seed(Rows(spec))
    deployment.start_worker()
    deployment.cli("run", "--since", iso(since), "--until", iso(until))
    before = {row[:3]: row for row in deployment.rows(deployment.clean_all, since, until)}
    deployment.seed(Change(spec, rows=200, since_ms=ms(since), until_ms=ms(until), version=1))
    after = {row[:3]: row for row in deployment.expected(since, until)}
    emptied = sum(
        1
        for key, row in after.items()
        for was, now in zip(before[key], row, strict=True)
        if was is not None and now is None
    )
    assert emptied > 100, "the change must put NULLs over values for this test to show anything"

    deployment.cli("run", "--manual", "--since", iso(since), "--until", iso(until))

    assert deployment.assert_exact(since, until) == 600


def test_arrays_deep_in_a_slice_arrive_whole(deploy: Deploy) -> None:
    day = midnight(1)
    until = day + timedelta(hours=1)
    deployment = deploy("arrays", PHX_INITIAL_SLICE_MIN="60", PHX_FETCHMANY_SIZE="1000")

    def row(i: int) -> Row:
        values: dict[str, object] = dict.fromkeys(MAIN_COLUMNS)
        # In order of the key c, so that the row's place in the answer is its number.
        values |= {"c": f"{i:06d}", "t": 1, "opd": ms(day) + i, "id": f"id {i}"}
        if i in (5000, 5500):
            values["ch"] = ("первый 🧀", None, "third")
        return tuple(values[name] for name in MAIN_COLUMNS)  # type: ignore[return-value]

    deployment.upsert([row(i) for i in range(6000)])
    deployment.start_worker(concurrency=1)

    deployment.cli("run", "--since", iso(day), "--until", iso(until))

    (run,) = deployment.runs()
    (only,) = [s for s in deployment.slices(run.id) if s.rows_read]
    assert only.rows_read == 6000
    assert deployment.assert_exact(day, until) == 6000
    arrays = {r[0]: r[CH] for r in deployment.rows(deployment.clean_all, day, until) if r[CH]}
    assert arrays == {f"{i:06d}": ("первый 🧀", "", "third") for i in (5000, 5500)}


def test_two_hours_of_a_day_whose_raw_has_expired_keep_the_other_twenty_two(deploy: Deploy) -> None:
    since, until = midnight(1), midnight(0)
    deployment = deploy("expired", PHX_INITIAL_SLICE_MIN="60", PHX_QUERY_OVERLAP_MINUTES="0")
    spec = DatasetSpec(rows=1200, days=1, seed=6, until_ms=ms(until))
    deployment.seed(Rows(spec))
    deployment.start_worker()
    deployment.cli("run", "--since", iso(since), "--until", iso(until))
    deployment.each_shard(f"TRUNCATE TABLE {deployment.settings['CH_DB']}.codes_raw")
    assert deployment.rows(deployment.raw_all, since, until) == []
    first, last = since + timedelta(hours=10), since + timedelta(hours=12)
    deployment.seed(Change(spec, rows=50, since_ms=ms(first), until_ms=ms(last), version=2))

    deployment.cli("run", "--manual", "--since", iso(first), "--until", iso(last))

    assert deployment.assert_exact(since, until) == 1200
    raw = deployment.rows(deployment.raw_all, since, until)
    assert len(raw) == len(deployment.expected(first, last)) < 400


def test_a_day_whose_rows_are_all_on_one_shard(deploy: Deploy) -> None:
    day, until = midnight(1), midnight(0)
    deployment = deploy("oneshard", PHX_INITIAL_SLICE_MIN="360")

    def row(i: int, text: str | None) -> Row:
        values: dict[str, object] = dict.fromkeys(MAIN_COLUMNS)
        values |= {"c": "0104600000000001'&%", "t": i % 120, "opd": ms(day) + 240_000 * i, "id": text}
        return tuple(values[name] for name in MAIN_COLUMNS)  # type: ignore[return-value]

    deployment.upsert([row(i, f"first {i}") for i in range(300)])
    deployment.start_worker()
    deployment.cli("run", "--since", iso(day), "--until", iso(until))
    assert deployment.assert_exact(day, until) == 300
    held = [
        rows[0][0] for rows in deployment.each_shard(f"SELECT count() FROM {deployment.settings['CH_CLEAN_TABLE']}")
    ]
    assert sorted(held) == [0, 300]

    deployment.upsert([row(i, None) for i in range(0, 300, 3)])
    deployment.cli("run", "--manual", "--since", iso(day), "--until", iso(until))

    assert deployment.assert_exact(day, until) == 300


def test_celery_call_runs_in_its_own_lane_beside_the_schedule(deploy: Deploy) -> None:
    day = midnight(1)
    deployment = deploy("called", PHX_INITIAL_SLICE_MIN="60")
    deployment.seed(Rows(DatasetSpec(rows=300, days=1, seed=8, until_ms=ms(midnight(0)))))
    deployment.start_worker()
    since, until = day + timedelta(hours=2), day + timedelta(hours=9)
    deployment.celery(
        "call",
        "etl_tasks.plan_interval",
        "--kwargs",
        f'{{"since": "{iso(since)}", "until": "{iso(until)}", "manual": true}}',
    )

    run = deployment.wait_for_run(deployment.wait_for_new_run(0))

    assert (run.process_name, run.manual, run.status) == ("manual_codes_called", True, "ok")
    # What it read is its windows and the overlap of 5 minutes on the left of the first one.
    assert deployment.slices(run.id)[0].window_from == since - timedelta(minutes=5)
    assert deployment.assert_exact(since, until) > 50
