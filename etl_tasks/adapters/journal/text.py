"""Text on its way into PostgreSQL: whatever a source or an exception holds, made storable and bounded."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from psycopg2.extras import Json

# Of an error's text; the journal is for reading.
_ERROR_CHARACTERS = 4000
# A B-tree entry holds 2,704 bytes; the run, the column and the overhead want their share.
_KEY_BYTES = 2000


def journal_text(text: str) -> str:
    """``text`` as PostgreSQL can hold it: zero bytes and lone surrogates visible, bounded."""
    bounded = text[:_ERROR_CHARACTERS]
    return bounded.encode("utf-8", "backslashreplace").decode("utf-8").replace("\x00", "\\0")


def journal_key(key: str) -> str:
    """``key`` as a value that can be indexed: a long one is cut, and told from its like by a hash of the whole."""
    whole = key.encode("utf-8", "backslashreplace").replace(b"\x00", b"\\0")
    if len(whole) <= _KEY_BYTES:
        return whole.decode("utf-8")
    digest = hashlib.sha256(whole).hexdigest()
    return f"{whole[: _KEY_BYTES - 100].decode('utf-8', 'ignore')}… sha256 {digest}"


def journal_json(details: Mapping[str, Any]) -> Json:
    """``details`` for a jsonb column, every text in it storable."""
    return Json(_storable(details))


def _storable(value: Any) -> Any:
    if isinstance(value, str):
        return journal_text(value)
    if isinstance(value, Mapping):
        return {journal_text(str(name)): _storable(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_storable(inner) for inner in value]
    return value
