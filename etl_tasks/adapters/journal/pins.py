"""On which replicas a publish works: its successor must ask those if it did not end well (DESIGN, "Publish")."""

from __future__ import annotations

from collections.abc import Sequence

from etl_tasks.adapters.journal.database import Database
from etl_tasks.core.records import PublishClaim
from etl_tasks.errors import LostOwnership


class PublishPins:
    """The pins of a partition's publishes; finishing a publish clears them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def unfinished(self, claim: PublishClaim) -> Sequence[str]:
        """Replicas on which an earlier publish of the partition may still work: its hard limit has not passed yet."""
        with self._database.transaction() as transaction:
            rows = transaction.all("pins_of_partition", clean_table=claim.clean_table, partition=claim.partition)
        return [row.replica for row in rows]

    def pin(self, claim: PublishClaim, replicas: Sequence[str], hard_limit_s: float) -> None:
        """This publish works on ``replicas`` from now on, for ``hard_limit_s`` at most. Raises LostOwnership."""
        with self._database.transaction() as transaction:
            row = transaction.one(
                "pin_publish_if_running",
                clean_table=claim.clean_table,
                partition=claim.partition,
                token=claim.token,
                replicas=list(replicas),
                hard_limit_s=hard_limit_s,
            )
        if row is None:
            raise LostOwnership(
                f"the publish of partition {claim.partition} with token {claim.token} is no longer ours"
            )
