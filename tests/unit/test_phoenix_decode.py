"""Decoding of frames built from phoenixdb's own protobuf classes."""

from __future__ import annotations

import struct
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from phoenixdb.avatica.proto import common_pb2, responses_pb2

from etl_tasks.adapters.phoenix.decode import EXPECTED, NULL, FrameDecoder, cell_value, decodable
from etl_tasks.adapters.phoenix.wire import ExecuteResponse, FetchResponse
from etl_tasks.core.batch import SourceColumn
from etl_tasks.errors import SchemaError, ShortRead, TerminalError

Typed = common_pb2.TypedValue
NUMBERS = {
    "TINYINT": common_pb2.BYTE,
    "UNSIGNED_TINYINT": common_pb2.BYTE,
    "SMALLINT": common_pb2.SHORT,
    "UNSIGNED_SMALLINT": common_pb2.SHORT,
    "INTEGER": common_pb2.INTEGER,
    "UNSIGNED_INT": common_pb2.INTEGER,
    "BIGINT": common_pb2.LONG,
    "UNSIGNED_LONG": common_pb2.LONG,
    "TIMESTAMP": common_pb2.LONG,
    "UNSIGNED_TIMESTAMP": common_pb2.LONG,
    "DATE": common_pb2.LONG,
}


def typed(kind: str, value: Any) -> Any:
    """The value as the Query Server sends it (seen on 6.0)."""
    if value is None:
        return Typed(type=common_pb2.NULL, null=True)
    if kind in ("VARCHAR", "CHAR"):
        return Typed(type=common_pb2.STRING, string_value=value)
    if kind in NUMBERS:
        return Typed(type=NUMBERS[kind], number_value=value)
    if kind in ("DOUBLE", "FLOAT"):
        return Typed(type=common_pb2.DOUBLE, double_value=value)
    if kind == "BOOLEAN":
        return Typed(type=common_pb2.BOOLEAN, bool_value=value)
    if kind == "DECIMAL":
        return Typed(type=common_pb2.BIG_DECIMAL, string_value=str(value))
    assert kind in ("BINARY", "VARBINARY")
    return Typed(type=common_pb2.BYTE_STRING, bytes_value=value, string_value="AP8B")


def cell(kind: str, value: Any) -> Any:
    if kind.endswith(" ARRAY") and value is not None:
        elements = [typed(kind.removesuffix(" ARRAY"), element) for element in value]
        return common_pb2.ColumnValue(value=elements, array_value=elements, has_array_value=True)
    scalar = typed(kind, value)
    return common_pb2.ColumnValue(value=[scalar], scalar_value=scalar)


def frame_rows(rows: list[list[Any]]) -> Any:
    """Cells of messages → rows as ``wire`` parses them."""
    frame = common_pb2.Frame(offset=7, done=True, rows=[common_pb2.Row(value=row) for row in rows])
    data = responses_pb2.FetchResponse(frame=frame).SerializeToString()
    parsed = FetchResponse.FromString(data).frame
    assert (parsed.offset, parsed.done) == (7, True)
    return parsed.rows


def decode(kind: str, values: list[Any]) -> list[Any]:
    (column,) = FrameDecoder([SourceColumn("x", kind)]).decode(
        frame_rows([[cell(kind, v)] for v in values]), 0, "reading T"
    )
    return column


SAMPLES: dict[str, list[Any]] = {
    "VARCHAR": [
        "a",
        "я" * 60,
        "x" * 123,
        "x" * 124,
        "x" * 127,
        "x" * 128,
        "x" * 16_370,
        "x" * 16_384,
        "🧀\0\x1d",
        "x" * 3_000_000,
    ],
    "CHAR": ["ab"],
    **{kind: [0, 1, -1, 63, 64, -64, -65, 127, 2**31 - 1, 2**63 - 1, -(2**63)] for kind in NUMBERS},
    "TIMESTAMP": [0, -1, 1_754_600_000_123, -62_135_596_800_000, 253_402_300_800_000, 10**17],
    "DOUBLE": [0.0, 7.25, -1e308, float("inf")],
    "FLOAT": [0.0, 7.25],
    "BOOLEAN": [True, False],
    "DECIMAL": [Decimal("7.25"), Decimal("-0"), Decimal("12345678901234567890123456789012345678"), Decimal("1E-30")],
    "BINARY": [b"\0\xff\1"],
    "VARBINARY": [b"\0", b"x" * 300],
    "VARCHAR ARRAY": [["a", "б" * 200], [None], ["a", None, "b"], [], ["x" * 123, "x" * 124], ["", "a"]],
    "CHAR ARRAY": [["ab"]],
    "INTEGER ARRAY": [[1, 0, -5], []],
    "BIGINT ARRAY": [[2**63 - 1]],
    "DECIMAL ARRAY": [[Decimal("1.5"), None]],
    "DOUBLE ARRAY": [[0.5]],
    "BOOLEAN ARRAY": [[True, False]],
    "TIMESTAMP ARRAY": [[1_577_934_245_678, -1]],
    "DATE ARRAY": [[1_577_934_245_000]],
}


@pytest.mark.parametrize("kind", SAMPLES)
def test_every_type_comes_back_whole(kind: str) -> None:
    values = SAMPLES[kind]
    for sample in (values, [None, *values, None], [*values, None, None] * 3, [None], values[:1]):
        assert decode(kind, sample) == sample


def test_numbers_are_plain_integers() -> None:
    assert [type(value) for value in decode("UNSIGNED_TINYINT", [0, 127])] == [int, int]


def test_null_is_always_the_same_bytes() -> None:
    assert cell("VARCHAR", None).SerializeToString() == NULL
    assert cell_value(NULL) is None


def test_the_elements_of_a_float_array_are_bits() -> None:
    bits = struct.unpack("<i", struct.pack("<f", 7.25))[0]
    element = Typed(type=common_pb2.FLOAT, number_value=bits)
    value = common_pb2.ColumnValue(value=[element], array_value=[element], has_array_value=True)
    assert FrameDecoder([SourceColumn("x", "FLOAT ARRAY")]).decode(frame_rows([[value]]), 0, "") == [[[7.25]]]


def test_an_array_in_a_late_row_is_whole() -> None:
    """FACTS: phoenixdb gives [b'', b''] there, since it believes the signature's component type."""
    values: list[Any] = [None] * 6_000
    values[250] = values[2_503] = values[5_000] = ["010460…", "я", None]
    assert decode("VARCHAR ARRAY", values) == values


@given(st.lists(st.one_of(st.none(), st.text(st.characters(exclude_categories=["Cs"]), min_size=1)), min_size=1))
def test_texts(values: list[str | None]) -> None:
    assert decode("VARCHAR", values) == values


@given(st.lists(st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)), min_size=1))
def test_numbers(values: list[int | None]) -> None:
    assert decode("BIGINT", values) == values


@given(
    st.lists(
        st.one_of(
            st.none(), st.lists(st.one_of(st.none(), st.text(st.characters(exclude_categories=["Cs"]), min_size=1)))
        ),
        min_size=1,
    )
)
def test_arrays_of_texts(values: list[list[str | None] | None]) -> None:
    assert decode("VARCHAR ARRAY", values) == values


def test_a_server_that_sends_each_value_once_is_read_too() -> None:
    kinds: dict[str, list[Any]] = {
        "VARCHAR": ["a", "x" * 200, None],
        "BIGINT": [5, 0, None],
        "VARCHAR ARRAY": [["a"], [], None],
    }
    for kind, values in kinds.items():
        rows = []
        for value in values:
            message = cell(kind, value)
            message.ClearField("value")
            rows.append([message])
        assert FrameDecoder([SourceColumn("x", kind)]).decode(frame_rows(rows), 0, "") == [values]


def test_rows_become_columns_in_order() -> None:
    columns = [SourceColumn("c", "VARCHAR"), SourceColumn("t", "UNSIGNED_TINYINT")]
    rows = frame_rows([[cell("VARCHAR", f"row {n}"), cell("UNSIGNED_TINYINT", n % 100)] for n in range(2_000)])
    decoder = FrameDecoder(columns)
    assert decoder.names == ("c", "t")
    assert decoder.decode(rows, 0, "") == [[f"row {n}" for n in range(2_000)], [n % 100 for n in range(2_000)]]
    assert decoder.decode([], 0, "") == [[], []]


@pytest.mark.parametrize(
    ("kind", "other"),
    [
        ("BIGINT", "VARCHAR"),
        ("VARCHAR", "BIGINT"),
        ("VARCHAR", "VARCHAR ARRAY"),
        ("VARCHAR ARRAY", "VARCHAR"),
        ("BOOLEAN", "DOUBLE"),
    ],
)
def test_rows_of_another_statement_are_refused(kind: str, other: str) -> None:
    value = SAMPLES[other][0]
    with pytest.raises(ShortRead, match=r"rows from 40 on.*column x"):
        FrameDecoder([SourceColumn("x", kind)]).decode(frame_rows([[cell(other, value)]] * 2), 40, "reading T")
    with pytest.raises(ShortRead, match="do not have the 2 columns"):
        FrameDecoder([SourceColumn("x", kind), SourceColumn("y", kind)]).decode(
            frame_rows([[cell(kind, None)]]), 0, "reading T"
        )


def test_bytes_that_are_no_utf8_are_said() -> None:
    row = cell("VARCHAR", "aa").SerializeToString().replace(b"aa", b"a\xff")
    frame = FetchResponse()
    frame.frame.rows.add(value=[row])
    with pytest.raises((TerminalError, ShortRead), match="column x"):
        FrameDecoder([SourceColumn("x", "VARCHAR")]).decode(frame.frame.rows, 0, "reading T")


def test_types_that_cannot_be_sent_are_refused() -> None:
    assert all(decodable(kind) for kind in EXPECTED)
    for kind in ("UNSIGNED_TINYINT ARRAY", "JSON", ""):
        assert not decodable(kind)
        with pytest.raises(SchemaError, match="column x"):
            FrameDecoder([SourceColumn("x", kind)])


def test_the_first_frame_is_found_in_an_execute_response() -> None:
    signature = common_pb2.Signature(sql="SELECT 1")
    frame = common_pb2.Frame(rows=[common_pb2.Row(value=[cell("BIGINT", 5)])], done=True)
    result = responses_pb2.ResultSetResponse(statement_id=9, own_statement=True, signature=signature, first_frame=frame)
    parsed = ExecuteResponse.FromString(responses_pb2.ExecuteResponse(results=[result]).SerializeToString())
    assert parsed.results[0].statement_id == 9 and parsed.results[0].first_frame.done
    assert common_pb2.Signature.FromString(parsed.results[0].signature).sql == "SELECT 1"
    assert cell_value(parsed.results[0].first_frame.rows[0].value[0]) == 5
