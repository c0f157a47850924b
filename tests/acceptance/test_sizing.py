"""Real workers on a source that really rejects wide windows: what a run paid for once, the next one knows before."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import timedelta

import pytest

from devstack.deployment import Deployment, iso, midnight
from devstack.stack import Stack
from tests.acceptance.test_overload import DAY_ROWS, seed_hours

Deploy = Callable[..., Deployment]
HOUR = timedelta(hours=1)
HOUR_ROWS = (DAY_ROWS // 24, 6 * DAY_ROWS // 24, DAY_ROWS // 24)


@pytest.mark.usefixtures("ordinary_afterwards")
def test_the_second_run_is_cut_where_the_first_was_split(deploy: Deploy, stack: Stack) -> None:
    table = "ACC_SIZING"
    deployment = deploy(
        "sizing",
        PHX_INITIAL_SLICE_MIN="30",
        PHX_OVERLOAD_MAX_DEPTH="6",
        PHX_OVERLOAD_MAX_ATTEMPTS="3",  # a pool that still works off what it rejected is no reason to split
        PHX_QUERY_OVERLAP_MINUTES="0",
        PHX_QUERY_HINT=f'INDEX("{table}" "{table}_BY_OPD")',
    )
    seed_hours(deployment, hours=3, dense=6)
    stack.set_overload(True)
    day = midnight(1)
    interval = ("--since", iso(day), "--until", iso(day + 3 * HOUR))
    deployment.start_worker(concurrency=1)

    deployment.cli("run", "--manual", *interval)
    (first,) = deployment.runs()
    split = [s for s in deployment.slices(first.id) if s.state == "split"]
    assert split, "the first run knew nothing of what is too much"
    assert all(day + HOUR <= s.window_from and s.window_to <= day + 2 * HOUR for s in split)

    planned = json.loads(deployment.cli("plan", *interval, "--json").stdout)
    assert "had to be split" in planned["sizing"]["why"]
    fewest_split = min((s.window_to - s.window_from) / HOUR for s in split) * HOUR_ROWS[1]
    assert fewest_split / 2 < planned["sizing"]["most_rows"] <= 4_096, "half an hour of 7,500 rows was split"
    narrowed = [each for each in planned["sizing"]["stretches"] if each["reason"] == "narrowed"]
    # How little the source bears is its own affair, and less on a busy machine: what is too much for it is narrowed.
    too_much = [hour for hour, rows in enumerate(HOUR_ROWS) if rows / 2 > planned["sizing"]["most_rows"]]
    assert 1 in too_much
    assert [(each["from"], each["to"]) for each in narrowed] == [
        (iso(day + too_much[0] * HOUR), iso(day + (too_much[-1] + 1) * HOUR))
    ]
    assert narrowed[0]["rows"] == pytest.approx(sum(HOUR_ROWS[hour] for hour in too_much), rel=0.1)
    assert "cut narrower" in deployment.cli("plan", *interval).stdout

    deployment.cli("run", "--manual", *interval)
    second = deployment.runs()[-1]
    slices = deployment.slices(second.id)
    again = [s for s in slices if s.state == "split"]
    assert len(again) < len(split)
    assert [
        {"from": iso(s.window_from), "to": iso(s.window_to), "partition": s.partition} for s in slices if s.depth == 0
    ] == [{name: each[name] for name in ("from", "to", "partition")} for each in planned["slices"]]
    assert second.details["sizing"]["most_rows"] == planned["sizing"]["most_rows"]
    assert sum(s.overloads for s in slices) < sum(s.overloads for s in deployment.slices(first.id))
    assert deployment.assert_exact(day, day + 3 * HOUR) == 8 * DAY_ROWS // 24

    fixed = json.loads(deployment.cli("plan", *interval, "--json", PHX_SLICE_SIZING="fixed").stdout)
    assert fixed["sizing"] is None and len(fixed["slices"]) == 6


def test_a_source_that_is_away_does_not_hold_planning_up(deploy: Deploy) -> None:
    """The plan is the first cut, says why, and comes soon."""
    deployment = deploy("sizing_away", PHX_INITIAL_SLICE_MIN="30", PHX_QUERY_OVERLAP_MINUTES="0")
    day = midnight(1)
    began = time.monotonic()
    run = deployment.plan(day, day + 24 * HOUR, PQS_URL="http://127.0.0.1:1")
    assert time.monotonic() - began < 60
    (row,) = deployment.runs()
    assert [s.window_to - s.window_from for s in deployment.slices(run)] == [HOUR / 2] * 48
    assert row.details["sizing"]["estimates"] == 0
    assert any("planned without a check of the services" in notice for notice in row.details["notices"])
    said = json.loads(
        deployment.cli(
            "plan", "--since", iso(day), "--until", iso(day + HOUR), "--json", PQS_URL="http://127.0.0.1:1"
        ).stdout
    )
    assert len(said["slices"]) == 2
    assert any("without the source's estimates" in notice for notice in said["notices"])
