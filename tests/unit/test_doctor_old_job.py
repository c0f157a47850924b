"""``doctor old-job`` beside workers that load: what they write while it looks around is no sign of another writer."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import pytest

from etl_tasks.core.doctor.facts import NewestVersion, OldRow, StrangeInsert
from etl_tasks.core.doctor.findings import Verdict
from etl_tasks.pipeline.doctor.ports import DoctorContext
from etl_tasks.pipeline.doctor.table_checks import old_job_opinion

CLEAN = "stg.codes"
NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
NOON_MS = 1_795_608_000_000  # NOW


class Loading:
    """PostgreSQL and ClickHouse under a worker that loads a row just before every question."""

    def __init__(self, given_ms: int | None, written_ms: Sequence[int] = ()) -> None:
        self.given_ms = given_ms
        self.written_ms = [*written_ms]

    def _load(self) -> None:
        if self.given_ms is not None:
            self.given_ms += 1
            self.written_ms.append(self.given_ms)

    def newest_version_ms(self, clean_table: str) -> int | None:
        self._load()
        return self.given_ms

    def versions_after(self, ours_ms: int) -> list[NewestVersion]:
        self._load()
        after = [each for each in self.written_ms if each > ours_ms]
        return [NewestVersion(CLEAN, "h", max(self.written_ms, default=None), len(after))]

    def strange_inserts(self) -> list[StrangeInsert]:
        self._load()
        return []

    def old_rows(self) -> list[OldRow]:
        self._load()
        return []


def ask(system: Loading) -> tuple[Verdict, str]:
    everybody = SimpleNamespace(journal=system, clickhouse=system)
    settings = SimpleNamespace(step_min=10)
    opinion = old_job_opinion(DoctorContext(cast(Any, settings), CLEAN, cast(Any, everybody), NOW))
    return opinion.verdict, opinion.found


def test_what_is_loaded_meanwhile_is_ours() -> None:
    assert ask(Loading(NOON_MS))[0] is Verdict.OK


@pytest.mark.parametrize(
    ("given_ms", "theirs_ms"),
    [
        (NOON_MS, NOON_MS + 60_000),
        # Nothing was loaded yet: only what came within the last two steps is a sign that somebody writes.
        (None, NOON_MS - 60_000),
    ],
)
def test_what_is_newer_than_all_that_we_gave_is_somebody_elses(given_ms: int | None, theirs_ms: int) -> None:
    verdict, found = ask(Loading(given_ms, [theirs_ms]))
    assert verdict is Verdict.FAIL
    assert "rows of stg.codes on h are newer than any version we gave" in found


def test_old_rows_of_a_job_that_is_gone_are_no_sign() -> None:
    assert ask(Loading(None, [NOON_MS - 21 * 60_000]))[0] is Verdict.OK
