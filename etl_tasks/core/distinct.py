"""How many distinct keys a slice held, in 8 bytes a key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from etl_tasks.core.columns import Column, Hashes, IntegerColumn, TextColumn, text_column

_PARTS: Final = 16
_PART_BITS: Final = np.uint64(60)
_UNSET: Final = np.uint64(0x517CC1B727220A95)


def key_hashes(columns: Sequence[Column], rows: int) -> Hashes:
    """A hash of 64 bits for each row's key; the same for the same key in whatever form its columns are.

    Raises TypeError for values that cannot be hashed.
    """
    hashes = np.full(rows, _UNSET, dtype=np.uint64)
    for column in columns if rows else ():
        hashes = _hashable(column).hashes(hashes)
    return hashes


def _hashable(column: Column) -> IntegerColumn | TextColumn:
    if isinstance(column, IntegerColumn | TextColumn):
        return column
    values: list[Any] = column if isinstance(column, list) else column.to_list()
    # At a NULL stands what stands there in a column of bytes.
    present = [value for value in values if value is not None]
    if all(isinstance(value, str) for value in present):
        return text_column([value or "" for value in values])
    if all(type(value) is int and -(2**63) <= value < 2**63 for value in present):
        return IntegerColumn(np.array([value or 0 for value in values], dtype=np.int64))
    return IntegerColumn(np.array([hash(value) for value in values], dtype=np.int64))


def any_repeats(hashes: Hashes) -> bool:
    """Whether two hashes are the same."""
    ordered = np.sort(hashes)
    return bool((ordered[1:] == ordered[:-1]).any())


class KeyCounter:
    """Counts keys and distinct keys; a slice journals the difference as collisions (DESIGN, "Extract").

    It keeps only each key's 64-bit hash, 8 bytes. Two keys of one hash are counted once, so a collision can only
    lower the count: it is a lower bound, which is what the publish check needs ("no fewer keys than its slices
    counted"). ``distinct`` looks at a sixteenth of the hashes at a time, so that its copy of them stays small.
    """

    __slots__ = ("_hashes", "rows")

    def __init__(self) -> None:
        self._hashes: list[Hashes] = []
        self.rows = 0
        """The keys added so far, repeats included."""

    def add(self, hashes: Hashes) -> None:
        """Count one key for each of ``key_hashes``."""
        self._hashes.append(hashes)
        self.rows += len(hashes)

    def distinct(self) -> int:
        """The distinct keys added so far (a lower bound, see above)."""
        return sum(
            len(np.unique(np.concatenate([some[(some >> _PART_BITS) == np.uint64(part)] for some in self._hashes])))
            for part in range(_PARTS)
            if self._hashes
        )
