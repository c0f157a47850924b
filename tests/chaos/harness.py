"""Rounds of two runs at once under random faults; after each the oracle is asked. ``Report`` is what came of it."""

from __future__ import annotations

import random
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import TypeVar

import psycopg2

from devstack.clean_reader import CleanReader
from devstack.dataset import DatasetSpec
from devstack.deployment import Deployment, iso, midnight, ms, named_settings
from devstack.failpoints import Failpoints
from devstack.oracle import Change, Late, Rows
from devstack.stack import Stack
from tests.chaos.faults import Fault, Faults, NothingToBreak

T = TypeVar("T")
LEASE_S = 4
SLICE_MIN = 5
ROWS_A_DAY = 4800
SETTINGS = {
    "PHX_INITIAL_SLICE_MIN": str(SLICE_MIN),
    "PHX_QUERY_OVERLAP_MINUTES": "0",
    "LEASE_S": str(LEASE_S),
    "SWEEP_EVERY_S": "1",
    "RESEND_AFTER_S": "5",
    # What hangs is to be noticed while the run still goes on.
    "PHX_READ_TIMEOUT_S": "15",
    "SOURCE_PATIENCE_S": "120",
    "SANITIZE_HEARTBEAT_TTL_MIN": "5",
}
MIDNIGHT = midnight(1)
LANES = {
    # By hand over the midnight between two partitions, by the schedule over some of the same hours: 72 slices each.
    True: (MIDNIGHT - timedelta(hours=2), MIDNIGHT + timedelta(hours=4)),
    False: (MIDNIGHT + timedelta(hours=2), MIDNIGHT + timedelta(hours=8)),
}
FIRST, LAST = LANES[True][0], LANES[False][1]
SPEC = DatasetSpec(rows=2 * ROWS_A_DAY, days=2, seed=17, until_ms=ms(midnight(0)))
WORKERS = ("worker_s1", "worker_s2")
FAULT_EVERY_S = (1.0, 2.0)
ROUND_PATIENCE_S = 300.0
"""A run that has not ended so long after it was planned is stuck."""


class Stuck(Exception):
    """Nothing moves any more: the report says so, and no further round is begun."""


@dataclass
class Report:
    """What happened. ``wrong`` rows differ in a column or should not be there; each list has a sentence a fault."""

    seed: int
    seconds: float = 0.0
    slices: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    runs: Counter[str] = field(default_factory=Counter)
    compared_rows: int = 0
    wrong: int = 0
    missing: int = 0
    doubled: int = 0
    looks: int = 0
    longest_stall_s: float = 0.0
    complaints: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether every promise held, and some runs ended well in spite of it all."""
        return not (self.wrong or self.missing or self.doubled or self.complaints)


class Chaos:
    """One deployment under fire. ``say`` gets a line of progress."""

    def __init__(self, stack: Stack, scratch: Path, seed: int, say: Callable[[str], None]) -> None:
        self._chance = random.Random(seed)
        self._say = say
        self.report = Report(seed)
        self.deployment = Deployment(stack, scratch, {**named_settings(stack, "chaos"), **SETTINGS})
        self.deployment.failpoints = Failpoints(scratch / "failpoints")
        self._versions = 0

    def run(self, seconds: float) -> Report:
        """Rounds until ``seconds`` have passed; the last one ends in peace. Raises nothing for a promise broken."""
        deployment, report = self.deployment, self.report
        started = time.monotonic()
        deployment.create()
        try:
            deployment.seed(Rows(SPEC))
            with deployment.supervise(workers=len(WORKERS)) as supervisor, deployment.reader() as reader:
                faults = Faults(deployment, supervisor, WORKERS, LEASE_S).all()
                fire_until = time.monotonic() + seconds
                try:
                    while time.monotonic() < fire_until and report.good:
                        self._round(faults, fire_until)
                    self._settle(reader)
                except Stuck as error:
                    report.complaints.append(str(error))
        finally:
            report.seconds = time.monotonic() - started
            deployment.stack.up()
            deployment.close()
        return report

    # -- one round ------------------------------------------------------------------------------------------------

    def _round(self, faults: Sequence[Fault], fire_until: float) -> None:
        """New rows in the source, a run a lane, faults until both have ended, then the oracle."""
        self._change_source()
        newest = {manual: max((run.id for run in self.deployment.runs(manual)), default=0) for manual in (True, False)}
        with Fire(faults, self._chance, self.report, fire_until) as fire:
            runs = [self._plan(manual, after) for manual, after in newest.items()]
            self._wait(runs)
            fire.cease()
        self._heal()
        self._judge(runs)

    def _change_source(self) -> None:
        self._versions += 1
        span = {"since_ms": ms(FIRST), "until_ms": ms(LAST), "version": self._versions}
        self.deployment.reopen_seeder()
        self.deployment.seed(Change(SPEC, rows=600, **span))
        self.deployment.seed(Late(SPEC, rows=60, **span))

    def _plan(self, manual: bool, after: int) -> int:
        """Plan a run behind the lane's run ``after``, until it is planned: a planner that is killed, or finds no
        PostgreSQL, is started again.
        """
        since, until = LANES[manual]
        deadline = time.monotonic() + ROUND_PATIENCE_S
        while time.monotonic() < deadline:
            planner = self.deployment.start_plan(since, until, manual=manual)
            try:
                planner.communicate(timeout=60)
            except subprocess.TimeoutExpired:
                planner.kill()
                planner.communicate()
            # Asked of the journal: killed after its commit it has planned a run all the same, and a second planner's
            # run is `skipped` beside it.
            planned = self._journal(lambda: self._newest(manual, after))
            if planned:
                return planned
            time.sleep(0.5)
        raise Stuck("nothing could be planned for minutes")

    def _newest(self, manual: bool, after: int) -> int | None:
        """The lane's run after ``after`` that was really planned; None when there is none."""
        planned = [run.id for run in self.deployment.runs(manual) if run.id > after and run.status != "skipped"]
        return int(planned[0]) if planned else None

    def _wait(self, runs: Sequence[int]) -> None:
        """Until the runs have ended, and how long nothing moved meanwhile."""
        began = moved_at = time.monotonic()
        before: object = None
        while time.monotonic() - began < ROUND_PATIENCE_S:
            now = self._journal(lambda: self._progress(runs))
            if now is not None and now != before:
                before, moved_at = now, time.monotonic()
            self.report.longest_stall_s = max(self.report.longest_stall_s, time.monotonic() - moved_at)
            if now is not None and now[0] == len(runs):
                return
            time.sleep(0.3)
        self.report.complaints.append(
            f"runs {list(runs)} have not ended after {ROUND_PATIENCE_S:.0f} s:\n{self.deployment.describe()}"
        )

    def _progress(self, runs: Sequence[int]) -> tuple[int, int, int]:
        """Runs ended, slices no longer open, generations published."""
        rows = self.deployment.journal(
            "SELECT (SELECT count(*) FROM {j} WHERE id = ANY(%s) AND ts_end IS NOT NULL) AS ended, "
            "(SELECT count(*) FROM {j}_slices WHERE run_id = ANY(%s) AND finished_at IS NOT NULL) AS closed, "
            "(SELECT coalesce(sum(published_gen), 0) FROM {j}_partitions) AS published",
            list(runs),
            list(runs),
        )
        return int(rows[0].ended), int(rows[0].closed), int(rows[0].published)

    def _journal(self, ask: Callable[[], T]) -> T | None:
        """The journal's answer, None while PostgreSQL is away."""
        try:
            return ask()
        except psycopg2.Error:
            return None

    def _heal(self) -> None:
        assert self.deployment.failpoints is not None
        self.deployment.failpoints.clear()
        self.deployment.stack.up()
        self.deployment.reopen_seeder()

    # -- judgement ------------------------------------------------------------------------------------------------

    def _judge(self, runs: Sequence[int]) -> None:
        """What each run promised; what one in error left undone is loaded again in peace, then all is compared."""
        report = self.report
        statuses = {}
        for manual, run_id in zip((True, False), runs, strict=True):
            run = self.deployment.journal("SELECT * FROM {j} WHERE id = %s", run_id)[0]
            statuses[run_id] = run.status if run.ts_end else "not ended"
            report.runs[statuses[run_id]] += 1
            report.slices += len(self.deployment.slices(run_id))
            if run.status == "ok":
                self._compare(*LANES[manual], f"run {run_id}")
                continue
            reason = run.details.get("error") or run.details.get("reason")
            self._say(f"run {run_id} {statuses[run_id]}: {str(reason)[:300]}")
            if run.ts_end and not reason:
                report.complaints.append(f"run {run_id} ended {run.status} without a reason")
            # What it says it loaded and published must be there, before anybody loads it again.
            for window in self._published_windows(run_id):
                self._compare(*window, f"the published windows of run {run_id}")
        undone = [manual for manual, run_id in zip((True, False), runs, strict=True) if statuses[run_id] != "ok"]
        for manual in undone:
            again = self.deployment.plan(*LANES[manual], manual=manual)
            try:
                run = self.deployment.wait_for_run(again, timeout_s=ROUND_PATIENCE_S)
            except AssertionError as error:
                raise Stuck(f"run {again}, in peace, does not end: {error}") from error
            report.runs[f"{run.status} (again, in peace)"] += 1
            if run.status != "ok":
                report.complaints.append(f"run {again}, in peace: {run.status} {run.details}")
        self._compare(FIRST, LAST, "the round")
        self._say(
            f"round {self._versions}: runs {', '.join(f'{run} {status}' for run, status in statuses.items())}; "
            f"{sum(report.faults.values())} faults so far"
        )

    def _published_windows(self, run_id: int) -> list[tuple[datetime, datetime]]:
        rows = self.deployment.journal(
            "SELECT s.window_from, s.window_to FROM {j}_slices s JOIN {j}_partitions p USING (clean_table, partition) "
            "WHERE s.run_id = %s AND s.state = 'done' AND s.generation <= p.published_gen ORDER BY 1",
            run_id,
        )
        return [(row.window_from, row.window_to) for row in rows]

    def _compare(self, since: datetime, until: datetime, what: str) -> None:
        report = self.report
        actual = self.deployment.rows(self.deployment.clean_all, since, until)
        repeated = len(actual) - len({row[:3] for row in actual})
        found = self.deployment.differences(since, until, actual)
        report.compared_rows += len(actual)
        report.doubled += repeated
        report.missing += found.missing
        report.wrong += found.differing + found.extra
        if found:
            report.complaints.append(f"{what}, [{iso(since)}, {iso(until)}): {found}")

    def _settle(self, reader: CleanReader) -> None:
        """After the last round: nothing is owed, nobody saw less than before."""
        self.report.looks = sum(reader.looks.values())
        self.report.complaints += reader.faults[:20]
        owed = self.deployment.journal("SELECT partition FROM {j}_partitions WHERE loaded_gen > published_gen")
        if owed:
            self.report.complaints.append(f"loaded and not published: {[row.partition for row in owed]}")


class Fire:
    """Context manager: draws a fault every second or two until ``cease`` or ``until`` (monotonic); all have healed at
    its end.
    """

    def __init__(self, faults: Sequence[Fault], chance: random.Random, report: Report, until: float) -> None:
        self._faults = faults
        self._chance = chance
        self._report = report
        self._until = until
        self._ended = threading.Event()
        self._away: set[str] = set()
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(max_workers=24, thread_name_prefix="fault")
        self._thread = threading.Thread(target=self._draw_until_ended, name="fire", daemon=True)

    def __enter__(self) -> Fire:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.cease()
        self._thread.join()
        self._pool.shutdown(wait=True)

    def cease(self) -> None:
        """No fault is drawn any more."""
        self._ended.set()

    def _draw_until_ended(self) -> None:
        while not self._ended.wait(self._chance.uniform(*FAULT_EVERY_S)) and time.monotonic() < self._until:
            self._pool.submit(self._strike, self._draw(self._chance), self._chance.getrandbits(64))

    def _draw(self, chance: random.Random) -> Fault:
        with self._lock:
            possible = [fault for fault in self._faults if fault.part is None or fault.part not in self._away]
            fault = chance.choices(possible, [fault.weight for fault in possible])[0]
            if fault.part is not None:
                self._away.add(fault.part)
        return fault

    def _strike(self, fault: Fault, seed: int) -> None:
        """What is left to chance in a fault is its own, so that threads do not draw from each other's."""
        chance = random.Random(seed)
        try:
            fault.strike(chance)
        except NothingToBreak:
            if not self._ended.is_set():
                self._pool.submit(self._strike, self._draw(chance), chance.getrandbits(64))
            return
        except Exception as error:
            self._report.complaints.append(f"the harness could not do '{fault.name}': {type(error).__name__}: {error}")
            return
        finally:
            with self._lock:
                self._away.discard(fault.part or "")
        with self._lock:
            self._report.faults[fault.name] += 1
