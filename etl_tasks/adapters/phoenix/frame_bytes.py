"""Where the rows and the cells of a frame are in its bytes, without parsing them: positions, not copies.

The layout is Avatica's responses.proto and common.proto, read as far as the rows. What is not laid out as the Query
Server does it (``decode`` shows how) raises NotUnderstood; the caller then parses the whole frame the usual way.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_VARINT: Final = 0
_BYTES: Final = 2
_MOST_VARINT_BYTES: Final = 10
PADDING_BYTES: Final = 16
"""Behind a frame: a word may be read at its last byte too."""

# Fields of the messages, as in ``wire``; those of a WireMessage stand around every other.
_WIRE_NAME: Final = 1
_WIRE_WRAPPED: Final = 2
_FETCH_FRAME: Final = 1
_EXECUTE_RESULTS: Final = 1
_RESULT_FRAME: Final = 5
_FRAME_OFFSET: Final = 1
_FRAME_DONE: Final = 2
_FRAME_ROWS: Final = 3
_ROWS_TAG: Final = _FRAME_ROWS << 3 | _BYTES


class NotUnderstood(Exception):
    """The bytes are not laid out as the fast way knows them."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A message of the Query Server in the buffer it came in: from ``start`` to ``end`` of ``body``, which has
    PADDING_BYTES more behind it.
    """

    body: bytearray
    start: int
    end: int

    def message(self) -> bytes:
        """A copy of the message."""
        return bytes(memoryview(self.body)[self.start : self.end])


@dataclass(frozen=True, slots=True)
class FoundFrame:
    """A frame's ``offset`` (the number of its first row) and ``done``, and where in the body each row begins and
    ends.
    """

    offset: int
    done: bool
    starts: list[int]
    ends: list[int]


def find_answer(body: bytearray) -> tuple[str, Answer]:
    """The name and the message in the body of a response (a WireMessage), to which PADDING_BYTES are added.

    Raises NotUnderstood for bytes that end early or are laid out in another way.
    """
    try:
        found = {field: value for field, _, value in _fields(body, 0, len(body))}
    except IndexError:
        raise NotUnderstood("the body ends early") from None
    name, wrapped = found.get(_WIRE_NAME), found.get(_WIRE_WRAPPED)
    if not isinstance(name, tuple) or not isinstance(wrapped, tuple):
        raise NotUnderstood("no WireMessage")
    body += bytes(PADDING_BYTES)
    return body[name[0] : name[1]].decode("ascii", "replace"), Answer(body, *wrapped)


def find_frame(answer: Answer, *, first: bool) -> FoundFrame:
    """The frame in a FetchResponse, or the ``first`` one in an ExecuteResponse.

    Raises NotUnderstood for bytes that end early or are laid out in another way, and for an answer that says more than
    a frame: that its statement is missing.
    """
    span = (answer.start, answer.end)
    path = (_EXECUTE_RESULTS, _RESULT_FRAME) if first else (_FETCH_FRAME,)
    try:
        for number in path:
            found = list(_fields(answer.body, *span))
            spans = [value for field, _, value in found if field == number and isinstance(value, tuple)]
            said = [field for field, kind, value in found if kind == _VARINT and value and number != _RESULT_FRAME]
            if len(spans) != 1 or said:
                raise NotUnderstood(f"{len(spans)} frames, and the fields {said} are set")
            span = spans[0]
        return _frame(answer.body, *span)
    except IndexError:
        raise NotUnderstood("the body ends early") from None


def _frame(body: bytearray, position: int, end: int) -> FoundFrame:
    offset, done = 0, False
    starts: list[int] = []
    ends: list[int] = []
    add_start, add_end = starts.append, ends.append
    while position < end:
        if body[position] == _ROWS_TAG:
            # The walk over all rows: most of them take two bytes for their length.
            size = body[position + 1]
            if size < 128:
                position += 2
            elif (more := body[position + 2]) < 128:
                size = size & 127 | more << 7
                position += 3
            else:
                size, position = _varint(body, position + 1)
            add_start(position)
            position += size
            add_end(position)
            continue
        field, kind, value, position = _field(body, position)
        if (field, kind) == (_FRAME_OFFSET, _VARINT) and isinstance(value, int):
            offset = value
        elif (field, kind) == (_FRAME_DONE, _VARINT):
            done = bool(value)
        elif field in (_FRAME_OFFSET, _FRAME_DONE, _FRAME_ROWS):
            raise NotUnderstood(f"field {field} of a frame is of wire type {kind}")
    if position != end:
        raise NotUnderstood("a row ends behind its frame")
    return FoundFrame(offset, done, starts, ends)


def _fields(body: bytearray, position: int, end: int) -> Iterator[tuple[int, int, int | tuple[int, int]]]:
    while position < end:
        field, kind, value, position = _field(body, position)
        yield field, kind, value
    if position != end:
        raise NotUnderstood("a field ends behind its message")


def _field(body: bytearray, position: int) -> tuple[int, int, int | tuple[int, int], int]:
    """Number, wire type, value (of a varint) or span (of bytes), and what comes next."""
    tag, position = _varint(body, position)
    number, kind = tag >> 3, tag & 7
    value, position = _varint(body, position) if kind in (_VARINT, _BYTES) else (0, -1)
    if position < 0:
        raise NotUnderstood(f"field {number} is of wire type {kind}")
    if kind == _VARINT:
        return number, kind, value, position
    return number, kind, (position, position + value), position + value


def _varint(body: bytearray, position: int) -> tuple[int, int]:
    number = 0
    for shift in range(0, 7 * _MOST_VARINT_BYTES, 7):
        byte = body[position]
        position += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, position
    raise NotUnderstood("a number of more than ten bytes")
