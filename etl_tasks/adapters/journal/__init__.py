"""The journal in PostgreSQL: named SQL, every transition one guarded statement, only PostgreSQL's clock."""

from __future__ import annotations

from etl_tasks.adapters.journal.database import Database, JournalConfig
from etl_tasks.adapters.journal.journal import Journal

__all__ = ["Database", "Journal", "JournalConfig"]
