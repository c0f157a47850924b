"""Real concurrency: counts that lead on exactly once, one owner, no deadlock."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from enum import StrEnum
from functools import partial
from typing import Any

import pytest

from etl_tasks.adapters.journal import Journal
from etl_tasks.core.cadence import CadenceRules
from etl_tasks.core.records import SanitizeRules, SliceClaim, Transition
from etl_tasks.core.states import PartitionState, PublishState, RunStatus, SliceState, is_allowed
from etl_tasks.core.windows import halve
from etl_tasks.errors import LostOwnership, Overloaded, TransientError, Unreachable
from tests.integration.journal.world import (
    ATTEMPTS,
    CLEAN,
    DAY,
    LANE,
    MANUAL_LANE,
    NEXT_DAY,
    World,
    even_windows,
    hours,
    result,
    side_by_side,
)

pytestmark = pytest.mark.integration

THREADS = 8


def drain(world: World, journal: Journal, queue: list[int]) -> list[Transition]:
    """What one worker does with a shared queue of slice ids."""
    done: list[Transition] = []
    while True:
        try:
            slice_id = queue.pop()
        except IndexError:
            return done
        done.append(world.load(slice_id, journal))


def test_eight_threads_finish_two_hundred_slices_and_one_sees_the_last(world: World) -> None:
    journals = [world.another() for _ in range(THREADS)]
    run_id = world.plan(even_windows(100, days=2)).run_id
    queue = world.slices(run_id)
    assert len(queue) == 200
    random.Random(7).shuffle(queue)
    outcomes = side_by_side([partial(drain, world, journal, queue) for journal in journals])
    transitions = [transition for outcome in outcomes for transition in outcome]
    due = [(t.partition, t.open_slices) for t in transitions if t.publish_due]
    assert sorted(due) == [(DAY, 0), (NEXT_DAY, 0)]
    for day in (DAY, NEXT_DAY):
        assert sorted(t.open_slices for t in transitions if t.partition == day) == list(range(100))
        row = world.partition_row(day)
        assert (row.loaded_gen, row.publish_state) == (100, "due")
    generations = world.rows("SELECT partition, generation FROM public.inc_processing_slices ORDER BY 1, 2")
    assert generations == [(day, gen) for day in (DAY, NEXT_DAY) for gen in range(1, 101)]


def test_the_last_two_of_a_partition_at_once(world: World) -> None:
    """The classic lost wake-up, many times over: each must not leave the publish to the other."""
    journals = [world.another() for _ in range(2)]
    for round_ in range(30):
        ids = world.slices(world.plan(even_windows(2), process=f"lane_{round_}").run_id)
        claims = [world.must_claim(each) for each in ids]
        works = [
            partial(journal.slices.finish, claim, result()) for journal, claim in zip(journals, claims, strict=True)
        ]
        outcomes = side_by_side(works)
        assert sorted((t.open_slices, t.publish_due) for t in outcomes) == [(0, True), (1, False)], outcomes
        world.publish()


@pytest.mark.parametrize("expired", [False, True], ids=["planned", "expired lease"])
def test_a_storm_of_claims_has_one_owner(world: World, expired: bool) -> None:
    journals = [world.another() for _ in range(THREADS)]
    for slice_id in world.slices(world.plan(even_windows(24)).run_id):
        if expired:
            world.must_claim(slice_id)
            world.expire_leases()
        outcomes = side_by_side([partial(world.claim, slice_id, journal) for journal in journals])
        owners = [outcome for outcome in outcomes if outcome is not None]
        assert [owner.attempt for owner in owners] == [2 if expired else 1], outcomes
        world.journal.slices.finish(owners[0], result())


def test_lanes_that_overlap_never_both_win(world: World) -> None:
    journals = [world.another() for _ in range(4)]
    for round_ in range(20):
        lanes = [
            world.slices(world.plan([hours(0, 2)], process=f"a{round_}").run_id)[0],
            world.slices(world.plan([hours(1, 3)], process=f"b{round_}").run_id)[0],
        ]
        outcomes = side_by_side(
            [partial(world.claim, slice_id, journal) for journal, slice_id in zip(journals, lanes * 2, strict=True)]
        )
        owners = [outcome for outcome in outcomes if outcome is not None]
        assert len(owners) == 1, outcomes
        world.journal.runs.abort(owners[0].run_id, "next round")
        for other in world.rows("SELECT id FROM public.inc_processing WHERE ts_end IS NULL"):
            world.journal.runs.abort(other.id, "next round")


def test_finish_against_takeover_counts_once(world: World) -> None:
    """The holder finishes at the moment at which its lease expires and another claims."""
    journals = [world.another() for _ in range(2)]
    seen: Counter[str] = Counter()
    for slice_id in world.slices(world.plan(even_windows(36)).run_id):
        claim = world.must_claim(slice_id)
        world.expire_leases()
        finished, heir = side_by_side(
            [
                partial(journals[0].slices.finish, claim, result()),
                partial(world.claim, slice_id, journals[1]),
            ]
        )
        if isinstance(heir, SliceClaim):
            assert isinstance(finished, LostOwnership)
            journals[1].slices.finish(heir, result())
            seen["taken over"] += 1
        else:
            assert isinstance(finished, Transition)
            seen["finished"] += 1
    row = world.partition_row()
    assert row.loaded_gen == 36, seen
    assert world.one("SELECT open_slices FROM public.inc_processing_run_partitions") == (0,)


@pytest.mark.parametrize("work", ["finish", "split", "claim"])
def test_a_cancel_at_the_same_moment_leaves_nothing_open(world: World, work: str) -> None:
    journals = [world.another() for _ in range(2)]
    seen: Counter[str] = Counter()
    for round_ in range(30):
        run_id = world.plan(even_windows(2), process=f"lane_{round_}").run_id
        slice_id, other = world.slices(run_id)
        claim = world.must_claim(slice_id)
        works: dict[str, Callable[[], Any]] = {
            "finish": partial(journals[0].slices.finish, claim, result()),
            "split": partial(journals[0].slices.split, claim, halve(claim.window), Overloaded("x"), "x"),
            "claim": partial(world.claim, other, journals[0]),
        }
        outcome, status = side_by_side([works[work], partial(journals[1].runs.abort, run_id, "cancelled")])
        assert status == "error"
        assert isinstance(outcome, Transition | LostOwnership | SliceClaim | None), outcome
        seen[type(outcome).__name__] += 1
        assert world.slices(run_id, "planned") == []
        assert world.slices(run_id, "running") == []
        assert world.run_partition(run_id).open_slices == 0
        if isinstance(outcome, SliceClaim):
            with pytest.raises(LostOwnership):
                journals[0].slices.finish(outcome, result())
    assert sum(seen.values()) == 30


def test_publish_and_load_at_the_same_moment_forget_nothing(world: World) -> None:
    """A slice of the other lane ends while a publish does: its run is not left waiting."""
    journals = [world.another() for _ in range(2)]
    for round_ in range(30):
        world.load_all(world.plan([hours(0, 1)], process=f"a{round_}").run_id)
        publish = world.must_claim_publish()
        late = world.plan([hours(2, 3)], process=f"b{round_}").run_id
        claim = world.must_claim(world.slices(late)[0])
        outcomes = side_by_side(
            [
                partial(world.finish_publish, publish, journals[0]),
                partial(journals[1].slices.finish, claim, result()),
            ]
        )
        assert not [outcome for outcome in outcomes if isinstance(outcome, BaseException)], outcomes
        assert world.partition_row().publish_state == "due"
        assert world.run_partition(late).state == "publishing"
        (settled,) = world.publish()
        assert settled.finalize_due
        for run in world.rows("SELECT id FROM public.inc_processing WHERE ts_end IS NULL"):
            assert world.journal.runs.finalize(run.id) == "ok"


def test_one_of_many_finalizers_ends_the_run(world: World) -> None:
    journals = [world.another() for _ in range(THREADS)]
    for round_ in range(10):
        run_id = world.plan([hours(0, 1)], process=f"lane_{round_}").run_id
        world.load_all(run_id)
        world.publish()
        outcomes = side_by_side([partial(journal.runs.finalize, run_id) for journal in journals])
        assert Counter(outcomes) == {"ok": 1, None: THREADS - 1}


def test_an_attempt_that_ends_waits_for_no_claim_of_its_slice(world: World) -> None:
    """Locks go run, partition, slice: a failing holder and its heir must not wait for each other."""
    journals = [world.another() for _ in range(4)]
    for round_ in range(20):
        run_id = world.plan(even_windows(2), process=f"lane_{round_}").run_id
        claim = world.must_claim(world.slices(run_id)[0])
        world.expire_leases()
        outcomes = side_by_side(
            [
                partial(journals[0].slices.fail, claim, ValueError("no"), "no"),
                *(partial(world.claim, claim.slice_id, journal) for journal in journals[1:]),
            ]
        )
        assert not [each for each in outcomes if isinstance(each, TransientError)], outcomes
        world.journal.runs.abort(run_id, "next round")


STATE_COLUMNS: list[tuple[type[StrEnum], str, str]] = [
    (RunStatus, "", "status"),
    (SliceState, "_slices", "state"),
    (PartitionState, "_run_partitions", "state"),
    (PublishState, "_partitions", "publish_state"),
]


def operations(world: World, journal: Journal, seed: int, ends: Callable[[], bool], done: Counter[str]) -> None:
    """Whatever a worker, a sweeper or an operator may do, in any order."""
    chance = random.Random(seed)
    sanitize = SanitizeRules(planned_ttl_min=1000, heartbeat_ttl_min=1000)

    def one_of(sql: str) -> Any:
        rows = world_rows(sql)
        return chance.choice(rows).id if rows else None

    def world_rows(sql: str) -> list[Any]:
        with journal.database.transaction() as transaction:
            cursor: Any = transaction._cursor
            cursor.execute(sql.replace("inc_processing", f'"{world.schema}".inc_processing'))
            return list(cursor.fetchall())

    def plan() -> None:
        lane = chance.choice([LANE, MANUAL_LANE])
        world.plan(even_windows(6, days=2), process=lane, manual=lane == MANUAL_LANE, in_flight=1, journal=journal)

    def slice_work() -> None:
        slice_id = one_of("SELECT id FROM inc_processing_slices WHERE state IN ('planned', 'running') LIMIT 30")
        claim = slice_id and world.claim(slice_id, journal, lease_s=chance.choice([0.005, 5]))
        if not claim:
            return
        slices = journal.slices
        time.sleep(chance.choice([0, 0.01]))
        endings: list[Callable[[], Any]] = [
            lambda: slices.finish(claim, result()),
            lambda: slices.fail(claim, ValueError("no"), "no"),
            lambda: slices.split(claim, halve(claim.window), Overloaded("x"), "x"),
            lambda: slices.give_back(claim, Unreachable("x"), "x", delay_s=0, refund=True),
            lambda: slices.mark_sent([claim.slice_id]),
        ]
        chance.choices(endings, [8, 1, 1, 1, 1])[0]()

    def send() -> None:
        ids = [
            row.id for row in world_rows("SELECT id FROM inc_processing_slices WHERE state IN ('planned', 'running')")
        ]
        chance.shuffle(ids)
        if ids:
            journal.slices.mark_sent(ids)

    def publish() -> None:
        claim = world.claim_publish(chance.choice([DAY, NEXT_DAY]), journal)
        if claim is None:
            return
        publishes = journal.publishes
        short = [window for window in claim.windows if chance.random() < 0.3]
        endings: list[Callable[[], Any]] = [
            lambda: world.finish_publish(claim, journal),
            lambda: publishes.reopen(claim, short, "short"),
            lambda: publishes.give_back(claim, Unreachable("x"), delay_s=0, refund=True),
            lambda: publishes.fail(claim, ValueError("no")),
        ]
        chance.choices(endings, [6, 2, 1, 1])[0]()

    def sweep() -> None:
        journal.sweeps.heartbeat_active_runs()
        journal.slices.fail_spent(CLEAN, ATTEMPTS)
        journal.publishes.fail_spent(CLEAN, 3)
        journal.sweeps.settle()
        journal.publishes.offer_owed(CLEAN)
        for run_id in journal.sweeps.runs_to_finalize():
            journal.runs.finalize(run_id)
        journal.sweeps.end_runs_without_progress(1000)
        journal.sweeps.sanitize_stale(sanitize)

    def abort() -> None:
        run_id = one_of("SELECT id FROM inc_processing WHERE ts_end IS NULL AND process_name NOT LIKE '%:dedup'")
        if run_id:
            journal.runs.abort(run_id, "cancelled")

    choices = [plan, slice_work, send, publish, sweep, abort]
    while not ends():
        work = chance.choices(choices, [3, 20, 2, 6, 3, 0.3])[0]
        try:
            work()
            done[work.__name__] += 1
        except LostOwnership:
            done["lost"] += 1


KINDS = ("plan", "slice_work", "publish", "sweep", "abort")


def watch_states(world: World) -> None:
    """Write down every change of a state, whoever makes it."""
    # Without a key: an insert that waits for another transaction's would make deadlocks of its own.
    world.rows(
        f'''CREATE TABLE "{world.schema}".seen (kind text, before text, after text);
        CREATE FUNCTION "{world.schema}".watch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO "{world.schema}".seen
            VALUES (TG_ARGV[0], to_jsonb(OLD) ->> TG_ARGV[1], to_jsonb(NEW) ->> TG_ARGV[1]);
            RETURN NULL; END $$'''
    )
    for kind, table, column in STATE_COLUMNS:
        world.rows(
            f"CREATE TRIGGER watch AFTER UPDATE OF {column} ON public.inc_processing{table} FOR EACH ROW "
            f"WHEN (OLD.{column} <> NEW.{column}) "
            f"EXECUTE FUNCTION \"{world.schema}\".watch('{kind.__name__}', '{column}')"
        )


def test_a_random_mix_of_everything_never_deadlocks_and_the_counts_agree(world: World) -> None:
    watch_states(world)
    cadence = CadenceRules(every_minutes=0, every_slices=3, always_at_end=True, spacing=0)
    journals = [world.another(cadence) for _ in range(THREADS)]
    done: Counter[str] = Counter()
    began = time.monotonic()

    def ends() -> bool:
        """After five seconds, or on a slow machine when everything has happened, after a minute at most."""
        spent_s = time.monotonic() - began
        return spent_s > 60 or (spent_s > 5 and all(done[name] for name in KINDS))

    outcomes = side_by_side(
        [partial(operations, world, journal, seed, ends, done) for seed, journal in enumerate(journals)]
    )
    assert outcomes == [None] * THREADS, "a deadlock comes as TransientError, a broken count as CheckViolation"
    assert min(done[name] for name in KINDS) > 0, done
    wrong = world.rows(
        "SELECT rp.run_id, rp.partition, rp.open_slices, count(s.id) FILTER (WHERE s.state IN ('planned', 'running')) "
        "FROM public.inc_processing_run_partitions rp "
        "LEFT JOIN public.inc_processing_slices s USING (run_id, partition) "
        "GROUP BY 1, 2, 3 HAVING rp.open_slices <> count(s.id) FILTER (WHERE s.state IN ('planned', 'running'))"
    )
    assert wrong == []
    wrong = world.rows(
        "SELECT r.id FROM public.inc_processing r JOIN public.inc_processing_run_partitions rp ON rp.run_id = r.id "
        "WHERE r.ts_end IS NULL GROUP BY r.id, r.open_partitions "
        "HAVING r.open_partitions <> count(*) FILTER (WHERE rp.state <> 'done')"
    )
    assert wrong == []
    kinds = {kind.__name__: kind for kind, _, _ in STATE_COLUMNS}
    seen = world.rows(f'SELECT DISTINCT kind, before, after FROM "{world.schema}".seen')
    forbidden = [row for row in seen if not is_allowed(kinds[row.kind](row.before), kinds[row.kind](row.after))]
    assert forbidden == []
    assert len(seen) >= 12, "the mix must have shown most of the transitions"
