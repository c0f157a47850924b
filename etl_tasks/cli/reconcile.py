"""``reconcile``: whether CLEAN holds what the source holds, and with ``--repair`` that it does."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.progress import Progress

from etl_tasks.cli.assembly import interval_options, open_wiring, read_interval, read_settings
from etl_tasks.cli.outcome import Outcome, as_dict, print_outcome
from etl_tasks.cli.repair import print_repaired, repair, repaired_as_dict
from etl_tasks.config import mask_secrets
from etl_tasks.core.reconcile_verdict import Finding, Verdict, last_interval
from etl_tasks.core.slicing import plan_slices
from etl_tasks.errors import EtlError, UsageError
from etl_tasks.pipeline.reconciliation import ReconcileRequest, alone, reconcile

if TYPE_CHECKING:
    from etl_tasks.config import Settings
    from etl_tasks.wiring import Wiring

DIFFERENT, NOT_COMPARED = 1, 3
BY_COMMAND = {"asked_by": "command"}

DEFAULT_LAST = "1d"
_LAST = re.compile(r"([1-9]\d{0,4})\s*(min|m|h|d)")
_UNITS = {"min": timedelta(minutes=1), "m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}


@click.command("reconcile", short_help="Compare source, RAW and CLEAN; --repair loads what differs.")
@interval_options(required=False)
@click.option("--last", metavar="SPAN", help="Instead: 90m, 6h or 2d back from the watermark.  [default: 1d]")
@click.option("--hash", "by_hash", is_flag=True, help="Compare every column of every row (reads the source again).")
@click.option("--repair", "mend", is_flag=True, help="Load and publish just what differs, and compare it again.")
@click.option("--json", "as_json", is_flag=True, help="Print every slice, as JSON.")
@click.option(
    "--examples", type=click.IntRange(0), default=5, show_default=True, metavar="N", help="Keys shown a slice."
)
def reconcile_command(
    since: str | None, until: str | None, last: str | None, by_hash: bool, mend: bool, as_json: bool, examples: int
) -> None:
    """Compare the source with RAW and CLEAN, a slice at a time, over the business interval [SINCE, UNTIL) or the last
    day (--last) up to the schedule's watermark.

    The outcome is kept in the journal. A slice that differs is asked again before it is called different. RAW forgets
    by its TTL and does not decide; what the lag keeps back (PHX_QUERY_LAG_MINUTES) is not compared.

    --repair publishes what is loaded and owed, loads the other differing slices in one run by hand, follows that, and
    compares them again. Rows that are only in CLEAN are reported and never removed: deletes in the source are not
    carried.

    Exit codes: 0 exact (with --repair: exact afterwards), 1 different, 2 not meant so, 3 not compared, since a service
    is away, another reconcile is under way, or there is nothing to compare; 130 interrupted.
    """
    settings = read_settings()
    asked = _asked(since, until, last)
    wiring = open_wiring(settings)

    def compare(request: ReconcileRequest) -> Verdict:
        with _progress(len(request.slices), as_json) as advance:
            return reconcile(request, replace(wiring.reconciliation_context(examples), on_window=advance))

    mended = None
    try:
        with alone(wiring.reconciliation_context()):
            outcome = _compare(asked, by_hash, settings, wiring, compare)
            if mend and not outcome.verdict.exact and outcome.verdict.findings:
                if not as_json:
                    print_outcome(outcome)
                mended = repair(outcome.verdict, wiring, compare, quiet=as_json)
    except UsageError:
        raise
    except EtlError as error:
        click.echo(f"error: {mask_secrets(str(error))}", err=True)
        raise click.exceptions.Exit(NOT_COMPARED) from error
    if as_json:
        said = as_dict(outcome) if mended is None else {**as_dict(outcome), **repaired_as_dict(mended)}
        click.echo(json.dumps(said, ensure_ascii=False, indent=2))
    elif mended is None:
        print_outcome(outcome)
    else:
        print_repaired(mended)
    raise click.exceptions.Exit(_exit_code(outcome.verdict if mended is None else mended.last))


def _exit_code(verdict: Verdict) -> int:
    if not verdict.findings:
        return NOT_COMPARED
    return 0 if verdict.exact else DIFFERENT


def _asked(since: str | None, until: str | None, last: str | None) -> tuple[str, str] | timedelta:
    """The two edges, or how far back from the watermark; raises UsageError."""
    if last is not None and (since is not None or until is not None):
        raise UsageError("--last goes without --since and --until: it ends at the watermark of the schedule")
    if since is not None and until is not None:
        return since, until
    if since is not None or until is not None:
        raise UsageError("--since and --until go together: give both, or --last 1d for the last day")
    matched = _LAST.fullmatch((last or DEFAULT_LAST).strip())
    if matched is None:
        raise UsageError(f"--last {last}: must be a number of minutes, hours or days, such as 90m, 6h or 2d")
    return int(matched[1]) * _UNITS[matched[2]]


def _compare(
    asked: tuple[str, str] | timedelta,
    by_hash: bool,
    settings: Settings,
    wiring: Wiring,
    compare: Callable[[ReconcileRequest], Verdict],
) -> Outcome:
    if isinstance(asked, timedelta):
        process = settings.process_name
        since, until = last_interval(wiring.journal.runs.watermark(process), asked, process)
        notices: Sequence[str] = ()
    else:
        interval = read_interval(*asked, settings)
        since, until, notices = interval.since, interval.until, interval.notices
    # Without the overlap: what lies before the interval is not what was asked.
    rules = replace(settings.slicing_rules, overlap_min=0)
    plan = plan_slices(since, until, rules, datetime.now(UTC))
    if plan.slices:
        verdict = compare(ReconcileRequest(plan.slices, by_hash, details=BY_COMMAND))
    else:
        verdict = Verdict(0, by_hash, ())
    return Outcome(plan, verdict, [*notices, *plan.notices])


@contextmanager
def _progress(windows: int, quiet: bool) -> Iterator[Callable[[Finding], None]]:
    """A bar on stderr while the block runs, where that is a terminal."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=quiet or not console.is_terminal) as bar:
        task = bar.add_task("comparing", total=windows)
        yield lambda finding: bar.advance(task)
