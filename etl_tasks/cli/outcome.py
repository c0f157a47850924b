"""How the outcome of ``reconcile`` is said, to people and to programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from etl_tasks.cli.tables import plain_table
from etl_tasks.cli.texts import count_of, iso, number, short_time, wide_console
from etl_tasks.core.reconcile_verdict import Cause, Finding, Verdict
from etl_tasks.core.reconciling import Example, WindowContent, WindowCounts
from etl_tasks.core.slicing import SlicePlan
from etl_tasks.core.windows import Window

MOST_WINDOWS = 20
MOST_COLUMNS = 6
EDGES = ("window from (UTC)", "to")
WHY = "why"
_TOTALS = ("slices", "source", "RAW", "CLEAN_ALL", "slices whose counts differ")
_COUNTS = ("source", "RAW", "CLEAN_ALL", "CLEAN - source")
_CONTENTS = ("keys", "missing", "extra", "differing", "repeated", "unfit")
_MOST_OF_A_VALUE = 80


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was compared and found; ``verdict`` without findings where the interval holds nothing to compare."""

    plan: SlicePlan
    verdict: Verdict
    notices: Sequence[str]


def print_outcome(outcome: Outcome) -> None:
    """Totals, what differs and why, and the verdict in the last line."""
    console = wide_console()
    for notice in outcome.notices:
        console.print(Text.assemble(("notice:", "yellow"), f" {notice}"), soft_wrap=True)
    print_verdict(console, outcome.verdict)


def print_verdict(console: Console, verdict: Verdict) -> None:
    """As ``print_outcome``, without notices."""
    if not verdict.findings:
        console.print("[bold red]reconciled: nothing[/] (the interval holds nothing that may be read by now)")
        return
    console.print(_totals([each.counts for each in verdict.findings]))
    for remark in _remarks(verdict):
        console.print(remark, soft_wrap=True, markup=False)
    if verdict.differing:
        (_print_contents if verdict.by_hash else _print_counts)(console, verdict.differing)
    for line in cause_lines(verdict):
        console.print(line, soft_wrap=True, markup=False)
    what = "every column of every row" if verdict.by_hash else "the count of every slice"
    said = "[bold green]reconciled: exact[/]" if verdict.exact else "[bold red]reconciled: DIFFERENT[/]"
    console.print(f"{said} ({what})")


CAUSES: Mapping[Cause, tuple[str, str]] = {
    Cause.UNPUBLISHED: ("loaded, not published yet", "--repair publishes them now; the cadence would later"),
    Cause.NOT_LOADED: ("never loaded", "--repair loads them"),
    Cause.BEHIND: (
        "rows missing or old",
        "rows came or changed after they were read, or CLEAN was changed by others; --repair loads them again",
    ),
    Cause.EXTRA: (
        "rows only in CLEAN",
        "deletes in the source are not carried; nothing is removed, and --repair does not change it",
    ),
    Cause.UNFIT: ("rows that fit no column", "see the run's rejects; --repair does not change it"),
}
"""How a cause is said, and what to do about it."""


def cause_lines(verdict: Verdict) -> list[str]:
    """A line a cause: how many slices, why, and what to do."""
    return [
        f"{count_of(count, 'slice')}: {CAUSES[cause][0]}: {CAUSES[cause][1]}" for cause, count in verdict.causes.items()
    ]


def _remarks(verdict: Verdict) -> list[str]:
    remarks = []
    forgot = [each for each in verdict.findings if each.raw_forgot]
    if forgot:
        rows = sum(each.counts.source - each.counts.raw for each in forgot)
        remarks.append(
            f"RAW has forgotten {count_of(len(forgot), 'slice')} ({number(rows)} rows): its TTL has passed, which "
            "decides nothing"
        )
    less = sum(max(0, each.counts.source - each.counts.raw) for each in verdict.findings if not each.raw_forgot)
    if less:
        remarks.append(f"RAW holds {number(less)} rows less than the source where its TTL has not passed")
    collisions = sum(each.content.collisions for each in verdict.findings if each.content is not None)
    if collisions:
        remarks.append(
            f"{count_of(collisions, 'source row')} more than keys: their keys differ below a millisecond only, "
            "CLEAN holds one of each"
        )
    if verdict.settled:
        remarks.append(
            f"{count_of(verdict.settled, 'slice')} differed at first and {'was' if verdict.settled == 1 else 'were'} "
            "equal when asked again: something was published or written in between"
        )
    if not verdict.by_hash and any(each.counts.clean < each.counts.source for each in verdict.findings):
        remarks.append("--hash tells rows that are missing from rows rejected and from keys equal to the millisecond")
    return remarks


def _totals(counts: Sequence[WindowCounts]) -> Table:
    table = plain_table(*_TOTALS, numeric=_TOTALS)
    table.add_row(
        number(len(counts)),
        number(sum(each.source for each in counts)),
        number(sum(each.raw for each in counts)),
        number(sum(each.clean for each in counts)),
        number(sum(not each.equal for each in counts)),
    )
    return table


def _print_counts(console: Console, unequal: Sequence[Finding]) -> None:
    table = plain_table(*EDGES, *_COUNTS, WHY, numeric=_COUNTS)
    for each in unequal[:MOST_WINDOWS]:
        counts = each.counts
        raw = "forgotten" if each.raw_forgot else number(counts.raw)
        numbers = (number(counts.source), raw, number(counts.clean), f"{counts.clean - counts.source:+,}")
        table.add_row(*edges(each.window), *numbers, CAUSES[each.cause][0])
    console.print(table)
    _print_rest(console, unequal)


def _print_contents(console: Console, wrong: Sequence[Finding]) -> None:
    table = plain_table(*EDGES, *_CONTENTS, WHY, numeric=_CONTENTS)
    for each, content in _contents(wrong[:MOST_WINDOWS]):
        numbers = (
            content.source_keys, content.missing, content.extra, content.differing, content.repeated, content.unfit
        )  # fmt: skip
        table.add_row(*edges(each.window), *map(number, numbers), CAUSES[each.cause][0])
    console.print(table)
    _print_rest(console, wrong)
    for each, content in _contents(wrong[:MOST_WINDOWS]):
        for example in content.examples:
            console.print(f"  {each.window} {example_text(example)}", soft_wrap=True, markup=False)


def _contents(findings: Sequence[Finding]) -> list[tuple[Finding, WindowContent]]:
    return [(each, each.content) for each in findings if each.content is not None]


def edges(window: Window) -> tuple[str, str]:
    """A window's two cells of a table."""
    return short_time(window.start), short_time(window.end)


def _print_rest(console: Console, windows: Sequence[object]) -> None:
    if len(windows) > MOST_WINDOWS:
        console.print(f"and {len(windows) - MOST_WINDOWS} slices more: --json lists them all")


def example_text(example: Example) -> str:
    """An example for people: its kind, its key, and the first columns that differ with both values."""
    columns = [
        f"{name}: source {_short(ours)}, CLEAN {_short(theirs)}" for name, (ours, theirs) in example.columns.items()
    ]
    if len(columns) > MOST_COLUMNS:
        columns[MOST_COLUMNS:] = [f"and {len(columns) - MOST_COLUMNS} columns more: --json shows all"]
    return f"{example.kind} {example.key!r}" + (f": {'; '.join(columns)}" if columns else "")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _MOST_OF_A_VALUE else text[: _MOST_OF_A_VALUE - 1] + "…"


def as_dict(outcome: Outcome) -> dict[str, Any]:
    """The outcome for programs: totals, and every slice; times in UTC, values of rows as Python writes them."""
    return {
        "since": iso(outcome.plan.since),
        "until": iso(outcome.plan.until),
        "notices": list(outcome.notices),
        **verdict_as_dict(outcome.verdict),
    }


def verdict_as_dict(verdict: Verdict) -> dict[str, Any]:
    """One reconcile: ``reconcile`` is its number in the journal, ``causes`` the slices that differ, by cause."""
    counts = [each.counts for each in verdict.findings]
    return {
        "reconcile": verdict.reconcile_id or None,
        "exact": verdict.exact,
        "compared": "rows" if verdict.by_hash else "counts",
        "source": sum(each.source for each in counts),
        "raw": sum(each.raw for each in counts),
        "clean": sum(each.clean for each in counts),
        "settled": verdict.settled,
        "causes": {str(cause): count for cause, count in verdict.causes.items()},
        "slices": [
            {
                "from": iso(each.window.start),
                "to": iso(each.window.end),
                "source": each.counts.source,
                "raw": each.counts.raw,
                "clean": each.counts.clean,
                "cause": str(each.cause),
                "raw_forgot": each.raw_forgot,
                "asked_again": each.asked_again,
                **_content_dict(each.content),
            }
            for each in verdict.findings
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
