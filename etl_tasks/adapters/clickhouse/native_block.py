"""A batch as one block of ClickHouse's native format, sent through the driver's connection.

Columns that stay bytes (``core.columns``) are written from their buffers; lists of Python values are written by the
driver. The layout is ClickHouse's "Native" format: for each column its name, its type and its values; of a Nullable one
first a byte a row, 1 for NULL; of an Array first where each row's elements end; a String is its length and its bytes.
With compression on, what is sent is cut into pieces, each with its checksum, as the server does it itself
(``max_compress_block_size`` is 1 MiB there), so that a block is never held twice.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
from clickhouse_driver import Client, defines
from clickhouse_driver.block import BlockInfo, ColumnOrientedBlock
from clickhouse_driver.bufferedwriter import CompressedBufferedWriter
from clickhouse_driver.columns.service import write_column
from clickhouse_driver.protocol import ClientPacketTypes
from clickhouse_driver.streams.compressed import CompressedBlockOutputStream
from clickhouse_driver.varint import write_varint
from clickhouse_driver.writer import write_binary_str

from etl_tasks.core.columns import (
    Booleans,
    Column,
    IntegerColumn,
    TextArrayColumn,
    TextColumn,
    bytes_of,
    in_list,
)

Piece: TypeAlias = bytes | memoryview

PIECE_BYTES: Final = 1 << 20
_LOW_64_BITS: Final = (1 << 64) - 1
_NULLABLE: Final = re.compile(r"Nullable\((.*)\)")
_NUMBER: Final = re.compile(r"(U?)Int(8|16|32|64)")
_MILLISECONDS: Final = re.compile(r"DateTime64\(3\b.*\)")


class BlockClient(Client):  # type: ignore[misc]
    """The driver's client, which sends the rows of an INSERT as one block of whatever columns it is given."""

    def send_data(
        self, sample_block: Any, data: Sequence[Column], types_check: bool = False, columnar: bool = False
    ) -> int:
        """Called by the driver's ``execute`` when the server has said which columns it expects; the rows sent."""
        expected = sample_block.columns_with_types
        if len(data) != len(expected):
            raise ValueError(f"{len(data)} columns were given, the server expects {len(expected)}")
        rows = len(data[0])
        connection = self.connection
        _send_block(connection, _pieces(connection.context, expected, data, rows))
        self.receive_profile_events()
        connection.send_data(ColumnOrientedBlock())  # the end of the data
        self.receive_profile_events()
        return rows


def _pieces(
    context: Any, columns_with_types: Sequence[tuple[str, str]], columns: Sequence[Column], rows: int
) -> Iterator[Piece]:
    """The block's bytes."""
    revision = context.server_info.used_revision
    head = _Sink()
    if revision >= defines.DBMS_MIN_REVISION_WITH_BLOCK_INFO:
        BlockInfo().write(head)
    write_varint(len(columns_with_types), head)
    write_varint(rows, head)
    for (name, type_name), column in zip(columns_with_types, columns, strict=True):
        write_binary_str(name, head)
        write_binary_str(type_name, head)
        if revision >= defines.DBMS_MIN_REVISION_WITH_CUSTOM_SERIALIZATION:
            head.write(b"\0")  # none
        yield from head.taken()
        yield from _values(column, type_name) or _written_by_driver(context, name, type_name, column)


def _values(column: Column, type_name: str) -> list[Piece] | None:
    """The column's values as the server takes them; None where the driver has to write them."""
    if isinstance(column, list):
        return None
    whole = _NULLABLE.fullmatch(type_name)
    inner = whole[1] if whole else type_name
    as_read = not column.target_type and isinstance(column, IntegerColumn) and _MILLISECONDS.fullmatch(inner)
    if column.target_type != type_name and not as_read:
        return None  # the table was changed since the batch was coerced
    if not whole and column.nulls is not None:
        return None
    nulls = [_nulls(column.nulls, len(column))] if whole else []
    if isinstance(column, IntegerColumn):
        return [*nulls, _buffer(column.values.astype(_number_type(inner), copy=False))]
    if isinstance(column, TextColumn):
        return [*nulls, _buffer(bytes_of(column.texts))]
    return _array(column)


def _array(column: TextArrayColumn) -> list[Piece]:
    ends = np.cumsum(column.counts).astype("<u8")
    return [_buffer(ends), _buffer(bytes_of(column.elements.texts))]


def _nulls(nulls: Booleans | None, rows: int) -> Piece:
    return bytes(rows) if nulls is None else _buffer(nulls)


def _buffer(values: npt.NDArray[Any]) -> Piece:
    return values.data.cast("B") if values.size else b""


def _number_type(type_name: str) -> str:
    """The numpy type of a number or time; DateTime is 32 bits of seconds, DateTime64 64 bits of its ticks."""
    number = _NUMBER.fullmatch(type_name)
    if number:
        return f"<{'u' if number[1] else 'i'}{int(number[2]) // 8}"
    return "<i8" if type_name.startswith("DateTime64(") else "<u4"


def _written_by_driver(context: Any, name: str, type_name: str, column: Column) -> list[Piece]:
    sink = _Sink()
    writer = CompressedBufferedWriter(sink, defines.BUFFER_SIZE)
    # A copy: the driver puts defaults where NULLs are, and the same batch may be sent again.
    write_column(context, name, type_name, list(in_list(column)), writer)
    writer.flush()
    return sink.taken()


class _Sink:
    """Takes what the driver writes."""

    def __init__(self) -> None:
        self._written: list[Piece] = []

    def write(self, data: bytes) -> None:
        self._written.append(bytes(data))

    def taken(self) -> list[Piece]:
        written, self._written = self._written, []
        return written


def _send_block(connection: Any, pieces: Iterator[Piece]) -> None:
    write_varint(ClientPacketTypes.DATA, connection.fout)
    if connection.server_info.used_revision >= defines.DBMS_MIN_REVISION_WITH_TEMPORARY_TABLES:
        write_binary_str("", connection.fout)
    connection.fout.flush()
    stream = connection.block_out
    pack = _packer(stream) if isinstance(stream, CompressedBlockOutputStream) else None
    socket = connection.socket
    for chunk in _cut(pieces):
        socket.sendall(pack(chunk) if pack else chunk)


def _packer(stream: Any) -> Callable[[bytearray], bytes]:
    compressor = stream.compressor_cls()
    method = bytes([compressor.method_byte])

    def pack(chunk: bytearray) -> bytes:
        compressed: bytes = compressor.compress_data(bytes(chunk))
        framed = method + struct.pack("<II", 9 + len(compressed), len(chunk)) + compressed
        checksum: int = stream.get_compressed_hash(framed)
        head = struct.pack("<QQ", checksum >> 64, checksum & _LOW_64_BITS)
        return head + framed

    return pack


def _cut(pieces: Iterator[Piece]) -> Iterator[bytearray]:
    """All bytes in chunks of PIECE_BYTES; a chunk is overwritten when the next one is asked for."""
    chunk = bytearray()
    for piece in pieces:
        view = memoryview(piece)
        while len(view):
            room = PIECE_BYTES - len(chunk)
            chunk += view[:room]
            view = view[room:]
            if len(chunk) == PIECE_BYTES:
                yield chunk
                chunk.clear()
    if chunk:
        yield chunk
