"""Columns that stay bytes behave as the lists of the same values."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl_tasks.core.columns import in_list, joined, taken, text_column
from tests.unit.byte_columns import as_bytes

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
maybe = {
    "integers": st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)),
    "texts": st.one_of(st.none(), text),
    "arrays": st.one_of(st.none(), st.lists(st.one_of(st.none(), text), max_size=4)),
}


@pytest.mark.parametrize("kind", maybe)
@given(data=st.data())
def test_values_rows_and_sums_are_those_of_lists(kind: str, data: st.DataObject) -> None:
    parts: list[list[Any]] = data.draw(st.lists(st.lists(maybe[kind], max_size=8), min_size=1, max_size=3))
    columns = [as_bytes(part) for part in parts]
    assert [in_list(column) for column in columns] == parts
    assert [len(column) for column in columns] == [len(part) for part in parts]
    assert [[column[row] for row in range(len(column))] for column in columns] == parts
    whole = joined(columns)
    values = [value for part in parts for value in part]
    assert in_list(whole) == values
    rows = data.draw(st.lists(st.sampled_from(range(len(values))), max_size=8)) if values else []
    some = taken(whole, rows)
    assert in_list(some) == [values[row] for row in rows]
    assert in_list(taken(some, range(len(rows)))) == [values[row] for row in rows]


def test_columns_of_two_forms_are_joined_as_a_list() -> None:
    assert joined([as_bytes(["a"]), ["b", None]]) == ["a", "b", None]


def test_long_texts_keep_their_lengths() -> None:
    values = ["", "x" * 127, "x" * 128, "я" * 8_200, "x" * 3_000_000]
    assert text_column(values).to_list() == values == as_bytes([*values]).to_list()  # type: ignore[union-attr]
