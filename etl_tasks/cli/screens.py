"""Where a followed run is shown: a progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from etl_tasks.cli.following import Screen, Totals
from etl_tasks.cli.texts import count_of, number
from etl_tasks.core.status import RunProgress

PLAIN_EVERY_S = 15.0


class PlainScreen:
    """Lines for a file or a pipe: notes on stderr, a line of progress now and then."""

    def __init__(self) -> None:
        self._shown = ""
        self._shown_at = time.monotonic()

    def show(self, progress: RunProgress, totals: Totals) -> None:
        """A line, if something has changed for a while."""
        text = f"{progress.done} of {count_of(progress.total, 'slice')}, {facts(progress, totals)}"
        if text != self._shown and time.monotonic() - self._shown_at >= PLAIN_EVERY_S:
            self._shown, self._shown_at = text, time.monotonic()
            click.echo(text)

    def line(self, text: str) -> None:
        """On stdout."""
        click.echo(text)

    def note(self, text: str) -> None:
        """On stderr."""
        click.echo(f"note: {text}", err=True)


class BarScreen:
    """A progress bar, with lines above it."""

    def __init__(self, bar: Progress, task: TaskID) -> None:
        self._bar = bar
        self._task = task

    def show(self, progress: RunProgress, totals: Totals) -> None:
        """Move the bar."""
        self._bar.update(
            self._task, completed=progress.done, total=progress.total or None, facts=facts(progress, totals)
        )

    def line(self, text: str) -> None:
        """Above the bar."""
        self._bar.console.print(Text(text), soft_wrap=True)

    def note(self, text: str) -> None:
        """Above the bar, in yellow."""
        self._bar.console.print(Text(f"note: {text}", style="yellow"), soft_wrap=True)


@contextmanager
def open_screen(run_id: int) -> Iterator[Screen]:
    """A bar when stdout is a terminal, else plain lines; the bar is gone at the end of the block."""
    console = Console(highlight=False)
    if not console.is_terminal:
        yield PlainScreen()
        return
    columns = (
        TextColumn("run {task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("slices, {task.fields[facts]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        yield BarScreen(bar, bar.add_task(str(run_id), total=None, facts=""))


def facts(progress: RunProgress, totals: Totals) -> str:
    """Rows, splits and published partitions so far."""
    said = [f"{number(totals.rows)} rows", f"{totals.published}/{len(progress.partitions)} partitions published"]
    if totals.splits:
        said.insert(1, count_of(totals.splits, "split"))
    return ", ".join(said)
