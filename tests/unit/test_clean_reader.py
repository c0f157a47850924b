"""The reader of CLEAN sees what it is there to see."""

from __future__ import annotations

import pytest

from devstack.clean_reader import CleanReader


@pytest.fixture
def reader() -> CleanReader:
    return CleanReader([("localhost", 1), ("localhost", 2)], "user", "", "db.clean")


def test_growth_and_other_shards_are_no_fault(reader: CleanReader) -> None:
    reader.judge(1, {20250808: (10, 10)})
    reader.judge(2, {20250808: (3, 3)})
    reader.judge(1, {20250808: (11, 11), 20250809: (1, 1)})
    assert reader.faults == []


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        ({}, "shard 1, 20250808: gone, it had 10 rows"),
        ({20250808: (9, 9)}, "shard 1, 20250808: 9 rows after 10"),
        ({20250808: (12, 11)}, "shard 1, 20250808: 12 rows of 11 keys"),
    ],
)
def test_less_than_before_and_a_key_twice_are_faults(
    reader: CleanReader, seen: dict[int, tuple[int, int]], said: str
) -> None:
    reader.judge(1, {20250808: (10, 10)})
    reader.judge(1, seen)
    assert reader.faults == [said]
