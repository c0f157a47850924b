"""A frame's cells column by column, all rows at once, into columns that stay bytes (``core.columns``).

A cell is ``0a L`` and a ColumnValue of L bytes; how that looks is told in ``decode``. A text of few bytes begins
``0a L 0a LL 08 15 1a NN``, a number ``0a L 0a LL 08 TT 20``, a NULL is always the same: eight bytes tell them apart,
and one numpy operation reads them for all rows. A frame that is laid out otherwise is left to the slow way
(NotUnderstood says why). Texts are copied once, by Arrow, each with the length that stands before it.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from etl_tasks.adapters.phoenix.frame_bytes import FoundFrame, NotUnderstood
from etl_tasks.core.columns import Booleans, IntegerColumn, Integers, TextArrayColumn, TextColumn, bytes_of

Words = npt.NDArray[np.uint64]

_WORD_BYTES: Final = 8
_MOST_ELEMENTS: Final = 10_000
"""Elements of an array: each is a step over all rows."""
_MOST_ARROW_BYTES: Final = 2**31 - 1


def _word(text: bytes) -> np.uint64:
    return np.uint64(int.from_bytes(text, "little"))


_NULL: Final = _word(b"\x0a\x0c\x0a\x04\x08\x18\x38\x01")
_SHORT_TEXT: Final = _word(b"\x0a\0\x0a\0\x08\x15\x1a\0")
_SHORT_TEXT_MASK: Final = _word(b"\xff\x80\xff\x80\xff\xff\xff\x80")
_TEXT_HEAD: Final = _word(b"\x08\x15\x1a")
_TEXT_HEAD_MASK: Final = _word(b"\xff\xff\xff")
_NUMBER: Final = _word(b"\x0a\0\x0a\0\x08\0\x20\0")
_NUMBER_MASK: Final = _word(b"\xff\x80\xff\x80\xff\0\xff\0")
_ZERO: Final = _word(b"\x0a\0\x0a\x02\x08\0\x22\x02")
_ZERO_MASK: Final = _word(b"\xff\x80\xff\xff\xff\0\xff\xff")
_ELEMENT: Final = _word(b"\x0a\0\x08\x15\x1a\0")
_ELEMENT_MASK: Final = _word(b"\xff\x80\xff\xff\xff\x80")
_NULL_ELEMENT: Final = _word(b"\x0a\x04\x08\x18\x38\x01")
_NULL_ELEMENT_MASK: Final = _word(b"\xff" * 6)
_FIRST_FIELD: Final = 0x0A
_SCALAR_AGAIN: Final = 0x22
_SCALAR: Final = np.uint64(_FIRST_FIELD ^ _SCALAR_AGAIN)
_HEAD: Final = np.uint64(0xFFFFFFFF)
_SECOND: Final = np.uint64(16)
_ELEMENT_AGAIN: Final = 0x12
_ARRAY_MARK: Final = (0x18, 0x01)

_BYTE: Final = np.uint64(0x7F)
_LOW_BITS: Final = np.array([0] + [int("7f" * n, 16) for n in range(1, 9)], dtype=np.uint64)
_MORE_BITS: Final = np.array([0] + [int("80" * n, 16) for n in range(1, 9)], dtype=np.uint64)
_MORE_EXPECTED: Final = np.array([0, 0] + [int("80" * (n - 1), 16) for n in range(2, 9)], dtype=np.uint64)


_ONE: Final = np.uint64(1)
_MORE: Final = np.uint64(0x80)
_PACKING: Final = tuple(
    (np.uint64(kept), np.uint64(moved), np.uint64(by))
    for kept, moved, by in (
        (0x007F007F007F007F, 0x7F007F007F007F00, 1),
        (0x00003FFF00003FFF, 0x3FFF00003FFF0000, 2),
        (0x000000000FFFFFFF, 0x0FFFFFFF00000000, 4),
    )
)
"""Seven bits a byte become fourteen in two bytes, 28 in four, 56 in eight."""


def _octets(words: Words) -> npt.NDArray[np.uint8]:
    """The eight bytes of each word."""
    return words.view(np.uint8).reshape(-1, _WORD_BYTES)


def members(wire_types: frozenset[int]) -> Booleans:
    """By number of a wire type, whether it is one of these."""
    members = np.zeros(256, dtype=np.bool_)
    members[list(wire_types)] = True
    return members


class FrameCells:
    """Walks over a frame's columns in their order; each step reads one cell of every row.

    Each raises NotUnderstood for what is laid out otherwise, as the Query Server lays out no empty array, for one. What
    was read past the end of a row, up to a word, is refused before it is used; the body has room behind it.
    """

    def __init__(self, body: bytearray, rows: FoundFrame) -> None:
        self._data = np.frombuffer(body, dtype=np.uint8)
        self._words = np.ndarray((len(body) - _WORD_BYTES + 1,), "<u8", body, strides=(1,))
        self._ends = np.array(rows.ends, dtype=np.int64)
        self._positions = np.array(rows.starts, dtype=np.int64)
        self._emptied: list[Integers] = []

    def restore(self) -> None:
        """Put the body back as it was: where a NULL was read, its first byte became the length of an empty text."""
        for positions in self._emptied:
            self._data[positions] = _FIRST_FIELD

    def finish(self) -> None:
        """Raises NotUnderstood unless every row has been read to its end."""
        if not np.array_equal(self._positions, self._ends):
            raise NotUnderstood("the rows have another number of columns")

    def integers(self, wire_types: Booleans) -> IntegerColumn:
        """The next column as integers; ``wire_types`` says (``members``) which its values may have."""
        positions, words = self._positions, self._first_words()
        octets = _octets(words)
        sizes, inner = octets[:, 1].astype(np.int64), octets[:, 3].astype(np.int64)
        number = (words & _NUMBER_MASK) == _NUMBER
        nulls = words == _NULL
        absent = nulls | ((words & _ZERO_MASK) == _ZERO)
        # A value stands in its cell twice, so the cell is two times as long as the first of them with its head.
        if not ((number | absent) & (sizes == 2 * inner + 4) & self._twice(positions, words, inner)).all():
            raise NotUnderstood("a number is laid out in another way")
        kinds = octets[:, 5]
        if not (wire_types[kinds] | nulls).all():
            raise NotUnderstood(f"wire types {np.unique(kinds).tolist()}")
        rows = np.flatnonzero(number) if absent.any() else slice(None)
        values = np.zeros(len(words), dtype=np.int64)
        values[rows] = self._numbers(positions[rows] + 7, inner[rows] - 3)
        self._advance(positions + 2 + sizes)
        return IntegerColumn(values, nulls if nulls.any() else None)

    def texts(self) -> TextColumn:
        """The next column as texts."""
        positions, words = self._positions, self._first_words()
        nulls = words == _NULL
        octets = _octets(words)
        sizes, inner = octets[:, 1].astype(np.int64), octets[:, 3].astype(np.int64)
        # From the byte that says a text's length to the text's end: what ClickHouse takes as it is.
        starts, ends = positions + 7, positions + 4 + inner
        following = positions + 2 + sizes
        plain = (words & _SHORT_TEXT_MASK) == _SHORT_TEXT
        plain &= octets[:, 7] == inner - 4
        if not (self._twice(positions, words, inner) & (sizes == 2 * inner + 4) | ~(plain | nulls)).all():
            raise NotUnderstood("a value does not stand there twice")
        other = np.flatnonzero(~(plain | nulls))
        if len(other):
            cells, following[other] = self._spans(positions[other], self._ends[other])
            starts[other], ends[other] = self._long_texts(cells, following[other])
            again = (2 * (ends[other] - cells) == following[other] - cells) & (self._data[ends[other]] == _SCALAR_AGAIN)
            if not again.all():
                raise NotUnderstood("a value does not stand there twice")
        null_positions = positions[nulls]
        starts[nulls], ends[nulls] = null_positions, null_positions + 1
        self._advance(following)
        self._empty(null_positions)
        return self._text_column(starts, ends, nulls)

    def text_arrays(self) -> TextArrayColumn:
        """The next column as arrays of texts."""
        positions, words = self._positions, self._first_words()
        nulls = words == _NULL
        place, following = self._spans(positions, self._ends)
        rows = np.flatnonzero(~nulls)
        place, end = place[rows], following[rows]
        counts = np.zeros(len(positions), dtype=np.int64)
        found: list[tuple[Integers, Integers, Integers, Booleans]] = []
        while len(rows):
            if len(found) == _MOST_ELEMENTS:
                raise NotUnderstood("an array is long")
            over = self._data[place] == _ELEMENT_AGAIN
            if over.any():
                self._check_array_ends(end[over], counts[rows[over]])
                rows, place, end = rows[~over], place[~over], end[~over]
                continue
            starts, place, empty = self._elements(place, end)
            found.append((rows, starts, place, empty))
            counts[rows] += 1
        self._advance(following)
        first_of_row = np.cumsum(counts) - counts
        element_starts = np.empty(int(counts.sum()), dtype=np.int64)
        element_ends = np.empty_like(element_starts)
        element_nulls = np.empty(len(element_starts), dtype=np.bool_)
        for number, (of_rows, starts, ends, empty) in enumerate(found):
            at = first_of_row[of_rows] + number
            element_starts[at], element_ends[at], element_nulls[at] = starts, ends, empty
        null_starts = element_starts[element_nulls]
        self._empty(null_starts)
        element_ends[element_nulls] = null_starts + 1
        elements = self._text_column(element_starts, element_ends, element_nulls)
        return TextArrayColumn(elements, counts, nulls if nulls.any() else None)

    def _elements(self, place: Integers, end: Integers) -> tuple[Integers, Integers, Booleans]:
        """The next element of each array: where its text begins (the length of it), where it ends, which are NULL."""
        words = self._words[place]
        empty = (words & _NULL_ELEMENT_MASK) == _NULL_ELEMENT
        octets = _octets(words)
        sizes = octets[:, 1].astype(np.int64)
        starts, ends = np.where(empty, place, place + 5), place + 2 + sizes
        plain = ((words & _ELEMENT_MASK) == _ELEMENT) & (octets[:, 5] == sizes - 4)
        other = np.flatnonzero(~(plain | empty))
        if len(other):
            starts[other], ends[other] = self._long_texts(place[other], end[other])
        if not (ends < end).all():
            raise NotUnderstood("an element ends behind its array")
        return starts, ends, empty

    def _check_array_ends(self, ends: Integers, counts: Integers) -> None:
        marked = (self._data[ends - 2] == _ARRAY_MARK[0]) & (self._data[ends - 1] == _ARRAY_MARK[1])
        if not marked.all() or not counts.all():
            raise NotUnderstood("an array is laid out in another way")

    def cells(self) -> list[bytes]:
        """The next column as pieces of bytes, for the slow way."""
        starts, ends = self._spans(self._positions, self._ends)
        self._advance(ends)
        data = self._data
        return [data[start:end].tobytes() for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]

    def _twice(self, positions: Integers, words: Words, inner: Integers) -> Booleans:
        """Where a second value follows the first, as ``scalar_value``, and begins as that does: another statement's
        arrays are not taken for scalars.
        """
        second = self._words[np.minimum(positions + 4 + inner, len(self._words) - 1)]
        twice: Booleans = ((second ^ _SCALAR) & _HEAD) == ((words >> _SECOND) & _HEAD)
        return twice

    def _empty(self, positions: Integers) -> None:
        """A NULL is written as an empty text, whose length is put where the NULL begins."""
        self._data[positions] = 0
        self._emptied.append(positions)

    def _first_words(self) -> Words:
        return self._words_at(self._positions, self._ends)

    def _words_at(self, positions: Integers, ends: Integers) -> Words:
        if not (positions < ends).all():
            raise NotUnderstood("a row ends early")
        return self._words[positions]

    def _advance(self, positions: Integers) -> None:
        """The next cells; every cell must end within its row, so nothing behind it is ever read."""
        if not (positions <= self._ends).all():
            raise NotUnderstood("a cell ends behind its row")
        self._positions = positions

    def _spans(self, positions: Integers, row_ends: Integers) -> tuple[Integers, Integers]:
        """Where each ColumnValue begins and ends, at the start of a cell."""
        if not (self._data[positions] == _FIRST_FIELD).all():
            raise NotUnderstood("a row holds something else than values")
        sizes, widths = self._lengths(positions + 1)
        starts = positions + 1 + widths
        if not (starts + sizes <= row_ends).all():
            raise NotUnderstood("a cell ends behind its row")
        return starts, starts + sizes

    def _lengths(self, positions: Integers) -> tuple[Integers, Integers]:
        """Lengths of up to four bytes (256 MB): the length, and how many bytes it takes."""
        words = self._words[positions]
        sizes = (words & _BYTE).astype(np.int64)
        widths = np.ones(len(positions), dtype=np.int64)
        more = np.flatnonzero(words & _MORE)
        for byte in range(1, 4):
            if not len(more):
                return sizes, widths
            part = words[more] >> np.uint64(8 * byte)
            sizes[more] |= (part & _BYTE).astype(np.int64) << (7 * byte)
            widths[more] += 1
            more = more[np.flatnonzero(part & _MORE)]
        if len(more):
            raise NotUnderstood("a value of more than 256 MB")
        return sizes, widths

    def _long_texts(self, positions: Integers, within: Integers) -> tuple[Integers, Integers]:
        """Texts at the head of messages that end at ``within``, whose lengths may take more than one byte: where each
        begins (its length) and ends.
        """
        if not ((positions + 2 < within).all() and (self._data[positions] == _FIRST_FIELD).all()):
            raise NotUnderstood("a value is laid out in another way")
        sizes, widths = self._lengths(positions + 1)
        inside = positions + 1 + widths
        ends = inside + sizes
        if not (ends <= within).all():
            raise NotUnderstood("a value ends behind its cell")
        if not ((self._words[inside] & _TEXT_HEAD_MASK) == _TEXT_HEAD).all():
            raise NotUnderstood("a text is laid out in another way")
        sizes, widths = self._lengths(inside + 3)
        if not (inside + 3 + widths + sizes == ends).all():
            raise NotUnderstood("a text is laid out in another way")
        return inside + 3, ends

    def _numbers(self, positions: Integers, counts: Integers) -> Integers:
        """Zigzag numbers of ``counts`` bytes each, 1 to 10."""
        if not ((counts >= 1) & (counts <= 10)).all():
            raise NotUnderstood("a number of more than ten bytes")
        words = self._words[positions]
        low = np.minimum(counts, _WORD_BYTES)
        long = np.flatnonzero(counts > _WORD_BYTES)
        expected = _MORE_EXPECTED[low]
        expected[long] = _MORE_BITS[_WORD_BYTES]
        if ((words & _MORE_BITS[low]) != expected).any():
            raise NotUnderstood("a number is longer or shorter than its place")
        packed = words & _LOW_BITS[low]
        for mask, shifted, by in _PACKING:
            packed = (packed & mask) | ((packed & shifted) >> by)
        if len(long):
            ninth = self._data[positions[long] + 8]
            tenth = np.where(counts[long] == 10, self._data[positions[long] + 9], 0)
            if not ((ninth > 127) == (counts[long] == 10)).all() or (tenth > 1).any():
                raise NotUnderstood("a number is longer or shorter than its place")
            packed[long] |= (ninth & 127).astype(np.uint64) << np.uint64(56) | tenth.astype(np.uint64) << np.uint64(63)
        return (packed >> _ONE).view(np.int64) ^ -(packed & _ONE).view(np.int64)

    def _gathered(self, starts: Integers, ends: Integers) -> pa.BinaryArray:
        """The pieces of the frame, one after the other.

        Arrow copies them: in an array whose odd elements are what lies between two pieces, they are the even ones.
        """
        count = len(starts)
        offsets = np.empty(2 * count + 1, dtype=np.int32)
        offsets[0:-1:2] = starts
        offsets[1::2] = ends
        offsets[-1] = ends[-1] if count else 0
        if count and len(self._data) > _MOST_ARROW_BYTES:
            raise NotUnderstood("a frame of more than 2 GB")
        pieces = pa.Array.from_buffers(pa.binary(), 2 * count, [None, pa.py_buffer(offsets), pa.py_buffer(self._data)])
        return pieces.take(pa.array(np.arange(0, 2 * count, 2, dtype=np.int32)))

    def _text_column(self, starts: Integers, ends: Integers, nulls: Booleans) -> TextColumn:
        """The texts, each with its length; raises NotUnderstood for bytes that are no UTF-8."""
        texts = self._gathered(starts, ends)
        # Also a length of two bytes has one above 127.
        if int(bytes_of(texts).max(initial=0)) > 127:
            _, widths = self._lengths(starts)
            bare = self._gathered(starts + widths, ends)
            try:
                pa.Array.from_buffers(pa.string(), len(bare), bare.buffers(), offset=bare.offset).validate(full=True)
            except pa.ArrowInvalid as error:
                raise NotUnderstood(str(error)) from None
        return TextColumn(texts, nulls if nulls.any() else None)
