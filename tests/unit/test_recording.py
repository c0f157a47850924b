"""Recorded rows of the benchmarks: cut into frames anywhere, and the same rows at other times."""

from __future__ import annotations

import pytest
from phoenixdb.avatica.proto import common_pb2

from benchmarks.recording import START_MS, WINDOW_MS, BadRecording, CannedTable, Recording, parse, row_edges

TIMES = [START_MS + 250_000, START_MS, START_MS + 100_001, START_MS + WINDOW_MS - 1, START_MS + 100_001]
LONG = "x" * 20_000  # its length takes three bytes


def cell(value: str | int) -> common_pb2.ColumnValue:
    if isinstance(value, str):
        typed = common_pb2.TypedValue(type=common_pb2.STRING, string_value=value)
    else:
        typed = common_pb2.TypedValue(type=common_pb2.JAVA_SQL_TIMESTAMP, number_value=value)
    return common_pb2.ColumnValue(value=[typed], scalar_value=typed)


def rows_of(*values: tuple[str, int]) -> bytes:
    """The rows as a frame holds them, by protobuf itself."""
    return common_pb2.Frame(
        rows=[common_pb2.Row(value=[cell(text), cell(moment), cell("end")]) for text, moment in values]
    ).SerializeToString()


def values_of(rows: bytes) -> list[tuple[str, int, int]]:
    """Text, time and the time's second copy of rows, read by protobuf itself."""
    found = []
    for row in common_pb2.Frame.FromString(rows).rows:
        assert row.value[2] == cell("end")
        text, moment = row.value[0], row.value[1]
        found.append((text.scalar_value.string_value, moment.scalar_value.number_value, moment.value[0].number_value))
    return found


@pytest.fixture
def recording() -> Recording:
    return parse(rows_of(*zip(("a", LONG, "", "d", "e"), TIMES, strict=True)), 1)


def test_rows_are_in_order_of_time_and_whole(recording: Recording) -> None:
    assert list(recording.times_ms) == sorted(TIMES)
    first = values_of(recording.rows)[0]
    assert first == (LONG, START_MS, START_MS)
    assert sorted(text for text, _, _ in values_of(recording.rows)) == sorted(["a", LONG, "", "d", "e"])


@pytest.mark.parametrize("by_ms", [0, 1, -1, 86_400_000 * 400, WINDOW_MS])
def test_shifted_rows_are_the_same_at_another_time(recording: Recording, by_ms: int) -> None:
    shifted = values_of(bytes(recording.shifted(by_ms)))
    assert shifted == [(text, moment + by_ms, moment + by_ms) for text, moment, _ in values_of(recording.rows)]


def test_a_shift_out_of_six_bytes_is_refused(recording: Recording) -> None:
    with pytest.raises(BadRecording, match="do not fit into 6 bytes"):
        recording.shifted(10**12)


@pytest.mark.parametrize("most", [1, 2, 3, 4, 10, 11])
def test_frames_of_any_size_hold_all_rows_once_and_in_order(recording: Recording, most: int) -> None:
    start = START_MS + 10 * WINDOW_MS
    table = CannedTable(recording, start, repeats=2)
    spans = table.between(start, start + 2 * WINDOW_MS)
    found, sizes, offset = [], [], 0
    while offset < 10:
        pieces, rows = table.pieces(spans, offset, most)
        found += values_of(b"".join(pieces))
        sizes.append(rows)
        offset += rows
    assert sizes == [most] * (10 // most) + ([10 % most] if 10 % most else [])
    whole = values_of(recording.rows)
    assert found == [
        (text, moment + by, moment + by)
        for by in (10 * WINDOW_MS, 11 * WINDOW_MS)
        for text, moment, _ in whole
    ]  # fmt: skip
    assert table.pieces(spans, 10, most) == ([], 0)


def test_a_window_is_half_open_and_may_lie_across_repeats(recording: Recording) -> None:
    table = CannedTable(recording, START_MS, repeats=2)

    def times(since: int, until: int) -> list[int]:
        pieces, _ = table.pieces(table.between(since, until), 0, 100)
        return [moment for _, moment, _ in values_of(b"".join(pieces))]

    assert times(START_MS, START_MS) == []
    assert times(START_MS + 1, START_MS + 100_001) == []
    assert times(START_MS, START_MS + 1) == [START_MS]
    assert times(START_MS + 250_000, START_MS + WINDOW_MS + 1) == [
        START_MS + 250_000,
        START_MS + WINDOW_MS - 1,
        START_MS + WINDOW_MS,
    ]
    assert times(START_MS + 2 * WINDOW_MS, START_MS + 9 * WINDOW_MS) == []


def test_what_is_no_row_is_refused() -> None:
    rows = rows_of(("a", START_MS))
    with pytest.raises(BadRecording, match="the last row ends at"):
        list(row_edges(rows[:-1]))
    with pytest.raises(BadRecording, match="instead of the tag of a row"):
        list(row_edges(b"\x08\x01" + rows))
    with pytest.raises(BadRecording, match="not a time of 6 bytes"):
        parse(rows, 0)
