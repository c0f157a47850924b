"""Sets of seconds: against Python's own sets."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from etl_tasks.core.spans import Span, intersect_spans, merge_spans, seconds_of, subtract_spans

SPANS = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 9)).map(lambda each: (each[0], each[0] + each[1])))


def seconds(spans: list[Span]) -> set[int]:
    return {second for start, end in spans for second in range(start, end)}


def canonical(spans: list[Span]) -> bool:
    """In order, and no two touch."""
    return all(start < end for start, end in spans) and all(before[1] < after[0] for before, after in pairwise(spans))


@given(SPANS, SPANS)
def test_spans_are_sets_of_seconds(ours: list[Span], others: list[Span]) -> None:
    for found, wanted in (
        (merge_spans(ours), seconds(ours)),
        (subtract_spans(ours, others), seconds(ours) - seconds(others)),
        (intersect_spans(ours, others), seconds(ours) & seconds(others)),
    ):
        assert seconds(found) == wanted
        assert canonical(found)
        assert seconds_of(found) == len(wanted)
