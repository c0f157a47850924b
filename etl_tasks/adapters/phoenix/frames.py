"""The frames of a result: as they came, and as columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf.message import DecodeError

from etl_tasks.adapters.phoenix.decode import EXPECTED, NUMBERS, TEXTS, CellDecoder
from etl_tasks.adapters.phoenix.frame_bytes import Answer, FoundFrame, NotUnderstood, find_frame
from etl_tasks.adapters.phoenix.vectors import FrameCells, members
from etl_tasks.adapters.phoenix.wire import ExecuteResponse, FetchResponse
from etl_tasks.core.batch import SourceColumn
from etl_tasks.core.columns import Column
from etl_tasks.errors import ShortRead, StatementLost

_NUMBERS: Final = members(NUMBERS)
_FAST: Final[dict[tuple[frozenset[int], bool], Callable[[FrameCells], Column]]] = {
    (TEXTS, False): FrameCells.texts,
    (TEXTS, True): FrameCells.text_arrays,
    (NUMBERS, False): lambda cells: cells.integers(_NUMBERS),
}
"""What is read for all rows at once, by the types on the wire and whether an array; the rest goes cell by cell."""


@dataclass(slots=True)
class RawFrame:
    """A frame: ``offset`` of its first row, how many rows, whether it is the last one, its ``size`` on the wire.

    ``answer`` is what it came in, the ``first`` one of a statement being an ExecuteResponse. ``found`` says where its
    rows are, or ``not_found`` why that is not known.
    """

    offset: int
    count: int
    done: bool
    size: int
    answer: Answer | None
    first: bool = False
    found: FoundFrame | None = None
    not_found: str = ""
    context: str = ""

    def drop_bytes(self) -> None:
        """Forget the bytes, as soon as the rows are decoded: whoever walks over the frames still holds this object."""
        self.answer, self.found = None, None

    @property
    def rows(self) -> Sequence[Any]:
        """The rows as ``wire`` leaves them; raises ShortRead for bytes that are no rows."""
        assert self.answer is not None, "the bytes were dropped"
        try:
            rows: Sequence[Any] = _parsed(self.answer, first=self.first, context=self.context).rows
        except DecodeError as error:
            raise ShortRead(f"{self.context}: the rows from {self.offset} on cannot be read ({error})") from error
        return rows


def frame_of(answer: Answer, *, first: bool, context: str) -> RawFrame:
    """The frame in an answer; raises StatementLost when the server forgot the statement, and protobuf's DecodeError."""
    size = answer.end - answer.start
    try:
        found = find_frame(answer, first=first)
    except NotUnderstood as error:
        frame = _parsed(answer, first=first, context=context)
        return RawFrame(frame.offset, len(frame.rows), frame.done, size, answer, first, None, str(error), context)
    return RawFrame(found.offset, len(found.starts), found.done, size, answer, first, found, "", context)


def _parsed(answer: Answer, *, first: bool, context: str) -> Any:
    """The frame as a message of ``wire``."""
    if first:
        response = ExecuteResponse.FromString(answer.message())
        if response.missing_statement or not response.results:
            raise StatementLost(f"{context}: the Query Server forgot the statement before it ran: read again")
        return response.results[0].first_frame
    response = FetchResponse.FromString(answer.message())
    if response.missing_statement or response.missing_results:
        raise StatementLost(f"{context}: the Query Server forgot the statement: read again")
    return response.frame


class FrameDecoder:
    """Turns frames into columns, by the types that Phoenix's catalog gives the columns.

    Raises SchemaError when made for a type that cannot be read.
    """

    def __init__(self, columns: Sequence[SourceColumn]) -> None:
        self._cells = CellDecoder(columns)
        self.names = self._cells.names
        self._fast = [
            _FAST.get((EXPECTED[column.type.removesuffix(" ARRAY")], column.type.endswith(" ARRAY")))
            for column in columns
        ]

    def decode(self, frame: RawFrame, context: str) -> tuple[list[Column], str]:
        """The frame's columns, and why they were read the slow way ('' when they were not).

        Raises ShortRead when the rows are not of our statement: another number of columns, or other types.
        """
        place = f"{context}: rows from {frame.offset} on"
        why = frame.not_found
        if frame.found is not None and frame.answer is not None:
            cells = FrameCells(frame.answer.body, frame.found)
            try:
                return self._columns(cells, place), ""
            except NotUnderstood as error:
                why = str(error)
                cells.restore()
        return list(self._cells.rows(frame.rows, place)), why

    def _columns(self, cells: FrameCells, place: str) -> list[Column]:
        columns: list[Column] = []
        for number, fast in enumerate(self._fast):
            if fast is None:
                columns.append(self._cells.column(number, cells.cells(), place))
                continue
            try:
                columns.append(fast(cells))
            except NotUnderstood as error:
                raise NotUnderstood(f"column {self.names[number]}: {error}") from None
        cells.finish()
        return columns
