"""The source side: a Phoenix table behind a Query Server, read as columns.

``PhoenixSource(PhoenixConfig(...))`` is the port ``Source``. phoenixdb speaks the protocol and raises the errors; the
session, the frames, the decoding and the translation of errors are this package's own (FACTS, "Phoenix through
phoenixdb").
"""

from etl_tasks.adapters.phoenix.settings import PhoenixConfig
from etl_tasks.adapters.phoenix.source import PhoenixSource

__all__ = ["PhoenixConfig", "PhoenixSource"]
