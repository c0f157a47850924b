"""A Query Server that really rejects wide windows: back-off, split, and a clear end where splitting is at its limit."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from itertools import pairwise

import pytest

from devstack import overload
from devstack.dataset import DatasetSpec, rows_of
from devstack.deployment import Deployment, iso, midnight, ms
from devstack.stack import Stack

Deploy = Callable[..., Deployment]
DAY_ROWS = 60_000


def seed_hours(deployment: Deployment, hours: int, dense: int = 1) -> None:
    """The first ``hours`` hours at the density of 60,000 rows a day; hour 1 ``dense`` times that."""
    day = midnight(1)
    per_hour = DAY_ROWS // 24
    source = rows_of(DatasetSpec(rows=per_hour * (hours + dense - 1), days=1, seed=51, until_ms=ms(midnight(0))))
    spread = []
    for hour in range(hours):
        count = per_hour * (dense if hour == 1 else 1)
        step_ms = 3_600_000 // count
        for i in range(count):
            row = next(source)
            spread.append((*row[:2], ms(day) + hour * 3_600_000 + i * step_ms, *row[3:]))
    deployment.upsert(spread)
    overload.arrange(deployment.settings["PQS_URL"], deployment.settings["HBASE_MAIN_TABLE"])


@pytest.mark.usefixtures("ordinary_afterwards")
def test_wide_windows_are_split_until_they_pass(deploy: Deploy, stack: Stack) -> None:
    table = "ACC_OVERLOAD"
    deployment = deploy(
        "overload",
        PHX_INITIAL_SLICE_MIN="240",
        PHX_OVERLOAD_MAX_DEPTH="6",
        PHX_OVERLOAD_MAX_ATTEMPTS="2",
        PHX_QUERY_OVERLAP_MINUTES="0",
        PHX_QUERY_HINT=f'INDEX("{table}" "{table}_BY_OPD")',
    )
    seed_hours(deployment, hours=4)
    stack.set_overload(True)
    day = midnight(1)
    deployment.start_worker()

    deployment.cli("run", "--since", iso(day), "--until", iso(day + timedelta(hours=4)))

    (run,) = deployment.runs()
    slices = deployment.slices(run.id)
    split = [s for s in slices if s.state == "split"]
    assert max(s.depth for s in split) >= 1, "a half must have been split again"
    assert all(s.overloads == 2 for s in split), "each was tried twice before it was split"
    assert all(s.error_kind == "Overloaded" and "rejected" in s.last_error for s in split)
    done = [s for s in slices if s.state == "done"]
    assert len(done) == 1 + len(split)
    covered = [(s.window_from, s.window_to) for s in done]
    assert all(left[1] == right[0] for left, right in pairwise(covered))
    assert (covered[0][0], covered[-1][1]) == (day, day + timedelta(hours=4))
    assert deployment.assert_exact(day, day + timedelta(hours=4)) == 4 * DAY_ROWS // 24


@pytest.mark.usefixtures("ordinary_afterwards")
def test_where_splitting_is_at_its_limit_that_slice_alone_is_an_error(deploy: Deploy, stack: Stack) -> None:
    table = "ACC_LIMIT"
    deployment = deploy(
        "limit",
        PHX_INITIAL_SLICE_MIN="30",
        PHX_OVERLOAD_MAX_DEPTH="1",
        PHX_OVERLOAD_MIN_SPLIT_MIN="10",
        PHX_OVERLOAD_MAX_ATTEMPTS="4",  # a pool that still works off what it rejected is no reason to split
        SLICE_MAX_ATTEMPTS="2",
        PHX_QUERY_OVERLAP_MINUTES="0",
        PHX_QUERY_HINT=f'INDEX("{table}" "{table}_BY_OPD")',
    )
    seed_hours(deployment, hours=3, dense=6)
    stack.set_overload(True)
    day = midnight(1)
    hour = timedelta(hours=1)
    deployment.start_worker(concurrency=1)

    said = deployment.cli("run", "--since", iso(day), "--until", iso(day + 3 * hour), expect=1)

    (run,) = deployment.runs()
    assert run.status == "error"
    slices = deployment.slices(run.id)
    failed = [s for s in slices if s.state == "error"]
    assert failed
    assert all(day + hour <= s.window_from and s.window_to <= day + 2 * hour for s in failed), (
        "only the dense hour fails"
    )
    assert all(s.depth == 1 and "PHX_OVERLOAD_MAX_DEPTH" in s.last_error for s in failed)
    assert {s.window_to - s.window_from for s in failed} == {timedelta(minutes=15)}
    assert "PHX_OVERLOAD_MAX_DEPTH" in said.stdout + said.stderr
    assert {s.state for s in slices if s.window_to <= day + hour or s.window_from >= day + 2 * hour} == {"done"}
    # The others are published, and the partition says that it is not whole.
    deployment.assert_exact(day, day + hour)
    deployment.assert_exact(day + 2 * hour, day + 3 * hour)
    assert [row.incomplete for row in deployment.journal("SELECT incomplete FROM {j}_partitions")] == [True]
