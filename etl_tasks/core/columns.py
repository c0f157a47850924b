"""Columns that stay bytes: the forms in which a batch goes from the source's frames to the target without Python
values.

A column of a batch is a list of Python values, as ``ColumnBatch`` describes them, or one of the classes here, which
hold the same values in a few buffers. Each of them has a length, gives single values by index, all of them by
``to_list``, the rows asked for by ``take``, and a hash a row by ``hashes``. None is changed after it was made.

A text is its length (LEB128) and its bytes of UTF-8: protobuf writes it so, and so does ClickHouse's native format.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Booleans: TypeAlias = npt.NDArray[np.bool_]
Integers: TypeAlias = npt.NDArray[np.int64]
Hashes: TypeAlias = npt.NDArray[np.uint64]

_ODD: Final = np.uint64(0x9E3779B97F4A7C15)
_FOLD: Final = np.uint64(32)
_WORD_BYTES: Final = 8
_LONGEST_HASHED_BYTES: Final = 256
"""Texts are hashed a word at a time for all rows at once up to here; the rest of a longer one by Python."""
_LENGTH_MASKS: Final = np.array([(1 << 8 * size) - 1 for size in range(_WORD_BYTES + 1)], dtype=np.uint64)


def _with_nulls(values: list[Any], nulls: Booleans | None) -> list[Any]:
    if nulls is not None:
        for row in np.flatnonzero(nulls).tolist():
            values[row] = None
    return values


def _mixed(hashes: Hashes, word: Hashes | Integers) -> Hashes:
    mixed: Hashes = (hashes ^ word.astype(np.uint64, copy=False)) * _ODD
    return mixed ^ (mixed >> _FOLD)


@dataclass(frozen=True, slots=True)
class IntegerColumn:
    """Integers, and times as milliseconds since the epoch. At a NULL (``nulls``, None when there is none) stands 0.

    ``target_type`` is the ClickHouse type that the values were brought into, '' for values as they were read.
    """

    values: Integers
    nulls: Booleans | None = None
    target_type: str = ""

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, row: int) -> int | None:
        return None if self.nulls is not None and self.nulls[row] else int(self.values[row])

    def to_list(self) -> list[Any]:
        """The values, None for NULL."""
        return _with_nulls(self.values.tolist(), self.nulls)

    def take(self, rows: Integers) -> IntegerColumn:
        """The values of these rows."""
        return replace(self, values=self.values[rows], nulls=None if self.nulls is None else self.nulls[rows])

    def hashes(self, hashes: Hashes) -> Hashes:
        """The hashes of the rows so far, with this column's values mixed in."""
        return _mixed(hashes, self.values)


@dataclass(frozen=True, slots=True)
class TextColumn:
    """Texts of valid UTF-8, each with its length before it. At a NULL stands the empty text."""

    texts: pa.BinaryArray
    nulls: Booleans | None = None
    target_type: str = ""

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, row: int) -> str | None:
        return None if self.nulls is not None and self.nulls[row] else _text(self.texts[row].as_py())

    def to_list(self) -> list[Any]:
        """The values as str, None for NULL."""
        return _with_nulls(texts_of(self.texts), self.nulls)

    def take(self, rows: Integers) -> TextColumn:
        """The values of these rows."""
        return replace(
            self, texts=self.texts.take(pa.array(rows)), nulls=None if self.nulls is None else self.nulls[rows]
        )

    def hashes(self, hashes: Hashes) -> Hashes:
        """The hashes of the rows so far, with this column's values mixed in."""
        starts = offsets_of(self.texts).astype(np.int64)
        sizes = np.diff(starts)
        starts = starts[:-1]
        hashes = _mixed(hashes, sizes)
        longest = min(int(sizes.max(initial=0)), _LONGEST_HASHED_BYTES)
        # Room to read a whole word at the last byte too.
        data = np.zeros(len(bytes_of(self.texts)) + _WORD_BYTES, dtype=np.uint8)
        data[:-_WORD_BYTES] = bytes_of(self.texts)
        words = np.ndarray((len(data) - _WORD_BYTES + 1,), "<u8", data.data, strides=(1,))
        first = int(offsets_of(self.texts)[0])
        for position in range(0, longest, _WORD_BYTES):
            rows = np.flatnonzero(sizes > position)
            left = np.minimum(sizes[rows] - position, _WORD_BYTES)
            word = words[starts[rows] - first + position] & _LENGTH_MASKS[left]
            hashes[rows] = _mixed(hashes[rows], word)
        long = np.flatnonzero(sizes > _LONGEST_HASHED_BYTES)
        for row in long.tolist():
            start = int(starts[row]) - first
            rest = hash(data[start + _LONGEST_HASHED_BYTES : start + int(sizes[row])].tobytes())
            hashes[row : row + 1] = _mixed(hashes[row : row + 1], np.array([rest], dtype=np.int64))
        return hashes


@dataclass(frozen=True, slots=True)
class TextArrayColumn:
    """Arrays of texts: the elements of all rows in a row, and how many are each row's.

    At a NULL (which is an empty array in the target) stands no element; an element that is NULL is an empty text.
    """

    elements: TextColumn
    counts: Integers
    nulls: Booleans | None = None
    target_type: str = ""

    def __len__(self) -> int:
        return len(self.counts)

    def __getitem__(self, row: int) -> list[str | None] | None:
        if self.nulls is not None and self.nulls[row]:
            return None
        start = int(self.counts[:row].sum())
        return [self.elements[element] for element in range(start, start + int(self.counts[row]))]

    def to_list(self) -> list[Any]:
        """The values as lists of str, None for NULL."""
        texts = self.elements.to_list()
        edges = [0, *np.cumsum(self.counts).tolist()]
        return _with_nulls([texts[start:end] for start, end in pairwise(edges)], self.nulls)

    def take(self, rows: Integers) -> TextArrayColumn:
        """The values of these rows."""
        starts = np.cumsum(self.counts) - self.counts
        counts = self.counts[rows]
        first_of_row = np.cumsum(counts) - counts
        elements = np.arange(counts.sum()) + np.repeat(starts[rows] - first_of_row, counts)
        nulls = None if self.nulls is None else self.nulls[rows]
        return replace(self, elements=self.elements.take(elements), counts=counts, nulls=nulls)


Column: TypeAlias = list[Any] | IntegerColumn | TextColumn | TextArrayColumn


def offsets_of(texts: pa.BinaryArray) -> npt.NDArray[np.int32]:
    """Where each text begins in ``texts.buffers()[2]``, and where the last one ends."""
    offsets = np.frombuffer(texts.buffers()[1], dtype=np.int32)
    return offsets[texts.offset : texts.offset + len(texts) + 1]


def bytes_of(texts: pa.BinaryArray) -> npt.NDArray[np.uint8]:
    """All texts one after the other, their lengths included."""
    if not len(texts):
        return np.zeros(0, dtype=np.uint8)
    offsets = offsets_of(texts)
    return np.frombuffer(texts.buffers()[2], dtype=np.uint8)[int(offsets[0]) : int(offsets[-1])]


def texts_of(texts: pa.BinaryArray) -> list[Any]:
    """The texts as str."""
    if not len(texts):
        return []
    data = bytes_of(texts).tobytes()
    edges = (offsets_of(texts) - offsets_of(texts)[0]).tolist()
    return [_text(data[start:end]) for start, end in pairwise(edges)]


def _text(with_length: bytes) -> str:
    position = 0
    while with_length[position] > 127:
        position += 1
    return with_length[position + 1 :].decode()


def text_column(values: Sequence[str]) -> TextColumn:
    """These texts, none of them None."""
    encoded = [value.encode() for value in values]
    return TextColumn(pa.array([_length(len(text)) + text for text in encoded], pa.binary()))


def _length(size: int) -> bytes:
    """LEB128."""
    pieces = bytearray()
    while size > 127:
        pieces.append(size & 127 | 128)
        size >>= 7
    return bytes([*pieces, size])


def in_list(column: Column) -> list[Any]:
    """The values as ``ColumnBatch`` describes them; a list as it is."""
    return column if isinstance(column, list) else column.to_list()


def taken(column: Column, rows: Sequence[int]) -> Column:
    """The values of these rows."""
    if isinstance(column, list):
        return [column[row] for row in rows]
    return column.take(np.asarray(rows, dtype=np.int64))


def joined(columns: Sequence[Any]) -> Column:
    """The values of all columns, one after the other; in the form of all when they have the same."""
    first: Column = columns[0]
    if len(columns) == 1:
        return first
    if isinstance(first, list) or any(
        type(column) is not type(first) or column.target_type != first.target_type for column in columns
    ):
        return [value for column in columns for value in in_list(column)]
    nulls = _joined_nulls(columns)
    if isinstance(first, IntegerColumn):
        return replace(first, values=np.concatenate([column.values for column in columns]), nulls=nulls)
    if isinstance(first, TextColumn):
        return replace(first, texts=pa.concat_arrays([column.texts for column in columns]), nulls=nulls)
    elements = joined([column.elements for column in columns])
    counts = np.concatenate([column.counts for column in columns])
    return TextArrayColumn(elements, counts, nulls, first.target_type)  # type: ignore[arg-type]


def _joined_nulls(columns: Sequence[IntegerColumn | TextColumn | TextArrayColumn]) -> Booleans | None:
    if all(column.nulls is None for column in columns):
        return None
    return np.concatenate(
        [np.zeros(len(column), dtype=np.bool_) if column.nulls is None else column.nulls for column in columns]
    )
