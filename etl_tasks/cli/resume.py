"""``resume``: load what an ended run did not, and nothing else."""

from __future__ import annotations

import click

from etl_tasks.cli.assembly import open_wiring, read_settings
from etl_tasks.cli.run import follow_to_end
from etl_tasks.cli.texts import count_of
from etl_tasks.core.states import RunStatus, process_for
from etl_tasks.pipeline.resume import resume_run


@click.command("resume", short_help="Load what an ended run did not, and follow that.")
@click.argument("run_id", metavar="RUN", type=click.IntRange(1, 2**63 - 1))
def resume_command(run_id: int) -> None:
    """Plan a new run by hand of exactly the windows that RUN did not load, and follow it as `run` does.

    What RUN loaded and nobody has published becomes due; where no window is left, that is all. The watermark of the
    schedule stays: its next run sees that the hole is gone. Exit codes as of `run`; 2 when RUN does not exist, has
    not ended, or has nothing left to do.
    """
    settings = read_settings()
    wiring = open_wiring(settings)
    resumed = resume_run(run_id, wiring.plan_context())
    if resumed.publishes:
        days = ", ".join(map(str, resumed.publishes))
        many = count_of(len(resumed.publishes), "partition is", "partitions are")
        click.echo(f"{many} loaded and not published, their publish is due now: {days}")
    if resumed.run is None:
        click.echo(f"run {run_id} left no window to load; the workers publish, see: python -m etl_tasks status")
        return
    process = process_for(settings.process_name, manual=True)
    if resumed.run.status == RunStatus.PLANNED:
        click.echo(f"run {resumed.run.run_id} resumes run {run_id}")
    follow_to_end(resumed.run, process, wiring.status_journal)
