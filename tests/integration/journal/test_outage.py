"""Ten minutes without the source by the settings' defaults, told to the journal in a moment."""

from __future__ import annotations

from datetime import timedelta

import pytest

from etl_tasks.config import Settings
from etl_tasks.core.overload import OverloadRules, decide
from etl_tasks.core.records import SanitizeRules
from etl_tasks.core.windows import Window
from etl_tasks.errors import Unreachable
from tests.integration.journal.world import ATTEMPTS, CLEAN, World, at

pytestmark = pytest.mark.integration

SLICES = 12
OUTAGE_S = 600
AWAY = Unreachable("the Query Server takes no TCP connection")


@pytest.mark.parametrize("jitter", [0.0, 0.999])
def test_ten_minutes_without_the_source_spend_no_attempt_and_end_no_run(world: World, jitter: float) -> None:
    rules = OverloadRules()
    windows = [Window(at(0) + timedelta(minutes=5 * n), at(0) + timedelta(minutes=5 * n + 5)) for n in range(SLICES)]
    run_id = world.plan(windows).run_id
    passed_s, delays, rounds = 0.0, set(), 0
    while passed_s < OUTAGE_S:
        rounds += 1
        for slice_id in world.slices(run_id):
            claim = world.must_claim(slice_id)
            assert claim.spent == 1
            decision = decide(AWAY, tries=1, window=claim.window, depth=claim.depth, rules=rules, jitter=jitter)
            world.journal.slices.give_back(claim, AWAY, decision.reason, delay_s=decision.delay_s, refund=True)
            delays.add(decision.delay_s)
        world.age_run(run_id, decision.delay_s / 60)
        world.journal.sweeps.heartbeat_active_runs()
        passed_s += decision.delay_s
        assert world.journal.slices.fail_spent(CLEAN, ATTEMPTS) == []
        assert world.journal.sweeps.end_runs_without_progress(default("source_patience_s")) == []
        assert (
            world.journal.sweeps.sanitize_stale(
                SanitizeRules(
                    planned_ttl_min=default("sanitize_planned_ttl_min"),
                    heartbeat_ttl_min=default("sanitize_heartbeat_ttl_min"),
                )
            )
            == []
        )
        world.make_due()

    # The pauses are of one length, the first as the last, so that nobody sleeps long after the source is back.
    assert len(delays) == 1
    assert rules.backoff_cap_s / 2 <= delays.pop() <= rules.backoff_cap_s
    assert rounds >= OUTAGE_S / rules.backoff_cap_s
    assert all(world.slice_row(slice_id).spent == 0 for slice_id in world.slices(run_id))
    world.load_all(run_id)
    world.publish()
    assert world.run_row(run_id).open_partitions == 0
    assert world.journal.runs.finalize(run_id) == "ok"
    done = [world.slice_row(slice_id) for slice_id in world.slices(run_id)]
    assert [(row.state, row.spent, row.attempt) for row in done] == [("done", 1, rounds + 1)] * SLICES


def default(name: str) -> int:
    """A setting's default."""
    value = Settings.model_fields[name].default
    assert isinstance(value, int)
    return value
