"""Comparing rows and counts: what is found, and that equal content is equal whatever form it comes in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl_tasks.core.batch import ColumnBatch, SourceColumn, TargetColumn
from etl_tasks.core.coerce import CoercionPlan
from etl_tasks.core.reconciling import (
    RowFingerprints,
    WindowComparison,
    WindowCounts,
    converted,
    converters,
    differing_columns,
)
from etl_tasks.core.windows import Window
from etl_tasks.errors import Overloaded, StatementLost, Unreachable
from etl_tasks.pipeline.reconcile import ReconcileContext, compare_window, count_windows

NOON = datetime(2025, 8, 8, 12, tzinfo=UTC)
NOON_MS = 1_754_654_400_000
HOUR = Window(NOON, NOON + timedelta(hours=1))
NAMES = ["c", "t", "opd", "id", "ch", "st"]
SOURCE = [
    SourceColumn("c", "VARCHAR", 1),
    SourceColumn("t", "UNSIGNED_TINYINT", 2),
    SourceColumn("opd", "TIMESTAMP", 3),
    SourceColumn("id", "VARCHAR"),
    SourceColumn("ch", "VARCHAR ARRAY"),
    SourceColumn("st", "SMALLINT"),
]
TARGET = [
    TargetColumn("c", "String"),
    TargetColumn("t", "UInt8"),
    TargetColumn("opd", "DateTime64(3, 'UTC')"),
    TargetColumn("id", "Nullable(String)"),
    TargetColumn("ch", "Array(String)"),
    TargetColumn("st", "Nullable(Int8)"),
]
Row = tuple[Any, ...]


def row(number: int, *, id: str | None = "x", ch: list[str] | None = None, st: int | None = 1) -> Row:
    """A row of the source, ten seconds after the one before."""
    return ("c", 1, NOON_MS + number * 10_000, id, ch, st)


class Source:
    """Rows in memory; ``faults`` are raised first, ``widest_s`` is the widest window it stands."""

    def __init__(self, rows: Sequence[Row], faults: Sequence[Exception] = (), widest_s: float = 1e9) -> None:
        self.rows = list(rows)
        self.faults = list(faults)
        self.widest_s = widest_s
        self.asked: list[Window] = []
        self.discarded = 0

    def count(self, window: Window) -> int:
        return len(self._within(window))

    def read(self, window: Window) -> Iterator[ColumnBatch]:
        found = self._within(window)
        for start in range(0, len(found), 2):  # several frames
            some = found[start : start + 2]
            yield ColumnBatch(NAMES, [list(column) for column in zip(*some, strict=True)], len(some))

    def discard(self) -> None:
        self.discarded += 1

    def _within(self, window: Window) -> list[Row]:
        self.asked.append(window)
        if self.faults:
            raise self.faults.pop(0)
        if window.duration.total_seconds() > self.widest_s:
            raise Overloaded("too wide")
        return [each for each in self.rows if window.start_ms <= each[2] < window.end_ms]


class Target:
    """CLEAN and RAW in memory."""

    def __init__(self, clean: Sequence[Row], raw: Sequence[Row] = ()) -> None:
        self.tables = {"clean": list(clean), "raw": list(raw)}

    def count_windows(self, table: str, windows: Sequence[Window]) -> list[int]:
        return [len(list(self.rows(table, window, NAMES))) for window in windows]

    def rows(self, table: str, window: Window, columns: Sequence[str]) -> Iterator[Row]:
        assert list(columns) == NAMES
        return (each for each in reversed(self.tables[table]) if window.start_ms <= each[2] < window.end_ms)


def context(source: Source, target: Target, most_examples: int = 5) -> ReconcileContext:
    """What a comparison of the two needs."""
    coercion = CoercionPlan.build(SOURCE, TARGET, datetime64_range_ms=(0, 4_000_000_000_000))
    return ReconcileContext(
        source=source,  # type: ignore[arg-type]  # only what is asked here
        target=target,
        coercion=coercion,
        target_columns=TARGET,
        raw_table="raw",
        clean_table="clean",
        most_examples=most_examples,
        pause=lambda seconds: None,
    )


def clean(*rows: Row) -> list[Row]:
    """Rows as ClickHouse gives them back: no array is NULL."""
    return [(*each[:4], each[4] or [], each[5]) for each in rows]


def test_equal_rows_are_equal_in_any_order() -> None:
    rows = [row(1), row(2, id=None, ch=None), row(3, ch=["", "ё", "🚀"]), row(4, st=None), row(5, st=-1)]
    found = compare_window(HOUR, context(Source(rows), Target(clean(*rows))))
    assert found.equal
    assert (found.source_keys, found.clean_rows, found.examples) == (5, 5, ())


def test_what_differs_is_told_apart() -> None:
    source = [row(1), row(2, id="old", st=-1), row(3), row(4)]
    target = clean(row(1), row(2, id=None, st=-2), row(4), row(4), row(9))
    found = compare_window(HOUR, context(Source(source), Target(target)))
    assert not found.equal
    assert (found.missing, found.extra, found.differing, found.repeated) == (1, 1, 1, 1)
    by_kind = {example.kind: example for example in found.examples}
    assert by_kind["missing"].key == ("c", 1, NOON_MS + 30_000)
    assert by_kind["extra"].key == ("c", 1, NOON_MS + 90_000)
    assert by_kind["repeated"].key == ("c", 1, NOON_MS + 40_000)
    assert by_kind["differing"].key == ("c", 1, NOON_MS + 20_000)
    assert by_kind["differing"].columns == {"id": ("old", None), "st": (-1, -2)}


def test_a_null_code_is_the_empty_one_of_the_target() -> None:
    nameless = (None, 1, NOON_MS, "x", None, 1)
    assert compare_window(HOUR, context(Source([nameless]), Target([("", 1, NOON_MS, "x", [], 1)]))).equal


def test_rows_that_do_not_fit_are_no_match() -> None:
    found = compare_window(HOUR, context(Source([row(1), row(2, st=300)]), Target(clean(row(1)))))
    assert (found.unfit, found.missing, found.equal) == (1, 0, False)


@pytest.mark.parametrize(("kept", "equal"), [("first", True), ("second", True), ("neither", False)])
def test_keys_that_only_differ_below_a_millisecond(kept: str, equal: bool) -> None:
    source = [row(1, id="first"), row(1, id="second")]
    found = compare_window(HOUR, context(Source(source), Target(clean(row(1, id=kept)))))
    assert (found.collisions, found.source_keys, found.missing) == (1, 1, 0)
    assert found.equal is equal


def test_at_most_so_many_examples() -> None:
    found = compare_window(HOUR, context(Source([row(n) for n in range(20)]), Target([]), most_examples=3))
    assert (found.missing, len(found.examples)) == (20, 3)


def test_counts_of_the_three_places() -> None:
    rows = [row(0), row(1), row(100)]
    half = NOON + timedelta(minutes=10)
    windows = [Window(NOON, half), Window(half, HOUR.end)]
    found = list(count_windows(windows, context(Source(rows), Target(clean(*rows[:2]), raw=rows[:1]))))
    assert found == [WindowCounts(windows[0], 2, 1, 2), WindowCounts(windows[1], 1, 0, 0)]
    assert [each.equal for each in found] == [True, False]


def test_an_overloaded_source_is_asked_for_halves() -> None:
    rows = [row(n) for n in range(0, 360, 7)]
    source = Source(rows, widest_s=20 * 60)
    assert compare_window(HOUR, context(source, Target(clean(*rows)))).equal
    assert [window.duration for window in source.asked if window.duration <= timedelta(minutes=20)] == [
        timedelta(minutes=15)
    ] * 4
    assert [each.source for each in count_windows([HOUR], context(source, Target(clean(*rows))))] == [len(rows)]


def test_a_source_overloaded_by_the_narrowest_window_gives_up() -> None:
    source = Source([], widest_s=1)
    with pytest.raises(Overloaded):
        list(count_windows([HOUR], context(source, Target([]))))
    # 60 → 30 → 15 → 7 → 3 → 1 minutes, and the last one three times.
    assert [window.duration.total_seconds() for window in source.asked] == [3600, 1800, 900, 420, 180, 60, 60, 60]


@pytest.mark.parametrize(
    ("fault", "times", "raises"), [(StatementLost("gone"), 2, False), (StatementLost("gone"), 3, True)]
)
def test_a_passing_failure_is_tried_three_times(fault: Exception, times: int, raises: bool) -> None:
    source = Source([row(1)], faults=[fault] * times)
    if raises:
        with pytest.raises(StatementLost):
            compare_window(HOUR, context(source, Target(clean(row(1)))))
    else:
        assert compare_window(HOUR, context(source, Target(clean(row(1))))).equal
    assert source.discarded == times


def test_an_unreachable_source_is_told_at_once() -> None:
    source = Source([], faults=[Unreachable("no answer")])
    with pytest.raises(Unreachable):
        list(count_windows([HOUR], context(source, Target([]))))
    assert len(source.asked) == 1


@pytest.mark.parametrize(
    ("type_", "ours", "theirs"),
    [
        ("DateTime64(3, 'UTC')", 1_754_654_400_123, 1_754_654_400_123),
        ("Nullable(DateTime64(6))", 1_754_654_400_123_000, 1_754_654_400_123),
        ("DateTime64(0)", 1_754_654_400, 1_754_654_400_000),
        ("DateTime('UTC')", 1_754_654_400, 1_754_654_400_000),
        ("Nullable(Date)", date(2025, 8, 8), 1_754_611_200_000),
        ("Date32", date(1969, 12, 31), -86_400_000),
        ("Decimal(10, 3)", Decimal("1.50"), Decimal("1.500")),
        ("Float32", 0.1, 0.10000000149011612),
        ("Float64", 3, 3.0),
        ("Bool", 1, True),
        ("Array(Nullable(Float32))", [0.1, None], [0.10000000149011612, None]),
        ("LowCardinality(Nullable(String))", "x", "x"),
    ],
)
def test_one_form_of_a_value(type_: str, ours: Any, theirs: Any) -> None:
    ((convert_ours, convert_theirs),) = converters([TargetColumn("x", type_)])
    left, right = converted([ours, None], convert_ours), converted([theirs, None], convert_theirs)
    assert repr(list(left)) == repr(list(right))
    assert left[1] is None


def test_differences_that_python_calls_equal() -> None:
    assert differing_columns(["a", "b", "c"], [1, 0.0, "x"], [True, -0.0, "x"]) == {"a": (1, True), "b": (0.0, -0.0)}


VALUES = st.one_of(st.none(), st.integers(-5, 5), st.text(max_size=3), st.lists(st.text(max_size=2), max_size=3))


@given(st.lists(VALUES, min_size=3, max_size=3), st.lists(VALUES, min_size=3, max_size=3))
def test_fingerprints_are_equal_for_equal_content_only(left: list[Any], right: list[Any]) -> None:
    prints = RowFingerprints(["a", "b", "c"], ["a"])
    assert (prints.content_of(left) == prints.content_of(tuple(right))) == (left == right)


@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 2))), st.lists(st.tuples(st.integers(0, 6), st.integers(0, 2)))
)
def test_a_comparison_counts_what_sets_count(ours: list[tuple[int, int]], theirs: list[tuple[int, int]]) -> None:
    source = dict(ours)
    prints = RowFingerprints(["k", "v"], ["k"])
    comparison = WindowComparison(HOUR, prints, 100)
    comparison.add_source((prints.key_of(each), prints.content_of(each)) for each in source.items())
    comparison.add_clean(theirs)
    found = comparison.result()
    first: dict[int, int] = {}
    for key, value in theirs:
        first.setdefault(key, value)
    assert found.missing == len(source.keys() - first.keys())
    assert found.extra == sum(key not in source for key, _ in theirs)
    assert found.differing == sum(source[key] != value for key, value in first.items() if key in source)
    assert found.repeated == sum(key in source for key, _ in theirs) - len(source.keys() & first.keys())
