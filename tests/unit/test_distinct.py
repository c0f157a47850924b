"""Counting distinct keys."""

from __future__ import annotations

import tracemalloc
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl_tasks.core.columns import Column, Hashes
from etl_tasks.core.distinct import KeyCounter, any_repeats, key_hashes
from tests.unit.byte_columns import as_bytes

keys = st.tuples(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    st.integers(0, 3),
    st.integers(-5, 2_000_000_000_000),
)


def hashes(batch: list[tuple[Any, ...]], *, in_bytes: bool = True) -> Hashes:
    columns: list[Column] = [list(column) for column in zip(*batch, strict=True)] or [[]]
    return key_hashes([as_bytes(column) if in_bytes else column for column in columns], len(batch))  # type: ignore[arg-type]


@given(st.lists(st.lists(keys, max_size=10), max_size=4), st.booleans())
def test_distinct_keys_are_those_of_a_set(batches: list[list[tuple[Any, ...]]], in_bytes: bool) -> None:
    """Keys that differ a little have hashes that differ: a chance of 2⁻⁶⁴ is none."""
    counter = KeyCounter()
    for batch in batches:
        counter.add(hashes(batch, in_bytes=in_bytes))
    everything = [key for batch in batches for key in batch]
    assert counter.rows == len(everything)
    assert counter.distinct() == len(set(everything))


@given(st.lists(keys, max_size=10))
def test_a_key_has_one_hash_in_whatever_form_it_comes(batch: list[tuple[Any, ...]]) -> None:
    assert hashes(batch).tolist() == hashes(batch, in_bytes=False).tolist()


def test_a_null_in_a_key_has_the_hash_it_has_in_bytes() -> None:
    for column in (["a", None, "b"], [7, None, -1]):
        batch: list[tuple[Any, ...]] = [(value, 5) for value in column]
        assert hashes(batch).tolist() == hashes(batch, in_bytes=False).tolist()


def test_parts_of_a_key_are_told_apart() -> None:
    texts = [
        "",
        "a",
        "ab",
        "b",
        "ab\0",
        "\0ab",
        "a" * 8,
        "a" * 9,
        "a" * 16,
        "a" * 17,
        "a" * 257,
        "a" * 258,
        "u" * 300 + "1",
        "u" * 300 + "2",
    ]
    batch: list[tuple[Any, ...]] = [(left, right) for left in texts for right in texts]
    assert len(set(hashes(batch).tolist())) == len(batch)
    numbers: list[tuple[Any, ...]] = [(n, m) for n in range(-40, 40) for m in range(-40, 40)]
    assert len(set(hashes(numbers).tolist())) == len(numbers)


def test_other_values_are_hashed_by_python() -> None:
    batch = [(Decimal("1.5"), b"\0"), (Decimal("1.50"), b"\0"), (Decimal("1.5"), b"\1"), (2**70, None)]
    found = hashes(batch, in_bytes=False).tolist()
    assert found[0] == found[1] and len(set(found)) == 3
    with pytest.raises(TypeError, match="unhashable"):
        hashes([([],)], in_bytes=False)


def test_repeats_across_batches_are_found() -> None:
    counter = KeyCounter()
    counter.add(hashes([("010460'&%", n % 2, n) for n in range(10_000)]))
    counter.add(hashes([("010460'&%", n % 2, n) for n in range(5_000, 15_000)]))
    assert (counter.rows, counter.distinct()) == (20_000, 15_000)


def test_empty() -> None:
    counter = KeyCounter()
    assert (counter.rows, counter.distinct()) == (0, 0)
    counter.add(hashes([]))
    assert (counter.rows, counter.distinct()) == (0, 0)
    assert not any_repeats(hashes([]))


@given(st.lists(st.integers(0, 2**64 - 1), max_size=6))
def test_any_repeats(values: list[int]) -> None:
    assert any_repeats(np.array(values, dtype=np.uint64)) == (len(set(values)) < len(values))


def test_a_key_takes_about_eight_bytes() -> None:
    count = 100_000
    some = np.arange(count, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    tracemalloc.start()
    try:
        counter = KeyCounter()
        for start in range(0, count, 5_000):
            counter.add(some[start : start + 5_000].copy())
        held, _ = tracemalloc.get_traced_memory()
        assert counter.distinct() == count
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 9 * count
    assert peak < 12 * count
