"""The coercion table: every pair of FACTS' table, extremes and misfits."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl_tasks.core.batch import ColumnBatch, SourceColumn, TargetColumn
from etl_tasks.core.coerce import (
    PARTITION_RANGE_MS,
    VALUE_TEXT_LIMIT,
    CoercedBatch,
    CoercionPlan,
    drop_repeats,
    value_text,
    visible,
)
from etl_tasks.core.columns import in_list
from etl_tasks.errors import SchemaError
from tests.unit.byte_columns import as_bytes

YEARS_1_TO_9999 = (-62_135_596_800_000, 253_402_300_799_999)
KEY = (SourceColumn("c", "VARCHAR", 1), SourceColumn("t", "UNSIGNED_TINYINT", 2), SourceColumn("opd", "TIMESTAMP", 3))
KEY_TARGET = (
    TargetColumn("c", "String"),
    TargetColumn("t", "UInt8"),
    TargetColumn("opd", "DateTime64(3, 'UTC')"),
    TargetColumn("ingested_at", "DateTime64(3, 'UTC')"),
    TargetColumn("opd_local_date", "Date", "MATERIALIZED"),
)
OPD = 1_754_600_000_000

VARCHARS = (
    "id", "did", "rid", "rinn", "rn", "sid", "sinn", "sn", "gt", "prid", "p", "o", "pn", "b", "j", "pvad", "ag",
)  # fmt: skip
FACTS_TABLE = [
    *[(name, "VARCHAR", "Nullable(String)") for name in VARCHARS],
    *[(name, "UNSIGNED_TINYINT", "Nullable(UInt8)") for name in ("st", "ste", "elr", "pt", "et")],
    *[(name, "TIMESTAMP", "Nullable(DateTime64(3, 'UTC'))") for name in ("emd", "apd", "exd", "tm")],
    ("tt", "BIGINT", "Nullable(Int64)"),
    ("ch", "VARCHAR ARRAY", "Array(String)"),
    ("pg", "UNSIGNED_SMALLINT", "Nullable(UInt16)"),
]


def coerce(source: str, target: str, values: list[Any], **options: Any) -> CoercedBatch:
    """Column ``x`` of the two types beside a key that fits."""
    plan = CoercionPlan.build(
        [*KEY, SourceColumn("x", source)],
        [*KEY_TARGET, TargetColumn("x", target)],
        **{"datetime64_range_ms": YEARS_1_TO_9999, **options},
    )
    count = len(values)
    columns: list[list[Any]] = [["code"] * count, [1] * count, [OPD + row for row in range(count)], values]
    found = plan.apply(ColumnBatch(["c", "t", "opd", "x"], [*columns], count, 100 * count))
    in_bytes = plan.apply(ColumnBatch(["c", "t", "opd", "x"], [as_bytes(column) for column in columns], count))
    # A column that stays bytes is coerced to the same values, with the same misfits.
    assert [in_list(column) for column in in_bytes.batch.columns] == found.batch.columns
    assert in_bytes.misfits == found.misfits
    return found


def fits(source: str, target: str, values: list[Any]) -> list[Any]:
    result = coerce(source, target, values)
    assert result.misfits == []
    assert result.batch.rows == len(values)
    return result.batch.column("x")


def misfit(source: str, target: str, value: Any) -> str:
    """The reason why the value does not fit; the row before and the row after it stay."""
    candidates: tuple[Any, ...] = (None, 0, "", [], False, Decimal(0))
    good = next(candidate for candidate in candidates if _accepted(source, target, candidate))
    result = coerce(source, target, [good, value, good])
    assert [(m.key, m.column) for m in result.misfits] == [(("code", 1, "2025-08-07T20:53:20.001Z"), "x")]
    assert result.misfits[0].value_text == value_text(value)
    assert result.batch.rows == 2 and [len(column) for column in result.batch.columns] == [2, 2, 2, 2]
    assert result.batch.column("opd") == [OPD, OPD + 2]
    return result.misfits[0].reason


def _accepted(source: str, target: str, value: Any) -> bool:
    try:
        return not coerce(source, target, [value]).misfits
    except (TypeError, AttributeError):
        return False


@pytest.mark.parametrize(("name", "source", "target"), FACTS_TABLE)
def test_every_nullable_column_of_the_real_table_passes_null_and_its_values(
    name: str, source: str, target: str
) -> None:
    values: dict[str, list[Any]] = {
        "VARCHAR": ["x", "010460…21'&%\x1d\0", "🧀"],
        "UNSIGNED_TINYINT": [0, 1, 127],
        "UNSIGNED_SMALLINT": [0, 32_767],
        "TIMESTAMP": [*YEARS_1_TO_9999, -1, 0, 253_402_214_400_000],
        "BIGINT": [2**63 - 1, -(2**63), 0],
        "VARCHAR ARRAY": [["a", "б"], []],
    }
    expected = [*values[source], [] if source == "VARCHAR ARRAY" else None]
    assert fits(source, target, [*values[source], None]) == expected, name


def test_a_column_that_fits_is_handed_on_without_a_copy() -> None:
    for source, target, values in (
        ("VARCHAR", "Nullable(String)", ["a", None]),
        ("UNSIGNED_TINYINT", "Nullable(UInt8)", [1, None]),
        ("TIMESTAMP", "Nullable(DateTime64(3, 'UTC'))", [1, None]),
    ):
        assert fits(source, target, values) is values


def test_null_in_the_text_of_the_key_is_the_empty_text() -> None:
    plan = CoercionPlan.build(KEY, KEY_TARGET, datetime64_range_ms=YEARS_1_TO_9999)
    batch = ColumnBatch(["c", "t", "opd"], [[None, "a"], [1, 1], [OPD, OPD]], 2, 20)
    result = plan.apply(batch)
    assert result.misfits == [] and result.batch.column("c") == ["", "a"]
    assert plan.key_of(batch, 0) == plan.key_of(result.batch, 0) == ("", 1, OPD)
    assert batch.column("c") == [None, "a"]


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("VARCHAR", "String"),
        ("UNSIGNED_TINYINT", "UInt8"),
        ("TIMESTAMP", "DateTime64(3, 'UTC')"),
        ("DECIMAL", "Decimal(5, 2)"),
        ("BOOLEAN", "Bool"),
    ],
)
def test_null_into_a_column_that_cannot_hold_it_is_a_misfit(source: str, target: str) -> None:
    result = coerce(source, target, [None])
    assert result.batch.rows == 0
    assert "NULL" in result.misfits[0].reason


@pytest.mark.parametrize("bits", [8, 16, 32, 64, 128, 256])
@pytest.mark.parametrize("source", ["UNSIGNED_TINYINT", "SMALLINT", "UNSIGNED_INT", "BIGINT", "UNSIGNED_LONG"])
def test_integers_are_held_to_the_range_of_their_target(source: str, bits: int) -> None:
    for target, low, high in ((f"UInt{bits}", 0, 2**bits - 1), (f"Int{bits}", -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)):
        assert fits(source, target, [low, high]) == [low, high]
        assert fits(source, f"LowCardinality(Nullable({target}))", [low, None]) == [low, None]
        for value in (low - 1, high + 1):
            assert f"{value} is outside" in misfit(source, f"Nullable({target})", value)


def test_300_into_uint8_is_a_misfit_and_not_44() -> None:
    assert misfit("UNSIGNED_SMALLINT", "Nullable(UInt8)", 300) == "300 is outside 0 .. 255 of UInt8"


@given(st.lists(st.one_of(st.none(), st.integers(-(2**70), 2**70))))
def test_integers_in_range_come_out_as_they_went_in_and_the_others_are_named(values: list[int | None]) -> None:
    result = coerce("BIGINT", "Nullable(Int64)", values)
    inside = [value for value in values if value is None or -(2**63) <= value < 2**63]
    assert result.batch.column("x") == inside
    assert [m.value_text for m in result.misfits] == [str(v) for v in values if v is not None and v not in inside]
    assert result.batch.rows == len(inside) == len(result.batch.column("c"))


def test_times_stay_milliseconds_within_the_servers_range() -> None:
    narrow = {"datetime64_range_ms": (-2_208_988_800_000, 10_413_791_999_999)}
    result = coerce(
        "TIMESTAMP", "Nullable(DateTime64(3, 'UTC'))", [-2_208_988_800_000, 10_413_791_999_999, None], **narrow
    )
    assert result.misfits == []
    result = coerce("TIMESTAMP", "Nullable(DateTime64(3, 'UTC'))", [10_413_792_000_000, 0], **narrow)
    assert result.batch.column("x") == [0] and len(result.misfits) == 1
    misfit("TIMESTAMP", "Nullable(DateTime64(3))", YEARS_1_TO_9999[1] + 1)


def test_the_partition_column_is_held_to_1970_until_2105() -> None:
    plan = CoercionPlan.build(KEY, KEY_TARGET, datetime64_range_ms=YEARS_1_TO_9999)
    low, high = 0, int(datetime(2106, 1, 1, tzinfo=UTC).timestamp()) * 1_000 - 1
    assert (low, high) == PARTITION_RANGE_MS
    times = [low - 1, low, high, high + 1]
    result = plan.apply(ColumnBatch(["c", "t", "opd"], [list("abcd"), [1] * 4, times], 4, 400))
    assert result.batch.column("opd") == [low, high] and result.batch.approximate_bytes == 200
    assert [(m.key, m.column) for m in result.misfits] == [
        (("a", 1, "1969-12-31T23:59:59.999Z"), "opd"),
        (("d", 1, "2106-01-01T00:00:00.000Z"), "opd"),
    ]


def test_times_of_other_precisions_are_floored_or_scaled() -> None:
    assert fits("TIMESTAMP", "DateTime64(6)", [1_500]) == [1_500_000]
    assert fits("TIMESTAMP", "DateTime64(0)", [-1, 1_999]) == [-1, 1]
    assert fits("TIMESTAMP", "DateTime64(9, 'UTC')", [-1]) == [-1_000_000]
    misfit("TIMESTAMP", "Nullable(DateTime64(9))", 9_223_372_036_855)
    assert fits("TIMESTAMP", "Nullable(DateTime('UTC'))", [0, 1_999, None, 4_294_967_295_999]) == [
        0,
        1,
        None,
        4_294_967_295,
    ]
    misfit("TIMESTAMP", "Nullable(DateTime)", -1)
    misfit("TIMESTAMP", "Nullable(DateTime)", 4_294_967_296_000)
    assert fits("DATE", "Date", [0, 86_399_999]) == [date(1970, 1, 1)] * 2
    assert fits("DATE", "Date32", [-1, None][:1]) == [date(1969, 12, 31)]
    misfit("DATE", "Nullable(Date)", -1)
    misfit("DATE", "Nullable(Date32)", 10_413_792_000_000)


def test_decimals_keep_every_digit_or_are_misfits() -> None:
    good = [Decimal("999.99"), Decimal("-999.990000"), Decimal("1E+2"), Decimal("0"), Decimal("0E-20"), None]
    assert fits("DECIMAL", "Nullable(Decimal(5, 2))", good) == good
    assert "behind the point" in misfit("DECIMAL", "Nullable(Decimal(5, 2))", Decimal("0.005"))
    assert "before the point" in misfit("DECIMAL", "Nullable(Decimal(5, 2))", Decimal("1000"))
    assert "before the point" in misfit("DECIMAL", "Nullable(Decimal(5, 2))", Decimal("1E+3"))
    misfit("DECIMAL", "Nullable(Decimal32(2))", Decimal("12345678.9"))
    assert fits("DECIMAL", "Decimal64(2)", [Decimal("12345678.9")]) == [Decimal("12345678.9")]
    assert fits("DECIMAL", "Float64", [Decimal("0.1")]) == [0.1]
    misfit("DECIMAL", "Nullable(Float64)", Decimal("1E+400"))
    assert fits("DECIMAL", "String", [Decimal("1E+3"), Decimal("-0.10")]) == ["1000", "-0.10"]


@given(st.decimals(allow_nan=False, allow_infinity=False, places=6, min_value=-(10**12), max_value=10**12))
def test_a_decimal_that_passes_is_equal_after_rounding_to_the_scale(value: Decimal) -> None:
    result = coerce("DECIMAL", "Decimal(10, 3)", [value])
    holds = value == value.quantize(Decimal("0.001")) and abs(value) < 10**7
    assert (result.batch.rows == 1) == holds


def test_fractions_booleans_and_bytes() -> None:
    assert fits("DOUBLE", "Nullable(Float64)", [1e308, None, float("inf")]) == [1e308, None, float("inf")]
    assert fits("FLOAT", "Float32", [3.4e38, float("-inf")]) == [3.4e38, float("-inf")]
    misfit("DOUBLE", "Nullable(Float32)", 1e39)
    assert fits("BOOLEAN", "Bool", [True, False]) == [True, False]
    numbers = fits("BOOLEAN", "Nullable(UInt8)", [True, False, None])
    assert numbers == [1, 0, None] and type(numbers[0]) is int
    assert fits("VARBINARY", "String", [b"\0\xff"]) == [b"\0\xff"]
    assert fits("BINARY", "Nullable(FixedString(2))", [b"\0\xff", None]) == [b"\0\xff", None]
    assert "3 bytes" in misfit("VARBINARY", "Nullable(FixedString(2))", b"abc")


def test_texts_into_fixed_strings_count_bytes() -> None:
    assert fits("VARCHAR", "FixedString(4)", ["яя", "abcd", "x"]) == ["яя", "abcd", "x"]
    assert "5 bytes" in misfit("VARCHAR", "Nullable(FixedString(4))", "яяx")
    assert fits("CHAR", "LowCardinality(String)", ["a"]) == ["a"]


def test_arrays_of_every_element() -> None:
    assert fits("VARCHAR ARRAY", "Array(String)", [None, ["a", None], [], ["b"]]) == [[], ["a", ""], [], ["b"]]
    assert fits("VARCHAR ARRAY", "Array(Nullable(String))", [["a", None]]) == [["a", None]]
    assert fits("VARCHAR ARRAY", "Array(LowCardinality(String))", [["a", None]]) == [["a", ""]]
    assert fits("INTEGER ARRAY", "Array(Int32)", [[1, 2], None]) == [[1, 2], []]
    assert fits("TIMESTAMP ARRAY", "Array(DateTime)", [[1_000], [2_000, 3_000]]) == [[1], [2, 3]]
    assert "element 2" in misfit("INTEGER ARRAY", "Array(UInt8)", [1, 2, 300])
    assert "element 0: NULL" in misfit("DECIMAL ARRAY", "Array(Decimal(5, 2))", [None])
    assert "element 1" in misfit("VARCHAR ARRAY", "Array(FixedString(1))", ["a", "bb"])


@given(st.lists(st.one_of(st.none(), st.lists(st.one_of(st.none(), st.text(max_size=3)), max_size=4))))
def test_arrays_of_text_lose_nothing_but_null(values: list[list[str | None] | None]) -> None:
    expected = [[element or "" for element in value or []] for value in values]
    assert fits("VARCHAR ARRAY", "Array(String)", values) == expected


def test_all_pairs_without_a_rule_are_named_at_once() -> None:
    source = [
        *KEY,
        *(SourceColumn(name, kind) for name, kind in (("a", "VARCHAR"), ("b", "BIGINT"), ("d", "X"), ("e", "DATE"))),
    ]
    target = [
        *KEY_TARGET,
        TargetColumn("a", "UInt8"),
        TargetColumn("b", "Nullable(String)"),
        TargetColumn("d", "String"),
        TargetColumn("opd_local", "DateTime", "ALIAS"),
    ]
    with pytest.raises(SchemaError) as raised:
        CoercionPlan.build(
            [*source, SourceColumn("opd_local", "DATE"), SourceColumn("z", "INTEGER ARRAY", 4)],
            [*target, TargetColumn("z", "Array(Int32)")],
            key=("c", "z", "y"),
            datetime64_range_ms=YEARS_1_TO_9999,
        )
    for part in (
        "a: VARCHAR",
        "b: BIGINT",
        "d: X",
        "e: the target has no such column",
        "opd_local",
        "key column z",
        "key column y",
    ):
        assert part in str(raised.value)


@pytest.mark.parametrize(
    "target", ["Array(String)", "Nothing", "Nullable(Array(UInt8))", "Map(String, String)", "(", ""]
)
def test_odd_targets_have_no_rule(target: str) -> None:
    with pytest.raises(SchemaError):
        coerce("BIGINT", target, [])


def test_two_misfits_of_a_row_are_two_entries_and_the_row_goes_once() -> None:
    plan = CoercionPlan.build(KEY, KEY_TARGET, datetime64_range_ms=YEARS_1_TO_9999)
    result = plan.apply(ColumnBatch(["c", "t", "opd"], [["a\0b"], [300], [-5]], 1, 10))
    assert [m.column for m in result.misfits] == ["t", "opd"] and result.batch.rows == 0
    assert result.misfits[0].key == ("a\\0b", 300, "1969-12-31T23:59:59.995Z")


@given(st.one_of(st.text(), st.binary(), st.integers(), st.lists(st.text())))
def test_texts_for_postgresql_are_bounded_and_without_zero_bytes(value: object) -> None:
    text = value_text(value)
    assert len(text) <= VALUE_TEXT_LIMIT and "\0" not in text
    text.encode()


def test_lone_surrogates_and_zero_bytes_are_shown() -> None:
    assert visible("a\ud800\0") == "a\\ud800\\0"
    assert len(visible("\0" * 500)) == VALUE_TEXT_LIMIT


def test_the_last_row_of_a_key_wins_and_the_order_stays() -> None:
    batch = ColumnBatch(["c", "t", "x"], [["a", "b", "a", "c"], [1, 1, 1, 1], [1, 2, 3, 4]], 4, 40)
    in_bytes = ColumnBatch(batch.names, [as_bytes(column) for column in batch.columns], 4, 40)
    for each in (batch, in_bytes):
        result, hashes = drop_repeats(each, ("c", "t"))
        assert [in_list(column) for column in result.columns] == [["b", "a", "c"], [1, 1, 1], [2, 3, 4]]
        assert result.rows == 3 == len(set(hashes.tolist()))
        again, hashes = drop_repeats(result, ("c", "t"))
        assert again is result and len(hashes) == 3


def test_a_batch_of_other_columns_is_refused() -> None:
    plan = CoercionPlan.build(KEY, KEY_TARGET, datetime64_range_ms=YEARS_1_TO_9999)
    with pytest.raises(SchemaError):
        plan.apply(ColumnBatch(["t", "c", "opd"], [[], [], []], 0, 0))
