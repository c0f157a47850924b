"""Rows recorded from a real Query Server, byte by byte, and the same rows again at other times.

A recording is a directory: ``rows.bin`` holds the rows as they stood in the server's frames (field 3 of Avatica's
Frame, tag and length included), in order of their time; beside it the server's own answers about the statement
(``signature.bin``), about the table's columns (``columns.bin``) and to EXPLAIN (``explain.bin``). All rows lie in one
window, which begins at START_MS. ``shifted`` gives them at another time: the varints of the time column are written
over in place, which their fixed width of 6 bytes allows (all times from 2004 to 2039); so the keys are other keys, and
nothing else of a row is.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

ROWS_TAG = 0x1A
VALUE_TAG = 0x0A
SCALAR_TAG = 0x22
NUMBER_TAG = 0x20
TIME_BYTES = 6
START_MS = 1_754_611_200_000  # 2025-08-08T00:00:00Z
WINDOW_MS = 300_000


class BadRecording(ValueError):
    """The bytes are not rows as the Query Server sends them."""


@dataclass(frozen=True)
class Recording:
    """``rows`` as one piece, ``edges`` of the rows in it (one more than rows), their ``times_ms`` in growing order, and
    ``places``: where each row's two copies of its time stand.
    """

    rows: bytes
    edges: Sequence[int]
    times_ms: Sequence[int]
    places: Sequence[tuple[int, int]]
    signature: bytes = b""
    columns: bytes = b""
    explain: bytes = b""

    def __len__(self) -> int:
        return len(self.times_ms)

    def shifted(self, by_ms: int) -> bytearray:
        """The rows with ``by_ms`` added to every time; raises BadRecording when a time would take another width."""
        shifted = bytearray(self.rows)
        times = np.array(self.times_ms, dtype=np.int64) + by_ms
        zigzag = times.astype(np.uint64) << np.uint64(1)
        if len(times) and not (times.min() >= 1 << 34 and int(zigzag.max()) < 1 << 7 * TIME_BYTES):
            raise BadRecording(f"times shifted by {by_ms} ms do not fit into {TIME_BYTES} bytes of varint")
        view = np.frombuffer(shifted, dtype=np.uint8)
        places = np.array(self.places, dtype=np.int64).reshape(-1, 2)
        for byte in range(TIME_BYTES):
            piece = (zigzag >> np.uint64(7 * byte)) & np.uint64(0x7F)
            if byte < TIME_BYTES - 1:
                piece |= np.uint64(0x80)
            view[places + byte] = piece.astype(np.uint8)[:, None]
        return shifted

    def rows_between(self, since_ms: int, until_ms: int) -> tuple[int, int]:
        """The first row and the row after the last one of the half-open window."""
        return bisect_left(self.times_ms, since_ms), bisect_left(self.times_ms, until_ms)


def varint(number: int) -> bytes:
    """A whole number as protobuf writes it."""
    pieces = bytearray()
    while number > 127:
        pieces.append(number & 127 | 128)
        number >>= 7
    pieces.append(number)
    return bytes(pieces)


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """The number that begins at ``at``, and where it ends; raises BadRecording when it is cut off."""
    number = shift = 0
    while True:
        if at >= len(data):
            raise BadRecording(f"the bytes end within a number at {at}")
        byte = data[at]
        number |= (byte & 127) << shift
        at += 1
        if byte < 128:
            return number, at
        shift += 7


def row_edges(rows: bytes) -> Iterator[int]:
    """Where each row begins, and after them where the last one ends; raises BadRecording for anything but rows."""
    at = 0
    while at < len(rows):
        yield at
        if rows[at] != ROWS_TAG:
            raise BadRecording(f"byte {at} is {rows[at]:#x} instead of the tag of a row")
        size, at = read_varint(rows, at + 1)
        at += size
    if at != len(rows):
        raise BadRecording(f"the last row ends at {at}, the bytes at {len(rows)}")
    yield at


def time_places(rows: bytes, at: int, column: int) -> tuple[int, int]:
    """Where the two copies of the time in ``column`` stand in the row that begins at ``at``; raises BadRecording."""
    _, at = read_varint(rows, at + 1)
    for position in range(column + 1):
        if rows[at] != VALUE_TAG:
            raise BadRecording(f"byte {at} is {rows[at]:#x} instead of the tag of column {position}")
        size, begin = read_varint(rows, at + 1)
        at = begin + size
    # value: tag, length, type (2 bytes), tag of the number, the number; then scalar_value, the same once more.
    half = 5 + TIME_BYTES
    tags = [rows[begin + offset] for offset in (0, 4, half, half + 4)]
    if size != 2 * half or tags != [VALUE_TAG, NUMBER_TAG, SCALAR_TAG, NUMBER_TAG]:
        raise BadRecording(f"column {column} of the row at byte {begin} is not a time of {TIME_BYTES} bytes")
    return begin + 5, begin + half + 5


def time_at(rows: bytes, place: int) -> int:
    """The time in milliseconds that stands at ``place``."""
    zigzag, _ = read_varint(rows, place)
    return zigzag >> 1


def parse(rows: bytes, column: int, **answers: bytes) -> Recording:
    """A recording of rows as they stand in frames, put in order of the time in ``column``; raises BadRecording."""
    edges = list(row_edges(rows))
    pieces = sorted((time_at(rows, time_places(rows, at, column)[0]), rows[at:end]) for at, end in pairwise(edges))
    ordered = b"".join(piece for _, piece in pieces)
    edges = list(row_edges(ordered))
    return Recording(
        rows=ordered,
        edges=edges,
        times_ms=[moment for moment, _ in pieces],
        places=[time_places(ordered, at, column) for at in edges[:-1]],
        **answers,
    )


ANSWERS = ("signature", "columns", "explain")


def load(directory: Path, column: int) -> Recording:
    """The recording kept in ``directory``; raises FileNotFoundError and BadRecording."""
    answers = {name: (directory / f"{name}.bin").read_bytes() for name in ANSWERS}
    return parse((directory / "rows.bin").read_bytes(), column, **answers)


def save(directory: Path, rows: bytes, **answers: bytes) -> None:
    """Keep a recording; the rows come last, so that a recording with rows is whole."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in ANSWERS:
        (directory / f"{name}.bin").write_bytes(answers[name])
    draft = directory / "rows.draft"
    draft.write_bytes(rows)
    draft.replace(directory / "rows.bin")


class CannedTable:
    """The recording again and again, ``repeats`` windows of WINDOW_MS one after the other from ``start_ms`` on."""

    def __init__(self, recording: Recording, start_ms: int, repeats: int) -> None:
        self.recording = recording
        self.start_ms = start_ms
        self._shifts = [start_ms - START_MS + turn * WINDOW_MS for turn in range(repeats)]
        self._buffers = [memoryview(recording.shifted(shift)) for shift in self._shifts]

    def between(self, since_ms: int, until_ms: int) -> list[tuple[int, int, int]]:
        """The rows of a window: which repeat, its first row and the one after its last; none is empty."""
        spans = []
        for turn, shift in enumerate(self._shifts):
            low, high = self.recording.rows_between(since_ms - shift, until_ms - shift)
            if low < high:
                spans.append((turn, low, high))
        return spans

    def pieces(self, spans: Sequence[tuple[int, int, int]], offset: int, most: int) -> tuple[list[memoryview], int]:
        """At most ``most`` rows of ``spans`` from row ``offset`` of them on, as bytes of a frame; and how many."""
        found, taken = [], 0
        for turn, low, high in spans:
            rows = high - low
            if offset >= rows:
                offset -= rows
                continue
            count = min(rows - offset, most - taken)
            edges = self.recording.edges
            found.append(self._buffers[turn][edges[low + offset] : edges[low + offset + count]])
            taken, offset = taken + count, 0
            if taken == most:
                break
        return found, taken
