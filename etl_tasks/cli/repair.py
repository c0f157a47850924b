"""``reconcile --repair``: what differs loaded and published by the workers, followed, and compared again."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from etl_tasks.cli.following import IDLE_S, POLL_S, WORKER_COMMAND
from etl_tasks.cli.outcome import CAUSES, EDGES, MOST_WINDOWS, edges, print_verdict, verdict_as_dict
from etl_tasks.cli.run import FAILED, follow_to_end
from etl_tasks.cli.tables import plain_table
from etl_tasks.cli.texts import count_of, first_line, wide_console
from etl_tasks.core.reconcile_verdict import Finding, Verdict, repair_work
from etl_tasks.core.states import RunStatus, process_for
from etl_tasks.core.windows import Window
from etl_tasks.pipeline.reconciliation import ReconcileRequest
from etl_tasks.pipeline.repair import begin_repair

if TYPE_CHECKING:
    from etl_tasks.core.records import PlannedRun, PublishProgress
    from etl_tasks.pipeline.ports import ReconcileJournal
    from etl_tasks.wiring import Wiring

# A second round loads what the first one had only published, where that was not enough.
ROUNDS = 2
Compare = Callable[[ReconcileRequest], Verdict]


@dataclass(frozen=True, slots=True)
class Repaired:
    """``before``, and ``after`` over its differing windows (None: nothing was begun); the ``runs`` that loaded, and
    the partitions that were only published.
    """

    before: Verdict
    after: Verdict | None
    runs: Sequence[int] = ()
    publishes: Sequence[int] = ()

    @property
    def last(self) -> Verdict:
        """What holds now: the windows that were equal before were not touched."""
        return self.after or self.before


def repair(before: Verdict, wiring: Wiring, compare: Compare, *, quiet: bool) -> Repaired:
    """Mend what differs, by the workers, and compare it again. ``quiet`` leaves stdout to the caller.

    Interrupted, it exits 130: what was begun goes on. Raises what ``begin_repair`` and ``compare`` raise.
    """
    with contextlib.redirect_stdout(sys.stderr) if quiet else contextlib.nullcontext():
        return _repair(before, wiring, compare)


def _repair(before: Verdict, wiring: Wiring, compare: Compare) -> Repaired:
    runs: list[int] = []
    publishes: list[int] = []
    tried: list[Window] = []
    current = before
    for _ in range(ROUNDS):
        work = repair_work(current.findings, tried)
        if not work:
            break
        begun = begin_repair(current.reconcile_id, work, wiring.plan_context())
        if begun.publishes:
            _follow_publishes(begun.publishes, wiring.journal.reconciles)
            publishes += [each.partition for each in begun.publishes]
        if begun.run is not None:
            _follow_run(begun.run, process_for(wiring.settings.process_name, manual=True), wiring)
            if begun.run.status == RunStatus.PLANNED:
                runs.append(begun.run.run_id)
                tried += [each.window for each in work.load]
        if not publishes and not runs:
            break
        current = compare(
            ReconcileRequest(
                [each.planned for each in before.differing],
                before.by_hash,
                repairs=before.reconcile_id,
                repair_run_id=runs[-1] if runs else None,
                details={"asked_by": "command"},
            )
        )
        if begun.run is not None and begun.run.status != RunStatus.PLANNED:
            break
    return Repaired(before, None if current is before else current, runs, publishes)


def _follow_run(planned: PlannedRun, process: str, wiring: Wiring) -> None:
    if planned.status == RunStatus.PLANNED:
        click.echo(f"repair: run {planned.run_id} loads the slices that differ")
    try:
        follow_to_end(planned, process, wiring.status_journal)
    except click.exceptions.Exit as ended:
        # A run that failed has said why; what it did load is compared all the same.
        if ended.exit_code != FAILED:
            raise


def _follow_publishes(due: Sequence[PublishProgress], journal: ReconcileJournal) -> None:
    """Wait until each has published what was loaded when it became due, or has ended in error."""
    days = ", ".join(str(each.partition) for each in due)
    click.echo(f"repair: {count_of(len(due), 'publish', 'publishes')} of what is loaded already: {days}")
    wanted = {each.partition: each.loaded_gen for each in due}
    shown: Sequence[PublishProgress] = ()
    changed_at, told = time.monotonic(), False
    with _left_to_workers():
        while wanted:
            states = journal.publish_states(sorted(wanted))
            for each in states:
                if each.published_gen >= wanted[each.partition]:
                    click.echo(f"{each.partition}  published")
                elif each.state == "error":
                    click.echo(f"{each.partition}  NOT PUBLISHED: {first_line(each.last_error)}", err=True)
                else:
                    continue
                del wanted[each.partition]
            if states != shown:
                shown, changed_at, told = states, time.monotonic(), False
            idle = all(each.state == "due" and not each.waits for each in states)
            if wanted and idle and not told and time.monotonic() - changed_at >= IDLE_S:
                told = True
                text = f"no worker has taken anything for {IDLE_S:g} s: start one with {WORKER_COMMAND}"
                click.echo(f"note: {text}", err=True)
            if wanted:
                time.sleep(POLL_S)


@contextlib.contextmanager
def _left_to_workers() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        click.echo("the publishes are left to the workers and go on; see: python -m etl_tasks status", err=True)
        raise


def print_repaired(repaired: Repaired) -> None:
    """What became of each slice that differed, and the verdict in the last line."""
    console = wide_console()
    if repaired.after is None:
        reason = "nothing was begun" if repair_work(repaired.before.findings) else "nothing here can be mended by it"
        console.print(f"[bold red]repair: no slice repaired[/] ({reason})")
        return
    before = {each.window: each for each in repaired.before.differing}
    mended = sum(each.equal for each in repaired.after.findings)
    console.print()
    console.print(f"repair: {mended} of {count_of(len(before), 'slice')} repaired", markup=False)
    table = plain_table(*EDGES, "before", "after")
    for each in repaired.after.findings[:MOST_WINDOWS]:
        table.add_row(*edges(each.window), finding_text(before[each.window]), finding_text(each))
    console.print(table)
    print_verdict(console, repaired.after)


def finding_text(finding: Finding) -> str:
    """A finding in a cell: ``equal``, ``3 missing, 1 differing``, or the difference of the counts, and the cause."""
    if finding.equal:
        return "equal"
    content = finding.content
    if content is None:
        facts = f"{finding.counts.clean - finding.counts.source:+,} rows"
    else:
        names = ("missing", "extra", "differing", "repeated", "unfit")
        facts = ", ".join(f"{getattr(content, name):,} {name}" for name in names if getattr(content, name))
    return f"{facts} ({CAUSES[finding.cause][0]})"


def repaired_as_dict(repaired: Repaired) -> dict[str, Any]:
    """What replaces and follows the first verdict's dictionary: ``exact`` is what holds now."""
    return {
        "exact": repaired.last.exact,
        "repair": {
            "runs": list(repaired.runs),
            "publishes": list(repaired.publishes),
            "before_exact": repaired.before.exact,
            "after": None if repaired.after is None else verdict_as_dict(repaired.after),
        },
    }
