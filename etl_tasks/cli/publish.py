"""``publish``: a partition's publish by hand, followed to its end."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click
from rich.table import Table

from etl_tasks.cli.assembly import open_wiring, read_settings
from etl_tasks.cli.publish_following import PublishFollower
from etl_tasks.cli.texts import count_of, number, short_time, wide_console
from etl_tasks.core.publishing import PublishProgress
from etl_tasks.core.rebuilding import RebuildOutlook
from etl_tasks.core.windows import midnight_of
from etl_tasks.errors import UsageError
from etl_tasks.pipeline.ask_publish import ask_publish, known_partition, look_ahead

if TYPE_CHECKING:
    from etl_tasks.pipeline.ask_publish import AskContext

FAILED = 1
INTERRUPTED = 130
MOST_LOSSES = 20


@click.command("publish", short_help="Publish partitions now, and follow that.")
@click.option(
    "--partition", "days", metavar="DAY", multiple=True, required=True, help="A UTC day: 20250808. Repeatable."
)
@click.option("--rebuild", is_flag=True, help="From RAW alone: for when CLEAN is not to be trusted.")
@click.option("--yes", is_flag=True, help="With --rebuild: rows that RAW does not have any more may go from CLEAN.")
@click.option("--no-wait", is_flag=True, help="Ask for it and leave it to the workers.")
def publish_command(days: Sequence[str], rebuild: bool, yes: bool, no_wait: bool) -> None:
    """Publish what is loaded and not published of each DAY now, whatever the cadence or an earlier error said.

    The work is the workers': it goes on when this command is interrupted. With --rebuild CLEAN's partition is made anew
    of what RAW has. RAW forgets after its TTL, so that is refused where rows of CLEAN would go, unless --yes agrees to
    the list; the windows that lose rows then count as not loaded, and `gaps` has the command that loads them again.

    Exit code 0 when every DAY is published, 1 when one is not, 2 when it cannot be meant or would lose rows, 130 when
    it was left to the workers.
    """
    if yes and not rebuild:
        raise UsageError("--yes is for --rebuild: a publish without it takes nothing from CLEAN")
    partitions = list(dict.fromkeys(read_partition(day) for day in days))
    wiring = open_wiring(read_settings())
    context = wiring.ask_context()
    context.journal.ensure_once()
    before = [known_partition(partition, context) for partition in partitions]
    outlooks = _outlooks(before, context, yes) if rebuild else {}
    follower = PublishFollower(
        context.asking.progress, lambda partition: ask_publish(partition, outlooks.get(partition), context)
    )
    if no_wait:
        for partition in partitions:
            follower.ask_once(partition, rebuild)
        return
    try:
        published = follower.follow(partitions, rebuild)
    except KeyboardInterrupt:
        click.echo("left to the workers, where it goes on: see python -m etl_tasks status", err=True)
        raise click.exceptions.Exit(INTERRUPTED) from None
    if not published:
        raise click.exceptions.Exit(FAILED)


def read_partition(day: str) -> int:
    """The partition that is meant; raises UsageError for what is no UTC day."""
    try:
        if not re.fullmatch(r"[0-9]{8}", day):
            raise ValueError
        midnight_of(int(day))
    except ValueError:
        raise UsageError(f"--partition {day!r} is no UTC day: write it as 20250808") from None
    return int(day)


def _outlooks(before: Sequence[PublishProgress], context: AskContext, yes: bool) -> dict[int, RebuildOutlook]:
    """What each rebuild would do; raises UsageError when it would lose rows and nobody has agreed to that."""
    outlooks = {each.partition: look_ahead(each.partition, context) for each in before}
    for outlook in outlooks.values():
        if not outlook.raw_rows:
            raise UsageError(
                f"RAW has no rows of {outlook.partition}: a rebuild would leave nothing; load the day again with "
                "python -m etl_tasks run --manual, and rebuild then"
            )
        if outlook.losses:
            print_losses(outlook)
    losing = [outlook for outlook in outlooks.values() if outlook.losses]
    if losing and not yes:
        lost = sum(outlook.lost_rows for outlook in losing)
        days = ", ".join(str(outlook.partition) for outlook in losing)
        raise UsageError(
            f"a rebuild of {days} would take {count_of(lost, 'row')} from CLEAN that RAW does not have: RAW's TTL has "
            "passed for them, or they never came through it. Load these windows again first (run --manual) to keep "
            "what the source has of them, or say --yes"
        )
    return outlooks


def print_losses(outlook: RebuildOutlook) -> None:
    """Where a rebuild takes rows from CLEAN, a line a window."""
    console = wide_console()
    console.print(
        f"{outlook.partition}: CLEAN has {number(outlook.clean_rows)} rows, RAW {number(outlook.raw_rows)} keys; a "
        f"rebuild takes {count_of(outlook.lost_rows, 'row')} or more from these windows of the source's time",
        soft_wrap=True,
    )
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("window from (UTC)", "to"):
        table.add_column(title)
    for title in ("CLEAN", "RAW", "would go"):
        table.add_column(title, justify="right")
    for loss in outlook.losses[:MOST_LOSSES]:
        counts = number(loss.clean_rows), number(loss.raw_rows), number(loss.rows)
        table.add_row(short_time(loss.window.start), short_time(loss.window.end), *counts)
    console.print(table)
    if len(outlook.losses) > MOST_LOSSES:
        console.print(f"and {len(outlook.losses) - MOST_LOSSES} windows more")
