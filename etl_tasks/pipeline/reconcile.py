"""Source, RAW and CLEAN compared, a window at a time: by count, and by the content of every row."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import structlog

from etl_tasks.core.batch import ColumnBatch, TargetColumn
from etl_tasks.core.coerce import CoercionPlan
from etl_tasks.core.columns import in_list
from etl_tasks.core.reconciling import (
    Example,
    Key,
    Row,
    RowFingerprints,
    WindowComparison,
    WindowContent,
    WindowCounts,
    converted,
    converters,
    differing_columns,
)
from etl_tasks.core.windows import Window, halve
from etl_tasks.errors import Overloaded, TransientError, Unreachable
from etl_tasks.pipeline.ports import Source

log = structlog.get_logger(__name__)
T = TypeVar("T")

_NARROWEST_S = 60
_TRIES = 3


class ComparableTarget(Protocol):
    """What is asked of ClickHouse here."""

    def count_windows(self, table: str, windows: Sequence[Window]) -> list[int]:
        """The rows of each window; RAW is counted without its repeats."""

    def rows(self, table: str, window: Window, columns: Sequence[str]) -> Iterator[Row]:
        """The window's rows in no order, times as milliseconds."""


@dataclass(frozen=True, slots=True)
class ReconcileContext:
    """What a comparison needs. ``target_columns`` are those of ``names``, in that order; ``pause`` sleeps seconds."""

    source: Source
    target: ComparableTarget
    coercion: CoercionPlan
    target_columns: Sequence[TargetColumn]
    raw_table: str
    clean_table: str
    most_examples: int = 5
    pause: Callable[[float], None] = field(default=time.sleep)

    @property
    def key(self) -> Sequence[str]:
        """The columns by which a row is known."""
        return self.coercion.key

    @property
    def names(self) -> list[str]:
        """The columns compared."""
        return [column.name for column in self.target_columns]


def count_windows(windows: Sequence[Window], context: ReconcileContext) -> Iterator[WindowCounts]:
    """The rows of each window in the three places, one window after the other.

    Raises what the source and ClickHouse raise; an overloaded source is asked again for halves.
    """
    raw = context.target.count_windows(context.raw_table, windows)
    clean = context.target.count_windows(context.clean_table, windows)
    for window, in_raw, in_clean in zip(windows, raw, clean, strict=True):
        in_source = sum(_gently(window, context, context.source.count))
        yield WindowCounts(window, in_source, in_raw, in_clean)


def compare_windows(
    windows: Sequence[Window], context: ReconcileContext, *, explain: bool = True
) -> Iterator[tuple[WindowCounts, WindowContent]]:
    """Each window compared row by row, and the counts that follow from that: distinct keys of what fits, and what does
    not fit. Raises as ``count_windows``.
    """
    raw = context.target.count_windows(context.raw_table, windows)
    for window, in_raw in zip(windows, raw, strict=True):
        content = compare_window(window, context, explain=explain)
        yield WindowCounts(window, content.source_keys + content.unfit, in_raw, content.clean_rows), content


def compare_window(window: Window, context: ReconcileContext, *, explain: bool = True) -> WindowContent:
    """Every row of the window in the source against CLEAN's; ``explain`` reads the source once more for the columns
    of the examples that differ. Raises as ``count_windows``.
    """
    sides = _Sides(context)
    comparison = WindowComparison(window, sides.fingerprints, context.most_examples)
    for part in _gently(window, context, sides.read_source):
        comparison.add_source(part.rows)
        comparison.add_unfit(part.unfit)
    comparison.add_clean(sides.clean_rows(window))
    return comparison.result(sides.explain(window, comparison.differing) if explain else ())


@dataclass(slots=True)
class _Part:
    """One read of the source: keys and fingerprints, and how many rows have no place in the target."""

    rows: list[tuple[Key, bytes]] = field(default_factory=list)
    unfit: int = 0


class _Sides:
    """Rows of both sides in one comparable form. Of the source only keys and fingerprints are kept."""

    def __init__(self, context: ReconcileContext) -> None:
        self._context = context
        self.fingerprints = RowFingerprints(context.names, context.key)
        pairs = converters(context.target_columns, context.coercion.byte_columns)
        self._ours = [ours for ours, _ in pairs]
        self._theirs = [theirs for _, theirs in pairs]

    def read_source(self, window: Window) -> _Part:
        """All rows of a window of the source, fingerprinted."""
        part = _Part()
        for batch in self._context.source.read(window):
            rows, unfit = self._comparable(batch)
            part.unfit += unfit
            part.rows += [(self.fingerprints.key_of(row), self.fingerprints.content_of(row)) for row in rows]
        return part

    def clean_rows(self, window: Window) -> Iterator[Row]:
        """All rows of a window of CLEAN."""
        context = self._context
        changed = [(at, convert) for at, convert in enumerate(self._theirs) if convert is not None]
        for read in context.target.rows(context.clean_table, window, context.names):
            row = list(read)
            for at, convert in changed:
                if row[at] is not None:
                    row[at] = convert(row[at])
            yield row

    def explain(self, window: Window, differing: Mapping[Key, Row]) -> list[Example]:
        """The columns that differ, from the source read once more."""
        if not differing:
            return []

        def read_again(part: Window) -> dict[Key, Row]:
            found = {}
            for batch in self._context.source.read(part):
                for row in self._comparable(batch)[0]:
                    key = self.fingerprints.key_of(row)
                    if key in differing:
                        found[key] = row
            return found

        again = {key: row for part in _gently(window, self._context, read_again) for key, row in part.items()}
        return [
            Example("differing", key, differing_columns(self._context.names, again[key], row) if key in again else {})
            for key, row in differing.items()
        ]

    def _comparable(self, batch: ColumnBatch) -> tuple[Iterator[Row], int]:
        """The batch's rows, and how many do not fit."""
        coerced = self._context.coercion.apply(batch).batch
        columns = [converted(in_list(values), ours) for values, ours in zip(coerced.columns, self._ours, strict=True)]
        return zip(*columns, strict=True), batch.rows - coerced.rows


def _gently(window: Window, context: ReconcileContext, ask: Callable[[Window], T]) -> Iterator[T]:
    """``ask`` of the window, or of its halves when it is too much for the source; repeated after a passing failure."""
    for tried in range(1, _TRIES + 1):
        try:
            answer = ask(window)
        except Overloaded as error:
            context.source.discard()
            if window.duration.total_seconds() >= 2 * _NARROWEST_S:
                log.warning("reconcile_split", window=str(window), error=str(error))
                for half in halve(window):
                    yield from _gently(half, context, ask)
                return
            failure: TransientError = error
        except Unreachable:
            raise
        except TransientError as error:
            context.source.discard()
            failure = error
        else:
            yield answer
            return
        if tried == _TRIES:
            raise failure
        log.warning("reconcile_repeated", window=str(window), error=str(failure))
        context.pause(2.0**tried)
