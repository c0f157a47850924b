"""More children than an overloaded Query Server takes: the limit that they share follows it, and is kept."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from devstack import overload
from devstack.dataset import DatasetSpec
from devstack.deployment import Deployment, midnight, ms
from devstack.oracle import Late
from devstack.stack import Stack

HOURS = 6
ROWS = 60_000 * HOURS // 24
SLICE_MIN = 15
CHILDREN = 8


@pytest.mark.usefixtures("ordinary_afterwards")
def test_the_limit_follows_an_overloaded_source(deploy: Callable[..., Deployment], stack: Stack) -> None:
    table = "ACC_READ_LIMIT"
    deployment = deploy(
        "read_limit",
        PHX_INITIAL_SLICE_MIN=f"{SLICE_MIN}",
        PHX_QUERY_OVERLAP_MINUTES="0",
        PHX_QUERY_HINT=f'INDEX("{table}" "{table}_BY_OPD")',
    )
    since, until = midnight(1), midnight(1) + timedelta(hours=HOURS)
    spec = DatasetSpec(rows=0, days=1, seed=53, until_ms=ms(midnight(0)))
    deployment.seed(Late(spec, ROWS, ms(since), ms(until), version=1))
    overload.arrange(deployment.settings["PQS_URL"], table)
    stack.set_overload(True)

    def load(most: int) -> tuple[int, list[tuple[int, int]]]:
        """A run by a fresh worker: its id, and (limit, reads under way) as they were seen while it went on."""
        deployment.start_worker(concurrency=CHILDREN, PHX_MAX_CONCURRENT_READS=f"{most}")
        run_id = deployment.plan(since, until)
        seen: list[tuple[int, int]] = []

        def ended() -> bool:
            seen.extend(
                (row.reads, row.in_use)
                for row in deployment.journal(
                    "SELECT l.reads, count(t.taken_at)::int AS in_use "
                    "FROM {j}_read_limits l LEFT JOIN {j}_read_turns t USING (source) GROUP BY l.source"
                )
            )
            (run,) = deployment.journal("SELECT ts_end FROM {j} WHERE id = %s", run_id)
            return run.ts_end is not None

        deployment.until(ended, "the run ends", timeout_s=400)
        deployment.stop_workers()
        (run,) = [row for row in deployment.runs() if row.id == run_id]
        assert run.status == "ok", deployment.describe()
        return run_id, seen

    run_id, seen = load(most=64)

    (limit,) = deployment.journal("SELECT * FROM {j}_read_limits")
    assert limit.source == deployment.settings["PQS_URL"].split("//")[1].rstrip("/")
    assert limit.round >= 1, "a source that takes two or three such reads was never overloaded"
    assert limit.reads < CHILDREN
    slices = deployment.slices(run_id)
    assert sum(one.overloads for one in slices) >= limit.round
    assert {one.attempt for one in slices} == {1}, "neither a rejection nor a wait takes an attempt"
    assert deployment.assert_exact(since, until) == ROWS

    _, seen = load(most=1)

    assert max(reading for _, reading in seen) == 1
    assert deployment.journal("SELECT reads FROM {j}_read_limits")[0].reads == 1
    assert deployment.journal("SELECT * FROM {j}_read_turns") == []
