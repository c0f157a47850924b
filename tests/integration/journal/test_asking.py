"""A publish asked for by hand, in the real journal."""

from __future__ import annotations

from typing import Any

import pytest

from etl_tasks.adapters.journal.asking import AskJournal
from etl_tasks.adapters.journal.gaps import GapJournal
from etl_tasks.core.gaps import find_gaps
from etl_tasks.core.windows import to_seconds
from etl_tasks.errors import TerminalError
from tests.integration.journal.world import AT_END, CLEAN, DAY, MANUAL_LANE, World, at, hours

pytestmark = pytest.mark.integration


@pytest.fixture
def asking(world: World) -> AskJournal:
    return AskJournal(world.journal.database, CLEAN)


def ask(asking: AskJournal, **how: Any) -> int | None:
    return asking.ask(DAY, **{"rebuild": False, "least_rows": None, "lost": (), **how})


def owed(world: World) -> None:
    """Two hours are loaded, and no run waits for their publish."""
    run_id = world.plan([hours(0, 1), hours(1, 2)], publish_at_end=False).run_id
    world.load_all(run_id)
    assert world.journal.runs.finalize(run_id) == "ok"


def test_nothing_is_known_of_a_partition_that_was_never_planned(asking: AskJournal) -> None:
    assert asking.progress(DAY) is None
    assert ask(asking) is None


def test_what_is_owed_is_due_at_once_and_published_once(world: World, asking: AskJournal) -> None:
    owed(world)
    before = asking.progress(DAY)
    assert before is not None
    assert (before.state, before.loaded_gen, before.published_gen) == ("idle", 2, 0)

    assert ask(asking) == 2
    assert ask(asking) == 2, "it may be asked for again and again"
    claim = world.must_claim_publish()
    assert ask(asking) is None, "it is being published"
    now = asking.progress(DAY)
    assert now is not None
    assert (now.state, now.busy, now.publish_run_id) == ("running", True, claim.publish_run_id)
    world.finish_publish(claim, duration_ms=12)

    after = asking.progress(DAY)
    assert after is not None
    assert (after.state, after.published_gen, after.duration_ms, after.busy) == ("idle", 2, 12, False)
    assert ask(asking) is None, "nothing is left to publish"


def test_a_publish_put_off_or_in_error_is_due_at_once(world: World, asking: AskJournal) -> None:
    owed(world)
    ask(asking)
    world.journal.publishes.give_back(world.must_claim_publish(), ValueError("away"), delay_s=600, refund=False)
    put_off = asking.progress(DAY)
    assert put_off is not None
    assert (put_off.state, put_off.waits, put_off.error) == ("due", True, "ValueError: away")
    assert world.claim_publish() is None

    ask(asking)
    world.journal.publishes.fail(world.must_claim_publish(), ValueError("no"))
    failed = asking.progress(DAY)
    assert failed is not None
    assert (failed.state, failed.error) == ("error", "ValueError: no")

    assert ask(asking) == 2
    again = world.must_claim_publish()
    assert (again.spent, again.rebuild, again.least_rows) == (1, False, 0), "with all of its attempts"


def test_a_rebuild_is_asked_for_once_and_survives_a_plain_publish(world: World, asking: AskJournal) -> None:
    owed(world)
    world.load_publish_end([hours(2, 3)])

    assert ask(asking, rebuild=True, least_rows=17) == 3
    assert ask(asking) == 3
    claim = world.must_claim_publish()
    assert (claim.rebuild, claim.least_rows, len(claim.windows)) == (True, 17, 0)
    world.journal.publishes.fail(claim, ValueError("RAW has less by now"))
    refused = asking.progress(DAY)
    assert refused is not None
    assert (refused.rebuild_run_id, refused.rebuild_error) == (claim.publish_run_id, "ValueError: RAW has less by now")

    # A load must not meet it again.
    world.load_publish_end([hours(3, 4)])
    row = world.partition_row()
    assert (row.publish_state, row.rebuild, row.rebuild_least_rows, row.last_error) == ("idle", False, None, None)
    assert ask(asking) is None
    after = asking.progress(DAY)
    assert after is not None
    assert (after.error, after.rebuild_error) == ("", "ValueError: RAW has less by now"), "a publish is no rebuild"

    ask(asking, rebuild=True, least_rows=17)
    world.publish()
    done = asking.progress(DAY)
    assert done is not None
    assert done.rebuild_run_id == done.publish_run_id
    assert done.rebuild_error == ""
    row = world.partition_row()
    assert (row.publish_state, row.rebuild, row.rebuild_least_rows) == ("idle", False, None)


def test_what_a_rebuild_is_agreed_to_lose_is_a_gap_until_it_is_loaded_again(world: World, asking: AskJournal) -> None:
    world.load_publish_end([hours(0, 1), hours(1, 2), hours(2, 3)])
    ask(asking, rebuild=True, least_rows=1, lost=[hours(0, 0.75), hours(1.5, 3)])
    world.publish()
    gaps = GapJournal(world.journal.database, CLEAN, AT_END)
    assert gaps.covered() == hours(0, 3), "plain gaps looks at what it was"
    found = find_gaps(hours(0, 3), gaps.facts(hours(0, 3)))
    assert list(found.missing) == [
        (to_seconds(at(0)), to_seconds(at(0.75))),
        (to_seconds(at(1.5)), to_seconds(at(3))),
    ]
    assert not found.unpublished

    again = world.plan([hours(0, 0.75), hours(1.5, 3)]).run_id
    world.load_all(again)
    (owed_now,) = find_gaps(hours(0, 3), gaps.facts(hours(0, 3))).publishing
    assert len(owed_now.not_published) == 2, "loaded again, and not in CLEAN yet"
    world.publish()
    assert world.journal.runs.finalize(again) == "ok"

    assert not find_gaps(hours(0, 3), gaps.facts(hours(0, 3))).any


def test_a_rebuild_that_is_given_up_costs_neither_runs_nor_coverage(world: World, asking: AskJournal) -> None:
    world.load_publish_end([hours(0, 1), hours(1, 2)])
    ask(asking, rebuild=True, least_rows=17, lost=[hours(0, 1)])
    assert world.journal.publishes.fail(world.must_claim_publish(), TerminalError("RAW has less by now")) == []
    row = world.partition_row()
    assert (row.publish_state, row.rebuild, row.spent) == ("idle", False, 0), "nothing was owed"
    assert (row.error_kind, row.last_error) == ("TerminalError", "RAW has less by now")
    gaps = GapJournal(world.journal.database, CLEAN, AT_END)
    assert not find_gaps(hours(0, 2), gaps.facts(hours(0, 2))).any, "CLEAN has what it had"

    run_id = world.plan([hours(2, 3)]).run_id
    world.load_all(run_id)
    ask(asking, rebuild=True, least_rows=17, lost=[hours(0, 1)])
    assert world.journal.publishes.fail(world.must_claim_publish(), TerminalError("less again")) == []
    row = world.partition_row()
    assert (row.publish_state, row.rebuild, row.spent) == ("due", False, 0)
    assert not world.run_partition(run_id).publish_failed
    claim = world.must_claim_publish()
    assert (claim.rebuild, [loaded.window for loaded in claim.windows]) == (False, [hours(2, 3)])
    world.finish_publish(claim)
    assert world.journal.runs.finalize(run_id) == "ok"
    assert not find_gaps(hours(0, 3), gaps.facts(hours(0, 3))).any


def test_a_rebuild_whose_attempts_are_spent_costs_neither_runs_nor_coverage(world: World, asking: AskJournal) -> None:
    world.load_publish_end([hours(0, 1)])
    run_id = world.plan([hours(1, 2)]).run_id
    world.load_all(run_id)
    ask(asking, rebuild=True, least_rows=17, lost=[hours(0, 1)])
    for _ in range(3):
        world.must_claim_publish()
        world.expire_leases()
    assert world.claim_publish() is None
    assert world.journal.publishes.fail_spent(CLEAN, 3) == []
    assert world.partition_row().publish_state == "due"
    claim = world.must_claim_publish()
    assert (claim.rebuild, claim.spent, claim.least_rows) == (False, 1, 0)
    world.finish_publish(claim)
    assert world.journal.runs.finalize(run_id) == "ok"
    gaps = GapJournal(world.journal.database, CLEAN, AT_END)
    assert not find_gaps(hours(0, 2), gaps.facts(hours(0, 2))).any


def test_what_a_rebuild_loses_is_a_gap_once_it_is_done_but_for_what_was_loaded_meanwhile(
    world: World, asking: AskJournal
) -> None:
    world.load_publish_end([hours(0, 1), hours(1, 2), hours(2, 3)])
    gaps = GapJournal(world.journal.database, CLEAN, AT_END)
    ask(asking, rebuild=True, least_rows=1, lost=[hours(0, 1), hours(1.5, 3)])
    assert not find_gaps(hours(0, 3), gaps.facts(hours(0, 3))).any, "nothing is lost yet"
    before, during = world.plan([hours(0, 0.5)]).run_id, world.plan([hours(2, 2.5)], process=MANUAL_LANE).run_id
    world.load_all(before)
    claim = world.must_claim_publish()
    assert list(claim.lost) == [hours(0, 1), hours(1.5, 3)]
    world.load_all(during)
    assert not find_gaps(hours(0, 3), gaps.facts(hours(0, 3))).missing
    world.finish_publish(claim)
    assert list(find_gaps(hours(0, 3), gaps.facts(hours(0, 3))).missing) == [
        (to_seconds(at(0.5)), to_seconds(at(1))),
        (to_seconds(at(1.5)), to_seconds(at(2))),
        (to_seconds(at(2.5)), to_seconds(at(3))),
    ]
    # It was agreed to once: the next publish takes nothing.
    world.publish()
    assert len(find_gaps(hours(0, 3), gaps.facts(hours(0, 3))).missing) == 3
