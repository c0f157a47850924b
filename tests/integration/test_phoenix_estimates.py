"""Estimates of the real Query Server: near the truth where the table has statistics, none where it has not."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest

from devstack import overload
from devstack.dataset import MAIN_COLUMNS, DatasetSpec, rows_of
from devstack.phoenix_seed import PhoenixSeeder
from devstack.stack import Stack
from etl_tasks.adapters.phoenix import PhoenixConfig, PhoenixSource
from etl_tasks.core.windows import EPOCH, Window

pytestmark = pytest.mark.integration

TABLE = "IT_PHX_ESTIMATES"
SPEC = DatasetSpec(rows=8_000, days=1, seed=17, until_ms=1_754_697_600_000)
DAY = Window(EPOCH + timedelta(milliseconds=SPEC.start_ms), EPOCH + timedelta(milliseconds=SPEC.until_ms))


@pytest.fixture
def table(stack: Stack) -> Iterator[str]:
    with PhoenixSeeder(stack.env()["PQS_URL"], table=TABLE) as seeder:
        seeder.drop_table()
        seeder.create_table()
        assert seeder.upsert(rows_of(SPEC)) == SPEC.rows
    yield TABLE
    with PhoenixSeeder(stack.env()["PQS_URL"], table=TABLE) as seeder:
        seeder.drop_table()


def test_with_statistics_it_is_near_the_rows_and_without_there_is_none(stack: Stack, table: str) -> None:
    config = PhoenixConfig(
        url=stack.env()["PQS_URL"],
        table=table,
        ts_column="opd",
        columns=MAIN_COLUMNS,
        query_hint=f'INDEX("{table}" "{table}_BY_OPD")',
    )
    source = PhoenixSource(config)
    assert source.estimate(DAY) is None
    source.close()

    overload.arrange(config.url, table)
    stack.set_overload(
        True
    )  # started anew it knows the statistics, and rejects wide scans: EXPLAIN is answered all the same
    source = PhoenixSource(config)
    try:
        whole = source.estimate(DAY)
        assert whole is not None
        assert whole.rows == pytest.approx(SPEC.rows, rel=0.03)
        assert whole.chunks is not None and whole.chunks > 10, "more than pool and queue of the overload form"
        assert whole.as_of is not None and whole.as_of > DAY.end
        for hours in (6, 12):
            window = Window(DAY.end - timedelta(hours=hours), DAY.end)
            part = source.estimate(window)
            true_rows = sum(window.start_ms <= row[2] < window.end_ms for row in rows_of(SPEC))
            # Each end is off by a guidepost at most, some 230 rows.
            assert part is not None and abs(part.rows - true_rows) < 460
        nothing = source.estimate(Window(DAY.end, DAY.end + timedelta(hours=1)))
        assert nothing is not None and nothing.rows == 0
    finally:
        source.close()
        stack.set_overload(False)
