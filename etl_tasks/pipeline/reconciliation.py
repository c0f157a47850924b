"""One reconcile: windows compared, what differs asked again, the verdict judged by coverage and kept in the journal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

import structlog

from etl_tasks.core.reconcile_verdict import Finding, Verdict, judge
from etl_tasks.core.slicing import PlannedSlice
from etl_tasks.core.windows import Window, merge, subtract
from etl_tasks.errors import EtlError, TransientError
from etl_tasks.pipeline.ports import Journal
from etl_tasks.pipeline.reconcile import ReconcileContext, compare_windows, count_windows

log = structlog.get_logger(__name__)

NOTE_EVERY_S = 10.0


@dataclass(frozen=True, slots=True)
class ReconcileRequest:
    """What to compare: ``slices``, at least one, in order of time; every column of every row when ``by_hash``.

    ``repairs`` is the reconcile whose windows these are, after ``repair_run_id`` has loaded some of them: the row says
    which. ``details`` go into the row.
    """

    slices: Sequence[PlannedSlice]
    by_hash: bool
    repairs: int | None = None
    repair_run_id: int | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ReconciliationContext:
    """What a reconcile needs. ``open_sides`` connects to source and target; ``check`` is asked before every window and
    raises where the reconcile has to stop; ``on_window`` hears of each that is compared.
    """

    journal: Journal
    open_sides: Callable[[], AbstractContextManager[ReconcileContext]]
    clean_table: str
    raw_ttl_s: float
    worker: str
    check: Callable[[], None] = lambda: None
    on_window: Callable[[Finding], None] = lambda finding: None


@contextmanager
def alone(context: ReconciliationContext) -> Iterator[None]:
    """The only reconcile of the CLEAN table while the block lasts; raises TransientError where there is another."""
    journal = context.journal
    journal.ensure_once()
    with journal.reconciles.try_lock() as mine:
        if not mine:
            running = journal.reconciles.running()
            since = f", number {running.reconcile_id}, since {running.started_at:%Y-%m-%dT%H:%M:%SZ}" if running else ""
            raise TransientError(
                f"another reconcile of {context.clean_table} is under way{since}: wait for its end, one at a time "
                "reads the source"
            )
        for dead in journal.reconciles.end_dead():
            log.warning("reconcile_died", reconcile=dead.reconcile_id, started_at=dead.started_at.isoformat())
        yield


def reconcile(request: ReconcileRequest, context: ReconciliationContext) -> Verdict:
    """Compare the windows, and keep the outcome. Call it inside ``alone``.

    A window that differs is asked again once at the end, source and CLEAN right after each other: the first time a
    publish may have come between. Raises what source, ClickHouse and the journal raise, and what ``check`` raises; the
    row then says ``error``, why, and how far it came.
    """
    journal, slices = context.journal.reconciles, request.slices
    span = Window(slices[0].window.start, max(each.window.end for each in slices))
    about = {**request.details, "planned_windows": len(slices), "worker": context.worker}
    if request.repair_run_id is not None:
        loaded = journal.loaded_by(request.repair_run_id)
        about["loaded"] = [[each.start.isoformat(), each.end.isoformat()] for each in loaded]
    reconcile_id = journal.begin(
        span,
        by_hash=request.by_hash,
        repairs=request.repairs,
        repair_run_id=request.repair_run_id,
        details=about,
    )
    log.info("reconcile_begun", reconcile=reconcile_id, span=str(span), windows=len(slices), by_hash=request.by_hash)
    comparison = _Comparison(request, context, reconcile_id)
    try:
        with context.open_sides() as sides:
            comparison.look(sides)
            settled = comparison.look_again(sides, span)
        coverage, now = journal.coverage(span), context.journal.now()
        verdict = Verdict(
            reconcile_id,
            request.by_hash,
            judge(comparison.findings, coverage, context.raw_ttl_s, now),
            settled,
        )
    except BaseException as error:
        _note_failure(request, context, comparison, error)
        raise
    status = "exact" if verdict.exact else "different"
    journal.end(
        reconcile_id,
        status,
        verdict.findings,
        {
            "causes": {str(cause): count for cause, count in verdict.causes.items()},
            "asked_again": sum(each.asked_again for each in verdict.findings),
            "settled": settled,
            "raw_forgot": sum(each.raw_forgot for each in verdict.findings),
            "beyond": [
                [window.start.isoformat(), window.end.isoformat()]
                for window in merge(each.window for each in verdict.differing if not each.mendable)
            ],
        },
        by_hash=request.by_hash,
    )
    log.info("reconcile_ended", reconcile=reconcile_id, status=status, differing=len(verdict.differing))
    return verdict


class _Comparison:
    """The work on one request; ``findings`` grow in order of time."""

    def __init__(self, request: ReconcileRequest, context: ReconciliationContext, reconcile_id: int) -> None:
        self.reconcile_id = reconcile_id
        self.findings: list[Finding] = []
        self._request = request
        self._context = context
        self._noted_at = time.monotonic()

    def look(self, sides: ReconcileContext) -> None:
        """Every window once, a partition at a time: ClickHouse counts its windows in one question."""
        for _, group in groupby(self._request.slices, key=lambda each: each.partition):
            for finding in self._compare(list(group), sides):
                self.findings.append(finding)
                self._context.on_window(finding)
                self._note()

    def look_again(self, sides: ReconcileContext, span: Window) -> int:
        """Every window that differs once more, and its answer kept; how many are equal now.

        Not those of which nothing was ever loaded: nothing can have come between.
        """
        differing = [at for at, each in enumerate(self.findings) if not each.equal]
        if not differing:
            return 0
        loaded = self._context.journal.reconciles.coverage(span).loaded
        settled = 0
        for at in differing:
            before = self.findings[at]
            if subtract([before.window], loaded) == [before.window] and before.counts.clean == 0:
                continue
            (again,) = self._compare([before.planned], sides, explain=True)
            self.findings[at] = replace(again, asked_again=True)
            settled += again.equal
            self._note()
        return settled

    def _compare(
        self, group: Sequence[PlannedSlice], sides: ReconcileContext, *, explain: bool = False
    ) -> Iterator[Finding]:
        windows = [each.window for each in group]
        self._context.check()
        if self._request.by_hash:
            for planned, (counts, content) in zip(group, compare_windows(windows, sides, explain=explain), strict=True):
                yield Finding(planned, counts, content)
                self._context.check()
        else:
            for planned, counts in zip(group, count_windows(windows, sides), strict=True):
                yield Finding(planned, counts)
                self._context.check()

    def _note(self) -> None:
        if time.monotonic() - self._noted_at >= NOTE_EVERY_S:
            self._noted_at = time.monotonic()
            self._context.journal.reconciles.note_progress(self.reconcile_id, self.findings, self.reached)

    @property
    def reached(self) -> dict[str, str]:
        """Up to where windows have been compared."""
        return {"compared_until": self.findings[-1].window.end.isoformat()} if self.findings else {}


def _note_failure(
    request: ReconcileRequest, context: ReconciliationContext, comparison: _Comparison, error: BaseException
) -> None:
    """The row's end as an error. The error that is under way is the one to be told, whatever the journal says."""
    reason = f"{type(error).__name__}: {error}".rstrip(": ")
    details = {"error": reason, **comparison.reached}
    try:
        context.journal.reconciles.end(
            comparison.reconcile_id, "error", comparison.findings, details, by_hash=request.by_hash
        )
    except EtlError as failure:
        log.warning(
            "reconcile_not_ended",
            reconcile=comparison.reconcile_id,
            error=str(failure),
            next="the next reconcile ends the row",
        )
