"""How ``reconcile`` says what it found, for people."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from etl_tasks.cli.outcome import CAUSES, cause_lines, example_text
from etl_tasks.cli.repair import finding_text
from etl_tasks.core.reconcile_verdict import Cause, Finding, Verdict
from etl_tasks.core.reconciling import Example, WindowContent, WindowCounts
from etl_tasks.core.slicing import PlannedSlice
from etl_tasks.core.windows import Window

NOON = datetime(2025, 8, 8, 12, tzinfo=UTC)
HOUR = Window(NOON, NOON + timedelta(hours=1))
PLANNED = PlannedSlice(HOUR, 20250808, 0)


def test_an_example_shows_a_few_columns_and_counts_the_others() -> None:
    columns = {f"c{number}": (number, -number) for number in range(9)}
    text = example_text(Example("differing", ("a", 1, 2), columns))
    assert text.startswith("differing ('a', 1, 2): c0: source 0, CLEAN 0; c1: source 1, CLEAN -1; ")
    assert text.endswith("c5: source 5, CLEAN -5; and 3 columns more: --json shows all")
    six = example_text(Example("differing", ("a",), dict(list(columns.items())[:6])))
    assert six.endswith("c5: source 5, CLEAN -5")


def test_every_cause_of_a_difference_has_its_words_and_what_to_do() -> None:
    assert set(CAUSES) == set(Cause) - {Cause.EQUAL}
    findings = [Finding(PLANNED, WindowCounts(HOUR, 5, 5, 4), cause=Cause.NOT_LOADED)] * 2
    assert cause_lines(Verdict(1, False, findings)) == ["2 slices: never loaded: --repair loads them"]


@pytest.mark.parametrize(
    ("finding", "text"),
    [
        (Finding(PLANNED, WindowCounts(HOUR, 5, 0, 5)), "equal"),
        (Finding(PLANNED, WindowCounts(HOUR, 1500, 0, 5), cause=Cause.NOT_LOADED), "-1,495 rows (never loaded)"),
        (Finding(PLANNED, WindowCounts(HOUR, 5, 0, 6), cause=Cause.EXTRA), "+1 rows (rows only in CLEAN)"),
        (
            Finding(PLANNED, WindowCounts(HOUR, 5, 5, 5), WindowContent(HOUR, missing=2, extra=1), cause=Cause.BEHIND),
            "2 missing, 1 extra (rows missing or old)",
        ),
    ],
)
def test_a_finding_in_a_cell(finding: Finding, text: str) -> None:
    assert finding_text(finding) == text
