"""From a Phoenix table's catalog to ClickHouse's table: types, key, time column, and what is refused."""

from __future__ import annotations

import re

import pytest

from etl_tasks.adapters.clickhouse.config import ClickHouseConfig, Host
from etl_tasks.adapters.clickhouse.ddl import Form, TableNames, is_shipped, statements
from etl_tasks.adapters.clickhouse.table_ddl import for_table
from etl_tasks.adapters.phoenix.decode import EXPECTED, decodable
from etl_tasks.core.batch import SourceColumn, TargetColumn
from etl_tasks.core.coerce import CoercionPlan
from etl_tasks.core.source_names import split_source_table
from etl_tasks.core.target_table import TargetTable, design, time_candidates
from etl_tasks.core.target_types import target_type
from etl_tasks.errors import SchemaError, UsageError

C = SourceColumn
KEY = (C("a", "VARCHAR", 1), C("n", "UNSIGNED_LONG", 2, nullable=False), C("at", "TIMESTAMP", 3, nullable=False))
ALL_TYPES = [*EXPECTED, *(f"{kind} ARRAY" for kind in EXPECTED)]


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (C("x", "VARCHAR"), "Nullable(String)"),
        (C("x", "CHAR", size=4), "Nullable(String)"),
        (C("x", "BINARY", size=3), "Nullable(String)"),
        (C("x", "UNSIGNED_LONG"), "Nullable(UInt64)"),
        (C("x", "UNSIGNED_LONG", 2), "UInt64"),
        (C("x", "DECIMAL"), "Nullable(Decimal(76, 38))"),
        (C("x", "DECIMAL", size=12, scale=3), "Nullable(Decimal(12, 3))"),
        (C("x", "DECIMAL", 1, 5, 0), "Decimal(5, 0)"),
        (C("x", "DECIMAL ARRAY", size=9, scale=2), "Array(Decimal(9, 2))"),
        (C("x", "FLOAT"), "Nullable(Float32)"),
        (C("x", "DATE"), "Nullable(DateTime64(3, 'UTC'))"),
        (C("x", "UNSIGNED_TIMESTAMP", 1), "DateTime64(3, 'UTC')"),
        (C("x", "DOUBLE ARRAY"), "Array(Float64)"),
        (C("x", "UNSIGNED_INT ARRAY"), None),
        (C("x", "JSON"), None),
    ],
)
def test_a_type_that_holds_every_value(column: SourceColumn, expected: str | None) -> None:
    assert target_type(column) == expected


def test_what_is_chosen_can_be_read_and_coerced_and_nothing_readable_is_left_out() -> None:
    for kind in ALL_TYPES:
        for column in (C("x", kind), C("x", kind, 4)):
            chosen = target_type(column)
            assert (chosen is not None) == decodable(kind), kind
            if chosen is None or (kind.endswith(" ARRAY") and column.key_position):
                continue
            targets = [TargetColumn(key.name, str(target_type(key))) for key in KEY]
            CoercionPlan.build([*KEY, column], [*targets, TargetColumn("x", chosen)], datetime64_range_ms=(0, 10**13))


def test_key_and_time_column_are_those_of_the_primary_key() -> None:
    table = design([*KEY, C("v", "INTEGER"), C("w", "UNSIGNED_INT ARRAY")], "T")
    assert table.columns == (
        ("a", "String"),
        ("n", "UInt64"),
        ("at", "DateTime64(3, 'UTC')"),
        ("v", "Nullable(Int32)"),
    )
    assert (table.key, table.ts_column, table.ts_units) == (("a", "n", "at"), "at", "timestamp")
    assert table.sharded_by == ("a", "n")
    assert [each.name for each in table.left_out] == ["w"]
    assert design(KEY, "T", key=["n", "at", "a"]).key == ("n", "at", "a")
    assert design([KEY[2]], "T").sharded_by == ("at",)


@pytest.mark.parametrize(
    ("columns", "options", "error", "said"),
    [
        ([*KEY, C("bis", "DATE", 4)], {}, UsageError, "(at, bis)"),
        ([*KEY[:2], C("s", "BIGINT", 3)], {}, UsageError, "(n, s)"),
        ([*KEY[:2], C("s", "BIGINT", 3)], {"ts_column": "s"}, UsageError, "--units millis"),
        ([*KEY[:1], C("s", "INTEGER", 3)], {"ts_column": "s", "ts_units": "millis"}, UsageError, "seconds only"),
        (KEY, {"ts_units": "millis"}, UsageError, "leave --units out"),
        (KEY, {"ts_column": "v"}, UsageError, "n, at"),
        (KEY, {"key": ("a", "at")}, UsageError, "a,n,at"),
        (KEY, {"leave_out": ("zz",)}, UsageError, "no column zz"),
        (KEY, {"leave_out": ("n",)}, SchemaError, "whole primary key"),
        ([*KEY[:1], C("at", "TIMESTAMP")], {}, SchemaError, "holds a time"),
        ([*KEY, C("it's", "INTEGER", 4)], {}, SchemaError, "it's: its name"),
        ([*KEY, C("j", "JSON", 4)], {}, SchemaError, "j: values of JSON"),
        ([C("a", "VARCHAR")], {}, SchemaError, "no primary key"),
    ],
)
def test_what_cannot_be_is_refused_with_what_can(
    columns: list[SourceColumn], options: dict[str, object], error: type[Exception], said: str
) -> None:
    with pytest.raises(error) as raised:
        design(columns, "T", **options)  # type: ignore[arg-type]
    assert said in str(raised.value)


def test_what_is_left_out_says_why_and_what_may_be_null_in_the_key_is_noticed() -> None:
    table = design(
        [
            *KEY,
            C("d", "DECIMAL", 4),
            C("twin", "INTEGER"),
            C("twin", "INTEGER"),
            C("ingested_at", "DATE"),
            C("q,", "DATE"),
        ],
        "T",
        leave_out=(),
    )
    reasons = {each.name: each.reason for each in table.left_out}
    assert reasons.keys() == {"twin", "ingested_at", "q,"}
    assert "more than one column family" in reasons["twin"]
    (notice,) = table.notices
    assert notice.startswith("d of the key may be NULL")


def test_times_come_before_integers_as_candidates() -> None:
    assert time_candidates(KEY) == ["at"]
    assert time_candidates([*KEY[:2], C("i", "INTEGER", 3), C("v", "BIGINT")]) == ["n", "i"]


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("T", ("", "T")),
        ("S.t1", ("S", "t1")),
        ('"S"."t-1"', ("S", "t-1")),
        ('"a.b"', ("", "a.b")),
        ('S."x"', ("S", "x")),
    ],
)
def test_a_source_tables_name_in_its_parts(name: str, parts: tuple[str, str]) -> None:
    assert split_source_table(name) == parts


@pytest.mark.parametrize("name", ["", "a.b.c", "a.", '"a', 'a"b', '""', '" a"', "a\tb"])
def test_no_source_tables_name(name: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - settings and adapters say the rest
        split_source_table(name)


ODD = TargetTable(
    (("k;1", "String"), ("cityHash64(c)", "UInt8"), ("opd", "Int8"), ("at", "X")), ("k;1", "at"), "at", "timestamp"
)
NAMES = TableNames.of(
    ClickHouseConfig(
        hosts=(Host("ch1", 9000),), user="u", password="p", database="db",
        raw_table="db.t_raw_all", clean_table="db.t", clean_all_table="db.t_all", dedup_buf_table="db.t_dedup_buf",
    )
)  # fmt: skip


@pytest.mark.parametrize("form", list(Form))
def test_the_shipped_files_statements_carry_another_table(form: Form) -> None:
    cluster = None if form is Form.NODE else "c1"
    shipped = statements(form, NAMES, cluster)
    text = ";\n".join(for_table(shipped, ODD))
    assert text.count("CREATE TABLE") == ";".join(shipped).count("CREATE TABLE") == 5
    assert text.count("PARTITION BY toYYYYMMDD(`at`)\nORDER BY (`k;1`, `at`)") == 3
    assert "(\n    `k;1` String,\n    `cityHash64(c)` UInt8,\n    `opd` Int8,\n    `at` X,\n    ingested_at" in text
    assert text.count("cityHash64(`k;1`)") == (0 if form is Form.NODE else 2)
    assert "opd_local" not in text
    # CLEAN's rows stay for ever unless asked otherwise; RAW forgets as ever.
    assert re.findall(r"TTL (.*)", text) == ["toDateTime(ingested_at) + INTERVAL 5 DAY DELETE;"]
    with_ttl = ";\n".join(for_table(shipped, ODD, clean_ttl_days=30))
    assert "TTL toDateTime(`at`) + INTERVAL 30 DAY DELETE" in with_ttl


def test_the_shipped_table_is_known_by_its_columns() -> None:
    assert is_shipped(("c", "t", "opd", "id"), "opd")
    assert not is_shipped(("c", "t", "opd", "id"), "emd")
    assert not is_shipped(("c", "t", "opd", "mine"), "opd")
    assert not is_shipped(("t", "opd"), "opd")
