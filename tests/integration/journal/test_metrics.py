"""What ``metrics`` serves of a real journal: right values, counters that outlive pruning, cheap on a long journal."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.core import Sample

from etl_tasks.adapters.journal.counting import BATCH_RUNS, counted
from etl_tasks.adapters.journal.database import Transaction
from etl_tasks.adapters.journal.gaps import GapJournal
from etl_tasks.adapters.journal.metrics import MetricsJournal
from etl_tasks.cli.metric_families import Limits
from etl_tasks.cli.metrics import JournalCollector
from etl_tasks.core.gaps import default_interval, due_window, find_gaps
from etl_tasks.core.publishing import LoadedWindow, StageMetric
from etl_tasks.core.records import Reject, SliceResult
from etl_tasks.core.slicing import SlicingRules
from etl_tasks.core.spans import seconds_of
from etl_tasks.core.windows import halve
from etl_tasks.errors import CountMismatch, Overloaded, QueryTimedOut, RowRejected, Unreachable
from tests.integration.journal.test_scale import million as million
from tests.integration.journal.world import AT_END, CLEAN, DAY, LANE, MANUAL_LANE, World, at, even_windows, hours

pytestmark = pytest.mark.integration

LIMITS = Limits(step_s=600, raw_ttl_s=432_000, query_lag_s=120)
DEDUP = "codes:dedup"
SCHEDULE = {"process": LANE, "lane": "schedule"}


class Served:
    """The samples of one scrape after the other; ``collector`` is kept as the command keeps it."""

    def __init__(self, world: World, shift_min: int = 0) -> None:
        self.world = world
        self.registry = CollectorRegistry()
        self.registry.register(self.collector(shift_min))

    def collector(self, shift_min: int = 0) -> JournalCollector:
        rules = SlicingRules(step_min=10, lag_min=2, shift_min=shift_min)
        return JournalCollector(MetricsJournal(self.world.another().database, CLEAN, LANE, rules).read, LIMITS)

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, labels)

    def counters(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        """Every sample that must only grow."""
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in self.registry.collect()
            if family.type in ("counter", "summary")
            for sample in family.samples
        }


@pytest.fixture
def served(world: World) -> Served:
    return Served(world)


def load(world: World, slice_id: int, rows: int, distinct: int | None = None) -> None:
    result = SliceResult(rows, rows + 1, rows, distinct if distinct is not None else rows, 0, {"fetch": 1})
    world.journal.slices.finish(world.must_claim(slice_id), result)


def publish_with_stages(world: World, partition: int = DAY) -> None:
    claim = world.must_claim_publish(partition)
    for stage, ms in (("attach", 250), ("optimize", 1500)):
        world.journal.publishes.record_stage(claim, StageMetric(stage, partition, ms))
    world.finish_publish(claim, duration_ms=2000)


def eventful_run(world: World) -> int:
    """A run of four hours that ended in error: one slice loaded twice over, one split, one failed, one rejected."""
    run_id = world.plan([hours(0, 1), hours(1, 2), hours(2, 3), hours(3, 4)]).run_id
    first, second, third, fourth = world.slices(run_id)
    load(world, first, 100, distinct=97)
    splitting = world.must_claim(second)
    for _ in range(2):
        world.journal.slices.note_overload(splitting, Overloaded("too much"))
    world.journal.slices.split(splitting, halve(splitting.window), QueryTimedOut("slow"), "too slow")
    for half in world.slices(run_id, "planned")[:2]:
        load(world, half, 10)
    failing = world.must_claim(third)
    world.journal.slices.record_rejects(
        failing, [Reject("a", "st", "300", "no"), Reject("a", "pt", "400", "no"), Reject("b", "st", "300", "no")]
    )
    world.journal.slices.fail(failing, RowRejected("row a"), "row a")
    load(world, fourth, 1000)
    publish_with_stages(world)
    assert world.journal.runs.finalize(run_id) == "error"
    return run_id


def test_an_empty_journal_has_every_counter_that_is_known_beforehand(served: Served) -> None:
    assert served.value("etl_journal_up") == 1
    assert served.value("etl_step_seconds") == 600
    assert served.value("etl_rows_inserted_total") == 0
    assert served.value("etl_oldest_unpublished_seconds") == 0
    assert served.value("etl_gap_seconds") == 0
    assert served.value("etl_reconcile_result", result="exact") is None


def test_an_eventful_run_is_counted_as_it_was(world: World, served: Served) -> None:
    eventful_run(world)
    expected = {
        ("etl_runs_ended_total", ("process", LANE), ("status", "error")): 1,
        ("etl_runs_ended_total", ("process", LANE), ("status", "ok")): 0,
        ("etl_runs_ended_total", ("process", DEDUP), ("status", "ok")): 1,
        ("etl_slice_duration_seconds_count",): 4,
        ("etl_slices_split_total", ("error_kind", "QueryTimedOut")): 1,
        ("etl_slices_failed_total", ("error_kind", "RowRejected")): 1,
        ("etl_overloads_total", ("error_kind", "QueryTimedOut")): 2,
        ("etl_rows_read_total",): 101 + 11 + 11 + 1001,
        ("etl_rows_inserted_total",): 1120,
        ("etl_rows_repeated_total",): 3,
        ("etl_rows_rejected_total",): 2,
        ("etl_publishes_ended_total", ("status", "ok")): 1,
        ("etl_publish_duration_seconds_count",): 1,
        ("etl_publish_stage_seconds_count", ("stage", "optimize")): 1,
        ("etl_publish_stage_seconds_sum", ("stage", "optimize")): 1.5,
        ("etl_publish_stage_seconds_sum", ("stage", "attach")): 0.25,
        ("etl_publish_last_duration_seconds",): 2,
        ("etl_partitions_incomplete",): 1,
        ("etl_partitions_owed",): 0,
        # [2, 3) was not loaded, [3, 4) was, and nothing after that till now.
        ("etl_gaps",): 2,
        ("etl_active_runs", ("process", LANE), ("status", "running")): 0,
    }
    found = {key: served.value(key[0], **dict(key[1:])) for key in expected}  # type: ignore[arg-type]
    assert found == expected
    # The watermark is at the hole, [2, 3), of a day long ago.
    watermark = at(2).timestamp()
    assert served.value("etl_watermark_timestamp_seconds", **SCHEDULE) == watermark
    lag = served.value("etl_lag_seconds", **SCHEDULE)
    assert lag is not None
    assert abs(lag - (time.time() - watermark)) < 60
    progress = served.value("etl_last_progress_timestamp_seconds", **SCHEDULE)
    assert progress is not None
    assert abs(progress - time.time()) < 60


def test_pruning_changes_no_counter(world: World, served: Served) -> None:
    """Neither for who has been scraping all along nor for a new exporter."""
    run_id = eventful_run(world)
    with_hole = world.plan([hours(2, 3), hours(4, 5)]).run_id
    world.load_all(with_hole)
    world.make_due()
    world.publish()
    assert world.journal.runs.finalize(with_hole) == "ok"
    before = served.counters()
    assert before["etl_rows_inserted_total", frozenset()] == 1140
    for row in world.rows("SELECT id FROM public.inc_processing"):
        world.age_run(row.id, 3 * 24 * 60)
    assert world.journal.sweeps.prune(1) == 2, "the eventful run and its publish; the last ok ones stay"
    assert world.rows("SELECT 1 FROM public.inc_processing WHERE id = %s", run_id) == []
    assert world.rows("SELECT 1 FROM public.inc_processing_slices WHERE run_id = %s", run_id) == []
    assert served.counters() == before
    assert Served(world).counters() == before
    third = world.plan([hours(5, 6)]).run_id
    world.load_all(third)
    after = served.counters()
    assert after["etl_rows_inserted_total", frozenset()] == 1150
    assert Served(world).counters() == after
    assert world.journal.sweeps.prune(1) == 0
    assert served.counters() == after, "nothing is added twice"


def test_a_slice_loaded_again_counts_twice_and_nothing_falls(world: World, served: Served) -> None:
    run_id = world.plan([hours(0, 1), hours(1, 2)]).run_id
    first, second = world.slices(run_id)
    overloaded = world.must_claim(first)
    world.journal.slices.note_overload(overloaded, Overloaded("too much"))
    world.journal.slices.finish(overloaded, SliceResult(70, 70, 70, 60, 0, {}))
    load(world, second, 5)
    before = served.counters()
    claim = world.must_claim_publish()
    short: list[LoadedWindow] = [each for each in claim.windows if each.slice_id == first]
    assert world.journal.publishes.reopen(claim, short, "RAW has fewer keys") == [first]
    assert served.counters() == {
        **before,
        ("etl_runs_ended_total", frozenset({("process", DEDUP), ("status", "error")})): 1,
        ("etl_runs_ended_total", frozenset({("process", DEDUP), ("status", "ok")})): 0,
        ("etl_runs_ended_total", frozenset({("process", DEDUP), ("status", "skipped")})): 0,
        ("etl_publishes_ended_total", frozenset({("status", "error")})): 1,
    }
    load(world, first, 70)
    assert served.value("etl_rows_inserted_total") == 145
    assert served.value("etl_rows_repeated_total") == 10
    assert served.value("etl_slice_duration_seconds_count") == 3
    assert served.value("etl_overloads_total", error_kind="Overloaded") == 1


def test_a_window_found_lost_after_its_run_ended_takes_nothing_back(world: World, served: Served) -> None:
    run_id = world.plan([hours(0, 1)], publish_at_end=False).run_id
    world.load_all(run_id)
    assert world.journal.runs.finalize(run_id) == "ok"
    before = served.counters()
    world.rows("UPDATE public.inc_processing_partitions SET publish_state = 'due', not_before = clock_timestamp()")
    claim = world.must_claim_publish()
    assert world.journal.publishes.reopen(claim, claim.windows, "RAW has fewer keys") == []
    after = served.counters()
    assert {key for key, value in before.items() if after[key] < value} == set()
    assert after["etl_rows_inserted_total", frozenset()] == 10
    assert after["etl_slice_duration_seconds_count", frozenset()] == 1
    assert after["etl_slices_failed_total", frozenset({("error_kind", "CountMismatch")})] == 1
    assert Served(world).counters() == after


def test_what_is_active_owed_and_missing(world: World) -> None:
    served = Served(world, shift_min=-300)
    # Business time is source time + 5 h: loaded are the source's [0, 1) and [2, 3) up to the watermark at 8 h.
    world.load_publish_end([hours(0, 1)], since=at(5), until=at(6), shift_min=-300)
    world.load_publish_end([hours(2, 3)], since=at(6), until=at(8), shift_min=-300)
    assert served.value("etl_watermark_timestamp_seconds", **SCHEDULE) == at(8).timestamp()
    # The source's [1, 2), and from 3 h on to what has to be loaded by now: all but the lag and a step.
    assert served.value("etl_gaps") == 2
    missing_s = served.value("etl_gap_seconds")
    assert missing_s is not None
    assert abs(missing_s - (3600 + time.time() - 12 * 60 - at(3).timestamp())) < 60
    run_id = world.plan([hours(3, 3.5), hours(3.5, 4)], process=MANUAL_LANE, manual=True).run_id
    first, second = world.slices(run_id)
    load(world, first, 5)
    world.must_claim(second)
    assert served.value("etl_active_runs", process=MANUAL_LANE, status="running") == 1
    assert [
        served.value("etl_slices", process=MANUAL_LANE, state=state) for state in ("planned", "running", "done")
    ] == [
        0,
        1,
        1,
    ]
    assert served.value("etl_partitions_owed") == 1
    assert served.value("etl_unpublished_seconds") == 1800
    oldest = served.value("etl_oldest_unpublished_seconds")
    assert oldest is not None
    assert 0 <= oldest < 60
    assert served.value("etl_lag_seconds", process=MANUAL_LANE, lane="manual") is None
    assert served.value("etl_last_run_timestamp_seconds", process=MANUAL_LANE, lane="manual") is not None


def test_what_a_backfill_is_still_to_load_is_no_gap(world: World, served: Served) -> None:
    """A lane of runs by hand alone: its first day is loaded, the last of it is, the rest of its windows are open."""
    run_id = world.plan(
        [hours(0, 1), hours(24, 25), hours(48, 49)], process=MANUAL_LANE, manual=True, in_flight=3
    ).run_id
    first, second, third = world.slices(run_id)
    load(world, first, 5)
    load(world, third, 5)
    # [1, 24) and [25, 48) were never asked for; [24, 25) is being loaded.
    assert (served.value("etl_gaps"), served.value("etl_gap_seconds")) == (2, 46 * 3600)
    failing = world.must_claim(second)
    world.journal.slices.fail(failing, RowRejected("row a"), "row a")
    assert (served.value("etl_gaps"), served.value("etl_gap_seconds")) == (1, 47 * 3600)


def test_a_beginning_that_was_lost_is_a_gap(world: World, served: Served) -> None:
    world.load_publish_end([hours(0, 1), hours(1, 2)], process=MANUAL_LANE, manual=True)
    world.rows(
        "UPDATE public.inc_processing_partitions SET loaded = loaded - tstzmultirange(tstzrange(%s, %s))",
        at(0), at(0.5),
    )  # fmt: skip
    assert (served.value("etl_gaps"), served.value("etl_gap_seconds")) == (1, 1800)


def test_metrics_count_the_gaps_that_the_command_lists(world: World) -> None:
    shift_min = -300
    rules = SlicingRules(step_min=10, lag_min=2, shift_min=shift_min)
    world.load_publish_end([hours(0, 1)], since=at(5), until=at(6), shift_min=shift_min)
    world.load_publish_end([hours(2, 3)], since=at(6), until=at(8), shift_min=shift_min)
    world.plan([hours(5, 6), hours(30, 31)], process=MANUAL_LANE, manual=True, shift_min=shift_min)
    journal = GapJournal(world.journal.database, CLEAN, AT_END)
    covered = journal.covered()
    assert covered is not None
    now = world.journal.now()
    since, until = default_interval(covered, world.journal.runs.watermark(LANE), rules, now)
    window, _ = due_window(since, until, rules, now)
    missing = find_gaps(window, journal.facts(window)).missing
    assert len(missing) == 4

    served = Served(world, shift_min)
    assert served.value("etl_gaps") == 4
    served_s = served.value("etl_gap_seconds")
    assert served_s is not None
    assert abs(served_s - seconds_of(missing)) < 60


def test_runs_that_only_wait_for_a_publish_are_told_from_those_that_stand_still(world: World, served: Served) -> None:
    def waiting() -> list[float | None]:
        return [served.value("etl_runs_waiting_for_publish", process=each) for each in (LANE, MANUAL_LANE, DEDUP)]

    scheduled = world.plan([hours(0, 1)]).run_id
    by_hand = world.plan(
        [hours(2, 3), hours(25, 26), hours(49, 50)], process=MANUAL_LANE, manual=True, in_flight=2
    ).run_id
    assert waiting() == [0, 0, None]
    world.load_all(scheduled)
    today, tomorrow, _ = world.slices(by_hand)
    load(world, today, 5)
    assert waiting() == [0, 0, None], "one publish is due, and nobody has taken it"
    claim = world.must_claim_publish(DAY)
    assert waiting() == [1, 0, 0], "the run by hand has something to load yet"
    load(world, tomorrow, 5)
    assert waiting() == [1, 1, 0], "its third day is not released: it may not load it"
    world.expire_leases()
    assert waiting() == [0, 0, 0], "the publisher is dead"
    claim = world.must_claim_publish(DAY)
    world.journal.publishes.give_back(claim, Unreachable("away"), delay_s=600, refund=False)
    assert waiting() == [1, 1, 0], "it is tried again later"


def test_a_publish_in_error_is_seen(world: World, served: Served) -> None:
    run_id = world.plan([hours(0, 1)]).run_id
    world.load_all(run_id)
    assert served.value("etl_publishes", state="due") == 1
    claim = world.must_claim_publish()
    assert served.value("etl_publishes", state="running") == 1
    world.journal.publishes.fail(claim, CountMismatch("fewer"))
    assert served.value("etl_publishes", state="error") == 1
    assert served.value("etl_publishes_ended_total", status="error") == 1


def test_the_newest_reconcile(world: World, served: Served) -> None:
    insert = (
        "INSERT INTO public.inc_processing_reconciles (clean_table, since, until, by_hash, status, ended_at, "
        "differing, missing, extra, changed) VALUES (%s, %s, %s, true, %s, %s, %s, %s, 0, 2)"
    )
    day = (CLEAN, at(0), at(24))
    world.rows(insert, *day, "exact", at(30), "{}", 0)
    windows = f"{{[{at(1).isoformat()},{at(2).isoformat()}),[{at(4).isoformat()},{at(5).isoformat()})}}"
    world.rows(insert, *day, "different", at(40), windows, 7)
    world.rows(insert, *day, "error", at(50), "{}", 0)
    world.rows(insert, *day, "running", None, "{}", 0)
    assert [served.value("etl_reconcile_result", result=each) for each in ("exact", "different", "error")] == [0, 0, 1]
    assert served.value("etl_reconcile_timestamp_seconds") == at(40).timestamp(), "the last that compared to its end"
    world.rows("DELETE FROM public.inc_processing_reconciles WHERE status = 'error'")
    assert [served.value("etl_reconcile_result", result=each) for each in ("exact", "different", "error")] == [0, 1, 0]
    assert served.value("etl_reconcile_differing_windows", mendable="true") == 2
    assert served.value("etl_reconcile_differing_rows", difference="missing") == 7
    assert served.value("etl_reconcile_differing_rows", difference="changed") == 2


def multirange(*spans: tuple[float, float]) -> str:
    ranges = ",".join(f"[{at(first).isoformat()},{at(last).isoformat()})" for first, last in spans)
    return f"{{{ranges}}}"


def test_a_difference_stands_until_a_reconcile_that_looked_at_it_finds_it_equal(world: World, served: Served) -> None:
    def reconciled(status: str, *compared: tuple[float, float], differing: str = "{}", details: str = "{}") -> None:
        world.rows(
            "INSERT INTO public.inc_processing_reconciles (clean_table, since, until, by_hash, status, ended_at, "
            "compared, differing, details) VALUES (%s, %s, %s, true, %s, clock_timestamp(), %s, %s, %s)",
            CLEAN, at(compared[0][0]), at(compared[-1][1]), status, multirange(*compared), differing, details,
        )  # fmt: skip

    def standing() -> tuple[float | None, float | None]:
        name = "etl_reconcile_differing_windows"
        return served.value(name, mendable="true"), served.value(name, mendable="false")

    assert standing() == (None, None)
    gone = f'{{"beyond": [["{at(7).isoformat()}", "{at(8).isoformat()}"]]}}'
    reconciled("different", (0, 24), differing=multirange((1, 2), (4, 5), (7, 8)), details=gone)
    assert standing() == (2, 1), "of the third, rows are only in CLEAN"
    reconciled("exact", (23, 24))
    assert standing() == (2, 1), "it looked elsewhere"
    assert served.value("etl_reconcile_result", result="exact") == 1
    reconciled("exact", (0, 3), (6, 6.5))
    assert standing() == (1, 1), "[4, 5) lies between what was looked at"
    reconciled("error", (0, 24))
    assert standing() == (1, 1)
    reconciled("exact", (0, 24))
    assert standing() == (0, 0)


def test_other_clean_tables_are_not_counted(world: World) -> None:
    eventful_run(world)
    other = CollectorRegistry()
    other.register(
        JournalCollector(
            MetricsJournal(world.another().database, "stg.other", LANE, SlicingRules(step_min=10)).read, LIMITS
        )
    )
    assert other.get_sample_value("etl_rows_inserted_total") == 0
    assert other.get_sample_value("etl_partitions_incomplete") == 0
    assert other.get_sample_value("etl_last_run_timestamp_seconds", SCHEDULE) is None


def test_other_processes_of_a_shared_journal_are_no_schedule_of_ours(world: World, served: Served) -> None:
    world.load_publish_end([hours(0, 1)])
    world.load_publish_end([hours(1, 2)], process="codes_before")
    for name in ("other_job", MANUAL_LANE):
        world.rows(
            "INSERT INTO public.inc_processing (process_name, status, ts_start, ts_end) VALUES (%s, 'ok', %s, %s)",
            name, at(0), at(1),
        )  # fmt: skip
    lags = {
        (sample.labels["process"], sample.labels["lane"])
        for family in served.registry.collect()
        for sample in family.samples
        if sample.name in ("etl_lag_seconds", "etl_last_run_timestamp_seconds")
    }
    # A row of the old system under our own name counts; one of a former PROCESS_NAME is shown and alarms nobody.
    assert lags == {(LANE, "schedule"), (MANUAL_LANE, "manual"), (DEDUP, "publish"), ("codes_before", "other")}
    assert served.value("etl_lag_seconds", process="codes_before", lane="other") is None


def samples(collector: JournalCollector) -> list[Sample]:
    return [sample for family in collector.collect() for sample in family.samples]


def test_a_journal_that_is_away_or_hangs_is_said_and_nothing_else() -> None:
    def away() -> None:
        raise Unreachable("PostgreSQL at localhost:1 does not answer")

    down = [Sample("etl_journal_up", {}, 0.0)]
    assert samples(JournalCollector(away, LIMITS)) == down  # type: ignore[arg-type]
    asked: list[int] = []
    answer = threading.Event()

    def hangs() -> None:
        asked.append(1)
        answer.wait(60)
        raise Unreachable("at last")

    collector = JournalCollector(hangs, LIMITS, answer_within_s=0.1)  # type: ignore[arg-type]
    try:
        assert samples(collector) == samples(collector) == down
        assert len(asked) == 1, "a second scrape waits for the same answer"
    finally:
        answer.set()


class Noting(Transaction):
    """Notes of how many runs each statement asks at once."""

    asked: list[int]

    def all(self, name: str, **parameters: Any) -> list[Any]:
        self.asked.append(len(parameters["run_ids"]))
        return super().all(name, **parameters)


def test_no_statement_asks_all_runs_of_a_long_journal_at_once(world: World) -> None:
    world.rows(
        "INSERT INTO public.inc_processing (process_name, status, ts_start, ts_end, clean_table) "
        "SELECT %s, 'ok', %s, %s, %s FROM generate_series(1, 450)",
        DEDUP, at(0), at(1), CLEAN,
    )  # fmt: skip
    run_ids = [row.id for row in world.rows("SELECT id FROM public.inc_processing ORDER BY id")]
    with world.journal.database.transaction() as transaction:
        noting = Noting(transaction._cursor, transaction._queries)
        noting.asked = []
        counts = counted(noting, run_ids)
    assert counts["runs_ended", f"{DEDUP} ok"] == counts["publishes", "ok"] == 450
    assert counts["publish_ms", ""] == 450 * 3_600_000
    assert set(noting.asked) == {BATCH_RUNS, 450 - 2 * BATCH_RUNS}


def test_slices_opened_again_and_a_prune_do_not_wait_for_each_others_totals(world: World, served: Served) -> None:
    run_id = world.plan([hours(0, 1), hours(1, 2)]).run_id
    first, second = world.slices(run_id)
    load(world, first, 5)
    overloaded = world.must_claim(second)
    world.journal.slices.note_overload(overloaded, Overloaded("too much"))
    world.journal.slices.finish(overloaded, SliceResult(70, 70, 70, 60, 0, {}))
    claim = world.must_claim_publish()
    # What is there is updated, and so locked.
    totals = {("overloads", "Overloaded"): 1, ("rows_inserted", ""): 1}
    add = "INSERT INTO public.inc_processing_totals (clean_table, name, label, value) VALUES (%s, %s, %s, %s)"
    for (name, label), value in totals.items():
        world.rows(add, CLEAN, name, label, value)
    reopening = world.another()
    with ThreadPoolExecutor(1) as pool:
        with world.journal.database.transaction() as pruning:
            for name, label in totals:
                if name == "rows_inserted":
                    reopened = pool.submit(reopening.publishes.reopen, claim, claim.windows, "RAW has fewer keys")
                    wait_until_waiting(world)
                pruning.run("add_to_totals", clean_table=CLEAN, names=[name], labels=[label], values=[1])
        assert sorted(reopened.result(60)) == [first, second]
    assert served.value("etl_rows_inserted_total") == 2 + 75
    assert served.value("etl_overloads_total", error_kind="Overloaded") == 2 + 1


def wait_until_waiting(world: World) -> None:
    """Until a session waits for a lock on a row of this journal."""
    for _ in range(600):
        if world.rows(
            "SELECT 1 FROM pg_locks w JOIN pg_stat_activity a ON a.pid = w.pid WHERE NOT w.granted AND a.query LIKE %s",
            f"%{world.schema}%",
        ):
            return
        time.sleep(0.1)
    raise AssertionError("nobody waits")


def took_s(work: Callable[[], object]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


def test_a_million_slices_are_read_once(million: World) -> None:
    run_id = million.plan(even_windows(288)).run_id
    for slice_id in million.slices(run_id)[:5]:
        load(million, slice_id, 10)
    served = Served(million)
    first_s = took_s(served.counters)
    again_s = min(took_s(served.counters) for _ in range(3))
    print(f"the first scrape over a million slices {first_s:.2f} s, each one after that {again_s * 1000:.0f} ms")
    assert served.value("etl_slice_duration_seconds_count") == 1_000_005
    # Prometheus waits 10 s; two busy cores get more. What has ended is read once: that is no matter of the machine.
    assert first_s < 30
    assert again_s < first_s / 2
