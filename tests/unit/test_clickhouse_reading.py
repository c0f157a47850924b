"""Counts of windows when ClickHouse ends a SELECT without a row and without an error, as a KILL at its start does."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from etl_tasks.adapters.clickhouse.client import listed, single
from etl_tasks.adapters.clickhouse.errors import ErrorCode, code_of
from etl_tasks.adapters.clickhouse.reading import count_windows
from etl_tasks.core.windows import Window
from etl_tasks.errors import TransientError

MIDNIGHT = datetime(2026, 11, 24, tzinfo=UTC)
HOURS = [Window(MIDNIGHT + timedelta(hours=n), MIDNIGHT + timedelta(hours=n + 1)) for n in range(2)]
SECOND = int(MIDNIGHT.timestamp())


class Killed:
    """A connection whose answers are given; some of them are those of a killed statement."""

    host = "node1:9000"

    def __init__(self, *answers: Sequence[tuple[int, ...]]) -> None:
        self._answers = list(answers)

    def execute(self, sql: str, params: Any, **options: Any) -> Sequence[tuple[int, ...]]:
        return self._answers.pop(0)


def counts(windows: list[Window], *answers: Sequence[tuple[int, ...]]) -> list[int]:
    connection: Any = Killed(*answers)
    return count_windows(connection, "t", "opd", windows, tag="test")


def test_an_answer_without_a_row_is_a_statement_that_was_ended() -> None:
    with pytest.raises(TransientError, match="KILL QUERY") as raised:
        single([])
    assert code_of(raised.value) == ErrorCode.QUERY_WAS_CANCELLED


def test_the_count_of_one_window_says_so_too() -> None:
    with pytest.raises(TransientError):
        counts(HOURS[:1], [])


def test_no_rows_at_all_is_believed_once_they_were_counted() -> None:
    assert counts(HOURS, [], [(0,)]) == [0, 0]


def test_no_rows_by_the_second_of_a_killed_statement_is_asked_again() -> None:
    assert counts(HOURS, [], [(5,)], [(SECOND, 2), (SECOND + 3600, 3)]) == [2, 3]


def test_two_killed_statements_are_an_error() -> None:
    with pytest.raises(TransientError, match="shows no rows"):
        counts(HOURS, [], [(5,)], [], [(5,)])


def test_a_list_that_comes_without_a_row_is_an_error_and_not_an_empty_list() -> None:
    assert listed([([],)]) == []
    assert listed([(["a", "b"],)]) == ["a", "b"]
    with pytest.raises(TransientError, match="without a row"):
        listed([])
