"""How many distinct keys a slice held, in 8 bytes a key."""

from __future__ import annotations

from array import array
from collections.abc import Hashable, Iterable

_BUCKETS = 256


class KeyCounter:
    """Counts keys and distinct keys; a slice journals the difference as collisions (DESIGN, "Extract").

    It keeps only each key's 64-bit hash, 8 bytes. Two keys of one hash are counted once, so a collision can only
    lower the count: it is a lower bound, which is what the publish check needs ("no fewer keys than its slices
    counted"). Hashes spread over 256 buckets, and ``distinct`` builds the set of one bucket at a time.

    Measured with 2 million keys ``(c, t, opd)``: 11.2 bytes a key resident, the arrays' slack included, and 11.6 at the
    peak of ``distinct`` (0.14 s); a set of the tuples takes 210.
    """

    __slots__ = ("_appends", "_buckets", "rows")

    def __init__(self) -> None:
        # Signed: hash() is, and masking every one to fit an unsigned array costs more than it says.
        self._buckets = [array("q") for _ in range(_BUCKETS)]
        self._appends = [bucket.append for bucket in self._buckets]
        self.rows = 0
        """The keys added so far, repeats included."""

    def add(self, keys: Iterable[Hashable]) -> None:
        """Count one key for each row. Raises TypeError for a key that cannot be hashed."""
        appends = self._appends
        rows = 0
        for key_hash in map(hash, keys):
            appends[key_hash & 255](key_hash)
            rows += 1
        self.rows += rows

    def distinct(self) -> int:
        """The distinct keys added so far (a lower bound, see above); takes time in proportion to ``rows``."""
        return sum(len(set(bucket)) for bucket in self._buckets)
