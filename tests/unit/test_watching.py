"""``--watch``: looks until it is over or is interrupted, and says when nobody answers."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator

import pytest
from rich.console import Console

from etl_tasks.cli.watching import AWAY_S, open_display, watch
from etl_tasks.errors import TerminalError, Unreachable


def answering(*answers: int | BaseException) -> Callable[[], int]:
    """Gives one after the other, raising those that are exceptions."""
    left: Iterator[int | BaseException] = iter(answers)

    def look() -> int:
        answer = next(left)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    return look


def watched(look: Callable[[], int], *, as_json: bool = False, terminal: bool = False) -> tuple[str, list[float]]:
    """What a watch until the number 9 wrote, and what it slept."""
    written = io.StringIO()
    console = Console(file=written, force_terminal=terminal, width=80, height=24, highlight=False)
    slept: list[float] = []
    with open_display(console, as_json) as display:
        watch(look, lambda n: {"n": n} if as_json else f"screen {n}", lambda n: n == 9, display, 2.0, slept.append)
    return written.getvalue(), slept


def test_each_look_is_printed_below_the_one_before() -> None:
    assert watched(answering(1, 2, 9)) == ("screen 1\n\nscreen 2\n\nscreen 9\n\n", [2.0, 2.0])


def test_json_is_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert watched(answering(1, 9), as_json=True)[0] == ""
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [{"n": 1}, {"n": 9}]


def test_a_journal_that_does_not_answer_is_said_once_and_asked_again(capsys: pytest.CaptureFixture[str]) -> None:
    away = Unreachable("PostgreSQL at db.example:5432 does not answer\n\tThis probably means nothing")
    written, slept = watched(answering(1, away, away, 9))
    assert written == "screen 1\n\nscreen 9\n\n"
    assert capsys.readouterr().err == "note: PostgreSQL at db.example:5432 does not answer; trying again\n"
    assert slept == [2.0, AWAY_S, AWAY_S]


def test_a_terminal_keeps_the_last_screen() -> None:
    written, _ = watched(answering(1, Unreachable("PostgreSQL is away"), 9), terminal=True)
    alternate, _, after = written.rpartition("\x1b[?1049l")
    assert "screen 1" in alternate
    assert "PostgreSQL is away; trying again" in alternate
    assert after.strip("\x1b[?25h \r\n") == "screen 9"


def test_ctrl_c_ends_it() -> None:
    assert watched(answering(1, KeyboardInterrupt()))[0] == "screen 1\n\n"


def test_the_first_look_must_succeed() -> None:
    with pytest.raises(Unreachable):
        watched(answering(Unreachable("away")))


def test_an_error_that_waiting_does_not_cure_ends_it() -> None:
    with pytest.raises(TerminalError):
        watched(answering(1, TerminalError("the journal is older than this code")))
