"""Counting distinct keys."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl_tasks.core.distinct import KeyCounter

keys = st.tuples(st.text(max_size=3), st.integers(0, 3), st.integers(-5, 2_000_000_000_000))


@given(st.lists(st.lists(st.one_of(keys, st.integers(-(2**63), 2**63), st.text(max_size=2)), max_size=10), max_size=4))
def test_the_count_is_that_of_a_set_of_hashes(batches: list[list[object]]) -> None:
    counter = KeyCounter()
    for batch in batches:
        counter.add(batch)
    everything = [key for batch in batches for key in batch]
    assert counter.rows == len(everything)
    assert counter.distinct() == len({hash(key) for key in everything})
    assert counter.distinct() <= len(set(everything))


def test_repeats_across_batches_are_found() -> None:
    counter = KeyCounter()
    counter.add(("010460'&%", n % 2, n) for n in range(10_000))
    counter.add(("010460'&%", n % 2, n) for n in range(5_000, 15_000))
    assert (counter.rows, counter.distinct()) == (20_000, 15_000)
    counter.add([("010460'&%", 0, 0)])
    assert (counter.rows, counter.distinct()) == (20_001, 15_000)


def test_a_collision_only_lowers_the_count() -> None:
    counter = KeyCounter()
    counter.add([-1, -2])  # hash(-1) == hash(-2)
    assert (counter.rows, counter.distinct()) == (2, 1)


def test_empty_and_unhashable() -> None:
    counter = KeyCounter()
    counter.add([])
    assert (counter.rows, counter.distinct()) == (0, 0)
    with pytest.raises(TypeError, match="unhashable"):
        counter.add([["a"]])  # type: ignore[list-item]


def test_a_key_takes_about_eight_bytes() -> None:
    count = 100_000
    tracemalloc.start()
    try:
        counter = KeyCounter()
        counter.add(("010460", 1, n) for n in range(count))
        held, _ = tracemalloc.get_traced_memory()
        assert counter.distinct() == count
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 10 * count
    assert peak < 12 * count
