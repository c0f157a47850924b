"""Decoding of frames built from phoenixdb's own protobuf classes."""

from __future__ import annotations

import struct
from decimal import Decimal
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from phoenixdb.avatica.proto import common_pb2, responses_pb2

from etl_tasks.adapters.phoenix.decode import EXPECTED, NULL, cell_value, decodable
from etl_tasks.adapters.phoenix.frame_bytes import Answer, find_answer
from etl_tasks.adapters.phoenix.frames import FrameDecoder, RawFrame, frame_of
from etl_tasks.core.batch import SourceColumn
from etl_tasks.core.columns import in_list
from etl_tasks.errors import SchemaError, ShortRead, StatementLost

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


def answer(message: bytes) -> Answer:
    """The message as it lies in the body of a response."""
    wire = common_pb2.WireMessage(name="x", wrapped_message=message).SerializeToString()
    name, found = find_answer(bytearray(wire))
    assert (name, found.message()) == ("x", message)
    return found


def frame(rows: list[list[Any]]) -> RawFrame:
    """Cells of messages → a frame as the connection finds it."""
    message = common_pb2.Frame(offset=7, done=True, rows=[common_pb2.Row(value=row) for row in rows])
    found = frame_of(answer(responses_pb2.FetchResponse(frame=message).SerializeToString()), first=False, context="")
    assert (found.offset, found.done, found.count, found.not_found) == (7, True, len(rows), "")
    return found


def both_ways(columns: list[SourceColumn], rows: list[list[Any]]) -> tuple[list[list[Any]], str]:
    """The columns, which must be the same by the fast and by the slow way, and why the fast one did not know them."""
    decoder = FrameDecoder(columns)
    decoded, why = decoder.decode(frame(rows), "reading T")
    found = frame(rows)
    found.found = None
    slowly, _ = decoder.decode(found, "reading T")
    assert all(isinstance(column, list) for column in slowly)
    in_lists = [in_list(column) for column in decoded]
    assert in_lists == slowly
    assert [[type(value) for value in column] for column in in_lists] == [
        [type(value) for value in column] for column in slowly
    ]
    return in_lists, why


def decode(kind: str, values: list[Any]) -> list[Any]:
    (column,), _ = both_ways([SourceColumn("x", kind)], [[cell(kind, v)] for v in values])
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
    assert both_ways([SourceColumn("x", "FLOAT ARRAY")], [[value]])[0] == [[[7.25]]]


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
        decoded, why = both_ways([SourceColumn("x", kind)], rows)
        assert decoded == [values] and why


def test_a_column_that_is_not_understood_leaves_the_ones_before_it_as_they_were() -> None:
    """The fast way writes into the frame where NULLs are; the slow way then reads the same bytes."""
    once = cell("BIGINT", 5)
    once.ClearField("value")
    texts: list[Any] = [None, "a", None]
    arrays: list[Any] = [["a", None], None, ["b"]]
    rows = [[cell("VARCHAR", t), cell("VARCHAR ARRAY", a), once] for t, a in zip(texts, arrays, strict=True)]
    kinds = ["VARCHAR", "VARCHAR ARRAY", "BIGINT"]
    decoded, why = both_ways([SourceColumn(kind, kind) for kind in kinds], rows)
    assert decoded == [texts, arrays, [5, 5, 5]] and why.startswith("column BIGINT: ")


def test_rows_become_columns_in_order() -> None:
    columns = [SourceColumn("c", "VARCHAR"), SourceColumn("t", "UNSIGNED_TINYINT")]
    rows = [[cell("VARCHAR", f"row {n}"), cell("UNSIGNED_TINYINT", n % 100)] for n in range(2_000)]
    assert FrameDecoder(columns).names == ("c", "t")
    assert both_ways(columns, rows) == ([[f"row {n}" for n in range(2_000)], [n % 100 for n in range(2_000)]], "")


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
    with pytest.raises(ShortRead, match=r"rows from 7 on.*column x"):
        FrameDecoder([SourceColumn("x", kind)]).decode(frame([[cell(other, value)]] * 2), "reading T")
    with pytest.raises(ShortRead, match="do not have the 2 columns"):
        FrameDecoder([SourceColumn("x", kind), SourceColumn("y", kind)]).decode(
            frame([[cell(kind, None)]]), "reading T"
        )


@pytest.mark.parametrize("bad", [b"a\xff", b"\xc3a", b"\xed\xa0", b"a\xc3"])
def test_bytes_that_are_no_utf8_are_said(bad: bytes) -> None:
    rows = [[cell("VARCHAR", "aa")], [cell("VARCHAR", "bb")]]
    found = frame(rows)
    assert found.answer is not None
    at = found.answer.body.index(b"aa")
    while at >= 0:
        found.answer.body[at : at + 2] = bad
        at = found.answer.body.find(b"aa")
    with pytest.raises(ShortRead, match="column x"):
        FrameDecoder([SourceColumn("x", "VARCHAR")]).decode(found, "reading T")


def test_types_that_cannot_be_sent_are_refused() -> None:
    assert all(decodable(kind) for kind in EXPECTED)
    for kind in ("UNSIGNED_TINYINT ARRAY", "JSON", ""):
        assert not decodable(kind)
        with pytest.raises(SchemaError, match="column x"):
            FrameDecoder([SourceColumn("x", kind)])


def test_the_first_frame_is_found_in_an_execute_response() -> None:
    signature = common_pb2.Signature(sql="SELECT 1")
    first = common_pb2.Frame(rows=[common_pb2.Row(value=[cell("BIGINT", 5)])], done=True)
    result = responses_pb2.ResultSetResponse(statement_id=9, own_statement=True, signature=signature, first_frame=first)
    body = responses_pb2.ExecuteResponse(results=[result]).SerializeToString()
    found = frame_of(answer(body), first=True, context="")
    assert found.found is not None and (found.offset, found.count, found.done) == (0, 1, True)
    assert cell_value(found.rows[0].value[0]) == 5
    columns, why = FrameDecoder([SourceColumn("x", "BIGINT")]).decode(found, "")
    assert ([in_list(column) for column in columns], why) == ([[5]], "")


@pytest.mark.parametrize("flag", ["missing_statement", "missing_results"])
def test_a_forgotten_statement_is_lost(flag: str) -> None:
    whole = responses_pb2.FetchResponse(frame=common_pb2.Frame(rows=[common_pb2.Row(value=[cell("BIGINT", 5)])]))
    setattr(whole, flag, True)
    with pytest.raises(StatementLost, match="reading T: the Query Server forgot the statement"):
        frame_of(answer(whole.SerializeToString()), first=False, context="reading T")
    with pytest.raises(StatementLost, match="forgot the statement before it ran"):
        frame_of(
            answer(responses_pb2.ExecuteResponse(missing_statement=True).SerializeToString()),
            first=True,
            context="reading T",
        )


MIXED = {
    "VARCHAR": st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
    "BIGINT": st.integers(-(2**63), 2**63 - 1),
    "TIMESTAMP": st.integers(-62_135_596_800_000, 400_000_000_000_000),
    "VARCHAR ARRAY": st.lists(st.one_of(st.none(), st.text(st.characters(exclude_categories=["Cs"]), min_size=1))),
    "DOUBLE": st.floats(allow_nan=False),
    "DECIMAL": st.decimals(allow_nan=False, allow_infinity=False),
    "VARBINARY": st.binary(min_size=1),
}
MIXED_COLUMNS = [SourceColumn(f"x{number}", kind) for number, kind in enumerate(MIXED)]
mixed_rows = st.lists(st.tuples(*(st.one_of(st.none(), values) for values in MIXED.values())), min_size=1, max_size=20)


def cells_of(values: list[tuple[Any, ...]]) -> list[list[Any]]:
    return [[cell(kind, value) for kind, value in zip(MIXED, row, strict=True)] for row in values]


@given(mixed_rows)
def test_rows_of_all_types_are_the_same_both_ways(values: list[tuple[Any, ...]]) -> None:
    decoded, _ = both_ways(MIXED_COLUMNS, cells_of(values))
    assert list(zip(*decoded, strict=True)) == values


@given(mixed_rows, st.data())
def test_a_frame_that_is_cut_is_an_error(values: list[tuple[Any, ...]], data: st.DataObject) -> None:
    """Wherever it ends, inside the rows or with lengths that were made to fit: never a shorter answer."""
    rows = [common_pb2.Row(value=row).SerializeToString() for row in cells_of(values)]
    message = b"".join(b"\x1a" + varint(len(row)) + row for row in rows)
    body = b"\x0a" + varint(len(message)) + message
    cut = data.draw(st.integers(1, len(body) - 1))
    with pytest.raises(DecodeError):
        frame_of(answer(body[:cut]), first=False, context="")
    # The last row ends early, and what is around it agrees with that.
    last = rows[-1][: data.draw(st.integers(0, len(rows[-1]) - 1))]
    message = b"".join(b"\x1a" + varint(len(row)) + row for row in [*rows[:-1], last])
    with pytest.raises(ShortRead):
        FrameDecoder(MIXED_COLUMNS).decode(
            frame_of(answer(b"\x0a" + varint(len(message)) + message), first=False, context=""), "reading T"
        )


@given(mixed_rows, st.data())
def test_a_byte_that_changed_is_no_crash_and_no_other_number_of_rows(
    values: list[tuple[Any, ...]], data: st.DataObject
) -> None:
    message = common_pb2.Frame(rows=[common_pb2.Row(value=row) for row in cells_of(values)])
    body = bytearray(responses_pb2.FetchResponse(frame=message).SerializeToString())
    body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = frame_of(answer(bytes(body)), first=False, context="")
    except (DecodeError, StatementLost):
        return
    try:
        decoded, _ = FrameDecoder(MIXED_COLUMNS).decode(found, "reading T")
    except ShortRead:
        return
    assert [len(in_list(column)) for column in decoded] == [found.count] * len(MIXED)


def test_two_values_of_a_cell_are_no_scalar() -> None:
    """Two elements of equal length and no scalar: what a server that sends an array's elements once would send."""
    for kind, elements in {"VARCHAR": ["ab", "cd"], "BIGINT": [300, 301]}.items():
        message = common_pb2.ColumnValue(value=[typed(kind, element) for element in elements])
        with pytest.raises(ShortRead, match="column x"):
            FrameDecoder([SourceColumn("x", kind)]).decode(frame([[message]]), "reading T")


def test_rows_that_cannot_be_parsed_are_a_short_read_with_their_place() -> None:
    row = common_pb2.Row(value=[cell("VARCHAR", "abc"), cell("BOOLEAN", True)]).SerializeToString()
    row = row[:1] + bytes([row[1] + 200 & 127]) + row[2:]
    message = b"\x1a" + varint(len(row)) + row
    found = frame_of(answer(b"\x0a" + varint(len(message)) + message), first=False, context="reading T")
    with pytest.raises(ShortRead, match="reading T: the rows from 0 on cannot be read"):
        FrameDecoder([SourceColumn("x", "VARCHAR"), SourceColumn("y", "BOOLEAN")]).decode(found, "reading T")


def varint(number: int) -> bytes:
    pieces = bytearray()
    while number > 127:
        pieces.append(number & 127 | 128)
        number >>= 7
    return bytes([*pieces, number])


def test_long_arrays_stay_fast() -> None:
    values: list[Any] = [[f"code {n}" for n in range(700)], None, ["я" * 300, None, "a"]]
    decoded, why = both_ways([SourceColumn("x", "VARCHAR ARRAY")], [[cell("VARCHAR ARRAY", v)] for v in values])
    assert (decoded, why) == ([values], "")


def test_what_the_query_server_sends_stays_fast() -> None:
    values = {
        "VARCHAR": [None, "a", "я" * 60, "x" * 123, "x" * 124, "x" * 128, "x" * 16_384, "\0"],
        "BIGINT": [None, 0, -1, 63, 64, 2**62, 2**63 - 1, -(2**63)],
        "TIMESTAMP": [None, 0, -1, 1_754_600_000_123, 253_402_300_800_000, 5, 6, 7],
        "VARCHAR ARRAY": [None, ["a"], ["a", None], ["x" * 200], ["я"], ["a", "b", "c"], ["d"], None],
        "DOUBLE": [None, 0.5, -1e300, 0.0, 1.0, 2.0, 3.0, 4.0],
    }
    rows = [
        list(row) for row in zip(*([cell(kind, v) for v in column] for kind, column in values.items()), strict=True)
    ]
    decoded, why = both_ways([SourceColumn(kind, kind) for kind in values], rows)
    assert (decoded, why) == (list(values.values()), "")
