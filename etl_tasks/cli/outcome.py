"""How the outcome of ``reconcile`` is said, to people and to programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from etl_tasks.cli.texts import count_of, iso, number, short_time, wide_console
from etl_tasks.core.reconciling import Example, WindowContent, WindowCounts
from etl_tasks.core.slicing import SlicePlan

MOST_WINDOWS = 20
_MOST_OF_A_VALUE = 80


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was compared and found; ``contents`` only when ``by_hash``."""

    plan: SlicePlan
    counts: Sequence[WindowCounts]
    contents: Sequence[WindowContent]
    by_hash: bool
    notices: Sequence[str]

    @property
    def exact(self) -> bool:
        """Whether something was compared and all of it is equal."""
        compared: Sequence[WindowCounts | WindowContent] = self.contents if self.by_hash else self.counts
        return bool(compared) and all(each.equal for each in compared)


def print_outcome(outcome: Outcome) -> None:
    """Totals, what differs, and the verdict in the last line."""
    console = wide_console()
    for notice in outcome.notices:
        console.print(Text.assemble(("notice:", "yellow"), f" {notice}"), soft_wrap=True)
    if not outcome.counts:
        console.print("[bold red]reconciled: nothing[/] (the interval holds nothing that may be read by now)")
        return
    console.print(_totals(outcome.counts))
    for remark in _remarks(outcome):
        console.print(remark, soft_wrap=True)
    if outcome.by_hash:
        _print_contents(console, [each for each in outcome.contents if not each.equal])
    else:
        _print_counts(console, [each for each in outcome.counts if not each.equal])
    what = "every column of every row" if outcome.by_hash else "the count of every slice"
    verdict = "[bold green]reconciled: exact[/]" if outcome.exact else "[bold red]reconciled: DIFFERENT[/]"
    console.print(f"{verdict} ({what})")


def _remarks(outcome: Outcome) -> list[str]:
    remarks = []
    raw, source = sum(each.raw for each in outcome.counts), sum(each.source for each in outcome.counts)
    if raw < source:
        remarks.append(f"RAW holds {number(source - raw)} rows less: past its TTL it forgets, which decides nothing")
    collisions = sum(each.collisions for each in outcome.contents)
    if collisions:
        remarks.append(
            f"{count_of(collisions, 'source row')} more than keys: their keys differ below a millisecond only, "
            "CLEAN holds one of each"
        )
    if not outcome.by_hash and any(each.clean < each.source for each in outcome.counts):
        remarks.append("--hash tells rows that are missing from rows rejected and from keys equal to the millisecond")
    return remarks


def _totals(counts: Sequence[WindowCounts]) -> Table:
    table = _table("slices", "source", "RAW", "CLEAN_ALL", "slices whose counts differ")
    table.add_row(
        number(len(counts)),
        number(sum(each.source for each in counts)),
        number(sum(each.raw for each in counts)),
        number(sum(each.clean for each in counts)),
        number(sum(not each.equal for each in counts)),
    )
    return table


def _print_counts(console: Console, unequal: Sequence[WindowCounts]) -> None:
    if not unequal:
        return
    table = _table("window from (UTC)", "to", "source", "RAW", "CLEAN_ALL", "CLEAN - source")
    for each in unequal[:MOST_WINDOWS]:
        numbers = (number(each.source), number(each.raw), number(each.clean), f"{each.clean - each.source:+,}")
        table.add_row(short_time(each.window.start), short_time(each.window.end), *numbers)
    console.print(table)
    _print_rest(console, unequal)


def _print_contents(console: Console, wrong: Sequence[WindowContent]) -> None:
    if not wrong:
        return
    table = _table("window from (UTC)", "to", "keys", "missing", "extra", "differing", "repeated", "unfit")
    for each in wrong[:MOST_WINDOWS]:
        numbers = (each.source_keys, each.missing, each.extra, each.differing, each.repeated, each.unfit)
        table.add_row(short_time(each.window.start), short_time(each.window.end), *map(number, numbers))
    console.print(table)
    _print_rest(console, wrong)
    for each in wrong[:MOST_WINDOWS]:
        for example in each.examples:
            console.print(f"  {each.window} {example_text(example)}", soft_wrap=True, markup=False)


def _print_rest(console: Console, windows: Sequence[object]) -> None:
    if len(windows) > MOST_WINDOWS:
        console.print(f"and {len(windows) - MOST_WINDOWS} slices more: --json lists them all")


def _table(*titles: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in titles:
        table.add_column(title, justify="left" if title in ("window from (UTC)", "to") else "right")
    return table


def example_text(example: Example) -> str:
    """An example for people: its kind, its key, and the columns that differ with both values."""
    columns = "; ".join(
        f"{name}: source {_short(ours)}, CLEAN {_short(theirs)}" for name, (ours, theirs) in example.columns.items()
    )
    return f"{example.kind} {example.key!r}" + (f": {columns}" if columns else "")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _MOST_OF_A_VALUE else text[: _MOST_OF_A_VALUE - 1] + "…"


def as_dict(outcome: Outcome) -> dict[str, Any]:
    """The outcome for programs: totals, and every slice; times in UTC, values of rows as Python writes them."""
    by_window = {content.window: content for content in outcome.contents}
    return {
        "since": iso(outcome.plan.since),
        "until": iso(outcome.plan.until),
        "exact": outcome.exact,
        "compared": "rows" if outcome.by_hash else "counts",
        "source": sum(each.source for each in outcome.counts),
        "raw": sum(each.raw for each in outcome.counts),
        "clean": sum(each.clean for each in outcome.counts),
        "notices": list(outcome.notices),
        "slices": [
            {
                "from": iso(each.window.start),
                "to": iso(each.window.end),
                "source": each.source,
                "raw": each.raw,
                "clean": each.clean,
                **_content_dict(by_window.get(each.window)),
            }
            for each in outcome.counts
        ],
    }


def _content_dict(content: WindowContent | None) -> dict[str, Any]:
    if content is None:
        return {}
    names = ("missing", "extra", "differing", "repeated", "unfit", "collisions")
    return {
        **{name: getattr(content, name) for name in names},
        "examples": [
            {
                "kind": example.kind,
                "key": [part if isinstance(part, str | int) else repr(part) for part in example.key],
                "columns": {name: [repr(ours), repr(theirs)] for name, (ours, theirs) in example.columns.items()},
            }
            for example in content.examples
        ],
    }
