"""The tables of all commands: no lines, numbers to the right, words that must be read whole never folded."""

from __future__ import annotations

from collections.abc import Collection

from rich.table import Table

STYLES = {
    "ok": "green",
    "error": "bold red",
    "failed": "bold red",
    "stopped": "bold red",
    "different": "bold red",
    "attention": "yellow",
    "skipped": "yellow",
    "running": "cyan",
    "planned": "cyan",
    "exact": "green",
}
"""How a state or a level is coloured, where it is."""


def plain_table(*titles: str, numeric: Collection[str] = (), whole: Collection[str] = ()) -> Table:
    """A table without rows; columns named in ``numeric`` stand to the right, those and ``whole`` are never folded."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in titles:
        narrow = title in numeric or title in whole
        table.add_column(title, justify="right" if title in numeric else "left", overflow="fold", no_wrap=narrow)
    return table
