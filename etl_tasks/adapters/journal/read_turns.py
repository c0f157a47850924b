"""Turns to read the source: who may read now, and what the end of a read does to the limit."""

from __future__ import annotations

from typing import Any

from etl_tasks.adapters.journal.database import Database, Transaction
from etl_tasks.core.read_limit import EndedRead, ReadEnd, ReadLimit, SourceReads, after, first_limit, may_read
from etl_tasks.core.records import SliceClaim
from etl_tasks.errors import LostOwnership

# Whoever has waited for so long gets its turn before those of its lane who came later. Until then the first to ask gets
# it: a turn kept for somebody lies idle until that one asks again.
PATIENCE_S = 30.0


class ReadTurns:
    """Turns of one source: ``source`` is its ``host:port``, ``most`` is PHX_MAX_CONCURRENT_READS.

    A turn belongs to an attempt on a slice and counts only while the slice is running under that attempt and its lease:
    finishing, splitting, giving back and dying free it without a word. Raises what the database raises.
    """

    def __init__(self, database: Database, source: str, most: int) -> None:
        self._database = database
        self._source = source
        self._most = most

    def take(self, claim: SliceClaim) -> bool:
        """Whether the attempt may read from now on; else it waits, and is to ask again. Raises LostOwnership."""
        with self._database.transaction() as transaction:
            if self._may_read(transaction, claim):
                # So it looked. Under the lock it is counted again, by a statement of its own: one that waits for a lock
                # goes on with what it had seen before.
                transaction.one("lock_read_limit", source=self._source)
                facts = self._facts(transaction, claim)
                if facts is None:
                    return False  # somebody deleted the limit, to begin anew
                self._assert_ours(facts, claim)
                if may_read(_limit_of(facts), self._most, facts.in_use, facts.ahead):
                    transaction.run("drop_dead_read_turns", source=self._source)
                    transaction.run("take_read_turn", **self._asker(claim), round=facts.round, readers=facts.in_use + 1)
                    return True
            return False

    def give_back(self, claim: SliceClaim, end: ReadEnd) -> tuple[ReadLimit, ReadLimit] | None:
        """The attempt's read is over: the limit before and after, or None when it held no turn (any more)."""
        with self._database.transaction() as transaction:
            transaction.one("lock_read_limit", source=self._source)
            facts = self._facts(transaction, claim)
            turn = transaction.one("end_read_turn", slice_id=claim.slice_id, attempt=claim.attempt)
            if facts is None or turn is None or not turn.taken:
                return None
            before = _limit_of(facts)
            ended = EndedRead(end, int(turn.round), max(turn.readers, int(facts.in_use) + 1))
            limit = after(before, ended, self._most)
            transaction.run(
                "write_read_limit",
                source=self._source,
                reads=limit.reads,
                good=limit.good,
                round=limit.round,
                objected_at=limit.objected_at,
            )
        return before, limit

    def _may_read(self, transaction: Transaction, claim: SliceClaim) -> bool:
        """What it looks like without a lock; whoever may not, waits from now on."""
        facts = self._facts(transaction, claim)
        if facts is None:
            transaction.run("add_read_limit", source=self._source, reads=first_limit(self._most).reads)
            return True
        self._assert_ours(facts, claim)
        if may_read(_limit_of(facts), self._most, facts.in_use, facts.ahead):
            return True
        if not facts.waits:
            # Also when this attempt holds a turn that it could not give back: it would keep others from reading.
            transaction.run("await_read_turn", **self._asker(claim))
        return False

    @staticmethod
    def _assert_ours(facts: Any, claim: SliceClaim) -> None:
        if not facts.ours:
            raise LostOwnership(f"slice {claim.slice_id} attempt {claim.attempt} is no longer ours")

    def _facts(self, transaction: Transaction, claim: SliceClaim) -> Any:
        return transaction.one("read_limit_facts", **self._asker(claim), patience_s=PATIENCE_S)

    def _asker(self, claim: SliceClaim) -> dict[str, Any]:
        return {
            "source": self._source,
            "slice_id": claim.slice_id,
            "attempt": claim.attempt,
            "manual": claim.manual,
        }


def _limit_of(row: Any) -> ReadLimit:
    return ReadLimit(row.reads, row.good, int(row.round), row.objected_at)


def source_reads(transaction: Transaction) -> list[SourceReads]:
    """Every source that slices of this journal have read within a day."""
    return [
        SourceReads(row.source, row.reads, int(row.in_use), int(row.waiting), int(row.halvings))
        for row in transaction.all("read_limits")
    ]
