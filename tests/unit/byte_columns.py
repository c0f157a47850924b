"""Columns of Python values as columns that stay bytes, put together without the code that reads frames."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from etl_tasks.core.columns import Column, IntegerColumn, TextArrayColumn, TextColumn


def as_bytes(values: list[Any]) -> Column:
    """The column of these values; a list where there is no such form of them."""
    present = [value for value in values if value is not None]
    nulls = np.array([value is None for value in values], dtype=np.bool_) if len(present) < len(values) else None
    if present and all(type(value) is int and -(2**63) <= value < 2**63 for value in present):
        return IntegerColumn(np.array([value or 0 for value in values], dtype=np.int64), nulls)
    if present and all(isinstance(value, str) for value in present):
        return TextColumn(pa.array([with_length(value or "") for value in values], pa.binary()), nulls)
    if present and all(isinstance(value, list) for value in present):
        elements = [element for value in present for element in value]
        texts = as_bytes(elements)
        if isinstance(texts, TextColumn):
            counts = np.array([len(value or ()) for value in values], dtype=np.int64)
            return TextArrayColumn(texts, counts, nulls)
    return values


def with_length(text: str) -> bytes:
    """LEB128 of the length, then UTF-8."""
    encoded = text.encode()
    size, pieces = len(encoded), []
    while size >= 128:
        pieces.append(size % 128 + 128)
        size //= 128
    return bytes([*pieces, size]) + encoded
