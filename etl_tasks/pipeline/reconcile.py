"""Source, RAW and CLEAN compared, a window at a time: by count, and by the content of every row."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import structlog

from etl_tasks.core.batch import ColumnBatch, TargetColumn
from etl_tasks.core.coerce import CoercionPlan
from etl_tasks.core.reconciling import (
    Converter,
    Example,
    Key,
    Row,
    RowFingerprints,
    WindowComparison,
    WindowContent,
    WindowCounts,
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
    key: Sequence[str] = ("c", "t", "opd")
    most_examples: int = 5
    pause: Callable[[float], None] = field(default=time.sleep)

    @property
    def names(self) -> list[str]:
        """The columns compared."""
        return [column.name for column in self.target_columns]


def count_windows(
    windows: Sequence[Window], context: ReconcileContext, on_window: Callable[[Window], None] = lambda window: None
) -> list[WindowCounts]:
    """The rows of each window in the three places; ``on_window`` hears of each that is counted.

    Raises what the source and ClickHouse raise; an overloaded source is asked again for halves.
    """
    raw = context.target.count_windows(context.raw_table, windows)
    clean = context.target.count_windows(context.clean_table, windows)
    counts = []
    for window, in_raw, in_clean in zip(windows, raw, clean, strict=True):
        in_source = sum(_gently(window, context, context.source.count))
        counts.append(WindowCounts(window, in_source, in_raw, in_clean))
        on_window(window)
    return counts


def compare_window(window: Window, context: ReconcileContext) -> WindowContent:
    """Every row of the window in the source against CLEAN's. Raises as ``count_windows``."""
    fingerprints = RowFingerprints(context.names, context.key)
    comparison = WindowComparison(window, fingerprints, context.most_examples)
    reading = _SourceRows(context)
    for part in _gently(window, context, reading.read):
        comparison.add_source(part.rows)
        comparison.add_unfit(part.unfit)
    comparison.add_clean(reading.of_clean(window))
    return comparison.result(_explained(comparison.differing, window, reading, fingerprints, context))


@dataclass(slots=True)
class _Part:
    """The rows of one read, comparable, and how many had no place in the target."""

    rows: list[Row] = field(default_factory=list)
    unfit: int = 0


class _SourceRows:
    """Rows of both sides in one comparable form."""

    def __init__(self, context: ReconcileContext) -> None:
        self._context = context
        pairs = converters(context.target_columns)
        self._ours = [ours for ours, _ in pairs]
        self._theirs = [theirs for _, theirs in pairs]

    def read(self, window: Window) -> _Part:
        """All rows of a window of the source."""
        part = _Part()
        for batch in self._context.source.read(window):
            coerced = self._context.coercion.apply(batch)
            part.unfit += batch.rows - coerced.batch.rows
            part.rows += _by_row(coerced.batch, self._ours)
        return part

    def of_clean(self, window: Window) -> Iterator[Row]:
        """All rows of a window of CLEAN."""
        for row in self._context.target.rows(self._context.clean_table, window, self._context.names):
            yield [convert(value) for convert, value in zip(self._theirs, row, strict=True)]


def _by_row(batch: ColumnBatch, convert: Sequence[Converter]) -> list[Row]:
    columns = [[each(value) for value in column] for each, column in zip(convert, batch.columns, strict=True)]
    return list(zip(*columns, strict=True))


def _explained(
    differing: dict[Key, Row],
    window: Window,
    reading: _SourceRows,
    fingerprints: RowFingerprints,
    context: ReconcileContext,
) -> list[Example]:
    """The columns that differ, from the source read once more: of the first read only 16 bytes a row were kept."""
    if not differing:
        return []
    again: dict[Key, Row] = {}
    for part in _gently(window, context, reading.read):
        again.update({key: row for row in part.rows if (key := fingerprints.key_of(row)) in differing})
    return [
        Example("differing", key, differing_columns(context.names, again[key], clean) if key in again else {})
        for key, clean in differing.items()
    ]


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
        log.warning("reconcile_again", window=str(window), error=str(failure))
        context.pause(2.0**tried)


def example_text(example: Example) -> str:
    """An example for people: its kind, its key, and the columns that differ with both values."""
    columns: Any = "; ".join(
        f"{name}: source {_short(ours)}, CLEAN {_short(theirs)}" for name, (ours, theirs) in example.columns.items()
    )
    return f"{example.kind} {example.key!r}" + (f": {columns}" if columns else "")


def _short(value: Any, limit: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
