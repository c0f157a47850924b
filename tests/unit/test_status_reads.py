"""What ``status`` says of the reads of the source."""

from __future__ import annotations

import io
from datetime import UTC, datetime

import pytest
from rich.console import Console

from etl_tasks.cli.headline import Expectations, headline_of
from etl_tasks.cli.status_screen import screen_parts
from etl_tasks.core.read_limit import SourceReads
from etl_tasks.core.status import ProcessView, StatusReport

NOW = datetime(2025, 8, 8, 12, tzinfo=UTC)
SOURCE = "pqs.example:8765"


def screen(*reads: SourceReads) -> str:
    report = StatusReport(NOW, [ProcessView("codes", (), None)], [], [], [], {}, reads=reads)
    expected = Expectations(step_s=600, lag_s=120)
    out = io.StringIO()
    console = Console(file=out, width=200)
    for part in screen_parts(report, headline_of(report, expected), expected):
        console.print(part)
    return out.getvalue()


@pytest.mark.parametrize(
    ("reads", "said"),
    [
        (
            SourceReads(SOURCE, limit=4, in_use=3, waiting=5, halvings=2),
            "3 of 4 reads at once, 5 slices waiting for a turn; the limit was halved 2 times by overloads",
        ),
        (
            SourceReads(SOURCE, limit=1, in_use=1, waiting=1, halvings=1),
            "1 of 1 read at once, 1 slice waiting for a turn; the limit was halved 1 time by overloads",
        ),
        (SourceReads(SOURCE, limit=16, in_use=0, waiting=0, halvings=0), "0 of 16 reads at once"),
    ],
)
def test_status_says_how_many_read_and_wait(reads: SourceReads, said: str) -> None:
    assert f"source {SOURCE}: {said}\n" in screen(reads)


def test_a_source_that_nobody_reads_with_a_limit_is_not_mentioned() -> None:
    assert "source " not in screen()
