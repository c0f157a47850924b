"""A measured number, the bound that the issue sets it, and the baseline of the same run; the tables that show them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

WIDTH = 130


@dataclass(frozen=True)
class Measure:
    """One line of a table; ``baseline`` is in the same unit as ``value``.

    ``bound`` is the most that ``value`` may be, ``least`` the least, ``least_ratio`` the least that it may be in
    baselines.
    """

    name: str
    value: float
    unit: str
    bound: float | None = None
    baseline: float | None = None
    against: str = ""
    least: float | None = None
    least_ratio: float | None = None

    @property
    def ratio(self) -> float | None:
        """The value in baselines, where there is one."""
        return self.value / self.baseline if self.baseline else None

    @property
    def bounded(self) -> bool:
        """Whether a bound is set at all."""
        return (self.bound, self.least, self.least_ratio) != (None, None, None)

    @property
    def broken(self) -> bool:
        """Whether a bound is passed; a bound on a ratio without a baseline is."""
        return (
            (self.bound is not None and self.value > self.bound)
            or (self.least is not None and self.value < self.least)
            or (self.least_ratio is not None and (self.ratio is None or self.ratio < self.least_ratio))
        )

    @property
    def cells(self) -> tuple[str, str, str, str, str]:
        """Name, value, bound, baseline and ratio as text."""
        bounds = (
            "" if self.bound is None else f"≤ {number(self.bound, self.unit)}",
            "" if self.least is None else f"≥ {number(self.least, self.unit)}",
            "" if self.least_ratio is None else f"≥ {self.least_ratio:g} ×",
        )
        return (
            self.name,
            number(self.value, self.unit),
            ", ".join(filter(None, bounds)),
            "" if self.baseline is None else number(self.baseline, self.unit),
            "" if self.ratio is None else f"{self.ratio:.2f}",
        )


def machine() -> str:
    """The machine and what else it does: a number without them says little."""
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return f"{os.cpu_count()} cores; load average over 1, 5 and 15 minutes: {load}"


def show(title: str, measures: Sequence[Measure], notes: Sequence[str] = ()) -> None:
    """Print the measures as a table, and what is to be known about them below it."""
    console = Console(width=WIDTH, highlight=False)
    table = Table(title=title, title_justify="left")
    for heading in ("measure", "value", "bound", "baseline", "ratio", ""):
        table.add_column(heading, justify="left" if heading in ("measure", "") else "right")
    for measure in measures:
        table.add_row(*measure.cells, "[bold red]broken[/bold red]" if measure.broken else measure.against)
    console.print(table)
    for note in (*notes, machine()):
        console.print(f"  {note}", markup=False)


def as_markdown(results: Mapping[str, Sequence[Measure]], heading: str) -> str:
    """All measures that have a bound, by benchmark, as a Markdown table under ``heading``."""
    lines = [heading, "", "| benchmark | measure | value | bound | baseline | ratio | |"]
    lines.append("| --- | --- | ---: | ---: | ---: | ---: | --- |")
    for title, measures in results.items():
        for measure in measures:
            if measure.bounded:
                lines.append(f"| {' | '.join((title, *measure.cells))} | {'**broken**' if measure.broken else 'ok'} |")
    return "\n".join(lines)


def number(value: float, unit: str) -> str:
    """A number with as many digits as say something, and its unit."""
    digits = 0 if abs(value) >= 100 or value == int(value) else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f} {unit}".rstrip()
