"""The journal of one thread: its parts over one connection."""

from __future__ import annotations

from datetime import datetime

from etl_tasks.adapters.journal.database import Database, JournalConfig
from etl_tasks.adapters.journal.lock import PublishLock
from etl_tasks.adapters.journal.publishes import PublishJournal
from etl_tasks.adapters.journal.reconciles import ReconcileJournal
from etl_tasks.adapters.journal.resuming import ResumeJournal
from etl_tasks.adapters.journal.runs import RunJournal
from etl_tasks.adapters.journal.sizing import SizingJournal
from etl_tasks.adapters.journal.slices import SliceJournal
from etl_tasks.adapters.journal.sweeps import SweepJournal
from etl_tasks.core.cadence import CadenceRules


class Journal:
    """Runs, slices, publishes and sweeps of the journal; not to be shared between threads or across a fork."""

    def __init__(
        self, config: JournalConfig, clean_table: str, cadence: CadenceRules, application_name: str = "etl_tasks"
    ) -> None:
        self.config = config
        self.database = Database(config, application_name)
        self.runs = RunJournal(self.database)
        self.slices = SliceJournal(self.database, clean_table, cadence)
        self.publishes = PublishJournal(self.database, cadence)
        self.sweeps = SweepJournal(self.database, clean_table, self.publishes)
        self.resuming = ResumeJournal(self.database)
        self.sizing = SizingJournal(self.database, clean_table)
        self.reconciles = ReconcileJournal(self.database, clean_table)

    def ensure(self) -> None:
        """Create or extend the tables."""
        self.database.ensure()

    def ensure_once(self) -> None:
        """Create the tables if they are not there yet."""
        self.database.ensure_once()

    def now(self) -> datetime:
        """PostgreSQL's clock, aware UTC."""
        with self.database.transaction() as transaction:
            return transaction.now()

    def publish_lock(self, clean_table: str) -> PublishLock:
        """The advisory lock of a CLEAN table, in a session of its own; use as a context manager."""
        return PublishLock(self.config, clean_table)

    def close(self) -> None:
        """Drop the connection."""
        self.database.close()
