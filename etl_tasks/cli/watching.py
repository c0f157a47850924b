"""``--watch``: look again and again, until it is over or somebody has seen enough."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from etl_tasks.cli.texts import first_line
from etl_tasks.errors import TransientError

Seen = TypeVar("Seen")
AWAY_S = 3.0
"""So long after a failed look comes the next one, unless looks are further apart anyway."""


class Display(Protocol):
    """Where it is shown."""

    def show(self, screen: RenderableType) -> None:
        """What was seen."""

    def note(self, text: str) -> None:
        """Why nothing new was seen."""


class InPlace:
    """A terminal, redrawn."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self.last: RenderableType = Text()

    def show(self, screen: RenderableType) -> None:
        """Instead of the screen before."""
        self.last = screen
        self._live.update(screen, refresh=True)

    def note(self, text: str) -> None:
        """Above the screen that was seen last."""
        self._live.update(Group(Text(text, style="bold yellow"), Text(), self.last), refresh=True)


class OneBelowTheOther:
    """A file or a pipe; notes go to stderr, one of a kind in a row."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._noted = ""

    def show(self, screen: RenderableType) -> None:
        """Below the screen before."""
        self._noted = ""
        self._console.print(screen)
        self._console.print()

    def note(self, text: str) -> None:
        """On stderr."""
        if text != self._noted:
            self._noted = text
            click.echo(f"note: {text}", err=True)


class JsonLines(OneBelowTheOther):
    """A line of JSON each time."""

    def show(self, screen: Any) -> None:
        """``screen`` is what ``json.dumps`` takes."""
        self._noted = ""
        click.echo(json.dumps(screen, ensure_ascii=False))


@contextmanager
def open_display(console: Console, as_json: bool) -> Iterator[Display]:
    """The display that fits: a terminal is redrawn, and what it showed last stays when the block ends."""
    if as_json:
        yield JsonLines(console)
    elif not console.is_terminal:
        yield OneBelowTheOther(console)
    else:
        with Live(console=console, screen=True, auto_refresh=False, vertical_overflow="crop") as live:
            display = InPlace(live)
            yield display
        console.print(display.last)


def watch(
    look: Callable[[], Seen],
    render: Callable[[Seen], Any],
    over: Callable[[Seen], bool],
    display: Display,
    every_s: float,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Look every ``every_s`` seconds and show it; returns when it is over, or on Ctrl-C.

    A journal that does not answer is said, and asked again; only the first look raises what it meets.
    """
    try:
        seen = look()
        while True:
            display.show(render(seen))
            if over(seen):
                return
            sleep(every_s)
            seen = _look_until_seen(look, display, every_s, sleep)
    except KeyboardInterrupt:
        return


def _look_until_seen(
    look: Callable[[], Seen], display: Display, every_s: float, sleep: Callable[[float], None]
) -> Seen:
    while True:
        try:
            return look()
        except TransientError as error:
            display.note(f"{first_line(str(error))}; trying again")
            sleep(max(every_s, AWAY_S))
