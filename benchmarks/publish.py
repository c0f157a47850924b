"""A publish of a day, 20 % of whose rows were read twice, beside the other ways to get the latest row of each key.

The bound is the issue's: at least twice as fast as ``argMax`` a column, on two shards and on one node. Every form
writes a table and replaces the partition with it, in one run, the forms taking turns; what each of them left is
compared with a hash that is computed without any of them.
"""

from __future__ import annotations

import argparse
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from clickhouse_driver.errors import ServerException

from benchmarks.generated import KEY, NARROW, VERSION, Cost, GeneratedDay, window_of
from benchmarks.report import Measure
from devstack.stack import Stack

PHOENIX = False
LEAST_SPEED_UP = 2.0
ARGMAX = "argMax a column"
OURS, MORE = "the product, a day's first publish", "the product, ten minutes more of that day"
NARROW_FROM_ROWS = 5_000_000
"""From so many rows on the table has nine columns, so that the day is gigabytes and not tens of them."""


def prepare(stack: Stack) -> None:
    """Nothing is needed beforehand."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The size of the day."""
    parser.add_argument("--publish-rows", type=int, default=2_000_000, metavar="N", help="publish: keys of the day")
    parser.add_argument("--publish-rounds", type=int, default=3, metavar="N", help="publish: measurements of each form")


def run(stack: Stack, scratch: Path, options: argparse.Namespace) -> tuple[Sequence[Measure], Sequence[str]]:
    """Each form ``--publish-rounds`` times, on both shards and on one node. Raises AssertionError when the product's is
    not exact.
    """
    rows: int = options.publish_rows
    columns = NARROW if rows >= NARROW_FROM_ROWS else None
    measures: list[Measure] = []
    for shards in (True, False):
        with GeneratedDay(stack, "publish", rows, columns, shards=shards) as day:
            where = f"{rows:,} keys, {'2 shards' if shards else '1 node'}"
            print(f"  {where}, {len(day.columns)} columns", flush=True)
            measures.extend(_measures(_compare(day, rows, options.publish_rounds), where))
    return measures, _notes(len(day.columns))


@dataclass
class _Form:
    """What one way to publish took, a cost a round, and whether it left what it must."""

    costs: list[Cost] = field(default_factory=list)
    exact: bool = False


def _compare(day: GeneratedDay, rows: int, rounds: int) -> dict[str, _Form]:
    newer = range(rows // 2, rows // 2 + rows // 5)
    day.fill(0, rows, 1)
    day.fill(newer.start, len(newer), 2)
    owed = day.expected(rows, newer)
    windows = {OURS: day.day, MORE: window_of(day, 12 * 60, 10)}
    forms: dict[str, _Form] = defaultdict(_Form)
    for _ in range(rounds):
        day.query(f"TRUNCATE TABLE {day.config.clean_table}", max_table_size_to_drop=0)
        for name, window in windows.items():
            forms[name].costs.append(day.publish(window))
            assert day.found(day.config.clean_table) == owed, f"{name} did not leave what it must"
            forms[name].exact = True
        for name, select in _rivals(day).items():
            try:
                forms[name].costs.append(_replace_by(day, select))
                forms[name].exact = day.found(f"{day.database}.rival_clean") == owed
            except ServerException as error:
                print(f"  {name}: {str(error)[:200]}", flush=True)
        for name, form in forms.items():
            if form.costs:
                print(f"  {name}: {form.costs[-1].seconds:.1f} s, {form.costs[-1].peak_mb:.0f} MB", flush=True)
    return {name: form for name, form in forms.items() if form.costs}


def _rivals(day: GeneratedDay) -> dict[str, str]:
    names, key, raw = ", ".join(day.columns), ", ".join(KEY), day.raw_table
    where = f"WHERE toYYYYMMDD(opd) = {day.partition}"
    rest = [name for name in day.columns if name not in KEY]
    each = ", ".join(name if name in KEY else f"argMax(r.{name}, r.{VERSION})" for name in day.columns)
    picked = ", ".join(name if name in KEY else f"row.{rest.index(name) + 1}" for name in day.columns)
    both = " UNION ALL ".join(
        f"SELECT {names}, {VERSION} FROM {table} {where}" for table in (raw, day.config.clean_table)
    )
    return {
        ARGMAX: f"SELECT {each}, max(r.{VERSION}) FROM {raw} AS r {where} GROUP BY {key}",
        "argMax of the tuple": f"SELECT {picked}, newest FROM (SELECT {key}, "
        f"argMax(tuple({', '.join(rest)}), {VERSION}) AS row, max({VERSION}) AS newest "
        f"FROM {raw} {where} GROUP BY {key})",
        "ORDER BY version DESC LIMIT 1 BY key": f"SELECT {names}, {VERSION} FROM {raw} {where} "
        f"ORDER BY {VERSION} DESC LIMIT 1 BY {key}",
        "RAW FINAL": f"SELECT {names}, {VERSION} FROM {raw} FINAL {where}",
        "RAW and CLEAN, LIMIT 1 BY in key order": f"SELECT {names}, {VERSION} FROM ({both}) "
        f"ORDER BY {key}, {VERSION} DESC LIMIT 1 BY {key}",
    }


def _replace_by(day: GeneratedDay, select: str) -> Cost:
    """What it takes to write the rows into a table and to replace the partition by it."""
    buffer, clean = f"{day.database}.rival", f"{day.database}.rival_clean"
    for table in (buffer, clean):
        day.query(f"DROP TABLE IF EXISTS {table} SYNC", max_table_size_to_drop=0)
        day.query(
            f"CREATE TABLE {table} AS {day.config.clean_table} ENGINE = MergeTree "
            f"PARTITION BY toYYYYMMDD(opd) ORDER BY ({', '.join(KEY)})"
        )
    return day.timed(
        [
            f"INSERT INTO {buffer} ({', '.join((*day.columns, VERSION))}) {select}",
            f"ALTER TABLE {clean} REPLACE PARTITION {day.partition} FROM {buffer}",
        ]
    )


def _measures(forms: dict[str, _Form], where: str) -> list[Measure]:
    seconds = {name: statistics.median(cost.seconds for cost in form.costs) for name, form in forms.items()}
    peaks = {name: statistics.median(cost.peak_mb for cost in form.costs) for name, form in forms.items()}
    cpu = {name: statistics.median(cost.cpu_s for cost in form.costs) for name, form in forms.items()}
    baseline_s = seconds.get(ARGMAX)
    bound = baseline_s / LEAST_SPEED_UP if baseline_s else None
    measures = []
    for name, form in forms.items():
        said = "exact" if form.exact else "WRONG: it skips NULL"
        measures.append(
            Measure(f"{where}: {name}", seconds[name], "s", bound if name == OURS else None, baseline_s, said)
        )
    measures += [Measure(f"{where}: peak memory: {name}", peaks[name], "MB", None, peaks.get(ARGMAX)) for name in forms]
    measures += [
        Measure(f"{where}: CPU of the servers: {name}", cpu[name], "s", None, cpu.get(ARGMAX)) for name in forms
    ]
    return measures


def _notes(columns: int) -> tuple[str, ...]:
    return (
        f"{columns} columns, 20 % of the keys in two versions; RAW merges nothing meanwhile; a shard has half of the "
        "rows, and every form works on both shards side by side",
        "the product merges in one thread a shard, the rivals use every core there is: the 2 shards share this "
        "machine's, and a shard with two cores or more of its own is as the 1 node",
        "the product's times hold its checks and its TTL, the rivals' only INSERT and REPLACE of several parts; ten "
        "minutes more cost the rivals what the day costs them",
        "a statement may hold 3 GB, half of it before it sorts or groups on disk; ratios are to argMax a column",
    )
