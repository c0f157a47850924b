"""How a worker child gives memory back: at once, so that its peak is what it works on and not what it once worked on.

A child holds a frame, a block on its way and little else, each of some megabytes. glibc keeps what is freed of such
sizes for later (it raises its threshold for mappings of their own, and gives every thread an arena), and so does
Arrow's own allocator. Measured on slices of 60,000 rows: peak of a child 184 MB as things are, 156 MB with these.
"""

from __future__ import annotations

import ctypes
from typing import Final

import pyarrow as pa

# Of mallopt(3).
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
_MAPPED_FROM_BYTES: Final = 512 * 1024


def give_back_at_once() -> None:
    """Set it for this process; where the C library has no mallopt (musl), only for Arrow."""
    pa.set_memory_pool(pa.system_memory_pool())
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _MAPPED_FROM_BYTES)
        mallopt(_M_ARENA_MAX, 1)
