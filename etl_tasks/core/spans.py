"""Sets of instants as spans of whole seconds: half-open ``(start, end)`` with ``start < end``, since the epoch.

The arithmetic behind ``core.windows``; by itself where there are hundreds of thousands of them, which as objects with
checked edges would cost seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Span = tuple[int, int]


def merge_spans(spans: Iterable[Span]) -> list[Span]:
    """The same instants as disjoint spans in order; touching ones are joined."""
    merged: list[Span] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            if end > merged[-1][1]:
                merged[-1] = merged[-1][0], end
        else:
            merged.append((start, end))
    return merged


def subtract_spans(spans: Iterable[Span], holes: Iterable[Span]) -> list[Span]:
    """The instants of ``spans`` that lie in none of ``holes``, as disjoint spans in order."""
    remaining: list[Span] = []
    cuts = merge_spans(holes)
    first = 0  # cuts before this one end left of every span still to come
    for start, end in merge_spans(spans):
        while first < len(cuts) and cuts[first][1] <= start:
            first += 1
        for index in range(first, len(cuts)):
            cut_start, cut_end = cuts[index]
            if cut_start >= end:
                break
            if cut_start > start:
                remaining.append((start, cut_start))
            start = cut_end
            if start >= end:
                break
        if start < end:
            remaining.append((start, end))
    return remaining


def intersect_spans(spans: Iterable[Span], others: Iterable[Span]) -> list[Span]:
    """The instants that lie in both, as disjoint spans in order."""
    ours = merge_spans(spans)
    return subtract_spans(ours, subtract_spans(ours, others)) if ours else []


def seconds_of(spans: Sequence[Span]) -> int:
    """How many seconds disjoint spans hold together."""
    return sum(end - start for start, end in spans)
