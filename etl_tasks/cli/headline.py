"""What ``status`` says first: whether it runs, is behind, has failed, and the command to type next."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from etl_tasks.cli.following import WORKER_COMMAND
from etl_tasks.cli.texts import count_of, iso_second, rough
from etl_tasks.core.states import MANUAL_PREFIX, PublishState, RunStatus
from etl_tasks.core.status import DifferingWindow, OwedPublish, ProcessView, RunView, StatusReport, lag_of
from etl_tasks.errors import Unreachable

CLI = "python -m etl_tasks"
AWAY_S = 30.0
"""Without progress for so long, slices that nobody answered say that a service is away."""
QUIET_S = 120.0
STUCK_S = 600.0
NEAR = timedelta(hours=1)
"""Windows that differ and lie no farther apart are repaired by one command."""


class Level(StrEnum):
    """How bad it is; ``order`` grows with it."""

    OK = "ok"
    ATTENTION = "attention"
    FAILED = "failed"
    STOPPED = "stopped"

    @property
    def order(self) -> int:
        """0 for ok, and so on."""
        return list(Level).index(self)


@dataclass(frozen=True, slots=True)
class Expectations:
    """What is normal. ``step_s`` is the schedule's interval (STEP_MIN), ``lag_s`` how far it stays behind by intent.

    A worker that said nothing for ``quiet_s`` is gone (workers write a heartbeat at least every sweep); nothing due may
    stand for ``stuck_s``. ``process`` is the schedule's (PROCESS_NAME): only its lag is judged; empty: of any.
    """

    step_s: float
    lag_s: float
    shift_min: int = 0
    quiet_s: float = QUIET_S
    stuck_s: float = STUCK_S
    process: str = ""

    @property
    def behind_after_s(self) -> float:
        """A lane is behind when its lag is more than its own delay and two intervals of the schedule."""
        return self.lag_s + 2 * self.step_s


@dataclass(frozen=True, slots=True)
class Clause:
    """One statement of the headline, and what to type because of it (empty: nothing)."""

    level: Level
    text: str
    command: str = ""


@dataclass(frozen=True, slots=True)
class Headline:
    """The headline: its clauses in the order they are said."""

    clauses: Sequence[Clause]

    @property
    def level(self) -> Level:
        """The worst of the clauses."""
        return max((clause.level for clause in self.clauses), key=lambda level: level.order)

    @property
    def text(self) -> str:
        """The words."""
        return "; ".join(clause.text for clause in self.clauses)

    @property
    def command(self) -> str:
        """What to type next: the command of the worst clause that has one, the first of equals; empty for nothing."""
        with_command = [clause for clause in self.clauses if clause.command]
        return max(with_command, key=lambda clause: clause.level.order).command if with_command else ""


def headline_of(report: StatusReport, expected: Expectations) -> Headline:
    """What the journal's state amounts to."""
    if not report.processes:
        first = f"{CLI} run --since … --until …"
        return Headline([Clause(Level.ATTENTION, "nothing has run yet", first)])
    clauses = [_running(report, expected), *_lags(report, expected)]
    failures, holes = [*_failures(report)], [*_holes(report, expected)]
    if not failures and not holes:
        clauses.append(Clause(Level.OK, "nothing failed"))
    clauses += [*failures, *holes, *_cancelled(report), *_rejects(report), *_differences(report, expected)]
    return Headline(clauses)


def schedule_lanes(report: StatusReport, expected: Expectations) -> list[ProcessView]:
    """Processes whose watermark follows the present: a lane of runs by hand stands where it was last sent, and one
    under a name that the schedule does not have (any more) stands still.
    """
    return [
        process
        for process in report.processes
        if expected.process in ("", process.process)
        and not process.process.startswith(MANUAL_PREFIX)
        and any(not run.is_publish for run in process.runs)
    ]


def publish_is_due(owed: OwedPublish, now: datetime) -> bool:
    """Whether a worker may take the publish now."""
    if owed.state == PublishState.RUNNING:
        return owed.lease_until is not None and owed.lease_until < now
    return owed.state == PublishState.DUE and (owed.not_before is None or owed.not_before <= now)


def why_owed(owed: OwedPublish, now: datetime) -> str:
    """Why a partition is loaded and not published."""
    tried = f", tried {count_of(owed.attempts, 'time')}" if owed.attempts else ""
    if owed.state == PublishState.RUNNING:
        if publish_is_due(owed, now):
            return "its worker is gone, the next one takes over"
        return "is being published now"
    if owed.state == PublishState.ERROR:
        return f"gave up{tried}"
    if owed.state == PublishState.IDLE:
        return "not due yet: it is at the end of its run, or by PUBLISH_EVERY_*"
    if publish_is_due(owed, now):
        return f"due, no worker has taken it yet{tried}"
    pause = "tried again" if owed.last_error else "rests until"
    return f"{pause} {iso_second(owed.not_before)}{tried}" if owed.not_before else f"due{tried}"


def _running(report: StatusReport, expected: Expectations) -> Clause:
    now, work = report.now, report.work
    due_publishes = [owed for owed in report.owed if publish_is_due(owed, now)]
    publishing = [owed for owed in report.owed if owed.state == PublishState.RUNNING and not publish_is_due(owed, now)]
    loads = [run for run in report.active if not run.is_publish]
    due = work.due + work.lost + len(due_publishes)
    at_work = work.running + len(publishing)
    what = _what_is_due(work.due + work.lost, len(due_publishes)) or "a run is active"
    quiet = _quiet_for(report, loads, due_publishes)
    if (due or loads) and not at_work and quiet is not None and quiet.total_seconds() > expected.quiet_s:
        while_due = f"while {what}" if due else "while a run is active"
        text = f"STOPPED: no sign of a worker for {rough(quiet)} {while_due}"
        return Clause(Level.STOPPED, text, WORKER_COMMAND)
    stood = now - report.last_progress if report.last_progress else None
    if due and loads and not at_work and stood is not None and stood.total_seconds() > expected.stuck_s:
        text = f"STUCK: a worker lives, but nothing has moved for {rough(stood)} while {what}"
        return Clause(Level.STOPPED, text, f"{CLI} doctor")
    away = any(group.state == "planned" and group.error_kind == Unreachable.__name__ for group in report.slices)
    # A slice that is due once more, or just being tried, changes nothing while nobody answers.
    nothing_comes = away and stood is not None and stood.total_seconds() > AWAY_S
    if nothing_comes or (work.waiting and not due and not at_work):
        return _waiting(report)
    if loads and not at_work and all(run.status == RunStatus.PLANNED for run in loads):
        return Clause(Level.OK, "planned, no worker has begun yet")
    if at_work or due or loads:
        since = f", last progress {rough(stood)} ago" if stood is not None and stood.total_seconds() > 60 else ""
        return Clause(Level.OK, f"running{since}" if at_work or loads else f"idle, {what}")
    return Clause(Level.OK, f"idle, the last work ended {rough(stood)} ago" if stood is not None else "idle")


def _quiet_for(
    report: StatusReport, loads: Sequence[RunView], due_publishes: Sequence[OwedPublish]
) -> timedelta | None:
    """How long nobody has been heard of although there was something to do; None when that cannot be told."""
    signs = [report.last_sign] if report.last_sign else []
    if not loads:
        # Before the publish became due there was nothing to be heard of.
        signs += [owed.not_before for owed in due_publishes if owed.not_before]
    return report.now - max(signs) if signs else None


def _what_is_due(slices: int, publishes: int) -> str:
    parts = [count_of(slices, "slice")] if slices else []
    parts += [count_of(publishes, "publish", "publishes")] if publishes else []
    verb = "is" if slices + publishes == 1 else "are"
    return f"{' and '.join(parts)} {verb} due" if parts else ""


def _waiting(report: StatusReport) -> Clause:
    work = report.work
    groups = [group for group in report.slices if group.state == "planned" and group.error_kind]
    why = f" ({max(groups, key=lambda group: group.slices).error_kind})" if groups else ""
    when = f", the first at {iso_second(work.next_try_at)}" if work.next_try_at else ""
    run = f" {groups[0].run_id}" if groups else ""
    waiting = max(work.waiting, sum(group.slices for group in groups))
    text = f"WAITING: {count_of(waiting, 'slice')} will be tried again{why}{when}"
    return Clause(Level.ATTENTION, text, f"{CLI} status{run}")


def _lags(report: StatusReport, expected: Expectations) -> Iterator[Clause]:
    lanes = schedule_lanes(report, expected)
    for lane in lanes:
        name = f"{lane.process} " if len(lanes) > 1 else ""
        if lane.watermark is None:
            yield Clause(Level.OK, f"{name}no watermark yet (its first ok run sets it)")
            continue
        lag = lag_of(lane.watermark, report.now, expected.shift_min)
        if lag.total_seconds() <= expected.behind_after_s:
            yield Clause(Level.OK, f"{name}{rough(lag)} behind")
            continue
        yield Clause(Level.ATTENTION, f"{name}BEHIND by {rough(lag)}", _catch_up(lane, report.now, expected))


def _catch_up(lane: ProcessView, now: datetime, expected: Expectations) -> str:
    """Nobody plans: beat, or a worker on its queue, is missing. Somebody does: look at the run that is to catch up, or
    has failed to.
    """
    newest = max(lane.runs, key=lambda run: run.run_id)
    if not newest.active and (now - newest.started_at).total_seconds() > 2 * expected.step_s:
        return f"{CLI} doctor beat queues"
    return f"{CLI} status {newest.run_id}"


def _failures(report: StatusReport) -> Iterator[Clause]:
    unloaded = [each for each in report.unloaded if not each.cancelled]
    if unloaded:
        windows = sum(each.windows for each in unloaded)
        kinds = ", ".join(dict.fromkeys(each.error_kind for each in unloaded))
        runs = list(dict.fromkeys(each.run_id for each in unloaded))
        verb = "is" if windows == 1 else "are"
        text = f"{count_of(windows, 'window')} {verb} NOT LOADED ({kinds}; {_runs_named(runs)})"
        yield Clause(Level.FAILED, text, f"{CLI} status {runs[0]}")
    if report.incomplete:
        partitions = ", ".join(map(str, report.incomplete[:3])) + (", …" if len(report.incomplete) > 3 else "")
        what = count_of(len(report.incomplete), "partition")
        yield Clause(Level.FAILED, f"{what} PUBLISHED WITH A HOLE ({partitions})", f"{CLI} gaps")
    given_up = [owed for owed in report.owed if owed.state == PublishState.ERROR]
    if given_up:
        kinds = ", ".join(dict.fromkeys(owed.error_kind or "unknown" for owed in given_up))
        text = f"{count_of(len(given_up), 'publish', 'publishes')} GAVE UP ({kinds})"
        yield Clause(Level.FAILED, text, f"{CLI} publish --partition {given_up[0].partition}")
    for run in _failed_without_windows(report):
        yield Clause(
            Level.FAILED, f"the last run of {run.process} ended in error ({run.run_id})", f"{CLI} status {run.run_id}"
        )


def _failed_without_windows(report: StatusReport) -> Iterator[RunView]:
    """Last runs that failed as a whole: what failed by window or by partition is told by what is still missing."""
    for process in report.processes:
        runs = [run for run in process.runs if not run.is_publish and run.status != RunStatus.SKIPPED]
        if runs and runs[0].status == RunStatus.ERROR and not runs[0].cancelled:
            details = runs[0].details
            if not details.get("failed_slices") and not details.get("incomplete_partitions"):
                yield runs[0]


def _holes(report: StatusReport, expected: Expectations) -> Iterator[Clause]:
    if report.holes is not None:
        holes, shift = report.holes, timedelta(minutes=expected.shift_min)
        what = f"{count_of(holes.count, 'interval')} ({rough(timedelta(seconds=holes.seconds))})"
        where = f"between {iso_second(holes.since - shift)} and {iso_second(holes.until - shift)}"
        verb = "was" if holes.count == 1 else "were"
        yield Clause(Level.ATTENTION, f"{what} {where} {verb} NEVER LOADED, or lost since", f"{CLI} gaps")


def _cancelled(report: StatusReport) -> Iterator[Clause]:
    for each in report.unloaded:
        if each.cancelled:
            text = f"run {each.run_id} was cancelled, {count_of(each.windows, 'window')} not loaded"
            yield Clause(Level.ATTENTION, text, f"{CLI} resume {each.run_id}")


def _rejects(report: StatusReport) -> Iterator[Clause]:
    rows, run_id = report.rejected_rows.rows, report.rejected_rows.run_id
    if rows:
        yield Clause(
            Level.ATTENTION, f"{count_of(rows, 'row')} REJECTED (last by run {run_id})", f"{CLI} status {run_id}"
        )


def _runs_named(run_ids: Sequence[int], most: int = 3) -> str:
    named = ", ".join(map(str, run_ids[:most]))
    more = f" and {len(run_ids) - most} more" if len(run_ids) > most else ""
    return f"{'run' if len(run_ids) == 1 else 'runs'} {named}{more}"


def _differences(report: StatusReport, expected: Expectations) -> Iterator[Clause]:
    mendable = [each for each in report.differing if each.mendable]
    if mendable:
        places = _places(mendable)
        where = f" in {len(places)} places, a command each" if len(places) > 1 else ""
        text = f"{count_of(len(mendable), 'window')} {_differ(mendable)} from the source{where}"
        yield Clause(Level.FAILED, text, _repair(places[0], expected))
    beyond = [each for each in report.differing if not each.mendable]
    if beyond:
        why = "rows deleted there, or rows that do not fit: no repair mends that"
        text = f"{count_of(len(beyond), 'window')} {_differ(beyond)} from the source by {why}"
        yield Clause(Level.ATTENTION, text)


def _differ(windows: Sequence[DifferingWindow]) -> str:
    return "DIFFERS" if len(windows) == 1 else "DIFFER"


def _places(windows: Sequence[DifferingWindow]) -> list[list[DifferingWindow]]:
    """Windows in order of time, those near one another together: a repair compares all that lies between."""
    places: list[list[DifferingWindow]] = []
    for each in windows:
        if places and each.window.start - places[-1][-1].window.end <= NEAR:
            places[-1].append(each)
        else:
            places.append([each])
    return places


def _repair(windows: Sequence[DifferingWindow], expected: Expectations) -> str:
    """The command in business time; what was found by content is not seen by a comparison of counts."""
    shift = timedelta(minutes=expected.shift_min)
    since, until = windows[0].window.start - shift, windows[-1].window.end - shift
    by_hash = " --hash" if any(each.by_hash for each in windows) else ""
    return f"{CLI} reconcile --since {iso_second(since)} --until {iso_second(until)}{by_hash} --repair"
