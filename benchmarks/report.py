"""A measured number, the bound that the issue sets it, and the baseline of the same run; the table that shows them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

WIDTH = 130


@dataclass(frozen=True)
class Measure:
    """One line of a table. ``bound`` is the most that ``value`` may be; ``baseline`` is in the same unit."""

    name: str
    value: float
    unit: str
    bound: float | None = None
    baseline: float | None = None
    against: str = ""

    @property
    def broken(self) -> bool:
        """Whether the bound is passed."""
        return self.bound is not None and self.value > self.bound


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
        table.add_row(
            measure.name,
            _number(measure.value, measure.unit),
            "" if measure.bound is None else f"≤ {_number(measure.bound, measure.unit)}",
            "" if measure.baseline is None else _number(measure.baseline, measure.unit),
            f"{measure.value / measure.baseline:.2f}" if measure.baseline else "",
            "[bold red]broken[/bold red]" if measure.broken else measure.against,
        )
    console.print(table)
    for note in (*notes, machine()):
        console.print(f"  {note}", markup=False)


def _number(value: float, unit: str) -> str:
    digits = 0 if abs(value) >= 100 or value == int(value) else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f} {unit}"
