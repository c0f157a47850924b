"""The schedule: from the watermark, reading nothing twice but the overlap, past what is broken, and back to it
when mended.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from devstack.dataset import MAIN_COLUMNS, DatasetSpec, Row
from devstack.deployment import Deployment, iso, ms
from devstack.oracle import Change, Late, Rows

Deploy = Callable[..., Deployment]
OVERLAP = timedelta(minutes=5)
YEAR_10000_MS = 253402300800000


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


def _read(deployment: Deployment, run_id: int) -> list[tuple[datetime, datetime]]:
    """The windows that a run read, touching ones joined."""
    joined: list[tuple[datetime, datetime]] = []
    for piece in deployment.slices(run_id):
        if joined and joined[-1][1] == piece.window_from:
            joined[-1] = (joined[-1][0], piece.window_to)
        else:
            joined.append((piece.window_from, piece.window_to))
    return joined


def test_twice_from_the_watermark_reading_only_the_overlap_again(deploy: Deploy) -> None:
    deployment = deploy("incremental")
    end = _now()
    since = end - timedelta(hours=6)
    spec = DatasetSpec(rows=8000, days=2, seed=21, until_ms=ms(end))
    deployment.seed(Rows(spec))
    deployment.start_worker()
    first_until = end - timedelta(minutes=30)
    deployment.cli("run", "--since", iso(since), "--until", iso(first_until))

    # What came since, a change inside the overlap, and one before it, which the schedule is not to see.
    deployment.seed(Change(spec, rows=2, since_ms=ms(first_until - OVERLAP), until_ms=ms(first_until), version=1))
    late = Late(spec, rows=60, since_ms=ms(first_until - OVERLAP), until_ms=ms(end), version=2)
    deployment.seed(late)
    deployment.cli("run")

    first, second = deployment.runs()
    assert (first.watermark, second.since) == (first_until, first_until)
    assert _read(deployment, second.id) == [(first_until - OVERLAP, second.covered_until)]
    assert second.watermark == second.covered_until > end - timedelta(seconds=5)
    deployment.assert_exact(since, end)

    deployment.cli("run")

    third = deployment.runs()[-1]
    assert third.since == second.watermark
    assert _read(deployment, third.id) == [(second.watermark - OVERLAP, third.covered_until)]
    deployment.assert_exact(since, end)


def test_without_a_watermark_it_is_skipped_and_says_how_to_set_one(deploy: Deploy) -> None:
    deployment = deploy("nowatermark")
    said = deployment.cli("run", expect=1)
    (run,) = deployment.runs()
    assert run.status == "skipped"
    assert "run --since" in run.details["reason"]
    assert "run --since" in said.stdout + said.stderr


def test_the_schedule_goes_on_past_one_bad_row_and_catches_up_when_it_is_mended(deploy: Deploy) -> None:
    deployment = deploy("badrow", PHX_INITIAL_SLICE_MIN="30")
    end = _now()
    since = (end - timedelta(hours=5)).replace(minute=0, second=0)
    spec = DatasetSpec(rows=4000, days=2, seed=31, until_ms=ms(end))
    deployment.seed(Rows(spec))
    bad_at = since + timedelta(hours=1, minutes=10)
    hole = (since + timedelta(hours=1), since + timedelta(hours=1, minutes=30))

    def bad_row(exd_ms: int) -> Row:
        values: dict[str, object] = dict.fromkeys(MAIN_COLUMNS)
        values |= {"c": "bad row", "t": 7, "opd": ms(bad_at), "exd": exd_ms}
        return tuple(values[name] for name in MAIN_COLUMNS)  # type: ignore[return-value]

    deployment.seeder.execute(
        f'UPSERT INTO {deployment.settings["HBASE_MAIN_TABLE"]} ("c", "t", "opd", "exd") VALUES (\'bad row\', 7, '
        f"TIMESTAMP '{bad_at:%Y-%m-%d %H:%M:%S}.000', CAST(TO_NUMBER('{YEAR_10000_MS}') AS TIMESTAMP))"
    )
    deployment.start_worker()
    first_until = since + timedelta(hours=3)

    said = deployment.cli("run", "--since", iso(since), "--until", iso(first_until), expect=1)

    first = deployment.runs()[-1]
    assert first.status == "error"
    # Everything before the slice that failed is loaded without a gap.
    assert first.watermark == hole[0]
    failed = [s for s in deployment.slices(first.id) if s.state == "error"]
    assert [(s.window_from, s.window_to) for s in failed] == [hole]
    assert "bad row" in failed[0].last_error
    assert "exd" in failed[0].last_error
    assert "MAX_REJECTED_ROWS" in failed[0].last_error
    assert "bad row" in said.stdout + said.stderr
    (reject,) = deployment.journal("SELECT * FROM {j}_rejects")
    assert (reject.column_name, reject.value) == ("exd", str(YEAR_10000_MS))
    deployment.assert_exact(since, hole[0])
    deployment.assert_exact(hole[1], first_until)

    deployment.cli("run", expect=1)

    second = deployment.runs()[-1]
    # From the hole's start: the hole again, and what is new; the 90 minutes in between are not read again.
    windows = _read(deployment, second.id)
    assert windows[0] == (hole[0] - OVERLAP, hole[1])
    assert windows[1] == (first_until - OVERLAP, second.covered_until)
    assert len(windows) == 2
    assert (second.status, second.watermark) == ("error", hole[0])
    deployment.assert_exact(hole[1], end - timedelta(seconds=1))

    deployment.upsert([bad_row(ms(end))])
    deployment.cli("run")

    third = deployment.runs()[-1]
    assert third.status == "ok"
    assert _read(deployment, third.id)[0] == (hole[0] - OVERLAP, hole[1])
    assert third.watermark == third.covered_until >= second.covered_until
    deployment.assert_exact(since, end - timedelta(seconds=1))


def test_misfits_up_to_the_limit_are_left_out_and_counted(deploy: Deploy) -> None:
    deployment = deploy("misfits", MAX_REJECTED_ROWS="10", PHX_INITIAL_SLICE_MIN="60")
    end = _now()
    since = end - timedelta(hours=2)
    deployment.seed(Rows(DatasetSpec(rows=3000, days=2, seed=41, until_ms=ms(end))))
    at = end - timedelta(hours=1)
    for t in range(3):
        deployment.seeder.execute(
            f'UPSERT INTO {deployment.settings["HBASE_MAIN_TABLE"]} ("c", "t", "opd", "tm") VALUES (\'misfit\', {t}, '
            f"TIMESTAMP '{at:%Y-%m-%d %H:%M:%S}.000', CAST(TO_NUMBER('{YEAR_10000_MS}') AS TIMESTAMP))"
        )
    deployment.start_worker()

    deployment.cli("run", "--since", iso(since), "--until", iso(end))

    run = deployment.runs()[-1]
    assert run.status == "ok"
    assert sum(s.rows_rejected for s in deployment.slices(run.id)) == 3
    assert [(r.column_name, r.value) for r in deployment.journal("SELECT * FROM {j}_rejects")] == [
        ("tm", str(YEAR_10000_MS))
    ] * 3
    deployment.assert_exact(since, end)
