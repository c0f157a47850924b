"""A column of the target that is widened while workers run: no row is rejected for what they had been told before."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from devstack.dataset import MAIN_COLUMNS, Row
from devstack.deployment import Deployment, iso, midnight, ms

Deploy = Callable[..., Deployment]


def test_a_worker_asks_for_the_columns_again_before_it_rejects_a_row(deploy: Deploy) -> None:
    since, until = midnight(1), midnight(1) + timedelta(hours=2)
    middle = since + timedelta(hours=1)
    deployment = deploy("widened", PHX_INITIAL_SLICE_MIN="60", PHX_QUERY_OVERLAP_MINUTES="0")

    def row(number: int, at_ms: int, pg: int) -> Row:
        values: dict[str, object] = dict.fromkeys(MAIN_COLUMNS)
        values |= {"c": f"{number:04d}", "t": 1, "opd": at_ms, "pg": pg}
        return tuple(values[name] for name in MAIN_COLUMNS)  # type: ignore[return-value]

    def alter(type_name: str) -> None:
        for table in ("codes", "codes_dedup_buf", "codes_raw", "codes_raw_all", "codes_all"):
            name = f"{deployment.settings['CH_DB']}.{table}"
            deployment.each_shard(f"ALTER TABLE {name} MODIFY COLUMN pg Nullable({type_name})")

    deployment.upsert([row(i, ms(since) + i, 200) for i in range(20)])
    deployment.upsert([row(i, ms(middle) + i, 300) for i in range(20, 40)])
    alter("UInt8")
    deployment.start_worker(concurrency=1)
    deployment.cli("run", "--since", iso(since), "--until", iso(middle))
    alter("UInt16")

    deployment.cli("run", "--since", iso(middle), "--until", iso(until))

    (only,) = deployment.slices(deployment.runs()[-1].id)
    assert (only.state, only.spent, only.rows_rejected) == ("done", 1, 0)
    assert "columns_asked_again" in deployment.worker_logs(400)
    assert deployment.journal("SELECT * FROM {j}_rejects") == []
    assert deployment.assert_exact(since, until) == 40
