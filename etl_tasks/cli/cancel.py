"""``cancel``: end a run that goes on, and say what became of it."""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Sequence

import click

from etl_tasks.cli.assembly import open_wiring, read_settings
from etl_tasks.cli.texts import count_of
from etl_tasks.core.cancelling import CancelledRun
from etl_tasks.pipeline.cancel import cancel_run


@click.command("cancel", short_help="End a run that goes on; what it loaded stays.")
@click.argument("run_id", metavar="RUN", type=click.IntRange(1, 2**63 - 1))
@click.option("--reason", metavar="TEXT", default="", help="Why, for the journal.")
def cancel_command(run_id: int, reason: str) -> None:
    """End RUN as "error: cancelled by USER@HOST", at once in the journal and soon at work.

    Slices that nobody has begun are not begun; those being read stop within a quarter of LEASE_S. What was loaded stays
    loaded and is published. A publish under way goes on, and other runs too. `resume RUN` loads what was left.

    Exit code 2, with the reason, for a run that is unknown or has ended.
    """
    settings = read_settings()
    wiring = open_wiring(settings)
    who = f"cancelled by {_user()}@{socket.gethostname()}"
    cancelled = cancel_run(run_id, f"{who}: {reason}" if reason else who, wiring.cancel_context())
    for line in what_became(cancelled, settings.lease_s):
        click.echo(line)


def what_became(cancelled: CancelledRun, lease_s: float) -> list[str]:
    """What is to be said of a cancelled run, a line each: its slices, its publishes, and what to do next."""
    run = cancelled.run_id
    lines = [
        f"run {run} of {cancelled.process_name} is cancelled: {count_of(cancelled.loaded, 'slice')} loaded, which "
        f"{'stays' if cancelled.loaded == 1 else 'stay'}, {cancelled.left:,} not loaded"
    ]
    if cancelled.reading:
        lines.append(
            f"{count_of(cancelled.reading, 'slice is', 'slices are')} being read by a worker, which stops within "
            f"{lease_s / 4:g} s and keeps nothing of it"
        )
    if cancelled.publishing:
        lines.append(f"the publish of {_days(cancelled.publishing)} is under way and goes on to its end")
    if cancelled.due:
        lines.append(f"loaded by it and not published yet, due now: {_days(cancelled.due)}")
    if cancelled.left:
        lines.append(f"to load the rest: python -m etl_tasks resume {run}")
    else:
        lines.append("it had loaded all of its windows: nothing is left to resume")
    return lines


def _days(partitions: Sequence[int]) -> str:
    return ", ".join(map(str, partitions))


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as containers have
        return f"uid {os.getuid()}"
